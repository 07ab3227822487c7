//! `POST /v1/introspect`: OAuth token introspection (RFC 7662), for resource servers that already use OAuth.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use warp::reply::Response;

use super::data_plane_request::{DataPlaneRequest, RequestBody};
use super::{auth, call, reply};
use crate::domain::api_key::Credential;
use crate::error::{Code, Error, Result};

/// Stands for the organization of callers that aren't authenticated yet. No organization has this id.
const UNAUTHENTICATED: &str = "unauthenticated";

/// A token to introspect (RFC 7662 §2.1).
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct IntrospectToken {
    /// The API key.
    #[schema(example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU117KKs")]
    token: String,
    /// Ignored, like all parameters that aren't listed here.
    #[schema(nullable = false, example = "access_token")]
    token_type_hint: Option<String>,
    /// The id of the calling key, with `client_secret`, for clients that authenticate in the body. Ignored if
    /// there is an `Authorization` header.
    #[schema(nullable = false, example = "key_123")]
    client_id: Option<String>,
    /// The secret of the calling key.
    #[schema(nullable = false, example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU117KKs")]
    client_secret: Option<String>,
}

/// The result of an introspection (RFC 7662 §2.2). If the key isn't active, only `active` is present.
#[derive(Default, Serialize, utoipa::ToSchema)]
pub(crate) struct Introspection {
    /// True if the key exists and is valid.
    #[schema(example = true)]
    active: bool,
    /// The key's scopes, separated by spaces, with wildcards expanded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "transactions:write workflows:read")]
    scope: Option<String>,
    /// The key's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "key_123")]
    client_id: Option<String>,
    /// The key's owner, or its organization if it has no owner; absent for a platform key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "org_123")]
    sub: Option<String>,
    /// Unix time, in seconds, at which the key expires; absent if it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 1_893_456_000)]
    exp: Option<i64>,
    /// Unix time, in seconds, at which the key was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 1_795_417_689)]
    iat: Option<i64>,
    /// Always `Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, example = "Bearer")]
    token_type: Option<&'static str>,
}

/// An OAuth error (RFC 6749 §5.2).
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OauthError {
    /// The error code, for programs.
    #[schema(value_type = String, example = "invalid_client")]
    error: OauthErrorCode,
    /// What is wrong and what to do, for people.
    error_description: String,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum OauthErrorCode {
    InvalidRequest,
    InvalidClient,
    InvalidToken,
    InsufficientScope,
    TemporarilyUnavailable,
    ServerError,
}

/// Introspect a token
///
/// Token introspection as defined in RFC 7662: returns whether an API key is active, and its scopes.
/// The caller authenticates with a bearer token. OAuth clients can also send their key's id and secret, as HTTP Basic (both
/// form-encoded first, RFC 6749 §2.3.1) or in the body as `client_id` and `client_secret`.
/// Introspection neither checks nor consumes limits. A key with an allowlist is never active here,
/// because the request doesn't include the client's address. The response has no envelope.
#[utoipa::path(
    post, path = "/v1/introspect", tag = "Verification", operation_id = "introspectToken",
    request_body(content = IntrospectToken, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The result.", body = Introspection),
        (status = 400, description = "`invalid_request`: the `token` parameter is missing or repeated, the body is incomplete, or a header can't be read."),
        (status = 401, description = "`invalid_client`: no credentials, or an id and secret that are invalid. `invalid_token`: the bearer token is invalid."),
        (status = 403, description = "`insufficient_scope`: the calling key lacks the scope, or can't be used from this address."),
        (status = 413, description = "`invalid_request`: the body is too large."),
        (status = 415, description = "`invalid_request`: the body isn't form-encoded."),
        (status = 429, description = "`temporarily_unavailable`: too many failed authentication attempts from this address."),
        (status = 500, description = "`server_error`"),
        (status = 503, description = "`temporarily_unavailable`"),
    ),
)]
pub(crate) async fn answer(request: &DataPlaneRequest<'_>, body: RequestBody) -> Response {
    match introspect_token(request, body).await {
        Ok(introspection) => write_json(StatusCode::OK, &introspection),
        Err(error) => write_oauth_error(request, &error),
    }
}

