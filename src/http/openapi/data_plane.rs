//! Completes the operations of the data plane. Their callers are not rate limited, and two of the three
//! endpoints have their own error format, because OAuth or proxies require one.

use serde_json::json;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Content, Ref, RefOr, Response};

use super::complete::{
    BEARER, RATE_LIMIT_HEADERS, REQUEST_ID, RETRY_AFTER, error_response, headers, security, status_headers,
};
use crate::http::routes::{AuthRequirement, Endpoint};

/// HTTP Basic with a key's id and secret.
const BASIC: &str = "basic";
/// The client's key, for clients that can't send a bearer token.
const X_API_KEY: &str = "xApiKey";

const IDENTITY: &[&str] = &[
    "X-Auth-Key-Id",
    "X-Auth-Organization-Id",
    "X-Auth-User-Id",
    "X-Auth-Plan",
    "X-Auth-Scopes",
    "X-Auth-Status",
];

/// Response headers of the data plane only: name, type, example and description.
#[rustfmt::skip]
pub(crate) const HEADERS: &[(&str, Type, &str, &str)] = &[
    (IDENTITY[0], Type::String, "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0", "The id of the client's key; `-` if the key is unknown."),
    (IDENTITY[1], Type::String, "org_123", "The key's organization; `-` for a platform key."),
    (IDENTITY[2], Type::String, "user_123", "The member that owns the key; `-` if it has no owner."),
    (IDENTITY[3], Type::String, "standard", "The plan of the key's organization; `-` for a platform key."),
    (IDENTITY[4], Type::String, "workflows:read transactions:write", "The key's scopes, separated by spaces, with wildcards as granted; `-` if it has none."),
    (IDENTITY[5], Type::String, "VALID", "`VALID`, or the error code."),
];

/// Adds the data plane's authentication schemes other than the bearer token.
pub(crate) fn add_security_schemes(components: &mut Components) {
    let basic = HttpBuilder::new()
        .scheme(HttpAuthScheme::Basic)
        .description(Some(
            "A key's id as username and its secret as password, both form-encoded first (RFC 6749 §2.3.1).",
        ))
        .build();
    components.add_security_scheme(BASIC, SecurityScheme::Http(basic));
    let header = ApiKeyValue::with_description(
        "X-Api-Key",
        "An API key. If the request also has a bearer token, both must be the same.",
    );
    components.add_security_scheme(X_API_KEY, SecurityScheme::ApiKey(ApiKey::Header(header)));
}

/// Completes an operation, the attributes of which list all of its statuses.
pub(crate) fn complete(operation: &mut Operation, auth: AuthRequirement, endpoint: Endpoint) {
    operation.security = Some(match endpoint {
        Endpoint::Verify => security(auth, BEARER),
        Endpoint::Introspect => [security(auth, BEARER), security(auth, BASIC)].concat(),
        // The proxy itself needs no key; these schemes are for the client's key.
        Endpoint::ForwardAuth => {
            [security(AuthRequirement::AnyKey, BEARER), security(AuthRequirement::AnyKey, X_API_KEY)].concat()
        }
    });
    for (status, response) in &mut operation.responses.responses {
        let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else { continue };
        if status >= 400 {
            *response = endpoint_error(endpoint, status, std::mem::take(&mut response.description));
        }
        let mut names = vec![REQUEST_ID];
        names.extend(status_headers(status));
        if endpoint == Endpoint::ForwardAuth {
            names.extend(IDENTITY);
            if status < 500 {
                names.extend(RATE_LIMIT_HEADERS); // Those of the client's key, if it is known.
            }
            if status == 403 {
                names.push(RETRY_AFTER); // With `limit_status=403`.
            }
        }
        response.headers = headers(names.into_iter());
    }
}

/// An error response in the endpoint's format.
fn endpoint_error(endpoint: Endpoint, status: u16, description: String) -> Response {
    let mut response = error_response(status, description);
    for content in response.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        match endpoint {
            Endpoint::Verify => {}
            Endpoint::Introspect => {
                *content = content_of("OauthError");
                let error = match status {
                    401 => "invalid_client",
                    403 => "insufficient_scope",
                    429 | 503 => "temporarily_unavailable",
                    500 => "server_error",
                    _ => "invalid_request",
                };
                let description = "What is wrong and what to do.";
                content.example = Some(json!({ "error": error, "error_description": description }));
            }
            Endpoint::ForwardAuth => {
                let example = content.example.take();
                *content = content_of("Denial");
                content.example = example;
            }
        }
    }
    response
}

fn content_of(name: &str) -> Content {
    Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(name))))
}
