//! Documentation of the parameters in paths, queries and headers. These types are never constructed: services
//! parse the queries themselves, and a test compares the documented parameters with the parsed ones.
#![expect(dead_code, reason = "only the derived documentation reads the fields")]

use utoipa::IntoParams;
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::schema::Type;

use crate::domain::membership::Role;
use crate::domain::page::Order;
use crate::domain::usage::{GroupBy, Interval};
use crate::domain::verification::Outcome;
use crate::domain::{api_key, organization, schemas};
use crate::service::audit::ExportFormat;

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct IfMatch {
    /// Makes the change only if the resource's `ETag` is this one, or one of these; `*` matches any.
    /// Otherwise the response is a `412`.
    #[param(rename = "If-Match", nullable = false)]
    pub(crate) if_match: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(crate) struct RequiredIfMatch {
    /// Makes the change only if the resource's `ETag` is this one; `*` matches any. Otherwise the
    /// response is a `412`; without the header it is a `428`.
    #[param(rename = "If-Match")]
    pub(crate) if_match: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OrganizationPathParams {
    /// The organization's id.
    #[param(example = "org_123")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct MemberPathParams {
    /// The organization's id.
    #[param(example = "org_123")]
    pub(crate) id: String,
    /// The id of the member, which is a user.
    #[param(example = "user_123")]
    pub(crate) user_id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct UserPathParams {
    /// The user's id.
    #[param(example = "user_123")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ApiKeyPathParams {
    /// The key's id, not its secret.
    #[param(example = "key_123")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ScopePathParams {
    /// The scope's name.
    #[param(example = "reports:read")]
    pub(crate) scope: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct EventPathParams {
    /// The event's id.
    #[param(example = "evt_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    pub(crate) id: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ForwardAuthPathParams {
    /// `scope=` and the required scopes, separated by commas; then `/` and the client's own path.
    #[param(example = "scope=workflows:read")]
    pub(crate) path: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ForwardAuthQuery {
    /// A required scope. Repeat the parameter to require several.
    #[param(nullable = false, example = json!(["workflows:read"]))]
    pub(crate) scope: Option<Vec<String>>,
    #[param(schema_with = limit_status_schema, required = false)]
    pub(crate) limit_status: Option<u16>,
}

fn limit_status_schema() -> ObjectBuilder {
    let description = "The status if a limit is exceeded. Use 403 for nginx, which turns any status other than 401 and 403 into a 500.";
    let values = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([403, 429]));
    values.default(Some(429.into())).description(Some(description))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Maximum number of results per page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    pub(crate) limit: Option<u32>,
    /// `desc` returns the newest first, `asc` the oldest.
    #[param(default = "desc")]
    pub(crate) order: Option<Order>,
    /// `metadata.nextCursor` of the previous page, sent with the same filters and order. Rows created
    /// or deleted while paging are neither repeated nor skipped.
    #[param(max_length = 200)]
    pub(crate) cursor: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OrganizationQuery {
    /// Only organizations with this status.
    pub(crate) status: Option<organization::Status>,
    /// Only organizations on this plan.
    #[param(max_length = 200)]
    pub(crate) plan: Option<String>,
    /// Only those with a name or email address that begins with this.
    #[param(max_length = 200)]
    pub(crate) q: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MemberQuery {
    /// Only members with this role.
    pub(crate) role: Option<Role>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UserQuery {
    /// Only users with this status.
    pub(crate) status: Option<organization::Status>,
    /// Only the user with this email address, ignoring case.
    #[param(max_length = 200)]
    pub(crate) email: Option<String>,
    /// Only the user with this id in an external system.
    #[param(max_length = 200)]
    pub(crate) external_id: Option<String>,
    /// Only those with a name or email address that begins with this.
    #[param(max_length = 200)]
    pub(crate) q: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApiKeyQuery {
    /// Only keys of this organization.
    #[param(max_length = 200)]
    pub(crate) organization_id: Option<String>,
    /// Only keys owned by this user.
    #[param(max_length = 200)]
    pub(crate) user_id: Option<String>,
    /// Only keys with this status.
    pub(crate) status: Option<api_key::Status>,
    /// Only keys that were granted exactly this scope.
    #[param(max_length = 200)]
    pub(crate) scope: Option<String>,
    /// Only keys with a name that begins with this.
    #[param(max_length = 200)]
    pub(crate) q: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// Only keys of this organization.
    #[param(max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only this key.
    #[param(max_length = 200)]
    pub(crate) key_id: Option<String>,
    /// A number of hours (`24h`) or days (`30d`) up to now, rounded down to the start of an interval;
    /// `30d` if `start` is omitted too. Can't be combined with `start` and `end`.
    #[param(pattern = "^[0-9]{1,4}[hd]$")]
    pub(crate) period: Option<String>,
    /// Start of the period, rounded down to the start of an interval. Must not be in the future.
    #[param(format = DateTime)]
    pub(crate) start: Option<String>,
    /// End of the period, rounded up to the end of an interval. Defaults to now. Requires `start`.
    #[param(format = DateTime)]
    pub(crate) end: Option<String>,
    /// Defaults to `hour` for periods of up to 48 hours, otherwise to `day`.
    pub(crate) interval: Option<Interval>,
    /// Adds `groups` to the response.
    pub(crate) group_by: Option<GroupBy>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DenialQuery {
    /// Only denials that concern this organization.
    #[param(max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only denials of this key.
    #[param(max_length = 200)]
    pub(crate) key_id: Option<String>,
    /// Only denials with this code.
    pub(crate) code: Option<Outcome>,
    /// Only denials from this IPv4 or IPv6 address.
    #[param(max_length = 200)]
    pub(crate) ip: Option<String>,
    /// Only entries with a last denial at or after this time.
    #[param(format = DateTime)]
    pub(crate) from: Option<String>,
    /// Only entries with a first denial before this time.
    #[param(format = DateTime)]
    pub(crate) to: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only events of this organization.
    #[param(max_length = 200)]
    pub(crate) org_id: Option<String>,
    /// Only events caused by this key.
    #[param(max_length = 200)]
    pub(crate) actor_id: Option<String>,
    /// Only events with this action, such as `api_key.create`.
    #[param(max_length = 200)]
    pub(crate) action: Option<String>,
    /// Only events about this resource.
    #[param(max_length = 200)]
    pub(crate) target_id: Option<String>,
    /// Only reads or only writes.
    pub(crate) access: Option<schemas::Access>,
    /// Only events with this outcome.
    pub(crate) outcome: Option<schemas::Outcome>,
    /// Only events at or after this time.
    #[param(format = DateTime)]
    pub(crate) from: Option<String>,
    /// Only events before this time.
    #[param(format = DateTime)]
    pub(crate) to: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// The format: one JSON object per line, or CSV with a header line.
    #[param(default = "ndjson")]
    pub(crate) format: Option<ExportFormat>,
    /// Starts CSV with a byte order mark, by which spreadsheets recognize UTF-8.
    #[param(default = false)]
    pub(crate) bom: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AnchorQuery {
    /// A position in the chain and its hash, as `seq:hash`, that were stored elsewhere. Defaults to the
    /// start of the chain.
    #[param(min_length = 1, max_length = 200, pattern = "^0*[1-9][0-9]*:[0-9a-fA-F]{64}$")]
    pub(crate) anchor: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadinessParams {
    /// With `true`, the server is ready only if it can also store changes.
    #[param(nullable = false)]
    pub(crate) write: Option<bool>,
}
