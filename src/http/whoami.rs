//! `/admin/v1/whoami`

use serde::Serialize;

use super::call::Call;
use super::reply::Reply;
use crate::domain::api_key::ApiKey;
use crate::domain::expand::OrganizationName;
use crate::error::{Error, Result};
use crate::verify::bucket::RateLimitDecision;

/// The calling key and its permissions.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Whoami {
    /// The calling key.
    api_key: ApiKey,
    /// The key's organization; `null` for a platform key.
    #[schema(required)]
    organization: Option<OrganizationName>,
    /// The key's scopes, with wildcards expanded.
    scopes: Vec<String>,
    /// The key's Admin API rate limit; `null` if the limit is off.
    #[schema(required)]
    rate_limit: Option<CallerRateLimit>,
    /// The Admin API rate limit that all keys of the organization share; `null` for a platform key, and if
    /// the limit is off.
    #[schema(required)]
    organization_rate_limit: Option<CallerRateLimit>,
}

/// The state of a rate limit.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct CallerRateLimit {
    /// Requests per minute.
    limit: u32,
    /// Requests left now.
    remaining: u32,
    /// Unix time, in seconds, at which all requests are available again.
    reset: i64,
}

/// Get the calling key
///
/// Returns the calling key with its organization, its scopes with wildcards expanded, and the state of its
/// rate limits.
#[utoipa::path(
    get, path = "/admin/v1/whoami", tag = "Caller", operation_id = "getCaller",
    responses((status = 200, description = "The calling key.", body = Whoami)),
)]
pub(crate) async fn get_caller(call: Call) -> Result<Reply> {
    call.reject_query()?;
    let catalogue = call.app.catalogue().await?;
    let crate::domain::access::Caller::Key(credential) = &call.ctx.caller else {
        return Err(Error::internal("whoami without a key"));
    };
    let key = &credential.key;
    let status_of = |limit: RateLimitDecision| CallerRateLimit {
        limit: limit.limit,
        remaining: limit.remaining,
        reset: (call.ctx.now + limit.full_after).as_seconds_ceil(),
    };
    let name = credential.organization.as_ref().map(|organization| organization.name.clone());
    Reply::ok(&Whoami {
        organization: key.organization_id.clone().zip(name).map(|(id, name)| OrganizationName { id, name }),
        scopes: catalogue.expand(&key.scopes),
        rate_limit: call.rate_limit.map(|limits| status_of(limits.key)),
        organization_rate_limit: call.rate_limit.and_then(|limits| limits.organization).map(status_of),
        api_key: key.clone().effective_at(call.ctx.expiry_time),
    })
}
