//! `/admin/v1/whoami`

use serde::Serialize;

use super::call::Call;
use super::reply::Reply;
use crate::domain::api_key::ApiKey;
use crate::error::{Error, Result};
use crate::service::scopes;

/// The calling key and what it may do.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Whoami {
    /// The calling key.
    api_key: ApiKey,
    /// Its organization; `null` for a platform key.
    #[schema(required)]
    organization: Option<OrganizationName>,
    /// Its scopes, wildcards spelled out.
    scopes: Vec<String>,
    /// What is left of its limits; `null` when they are off.
    #[schema(required)]
    rate_limit: Option<Left>,
}

/// An organization by name.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OrganizationName {
    /// `org_…`
    id: String,
    /// For people.
    name: String,
}

/// What is left of a limit.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = LimitLeft)]
pub(crate) struct Left {
    /// Calls a minute.
    limit: u32,
    /// Calls left now.
    remaining: u32,
    /// Unix seconds at which it is full again.
    reset: i64,
}

/// Get the calling key
///
/// With its organization, its scopes with wildcards spelled out, and what is left of its limit.
#[utoipa::path(
    get, path = "/admin/v1/whoami", tag = "Caller", operation_id = "getCaller",
    responses((status = 200, description = "The calling key.", body = Whoami)),
)]
pub(crate) async fn whoami(call: Call) -> Result<Reply> {
    call.no_query()?;
    let catalogue = scopes::catalogue(&call.app).await?;
    let crate::domain::access::Caller::Key(credential) = &call.ctx.caller else {
        return Err(Error::internal("whoami without a key"));
    };
    let key = &credential.key;
    let name = credential.organization.as_ref().map(|tenant| tenant.name.clone());
    Reply::ok(&Whoami {
        organization: key.organization_id.clone().zip(name).map(|(id, name)| OrganizationName { id, name }),
        scopes: catalogue.expand(&key.scopes),
        rate_limit: call.limits.map(|taken| Left {
            limit: taken.limit,
            remaining: taken.remaining,
            reset: (call.ctx.now + taken.full).as_seconds_ceil(),
        }),
        api_key: key.clone().effective_at(call.ctx.now),
    })
}
