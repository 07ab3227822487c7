//! `/healthz` and `/readyz`, for load balancers and service managers.

use serde::Serialize;

use super::call::Call;
use super::reply::Reply;
use crate::app::App;
use crate::error::{Error, Result};
use crate::service::clock;

/// The state of the server.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    /// Always `ok`.
    #[schema(value_type = String)]
    status: &'static str,
}

/// The readiness of the server.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Readiness {
    /// Always `ready`.
    #[schema(value_type = String)]
    status: &'static str,
    /// What needs attention although the server is ready. `clock_unsettled`: the clock jumped, and nothing is
    /// deleted because of its age until it is settled.
    #[schema(value_type = Vec<String>)]
    reasons: Vec<&'static str>,
}

/// Check liveness
///
/// Succeeds while the process answers requests.
#[utoipa::path(
    get, path = "/healthz", tag = "Server", operation_id = "getHealth",
    responses((status = 200, description = "The process answers requests.", body = Health)),
)]
pub(crate) async fn check_liveness(_: Call) -> Result<Reply> {
    Reply::ok(&Health { status: "ok" })
}

/// Check readiness
///
/// Succeeds while the database is writable and the server isn't shutting down.
#[utoipa::path(
    get, path = "/readyz", tag = "Server", operation_id = "getReadiness",
    responses(
        (status = 200, description = "The server is ready.", body = Readiness),
        (status = 503, description = "`UNAVAILABLE`: the database isn't writable, its files were moved, removed or replaced, or the server is shutting down."),
    ),
)]
pub(crate) async fn check_readiness(call: Call) -> Result<Reply> {
    if call.app.is_draining() {
        return Err(Error::unavailable("The server is shutting down.", 1));
    }
    if let Some(problem) = call.app.db.file_problem() {
        return Err(Error::unavailable(format!("The database isn't available: {problem}."), 5));
    }
    match call.app.db.probe_writable(call.app.clock.monotonic()).await {
        Ok(()) => Reply::ok(&Readiness { status: "ready", reasons: reasons(&call.app) }),
        Err(error) => {
            tracing::warn!(%error, "not ready: the database isn't writable");
            Err(Error::unavailable("The database isn't writable.", 1))
        }
    }
}

/// What needs attention although the server is ready.
fn reasons(app: &App) -> Vec<&'static str> {
    if app.clock.is_settled() { Vec::new() } else { vec![clock::UNSETTLED_REASON] }
}
