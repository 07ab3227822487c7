//! `/healthz` and `/readyz`, for load balancers and service managers.

use serde::Serialize;

use super::call::Call;
use super::reply::Reply;
use crate::error::{Error, Result};

/// How the server is.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    /// `ok` or `ready`.
    #[schema(value_type = String)]
    status: &'static str,
}

/// Does the process answer?
#[utoipa::path(
    get, path = "/healthz", tag = "Server", operation_id = "getHealth",
    responses((status = 200, description = "It does.", body = Health)),
)]
pub(crate) async fn live(_: Call) -> Result<Reply> {
    Reply::ok(&Health { status: "ok" })
}

/// Should it get calls?
///
/// Yes when the database can be written and the server isn't shutting down.
#[utoipa::path(
    get, path = "/readyz", tag = "Server", operation_id = "getReadiness",
    responses(
        (status = 200, description = "It should.", body = Health),
        (status = 503, description = "`UNAVAILABLE`: not now."),
    ),
)]
pub(crate) async fn ready(call: Call) -> Result<Reply> {
    if call.app.is_draining() {
        return Err(Error::unavailable("The server is shutting down.", 1));
    }
    match call.app.db.probe(call.app.clock.monotonic()).await {
        Ok(()) => Reply::ok(&Health { status: "ready" }),
        Err(error) => {
            tracing::warn!(%error, "not ready: the database can't be written");
            Err(Error::unavailable("The database can't be written.", 1))
        }
    }
}
