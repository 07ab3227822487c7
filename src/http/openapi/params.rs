//! Documentation of the parameters in paths and headers, and of the query of forward-auth, which is parsed without
//! allocations. These types are never constructed; a test compares them with what is parsed. The structures that
//! queries are parsed into are the documentation of their parameters.
#![expect(dead_code, reason = "only the derived documentation reads the fields")]

use utoipa::IntoParams;
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::schema::Type;

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
#[into_params(parameter_in = Query)]
pub(crate) struct ApiKeyExpandParams {
    /// Adds the names of what these ids stand for, as a comma-separated list: `organization` (requires `admin:orgs`),
    /// `user` (requires `admin:users`).
    #[param(
        pattern = "^(organization|user)(,(organization|user))*$",
        max_length = 200,
        example = "organization,user"
    )]
    pub(crate) expand: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MembershipExpandParams {
    /// `organization` adds the name of the organization. Requires `admin:orgs`.
    #[param(pattern = "^organization(,organization)*$", max_length = 200, example = "organization")]
    pub(crate) expand: Option<String>,
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
    /// `scope=` and the required scopes, separated by commas; after `;`, `cost=` and the costs, as in the query; or `-`
    /// for no scope and a cost of 1. Then `/` and the client's own path.
    #[param(example = "scope=workflows:read;cost=2")]
    pub(crate) path: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ForwardAuthQuery {
    /// A required scope. Repeat the parameter to require several.
    #[param(nullable = false, example = json!(["workflows:read"]))]
    pub(crate) scope: Option<Vec<String>>,
    /// What the request costs: a number on the meter `requests` (1 without it), or `meter:number`. Repeat the parameter
    /// for several meters.
    #[param(nullable = false, example = json!(["tokens:0"]))]
    pub(crate) cost: Option<Vec<String>>,
    #[param(schema_with = limit_status_schema, required = false)]
    pub(crate) limit_status: Option<u16>,
}

fn limit_status_schema() -> ObjectBuilder {
    let description = "The status if a limit is exceeded. Use 403 for nginx, which turns any status other than 401 and 403 into a 500.";
    let values = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([403, 429]));
    values.default(Some(429.into())).description(Some(description))
}
