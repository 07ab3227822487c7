//! What holds for the operations of the data plane. Their callers have no limits, and two of the three have
//! a form of their own for refusals, because OAuth or the proxies ask for one.

use serde_json::json;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Content, Ref, RefOr, Response};

use super::complete::{BEARER, LIMITS, REQUEST_ID, RETRY_AFTER, headers, own_headers, refusal, security};
use crate::http::routes::{AuthRequirement, Endpoint};

/// A key's id and secret.
const BASIC: &str = "basic";
/// The client's key, for what can't send a Bearer.
const X_API_KEY: &str = "xApiKey";

const IDENTITY: &[&str] = &[
    "X-Auth-Key-Id",
    "X-Auth-Organization-Id",
    "X-Auth-User-Id",
    "X-Auth-Plan",
    "X-Auth-Scopes",
    "X-Auth-Status",
];

/// Headers that only the data plane has: the name, the type, an example and what it says.
#[rustfmt::skip]
pub(crate) const HEADERS: &[(&str, Type, &str, &str)] = &[
    (IDENTITY[0], Type::String, "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0", "The client's key; `-` when it is not known."),
    (IDENTITY[1], Type::String, "org_123", "Whose key it is; `-` for a platform key."),
    (IDENTITY[2], Type::String, "user_123", "The member that owns it; `-` when nobody does."),
    (IDENTITY[3], Type::String, "standard", "Its organization's plan; `-` for a platform key."),
    (IDENTITY[4], Type::String, "workflows:read transactions:write", "What it may do, separated by spaces, wildcards as granted; `-` for nothing."),
    (IDENTITY[5], Type::String, "VALID", "`VALID`, or the code of the refusal."),
];

/// Makes known how the callers of the data plane may authenticate beside the Bearer.
pub(crate) fn add_security_schemes(components: &mut Components) {
    let basic = HttpBuilder::new()
        .scheme(HttpAuthScheme::Basic)
        .description(Some("A key's id and its secret, each form-encoded first (RFC 6749 §2.3.1)."))
        .build();
    components.add_security_scheme(BASIC, SecurityScheme::Http(basic));
    let own = ApiKeyValue::with_description("X-Api-Key", "An API key. Beside a Bearer it must be the same.");
    components.add_security_scheme(X_API_KEY, SecurityScheme::ApiKey(ApiKey::Header(own)));
}

/// Completes an operation whose attributes name every status that it answers with.
pub(crate) fn complete(operation: &mut Operation, auth: AuthRequirement, endpoint: Endpoint) {
    operation.security = Some(match endpoint {
        Endpoint::Verify => security(auth, BEARER),
        Endpoint::Introspect => [security(auth, BEARER), security(auth, BASIC)].concat(),
        // The auth is the proxy's; these are the client's.
        Endpoint::ForwardAuth => {
            [security(AuthRequirement::AnyKey, BEARER), security(AuthRequirement::AnyKey, X_API_KEY)].concat()
        }
    });
    for (status, response) in &mut operation.responses.responses {
        let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else { continue };
        if status >= 400 {
            *response = refused(endpoint, status, std::mem::take(&mut response.description));
        }
        let mut names = vec![REQUEST_ID];
        names.extend(own_headers(status));
        if endpoint == Endpoint::ForwardAuth {
            names.extend(IDENTITY);
            if status < 500 {
                names.extend(LIMITS); // The client's key's, once that is known.
            }
            if status == 403 {
                names.push(RETRY_AFTER); // With `limit_status=403`.
            }
        }
        response.headers = headers(names.into_iter());
    }
}

/// A refusal in the endpoint's form.
fn refused(endpoint: Endpoint, status: u16, description: String) -> Response {
    let mut response = refusal(status, description);
    for content in response.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        match endpoint {
            Endpoint::Verify => {}
            Endpoint::Introspect => {
                *content = of_schema("OauthError");
                let error = match status {
                    401 => "invalid_client",
                    403 => "insufficient_scope",
                    429 | 503 => "temporarily_unavailable",
                    500 => "server_error",
                    _ => "invalid_request",
                };
                let words = "What is wrong, and what to do.";
                content.example = Some(json!({ "error": error, "error_description": words }));
            }
            Endpoint::ForwardAuth => {
                let example = content.example.take();
                *content = of_schema("Denial");
                content.example = example;
            }
        }
    }
    response
}

fn of_schema(name: &str) -> Content {
    Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(name))))
}
