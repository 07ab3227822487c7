//! Completes the data plane's operations in the OpenAPI document. Their callers are not rate limited, and two
//! of the three endpoints have their own error format, because OAuth or proxies require one.

use std::collections::BTreeMap;

use utoipa::openapi::example::Example;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Schema, Type};
use utoipa::openapi::{Ref, RefOr, Response};

use super::examples::Examples;
use super::responses::{
    RATE_LIMIT_HEADERS, REQUEST_ID, RETRY_AFTER, error_response, header_references, headers_of_status,
};
use super::security::{self, BEARER_SCHEME, X_API_KEY_SCHEME};
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
pub(crate) fn complete_operation(
    operation: &mut Operation,
    auth: AuthRequirement,
    endpoint: Endpoint,
    examples: &Examples,
) {
    operation.security = Some(match endpoint {
        // Introspection also accepts HTTP Basic. With two schemes, generated clients would send the wrong one.
        Endpoint::Verify | Endpoint::VerifyBatch | Endpoint::ReportUsage | Endpoint::Introspect => {
            security::requirements(auth, BEARER_SCHEME)
        }
        // The proxy itself needs no key; these schemes are for the client's key.
        Endpoint::ForwardAuth => [
            security::requirements(AuthRequirement::AnyKey, BEARER_SCHEME),
            security::requirements(AuthRequirement::AnyKey, X_API_KEY_SCHEME),
        ]
        .concat(),
    });
    let id = operation.operation_id.clone().unwrap_or_default();
    for (status, response) in &mut operation.responses.responses {
        let (Ok(status), RefOr::T(response)) = (status.parse::<u16>(), response) else { continue };
        if status >= 400 {
            let description = std::mem::take(&mut response.description);
            let examples = examples.of_endpoint_errors(&id, endpoint, status);
            *response = endpoint_error_response(endpoint, status, description, examples);
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
fn endpoint_error_response(
    endpoint: Endpoint,
    status: u16,
    description: String,
    examples: BTreeMap<String, RefOr<Example>>,
) -> Response {
    let mut response = error_response(status, description, examples);
    let schema = match endpoint {
        Endpoint::Verify | Endpoint::VerifyBatch | Endpoint::ReportUsage => return response,
        Endpoint::Introspect => "OauthError",
        Endpoint::ForwardAuth => "Denial",
    };
    for content in response.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        content.schema = Some(RefOr::<Schema>::Ref(Ref::from_schema_name(schema)));
    }
    response
}
