//! The authentication schemes of the OpenAPI document.

use utoipa::openapi::Components;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};

use crate::http::route::AuthRequirement;

/// Name of the OpenAPI security scheme for bearer tokens, which every operation that requires a key
/// supports.
pub(super) const BEARER_SCHEME: &str = "bearer";
/// Name of the OpenAPI security scheme for the `X-Api-Key` header, for clients that can't send a bearer
/// token.
pub(super) const X_API_KEY_SCHEME: &str = "xApiKey";

const BEARER_DESCRIPTION: &str = "An API key. An organization key can only access its own organization; anything else \
is a `404`. A platform key belongs to no organization and can access all of them. A key needs one of the scopes that \
an operation lists; `admin:*` covers every `admin:…` scope, and `*` covers all scopes.";

/// Adds all authentication schemes.
pub(super) fn add_schemes(components: &mut Components) {
    let bearer =
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(BEARER_DESCRIPTION)).build();
    components.add_security_scheme(BEARER_SCHEME, SecurityScheme::Http(bearer));
    let header = ApiKeyValue::with_description(
        "X-Api-Key",
        "An API key. If the request also has a bearer token, both must be the same.",
    );
    components.add_security_scheme(X_API_KEY_SCHEME, SecurityScheme::ApiKey(ApiKey::Header(header)));
}

/// The OpenAPI security requirements: one alternative for each scope, because any one of the scopes suffices.
pub(super) fn requirements(auth: AuthRequirement, scheme: &str) -> Vec<SecurityRequirement> {
    match auth {
        AuthRequirement::Open => Vec::new(),
        AuthRequirement::AnyKey | AuthRequirement::OwnKey => vec![SecurityRequirement::new(scheme, [""; 0])],
        AuthRequirement::Scope(scopes) | AuthRequirement::Platform(scopes) => {
            scopes.iter().map(|scope| SecurityRequirement::new(scheme, [*scope])).collect()
        }
    }
}
