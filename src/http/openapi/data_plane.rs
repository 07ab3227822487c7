//! Completes the data plane's operations in the OpenAPI document. Their callers are not rate limited, and two
//! of the three endpoints have their own error format, because OAuth or proxies require one.

use serde_json::json;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{Content, Ref, RefOr, Response};

use super::responses::{
    RATE_LIMIT_HEADERS, REQUEST_ID, RETRY_AFTER, error_response, header_references, headers_of_status,
};
use super::security::{self, BASIC_SCHEME, BEARER_SCHEME, X_API_KEY_SCHEME};
use crate::http::route::{AuthRequirement, Endpoint};

const IDENTITY_HEADERS: &[&str] = &[
    "X-Auth-Key-Id",
    "X-Auth-Organization-Id",
    "X-Auth-User-Id",
    "X-Auth-Plan",
    "X-Auth-Scopes",
    "X-Auth-Status",
];

/// Response headers that only the data plane sends: name, type, example and description.
#[rustfmt::skip]
pub(crate) const DATA_PLANE_HEADERS: &[(&str, Type, &str, &str)] = &[
    (IDENTITY_HEADERS[0], Type::String, "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0", "The id of the client's key; `-` if the key is unknown."),
    (IDENTITY_HEADERS[1], Type::String, "org_123", "The key's organization; `-` for a platform key."),
    (IDENTITY_HEADERS[2], Type::String, "user_123", "The member that owns the key; `-` if it has no owner."),
    (IDENTITY_HEADERS[3], Type::String, "standard", "The plan of the key's organization; `-` for a platform key."),
    (IDENTITY_HEADERS[4], Type::String, "workflows:read transactions:write", "The key's scopes, separated by spaces, with wildcards as granted; `-` if it has none."),
    (IDENTITY_HEADERS[5], Type::String, "VALID", "`VALID`, or the error code."),
];

/// Adds security schemes, error formats and headers to a data-plane operation. Its handler's attributes
/// already list all of its statuses.
pub(crate) fn complete_operation(operation: &mut Operation, auth: AuthRequirement, endpoint: Endpoint) {
    operation.security = Some(match endpoint {
        Endpoint::Verify | Endpoint::VerifyBatch | Endpoint::ReportUsage => {
            security::requirements(auth, BEARER_SCHEME)
        }
        Endpoint::Introspect => {
            [security::requirements(auth, BEARER_SCHEME), security::requirements(auth, BASIC_SCHEME)].concat()
        }
        // The proxy itself needs no key; these schemes are for the client's key.
        Endpoint::ForwardAuth => [
            security::requirements(AuthRequirement::AnyKey, BEARER_SCHEME),
            security::requirements(AuthRequirement::AnyKey, X_API_KEY_SCHEME),
        ]
        .concat(),
    });
    for (status, response) in &mut operation.responses.responses {
        let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else { continue };
        if status >= 400 {
            *response = endpoint_error_response(endpoint, status, std::mem::take(&mut response.description));
        }
        let mut names = vec![REQUEST_ID];
        names.extend(headers_of_status(status));
        if endpoint == Endpoint::ForwardAuth {
            names.extend(IDENTITY_HEADERS);
            if status < 500 {
                names.extend(RATE_LIMIT_HEADERS); // The limits of the client's key, if the key is known.
            }
            if status == 403 {
                names.push(RETRY_AFTER); // A 403 is sent for an exceeded limit if `limit_status=403`.
            }
        }
        response.headers = header_references(names.into_iter());
    }
}

/// An error response in the error format of this data-plane endpoint.
fn endpoint_error_response(endpoint: Endpoint, status: u16, description: String) -> Response {
    let mut response = error_response(status, description);
    for content in response.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        match endpoint {
            Endpoint::Verify | Endpoint::VerifyBatch | Endpoint::ReportUsage => {}
            Endpoint::Introspect => {
                *content = content_with_schema("OauthError");
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
                *content = content_with_schema("Denial");
                content.example = example;
            }
        }
    }
    response
}

fn content_with_schema(name: &str) -> Content {
    Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name(name))))
}
