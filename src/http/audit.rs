//! `/admin/v1/audit-logs`

use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use warp::Reply as _;

use super::call::Call;
use super::openapi::params::{AnchorQuery, AuditQuery, EventPath, ExportQuery, PageQuery};
use super::reply::Reply;
use crate::domain::audit::{Event, Verification};
use crate::error::Result;
use crate::service::audit::{self, Format};

/// List events
///
/// An organization's key sees its organization's events, without their place in the chain and without
/// address, agent and name of the platform's own callers.
#[utoipa::path(
    get, path = "/admin/v1/audit-logs", tag = "Audit log", operation_id = "listAuditEvents",
    params(PageQuery, AuditQuery),
    responses(
        (status = 200, description = "A page.", body = Vec<Event>),
        (status = 404, description = "`NOT_FOUND`: the organization that is named is another one's."),
    ),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&audit::list(&call.app, &call.ctx, call.query()).await?)
}

/// Get an event
#[utoipa::path(
    get, path = "/admin/v1/audit-logs/{id}", tag = "Audit log", operation_id = "getAuditEvent",
    params(EventPath),
    responses((status = 200, description = "Found.", body = Event)),
)]
pub(crate) async fn get(call: Call) -> Result<Reply> {
    call.no_query()?;
    Reply::ok(&audit::get(&call.app, &call.ctx, call.param(0)).await?)
}

/// Verify the chain
///
/// Walks all events, or those from an anchor on, and finds any that was edited, removed or moved. Keep
/// `last_seq` and `head_hash` elsewhere: as an anchor they also show when the end was rewritten.
#[utoipa::path(
    get, path = "/admin/v1/audit-logs/verify", tag = "Audit log", operation_id = "verifyAuditLog",
    params(AnchorQuery),
    responses((status = 200, description = "What was found.", body = Verification)),
)]
pub(crate) async fn verify(call: Call) -> Result<Reply> {
    Reply::ok(&audit::verify(&call.app, &call.ctx, call.query()).await?)
}

/// Export events
///
/// Oldest first, without the envelope, as a stream: one event a line as JSON, or CSV in which cells that a
/// spreadsheet would run are escaped. An export by a platform key without filters can be verified with
/// `tollhouse audit verify`.
#[utoipa::path(
    get, path = "/admin/v1/audit-logs/export", tag = "Audit log", operation_id = "exportAuditLog",
    params(ExportQuery, AuditQuery),
    responses(
        (status = 200, description = "The events.", content(
            (String = "application/x-ndjson"),
            (String = "text/csv; charset=utf-8; header=present"),
        )),
        (status = 404, description = "`NOT_FOUND`: the organization that is named is another one's."),
    ),
)]
pub(crate) async fn export(call: Call) -> Result<Reply> {
    let (format, mut pieces) = audit::export(&call.app, &call.ctx, call.query()).await?;
    let stream = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
    let mut response = warp::reply::stream(stream).into_response();
    let (kind, name) = match format {
        Format::Ndjson => ("application/x-ndjson", "attachment; filename=\"audit-logs.ndjson\""),
        Format::Csv => ("text/csv; charset=utf-8; header=present", "attachment; filename=\"audit-logs.csv\""),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(Reply::Raw(Box::new(response)))
}
