//! `/admin/v1/analytics`

use super::call::Call;
use super::reply::Reply;
use crate::domain::overview::Overview;
use crate::domain::page::PageQuery;
use crate::domain::usage::{Usage, UsageFilter};
use crate::domain::verification_log::{Entry, VerificationLogFilter};
use crate::error::Result;
use crate::service::{overview, usage, verification_log};

/// Get usage
///
/// Returns the number of verifications of known keys, with a delay of at most `usage.flush_interval`.
/// The series contains every interval of the period, with zeros for intervals without requests, and at
/// most 10,000 intervals. Hourly figures are kept for `retention.usage_hourly_days`, daily figures for
/// `retention.usage_daily_days`. The usage of deleted organizations and revoked keys is kept too.
///
/// `groups` has at most 100 entries, with exact figures and in exact order. If there are more keys or
/// organizations, the entries are chosen from the 100 busiest of each day (by requests, or by the units of
/// another `meter`), a ranking that is accurate to within one eighth.
///
/// With `group_by=user`, the usage of all keys is added up, and `groups` has at most 1,000 entries. Keys without a user
/// form one group, whose `id` is `null`. If more than 25,000 keys were used in the period, or their usage is more than
/// 100,000 hours and days, the response is 400. While another such report of the organization is running, or of a platform
/// key, or two of others are, it is 429.
#[utoipa::path(
    get, path = "/admin/v1/analytics/usage", tag = "Analytics", operation_id = "getUsage",
    params(UsageFilter),
    responses(
        (status = 200, description = "The usage.", body = Usage),
        (status = 404, description = "`NOT_FOUND`: the organization or key doesn't exist, or the calling key has no access to it."),
    ),
)]
pub(crate) async fn get_usage(call: Call) -> Result<Reply> {
    Reply::ok(&usage::get(&call.app, &call.ctx, call.parse_query()).await?)
}

/// Get the overview
///
/// Returns totals for a dashboard. With an organization key, only those of its organization.
#[utoipa::path(
    get, path = "/admin/v1/analytics/overview", tag = "Analytics", operation_id = "getOverview",
    responses((status = 200, description = "The totals.", body = Overview)),
)]
pub(crate) async fn get_overview(call: Call) -> Result<Reply> {
    Reply::ok(&overview::get(&call.app, &call.ctx, call.parse_query()).await?)
}

/// List denials
///
/// Returns the verification log: all verifications with a result other than `VALID`, aggregated by key,
/// code and minute with a count. Verifications of unknown keys are aggregated by address instead of
/// key. For each organization, 10 entries per minute are reserved. Beyond those, all organizations share 1,000
/// entries per minute, where keys take precedence over unknown keys; one more entry counts the rest. Entries
/// are kept for `retention.verification_log_days`. With an organization key, returns the denials of its
/// organization's keys, and of unknown keys that were verified with one of its organization's keys.
#[utoipa::path(
    get, path = "/admin/v1/analytics/logs", tag = "Analytics", operation_id = "listDenials",
    params(PageQuery, VerificationLogFilter),
    responses(
        (status = 200, description = "A page of denials.", body = Vec<Entry>),
        (status = 404, description = "`NOT_FOUND`: the calling key has no access to this organization."),
    ),
)]
pub(crate) async fn list_denials(call: Call) -> Result<Reply> {
    Reply::list(&verification_log::list(&call.app, &call.ctx, call.parse_query()).await?)
}
