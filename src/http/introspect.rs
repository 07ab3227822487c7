//! `POST /v1/introspect`: RFC 7662, for resource servers that speak OAuth already.

use bytes::Buf;
use futures_util::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use warp::reply::Response;

use super::data_plane::DataPlaneRequest;
use super::openapi::envelope::{always, never};
use super::{auth, call};
use crate::domain::api_key::Credential;
use crate::error::{Code, Error, Result};
use crate::service::scopes;

/// What is asked (RFC 7662 §2.1).
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only the derived documentation reads it")]
pub(crate) struct IntrospectToken {
    /// The key.
    #[schema(example = "toll_4sZgkHnPb2LqTxW8vYcR3mJ7dF6aE9iU0aBcDe")]
    token: String,
    /// Ignored, as every other parameter.
    #[schema(nullable = false, example = "access_token")]
    token_type_hint: Option<String>,
}

/// Whether the key is active (RFC 7662 §2.2).
#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Introspection {
    /// It is good.
    Active(ActiveToken),
    /// It isn't, or there is none.
    Inactive(InactiveToken),
}

/// Of a key that isn't active, nothing else is told.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct InactiveToken {
    /// Always `false`.
    #[schema(schema_with = never)]
    active: bool,
}

/// About an active key.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ActiveToken {
    /// Always `true`.
    #[schema(schema_with = always)]
    active: bool,
    /// What it may do, separated by spaces, wildcards spelled out.
    #[schema(example = "transactions:write workflows:read")]
    scope: String,
    /// The key's id.
    #[schema(example = "key_01JD6ZK3V7Q9W8E5R2T4Y6V8A0")]
    client_id: String,
    /// Its owner, else its organization; left out for a platform key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "org_123")]
    sub: Option<String>,
    /// When it ends, in Unix seconds; left out when it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 1_893_456_000)]
    exp: Option<i64>,
    /// When it was made, in Unix seconds.
    #[schema(example = 1_795_417_689)]
    iat: i64,
    /// Always `Bearer`.
    #[schema(value_type = String, example = "Bearer")]
    token_type: &'static str,
}

/// A refusal in the form of OAuth (RFC 6749 §5.2).
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct OauthError {
    /// What to act on.
    #[schema(value_type = String, example = "invalid_client")]
    error: &'static str,
    /// For people.
    error_description: String,
}

/// Introspect a token
///
/// RFC 7662: is this key active, and what may it do? The caller authenticates by Bearer, or by HTTP Basic with
/// its key's id and secret. Asks and spends no limit. A key with an allowlist is never active here,
/// because the question has no address. Without the envelope.
#[utoipa::path(
    post, path = "/v1/introspect", tag = "Verification", operation_id = "introspectToken",
    request_body(content = IntrospectToken, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The answer.", body = inline(Introspection)),
        (status = 400, description = "`invalid_request`: the parameter `token` is missing or given twice, or the body broke off."),
        (status = 401, description = "`invalid_client`: no credential, or a bad one by Basic; `invalid_token`: a bad Bearer."),
        (status = 403, description = "`insufficient_scope`: the caller lacks the scope, or calls from another address than it may."),
        (status = 413, description = "`invalid_request`: the body is too large."),
        (status = 415, description = "`invalid_request`: the body is no form."),
        (status = 429, description = "`temporarily_unavailable`: too many attempts failed from this address."),
        (status = 500, description = "`server_error`"),
        (status = 503, description = "`temporarily_unavailable`"),
    ),
)]
pub(crate) async fn answer<S, B>(request: &DataPlaneRequest<'_>, body: S) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Send,
    B: Buf,
{
    match introspect(request, body).await {
        Ok(answer) => write(StatusCode::OK, &answer),
        Err(error) => refuse(request, &error),
    }
}

async fn introspect<S, B>(request: &DataPlaneRequest<'_>, body: S) -> Result<Introspection>
where
    S: Stream<Item = Result<B, warp::Error>> + Send,
    B: Buf,
{
    let (caller, body) = request.caller(body, true).await?;
    let is_form = is_form(&request.head.headers);
    let bytes = request.body(body).await;
    if !is_form {
        let message = "Send the parameters as application/x-www-form-urlencoded.";
        return Err(Error::new(Code::UnsupportedMediaType, message));
    }
    let bytes = bytes?;
    let mut tokens = form_urlencoded::parse(&bytes).filter(|(name, _)| name == "token");
    let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
        return Err(Error::new(Code::InvalidRequest, "Send the parameter token, once."));
    };
    let own = caller.key.organization_id.as_deref();
    let credential = request.app.verifier.introspect(&token, own, request.app.clock.now()).await?;
    let Some(credential) = credential else {
        return Ok(Introspection::Inactive(InactiveToken { active: false }));
    };
    let Credential { key, secret_ends_at, .. } = &*credential;
    let catalogue = scopes::catalogue(request.app).await?;
    // A previous secret ends with its grace, which never outlasts the key.
    let end = secret_ends_at.or(key.expires_at);
    Ok(Introspection::Active(ActiveToken {
        active: true,
        scope: catalogue.expand(&key.scopes).join(" "),
        client_id: key.id.clone(),
        sub: key.user_id.clone().or_else(|| key.organization_id.clone()),
        // Rounded down: nobody should trust it any longer than it lasts.
        exp: end.map(|end| end.as_millis().div_euclid(1000)),
        iat: key.created_at.as_millis().div_euclid(1000),
        token_type: "Bearer",
    }))
}

fn is_form(headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") && !call::is_compressed(headers)
}

fn refuse(request: &DataPlaneRequest<'_>, error: &Error) -> Response {
    request.log(error);
    let basic = auth::is_basic(&request.head.headers);
    let name = match error.code {
        Code::InvalidApiKey if !basic => "invalid_token",
        Code::Unauthenticated | Code::InvalidApiKey => "invalid_client",
        Code::InsufficientScope | Code::IpNotAllowed => "insufficient_scope",
        Code::RateLimited | Code::Unavailable => "temporarily_unavailable",
        code if code.status() >= 500 => "server_error",
        _ => "invalid_request",
    };
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        write(status, &OauthError { error: name, error_description: error.message.to_string() });
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        let how = if basic { "Basic realm=\"tollhouse\"" } else { "Bearer" };
        let how = if name == "invalid_token" { "Bearer error=\"invalid_token\"" } else { how };
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(how));
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn write(status: StatusCode, answer: &impl Serialize) -> Response {
    let body = serde_json::to_string(answer).unwrap_or_default();
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
