//! `/healthz` and `/readyz`, for load balancers and service managers.

use serde::Serialize;
use utoipa::IntoParams;

use super::call::Call;
use super::reply::Reply;
use crate::domain::page::Query;
use crate::error::{ErrorDetail, Result};
use crate::service::operation::Answer;
use crate::service::readiness::{self, Readiness};

/// The state of the server.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    /// Always `ok`.
    #[schema(value_type = String)]
    status: &'static str,
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

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadinessQuery {
    /// With `true`, the server is ready only if it can also store changes.
    #[param(nullable = false)]
    write: Option<bool>,
}

impl ReadinessQuery {
    fn read(query: &mut Query) -> Self {
        Self { write: query.boolean("write") }
    }
}

/// Check readiness
///
/// Succeeds while keys can be verified and the server isn't shutting down. `write` and `reasons` also state
/// whether changes can be stored, and what else needs attention. With `?write=true`, the server is ready only
/// if changes can be stored, too. A response with status `503` has the same fields in `error`.
///
/// The codes of `reasons`: `SHUTTING_DOWN`, `DATABASE_FILES_CHANGED`, `DATABASE_UNREADABLE` (keys can't be verified),
/// `DATABASE_UNWRITABLE`, `STORAGE_FULL`, `STORAGE_RESERVE_IN_USE` (changes can't be stored), `DATABASE_DAMAGED`,
/// `DATABASE_DISK_FAILED` (some requests fail), `REVOCATIONS_NOT_STORED` (access that is blocked until the change is
/// repeated or the server restarts), `CHECKPOINT_FAILING`, `WAL_TOO_LARGE` (the write-ahead log grows),
/// `CLOCK_UNSETTLED`.
#[utoipa::path(
    get, path = "/readyz", tag = "Server", operation_id = "getReadiness",
    params(ReadinessQuery),
    responses(
        (status = 200, description = "The server is ready.", body = Readiness),
        (status = 400, description = "`INVALID_REQUEST`: a query parameter is invalid."),
        (status = 503, description = "`UNAVAILABLE`: keys can't be verified, the database's files were moved, removed or \
            replaced, or the server is shutting down; with `write=true` also: changes can't be stored."),
    ),
)]
pub(crate) async fn check_readiness(call: Call) -> Result<Reply> {
    let mut query = call.parse_query();
    let ReadinessQuery { write } = ReadinessQuery::read(&mut query);
    query.finish(())?;
    let requires_write = write.unwrap_or(false);
    let readiness = readiness::check(&call.app).await;
    if readiness.verify && (readiness.write || !requires_write) {
        return Reply::ok(&readiness);
    }
    let error = readiness.to_error();
    let unready =
        UnreadyError { code: error.code.name(), message: &error.message, details: [], readiness: &readiness };
    Ok(Answer::error(error.code, &unready)?.into())
}

/// The `error` member of the response of a server that isn't ready.
#[derive(Serialize)]
struct UnreadyError<'a> {
    code: &'static str,
    message: &'a str,
    details: [ErrorDetail; 0],
    #[serde(flatten)]
    readiness: &'a Readiness,
}
