//! Searches organizations, users and API keys at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::RequestContext;
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::api_key::{ApiKey, ApiKeyFilter};
use crate::domain::id::Kind;
use crate::domain::organization::{Organization, OrganizationFilter};
use crate::domain::page::{Order, Page, Query};
use crate::domain::search::{SearchParams, SearchQuery, SearchResult, SearchResultType};
use crate::domain::time::Timestamp;
use crate::domain::user::{User, UserFilter};
use crate::error::Result;
use crate::store::{self, db::Tx};

/// Maximum number of results of each kind.
const MAX_RESULTS_PER_KIND: usize = 5;

const NEWEST: Page = Page { limit: MAX_RESULTS_PER_KIND, order: Order::Desc, after: None };

/// Returns the resources that match, of the kinds that the caller has the scope for: organizations, users, API keys. The
/// audit log aggregates searches, because clients may send one at each keystroke.
pub(crate) async fn find(
    app: &App,
    ctx: &Arc<RequestContext>,
    mut query: Query,
) -> Result<Vec<SearchResult>> {
    let params = SearchParams::read(&mut query);
    let Some(text) = query.finish(params)?.q else { return Ok(Vec::new()) };
    let caller = ctx.caller.clone();
    let now = ctx.expiry_time;
    app.db
        .read(move |tx| {
            let mut results = Vec::new();
            if caller.has_scope("admin:orgs") {
                add_results(&mut results, find_organizations(tx, &caller, &text)?);
            }
            if caller.has_scope("admin:users") {
                add_results(&mut results, find_users(tx, &caller, &text)?);
            }
            if caller.has_scope("admin:keys") {
                add_results(&mut results, find_keys(tx, &caller, &text, now)?);
            }
            Ok(results)
        })
        .await
}

/// Adds the first results of a kind, each once.
fn add_results(results: &mut Vec<SearchResult>, found: Vec<SearchResult>) {
    let mut ids = BTreeSet::new();
    let first = found.into_iter().filter(|result| ids.insert(result.id.clone()));
    results.extend(first.take(MAX_RESULTS_PER_KIND));
}

fn find_organizations(tx: &Tx<'_>, caller: &Caller, text: &str) -> Result<Vec<SearchResult>> {
    let own = caller.organization_id();
    let mut found = Vec::new();
    if caller.can_access_organization(Some(text)) {
        found.extend(store::organizations::get(tx, text)?);
    }
    if let Ok(words) = SearchQuery::parse(text, Kind::Organization) {
        let id = own.map(str::to_owned);
        let filter = OrganizationFilter { id, q: Some(words), ..OrganizationFilter::default() };
        found.extend(store::organizations::list(tx, &filter, &NEWEST)?.rows);
    }
    let result = |organization: Organization| SearchResult {
        result_type: SearchResultType::Organization,
        id: organization.id,
        title: organization.name,
        subtitle: organization.email,
    };
    Ok(found.into_iter().map(result).collect())
}

fn find_users(tx: &Tx<'_>, caller: &Caller, text: &str) -> Result<Vec<SearchResult>> {
    let own = caller.organization_id();
    let by_id = match own {
        None => store::users::get(tx, text)?,
        Some(own) => store::memberships::get(tx, own, text)?.map(|membership| membership.user),
    };
    let mut found: Vec<User> = by_id.into_iter().collect();
    let visible = UserFilter { organization_id: own.map(str::to_owned), ..UserFilter::default() };
    let exact = Some(text.to_owned());
    let mut filters = vec![
        UserFilter { email: exact.clone(), ..visible.clone() },
        UserFilter { external_id: exact, ..visible.clone() },
    ];
    filters.extend(
        SearchQuery::parse(text, Kind::User).ok().map(|words| UserFilter { q: Some(words), ..visible }),
    );
    for filter in filters {
        found.extend(store::users::list(tx, &filter, &NEWEST)?.rows);
    }
    let result = |user: User| SearchResult {
        result_type: SearchResultType::User,
        id: user.id,
        title: user.name,
        subtitle: user.email,
    };
    Ok(found.into_iter().map(result).collect())
}

fn find_keys(tx: &Tx<'_>, caller: &Caller, text: &str, now: Timestamp) -> Result<Vec<SearchResult>> {
    let exact = store::api_keys::get(tx, text)?;
    let mut found: Vec<_> = exact
        .into_iter()
        .filter(|key| caller.can_access_organization(key.organization_id.as_deref()))
        .collect();
    if let Ok(words) = SearchQuery::parse(text, Kind::ApiKey) {
        let organization_id = caller.organization_id().map(str::to_owned);
        let filter = ApiKeyFilter { organization_id, q: Some(words), ..ApiKeyFilter::default() };
        found.extend(store::api_keys::list(tx, &filter, &NEWEST, now)?.rows);
    }
    let result = |key: ApiKey| SearchResult {
        result_type: SearchResultType::ApiKey,
        id: key.id,
        title: key.name,
        subtitle: key.start,
    };
    Ok(found.into_iter().map(result).collect())
}
