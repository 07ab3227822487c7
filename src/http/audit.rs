//! `/admin/v1/audit-logs`

use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use warp::Reply as _;

use super::call::Call;
use super::openapi::params::EventPathParams;
use super::reply::Reply;
use crate::domain::audit::{AuditFilter, Event, Verification};
use crate::domain::page::PageQuery;
use crate::error::Result;
use crate::service::audit::{self, AnchorQuery, ExportFormat, ExportQuery};
use crate::service::operation::Operation;

/// List audit events
///
/// With an organization key, returns the events of its organization, without their position in the hash chain
/// and without the address, user agent and key name of platform callers.
#[utoipa::path(
    get, path = "/admin/v1/audit-logs", tag = "Audit log", operation_id = "listAuditEvents",
    params(PageQuery, AuditFilter),
    responses(
        (status = 200, description = "A page of events.", body = Vec<Event>),
        (status = 404, description = "`NOT_FOUND`: the calling key has no access to this organization."),
    ),
)]
pub(crate) async fn list(call: Call) -> Result<Reply> {
    Reply::list(&audit::list(&call.app, &call.ctx, call.parse_query()).await?)
}

/// Get an audit event
#[utoipa::path(
    get, path = "/admin/v1/audit-logs/{id}", tag = "Audit log", operation_id = "getAuditEvent",
    params(EventPathParams),
    responses((status = 200, description = "The event.", body = Event)),
)]
pub(crate) async fn get(call: Call) -> Result<Operation> {
    call.reject_query()?;
    Ok(audit::get(call.path_param(0)))
}

/// Verify the audit log
///
/// Checks the hash chain over all events, or from an anchor on, and detects events that were edited, removed
/// or reordered. Store `last_seq` and `head_hash` outside of the server: used as an anchor, they also reveal
/// a rewritten end of the log. A key can run one chain verification or export at a time, and at most four run on
/// the server; more are refused with 429.
#[utoipa::path(
    get, path = "/admin/v1/audit-logs/verify", tag = "Audit log", operation_id = "verifyAuditLog",
    params(AnchorQuery),
    responses((status = 200, description = "The result of the check.", body = Verification)),
)]
pub(crate) async fn verify_chain(call: Call) -> Result<Reply> {
    let disconnected = call.disconnected.cancelled();
    Reply::ok(&audit::verify(&call.app, &call.ctx, call.parse_query(), disconnected).await?)
}

/// Export audit events
///
/// Streams events, oldest first, without the response envelope: as NDJSON (one JSON object per line), or as
/// CSV, in which cells that a spreadsheet would run as formulas are escaped. An unfiltered export made with a
/// platform key can be verified with `tollhouse audit verify`. A key can run one export or chain verification at
/// a time, and at most four run on the server; more are refused with 429.
#[utoipa::path(
    get, path = "/admin/v1/audit-logs/export", tag = "Audit log", operation_id = "exportAuditLog",
    params(ExportQuery, AuditFilter),
    responses(
        (status = 200, description = "The events.", content(
            (String = "application/x-ndjson"),
            (String = "text/csv; charset=utf-8; header=present"),
        )),
        (status = 404, description = "`NOT_FOUND`: the calling key has no access to this organization."),
    ),
)]
pub(crate) async fn export_events(call: Call) -> Result<Reply> {
    let (format, chunks) = audit::export(&call.app, &call.ctx, call.parse_query()).await?;
    let mut response = warp::reply::stream(chunks).into_response();
    let (content_type, disposition) = match format {
        ExportFormat::Ndjson => ("application/x-ndjson", "attachment; filename=\"audit-logs.ndjson\""),
        ExportFormat::Csv => {
            ("text/csv; charset=utf-8; header=present", "attachment; filename=\"audit-logs.csv\"")
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(disposition));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(Reply::Raw(Box::new(response)))
}
