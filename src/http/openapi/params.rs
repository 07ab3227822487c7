//! The parameters of paths, queries and headers, as documented. Nobody makes these: a query is read by the
//! service that knows what it means, and a test keeps the two the same.
#![expect(dead_code, reason = "only the derived documentation reads the fields")]

use utoipa::IntoParams;
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::schema::Type;

use crate::domain::membership::Role;
use crate::domain::page::Order;
use crate::domain::usage::{GroupBy, Interval};
use crate::domain::verification::Outcome;
use crate::domain::{api_key, organization, schemas};
use crate::service::audit::Format;

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatch {
    /// Change it only if its `ETag` is still this one, or one of these; `*` for any. Otherwise it is a `412`.
    #[param(rename = "If-Match", nullable = false)]
    pub(crate) if_match: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct RequiredIfMatch {
    /// Change it only if its `ETag` is still this one; `*` for any. Otherwise it is a `412`, left out a `428`.
    #[param(rename = "If-Match")]
    pub(crate) if_match: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OrganizationPath {
    /// The organization.
    #[param(example = "org_123")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct MemberPath {
    /// The organization.
    #[param(example = "org_123")]
    pub(crate) id: String,
    /// The member.
    #[param(example = "user_123")]
    pub(crate) user_id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct UserPath {
    /// The user.
    #[param(example = "user_123")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ApiKeyPath {
    /// The key's id, not its secret.
    #[param(example = "key_123")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ScopePath {
    /// The scope.
    #[param(example = "reports:read")]
    pub(crate) scope: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct EventPath {
    /// The event.
    #[param(example = "evt_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ForwardAuthPath {
    /// `scope=` and what the key needs, with commas between; then the client's own path.
    #[param(example = "scope=workflows:read")]
    pub(crate) path: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ForwardAuthQuery {
    /// A scope that the key must have; may be repeated.
    #[param(nullable = false, example = json!(["workflows:read"]))]
    pub(crate) scope: Option<Vec<String>>,
    #[param(schema_with = limit_status, required = false)]
    pub(crate) limit_status: Option<u16>,
}

fn limit_status() -> ObjectBuilder {
    let words = "What is answered when a limit is met. nginx wants 403: it makes a 500 of what is neither 401 nor 403.";
    let values = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([403, 429]));
    values.default(Some(429.into())).description(Some(words))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Rows at most.
    #[param(minimum = 1, maximum = 100, default = 20)]
    pub(crate) limit: Option<u32>,
    /// `desc`: newest first.
    #[param(default = "desc")]
    pub(crate) order: Option<Order>,
    /// `metadata.nextCursor` of the page before, with the same filters and order, while its `metadata.hasMore` is
    /// true. Rows that are created or deleted meanwhile are neither repeated nor skipped.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) cursor: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OrganizationQuery {
    /// Only these.
    pub(crate) status: Option<organization::Status>,
    /// Only those on this plan.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) plan: Option<String>,
    /// What the name or the e-mail address begins with.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) q: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MemberQuery {
    /// Only these.
    pub(crate) role: Option<Role>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UserQuery {
    /// Only these.
    pub(crate) status: Option<organization::Status>,
    /// The whole address, without regard to case.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) email: Option<String>,
    /// Its name in another system.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) external_id: Option<String>,
    /// What the name or the e-mail address begins with.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) q: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApiKeyQuery {
    /// Only keys of this organization.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) organization_id: Option<String>,
    /// Only keys of this user.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) user_id: Option<String>,
    /// Only these.
    pub(crate) status: Option<api_key::Status>,
    /// Only keys that were given this scope.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) scope: Option<String>,
    /// What the name begins with.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) q: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// Only keys of this organization.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only this key.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) key_id: Option<String>,
    /// So many hours or days until now, from the start of the bucket in which they begin; `30d` if `start` is
    /// left out too. Not together with `start` and `end`.
    #[param(pattern = "^[0-9]{1,4}[hd]$")]
    pub(crate) period: Option<String>,
    /// From the start of the bucket that this time lies in; not in the future.
    #[param(format = DateTime)]
    pub(crate) start: Option<String>,
    /// To the end of the bucket that this time lies in; left out: until now. Needs `start`.
    #[param(format = DateTime)]
    pub(crate) end: Option<String>,
    /// Left out: `hour` up to 48 hours, else `day`.
    pub(crate) interval: Option<Interval>,
    /// Adds `groups`.
    pub(crate) group_by: Option<GroupBy>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DenialQuery {
    /// Only denials that concern this organization.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only denials of this key.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) key_id: Option<String>,
    /// Only these.
    pub(crate) code: Option<Outcome>,
    /// Only those that tell this IPv4 or IPv6 address.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) ip: Option<String>,
    /// Whose last denial was not before this time.
    #[param(format = DateTime)]
    pub(crate) from: Option<String>,
    /// Whose first denial was before this time.
    #[param(format = DateTime)]
    pub(crate) to: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only events of this organization.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only what this key did.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) actor_id: Option<String>,
    /// Only this action, such as `api_key.create`.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) action: Option<String>,
    /// Only what was done to this.
    #[param(min_length = 1, max_length = 200)]
    pub(crate) target_id: Option<String>,
    /// Only looks or only changes.
    pub(crate) access: Option<schemas::Access>,
    /// Only what ended so.
    pub(crate) outcome: Option<schemas::Outcome>,
    /// Not before this time.
    #[param(format = DateTime)]
    pub(crate) from: Option<String>,
    /// Before this time.
    #[param(format = DateTime)]
    pub(crate) to: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// One event a line as JSON, or CSV with a header line.
    #[param(default = "ndjson")]
    pub(crate) format: Option<Format>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AnchorQuery {
    /// `seq:hash`, a place in the chain that was kept elsewhere and its hash; left out: from the start.
    #[param(min_length = 1, max_length = 200, pattern = "^0*[1-9][0-9]*:[0-9a-fA-F]{64}$")]
    pub(crate) anchor: Option<String>,
}