async fn introspect_token(request: &DataPlaneRequest<'_>, body: RequestBody) -> Result<Introspection> {
    let headers = &request.head.headers;
    let is_form_encoded = is_form_encoded(headers);
    let is_client_secret_post = !headers.contains_key(AUTHORIZATION) && matches!(is_form_encoded, Ok(true));
    let (caller, bytes) = if is_client_secret_post {
        let bytes = read_unauthenticated_body(request, body).await?;
        let caller = request.authorize(authenticate_by_form(request, &bytes).await).await?;
        (caller, bytes)
    } else {
        let (caller, body) = request.authorize_caller(body, true).await?;
        let bytes = request.read_body(body, caller.key.organization_id.as_deref()).await;
        if !is_form_encoded? {
            let message = "Send the parameters as application/x-www-form-urlencoded.";
            return Err(Error::new(Code::UnsupportedMediaType, message));
        }
        (caller, bytes?)
    };
    let token = single_parameter(&bytes, "token")
        .ok_or_else(|| Error::new(Code::InvalidRequest, "Send the token parameter exactly once."))?;
    let caller_organization_id = caller.key.organization_id.as_deref();
    let now = request.app.clock.now();
    let credential = request.app.verifier.introspect(&token, caller_organization_id, now).await?;
    let Some(credential) = credential else {
        return Ok(Introspection::default());
    };
    let Credential { key, secret_ends_at, .. } = &*credential;
    let catalogue = request.app.catalogue().await?;
    // A previous secret expires with its grace period, which never outlasts the key.
    let expiry = secret_ends_at.or(key.expires_at);
    Ok(Introspection {
        active: true,
        scope: Some(catalogue.expand(&key.scopes).join(" ")),
        client_id: Some(key.id.clone()),
        sub: key.user_id.clone().or_else(|| key.organization_id.clone()),
        // Rounded down, so that no resource server accepts the key after its expiry.
        exp: expiry.map(|expiry| expiry.as_millis().div_euclid(1000)),
        iat: Some(key.created_at.as_millis().div_euclid(1000)),
        token_type: Some("Bearer"),
    })
}

/// Reads the body of a caller that authenticates in the body. The bodies of all such callers may take as much memory
/// as those of one organization, so that they leave room for authenticated callers.
async fn read_unauthenticated_body(request: &DataPlaneRequest<'_>, body: RequestBody) -> Result<Bytes> {
    request.read_body(body, Some(UNAUTHENTICATED)).await.map_err(|error| match error.code {
        Code::Unavailable => {
            let message = "Too many requests without an Authorization header are in progress; send that header, or try again.";
            Error { message: message.into(), ..error }
        }
        _ => error,
    })
}

/// Authenticates the caller by `client_id` and `client_secret` in the body (RFC 6749 §2.3.1).
async fn authenticate_by_form(request: &DataPlaneRequest<'_>, form: &[u8]) -> Result<Arc<Credential>> {
    let parameters = (single_parameter(form, "client_id"), single_parameter(form, "client_secret"));
    let (Some(id), Some(secret)) = parameters else {
        let message = "Send your API key as Authorization: Bearer <key>, or the key's id and secret as HTTP Basic or \
            as client_id and client_secret, each once.";
        return Err(Error::new(Code::Unauthenticated, message));
    };
    auth::authenticate_by_id(request.app, request.head, &id, std::iter::once(&*secret)).await
}

/// The value of a parameter that the form contains exactly once.
fn single_parameter<'a>(form: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let mut values = form_urlencoded::parse(form).filter(|(given, _)| given == name);
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

fn is_form_encoded(headers: &HeaderMap) -> Result<bool> {
    let content_type = call::readable_header(headers, &CONTENT_TYPE)?.unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is_compressed = call::has_compressed_body(headers)?;
    Ok(essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") && !is_compressed)
}

fn write_oauth_error(request: &DataPlaneRequest<'_>, error: &Error) -> Response {
    request.log_server_error(error);
    let headers = &request.head.headers;
    let basic = auth::uses_basic_auth(headers);
    let code = match error.code {
        Code::InvalidApiKey if headers.contains_key(AUTHORIZATION) && !basic => OauthErrorCode::InvalidToken,
        Code::Unauthenticated | Code::InvalidApiKey => OauthErrorCode::InvalidClient,
        Code::InsufficientScope | Code::IpNotAllowed => OauthErrorCode::InsufficientScope,
        Code::RateLimited | Code::Unavailable => OauthErrorCode::TemporarilyUnavailable,
        code if code.is_server_error() => OauthErrorCode::ServerError,
        _ => OauthErrorCode::InvalidRequest,
    };
    let challenge = match code {
        OauthErrorCode::InvalidToken => Some(reply::INVALID_TOKEN),
        OauthErrorCode::InvalidClient if basic => Some(HeaderValue::from_static("Basic realm=\"tollhouse\"")),
        OauthErrorCode::InvalidClient => Some(HeaderValue::from_static("Bearer")),
        OauthErrorCode::InsufficientScope => {
            Some(reply::insufficient_scope_challenge(error.missing_scope.as_deref()))
        }
        _ => None,
    };
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        write_json(status, &OauthError { error: code, error_description: error.message.to_string() });
    let headers = response.headers_mut();
    if let Some(challenge) = challenge {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn write_json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).unwrap_or_default();
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
