//! `/admin/v1/search`

use super::call::Call;
use super::reply::Reply;
use crate::domain::search::{SearchParams, SearchResult};
use crate::error::Result;
use crate::service::search;

/// Search
///
/// Finds organizations, users and API keys: at most 5 of each kind that the calling key may read, which requires
/// `admin:orgs`, `admin:users` and `admin:keys`. Those with exactly this id, email address or external id come first. An
/// organization's key finds only its own organization, members and keys.
#[utoipa::path(
    get, path = "/admin/v1/search", tag = "Search", operation_id = "search",
    params(SearchParams),
    responses((status = 200, description = "The resources that were found.", body = Vec<SearchResult>)),
)]
pub(crate) async fn find(call: Call) -> Result<Reply> {
    Reply::ok(&search::find(&call.app, &call.ctx, call.parse_query()).await?)
}
