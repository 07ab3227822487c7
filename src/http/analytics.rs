//! `/admin/v1/analytics`

use super::call::Call;
use super::openapi::params::{DenialQuery, PageQuery, UsageQuery};
use super::reply::Reply;
use crate::domain::overview::Overview;
use crate::domain::usage::Usage;
use crate::domain::verification_log::Entry;
use crate::error::Result;
use crate::service::{overview, usage, verification_log};

/// Get usage
///
/// Verifications of known keys, at most `usage.flush_interval` behind. Every bucket of the period is there,
/// empty ones as zeros, at most 10,000. By the hour they are kept for `retention.usage_hourly_days`, by the
/// day for `retention.usage_daily_days`. A deleted organization's usage and a revoked key's stay.
///
/// `groups` has at most 100 entries with exact figures, whose order is exact among them. When there are more
/// keys or organizations, they are picked from the 100 busiest of each day, which are known to within an
/// eighth.
#[utoipa::path(
    get, path = "/admin/v1/analytics/usage", tag = "Analytics", operation_id = "getUsage",
    params(UsageQuery),
    responses(
        (status = 200, description = "What was counted.", body = Usage),
        (status = 404, description = "`NOT_FOUND`: there is no such organization or key, or it is another organization's."),
    ),
)]
pub(crate) async fn usage(call: Call) -> Result<Reply> {
    Reply::ok(&usage::get(&call.app, &call.ctx, call.query()).await?)
}

/// Get the overview
///
/// Totals for a front page. An organization's key sees its own organization alone.
#[utoipa::path(
    get, path = "/admin/v1/analytics/overview", tag = "Analytics", operation_id = "getOverview",
    responses((status = 200, description = "How much there is.", body = Overview)),
)]
pub(crate) async fn overview(call: Call) -> Result<Reply> {
    Reply::ok(&overview::get(&call.app, &call.ctx, call.query()).await?)
}

/// List denials
///
/// The verification log: every verification that was not `VALID`, folded by key, code and minute with a
/// count; of unknown keys by address instead. It is kept for `retention.verification_log_days`. An
/// organization's key sees what concerns its own keys, and unknown ones that its own keys asked about.
#[utoipa::path(
    get, path = "/admin/v1/analytics/logs", tag = "Analytics", operation_id = "listDenials",
    params(PageQuery, DenialQuery),
    responses(
        (status = 200, description = "A page.", body = Vec<Entry>),
        (status = 404, description = "`NOT_FOUND`: the organization that is named is another one's."),
    ),
)]
pub(crate) async fn logs(call: Call) -> Result<Reply> {
    Reply::list(&verification_log::list(&call.app, &call.ctx, call.query()).await?)
}
