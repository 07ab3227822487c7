//! Authentication by the `Authorization` header (RFC 6750 §2.1), and the rate limit of failed attempts.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

use super::address;
use super::conn::request_head::RequestHead;
use super::rate_limits::{self, MINUTE};
use super::route::AuthRequirement;
use crate::app::App;
use crate::domain::access;
use crate::domain::api_key::Credential;
use crate::domain::api_key::SecretHash;
use crate::domain::redaction::Redactor;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::verify::bucket::BucketLimit;
use crate::verify::key_record::KeyRecord;
use crate::verify::secret;

/// Authenticates the caller by bearer token, and of a route about the calling key also by `X-Api-Key`; returns its key
/// and the hash of the token.
///
/// # Errors
/// `UNAUTHENTICATED` if there is no token, `INVALID_API_KEY` if the token isn't valid.
pub(crate) async fn authenticate(
    app: &App,
    head: &RequestHead,
    requirement: AuthRequirement,
) -> Result<(Arc<Credential>, SecretHash)> {
    let token = match requirement {
        AuthRequirement::OwnKey => bearer_token_or_api_key(&head.headers)?,
        _ => bearer_token(&head.headers)?,
    };
    let (hash, record) = load_key_by_token(app, token).await?;
    let credential = require_usable_key(app, &record)?;
    head.connection_auth.record_success();
    Ok((credential, hash))
}

/// The caller of the data plane that this connection's cache knows by its header, if its key is usable: requests over one
/// connection mostly come from the same caller. `expiry_time` is the clock's
/// [`expiry_time`](crate::clock::Clock::expiry_time) at the request's arrival.
pub(crate) fn find_caller_of_connection(
    app: &App,
    head: &RequestHead,
    expiry_time: Timestamp,
) -> Option<Arc<Credential>> {
    let credential = head.connection_auth.cache.get(&head.headers, &app.keys)?;
    access::ensure_usable(&credential, expiry_time).is_ok().then_some(credential)
}

/// Authenticates the caller of the data plane by bearer token, like [`authenticate`], and remembers it in the
/// connection's cache.
///
/// # Errors
/// Those of [`authenticate`].
pub(crate) async fn authenticate_for_connection(app: &App, head: &RequestHead) -> Result<Arc<Credential>> {
    let (_, record) = load_key_by_token(app, bearer_token(&head.headers)?).await?;
    let credential = require_usable_key(app, &record)?;
    head.connection_auth.cache.set(&head.headers, record);
    head.connection_auth.record_success();
    Ok(credential)
}

async fn load_key_by_token(app: &App, token: &str) -> Result<(SecretHash, Arc<KeyRecord>)> {
    if !secret::is_plausible(&app.settings.get().await?.known_prefixes, token) {
        return Err(access::invalid_api_key());
    }
    let hash = secret::hash_secret(token);
    let record = app.keys.get_record(&hash).await?.ok_or_else(access::invalid_api_key)?;
    Ok((hash, record))
}

fn require_usable_key(app: &App, record: &KeyRecord) -> Result<Arc<Credential>> {
    access::ensure_usable(&record.credential, app.clock.expiry_time())?;
    Ok(record.credential.clone())
}

/// True if the request uses HTTP Basic authentication (RFC 7617).
pub(crate) fn uses_basic_auth(headers: &HeaderMap) -> bool {
    uses_auth_scheme(headers, "basic")
}

/// True if the request has an `Authorization: Bearer` header.
pub(crate) fn uses_bearer_auth(headers: &HeaderMap) -> bool {
    uses_auth_scheme(headers, "bearer")
}

fn uses_auth_scheme(headers: &HeaderMap, wanted: &str) -> bool {
    headers.get_all(AUTHORIZATION).iter().any(|value| {
        // Bytes instead of text, so that an unreadable credential is refused and not taken for another scheme.
        let mut words = value.as_bytes().split(|byte| matches!(byte, b' ' | b'\t'));
        words.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case(wanted.as_bytes()))
    })
}

/// Authenticates the caller by HTTP Basic: the username is a key's id and the password its secret.
///
/// OAuth clients form-encode both before the Base64 encoding (RFC 6749 §2.3.1), but many don't, such as Authlib,
/// older Spring Security and `curl -u`. If a secret contains `+` or `%`, the two readings of a password differ, and
/// either one may be the key's secret.
pub(crate) async fn authenticate_basic(app: &App, head: &RequestHead) -> Result<Arc<Credential>> {
    let mut values = head.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Error::new(Code::Unauthenticated, "Send the Authorization header only once."));
    };
    let encoded = value.to_str().ok().and_then(|text| text.split_once(' ')).map(|(_, encoded)| encoded);
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let Some((id, secret)) = pair.as_deref().and_then(|pair| pair.split_once(':')) else {
        let message = "The Authorization header must be: Basic base64(<key id>:<secret>).";
        return Err(Error::new(Code::Unauthenticated, message));
    };
    // The id of a key contains no characters that form encoding changes, so it has one reading only.
    let id = decode_form_value(id).ok_or_else(access::invalid_api_key)?;
    let decoded_secret = decode_form_value(secret).filter(|decoded| decoded != secret);
    let readings = [Some(secret), decoded_secret.as_deref()];
    authenticate_by_id(app, head, &id, readings.into_iter().flatten()).await
}

/// Authenticates the caller by its key's id and the readings of a secret, one of which must be that key's.
///
/// # Errors
/// `INVALID_API_KEY`, also if a reading is the secret of another key: the response must not depend on which other
/// secrets exist.
pub(crate) async fn authenticate_by_id(
    app: &App,
    head: &RequestHead,
    id: &str,
    readings: impl Iterator<Item = &str>,
) -> Result<Arc<Credential>> {
    for secret in readings {
        match load_key_by_token(app, secret).await {
            Ok((_, record)) if record.credential.key.id == id => {
                let credential = require_usable_key(app, &record)?;
                head.connection_auth.record_success();
                return Ok(credential);
            }
            Ok(_) => {}
            Err(error) if error.code == Code::InvalidApiKey => {}
            Err(error) => return Err(error),
        }
    }
    Err(access::invalid_api_key())
}

/// Creates a redactor that recognizes every credential in the request's headers, including invalid ones and
/// those in a header that the route doesn't read.
pub(crate) fn request_redactor(headers: &HeaderMap) -> Redactor {
    let lines = |name: &'static str| headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let api_keys = lines("x-api-key").map(|key| key.trim().to_owned());
    Redactor::new(lines("authorization").flat_map(credentials_of), api_keys)
}

/// The secrets in the value of an `Authorization` header: for HTTP Basic, the password as it is and form-decoded.
fn credentials_of(authorization: &str) -> Vec<String> {
    let (scheme, credential) = authorization.split_once([' ', '\t']).unwrap_or(("", authorization));
    let credential = credential.trim();
    let basic = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(credential).ok());
    let Some(pair) = basic.flatten().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return vec![credential.to_owned()];
    };
    let password = pair.split_once(':').map_or(&*pair, |(_, password)| password);
    decode_form_value(password).into_iter().chain([password.to_owned()]).collect()
}

/// Decodes a form-encoded value; `None` if it isn't UTF-8.
fn decode_form_value(text: &str) -> Option<String> {
    let with_spaces = text.replace('+', " ");
    percent_decode_str(&with_spaces).decode_utf8().ok().map(Cow::into_owned)
}

/// The token of the `Authorization: Bearer` header; the scheme is case-insensitive.
///
/// # Errors
/// `UNAUTHENTICATED` if the request has no `Authorization` header or several, or a malformed one.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Result<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let missing = |message| Err(Error::new(Code::Unauthenticated, message));
    match (values.next(), values.next()) {
        (None, _) => missing("Send your API key as Authorization: Bearer <key>."),
        (Some(_), Some(_)) => missing("Send the Authorization header only once."),
        (Some(value), None) => {
            let text = value.to_str().unwrap_or_default();
            match text.split_once(' ') {
                Some((scheme, token))
                    if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() =>
                {
                    Ok(token.trim())
                }
                _ => missing("The Authorization header must be: Bearer <key>."),
            }
        }
    }
}

/// The client's API key, from `Authorization: Bearer` or `X-Api-Key`. Both headers may be present if they
/// have the same key.
///
/// # Errors
/// `UNAUTHENTICATED` if the request has neither, different keys, several of one, or a malformed bearer token.
pub(crate) fn bearer_token_or_api_key(headers: &HeaderMap) -> Result<&str> {
    let missing = |message| Err(Error::new(Code::Unauthenticated, message));
    let mut values = headers.get_all("x-api-key").iter();
    let api_key = match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().unwrap_or_default().trim()),
        (Some(_), Some(_)) => return missing("Send the X-Api-Key header only once."),
    };
    match api_key {
        None if !headers.contains_key(AUTHORIZATION) => {
            missing("Send your API key as Authorization: Bearer <key> or X-Api-Key: <key>.")
        }
        None => bearer_token(headers),
        // An `Authorization` header with another scheme, such as Basic, is meant for the upstream.
        Some(api_key) if !uses_bearer_auth(headers) && headers.get_all(AUTHORIZATION).iter().count() < 2 => {
            Ok(api_key)
        }
        Some(api_key) if bearer_token(headers)? == api_key => Ok(api_key),
        Some(_) => {
            missing("The Authorization and X-Api-Key headers have different keys; send only one of them.")
        }
    }
}

/// Charges a failed authentication to the client's address. Returns `failure`, or `RATE_LIMITED` if the
/// address has no attempts left. Call it only after a failure, so that valid keys
/// are never limited by it.
pub(crate) async fn charge_failure(app: &App, ip: Option<IpAddr>, failure: Error) -> Error {
    let per_minute = match app.settings.get().await {
        Ok(current) => current.settings.rate_limits.failed_auth_per_minute,
        Err(error) => return error,
    };
    if per_minute == 0 {
        return failure;
    }
    // All clients with an unknown address share one bucket.
    let subject = address::client_network(ip.unwrap_or(IpAddr::from([0, 0, 0, 0])));
    let limit = BucketLimit { tokens: per_minute, window: MINUTE };
    let decision = app.rate_limiters.failures.take(&subject, limit, 1, app.clock.monotonic());
    if decision.allowed {
        failure
    } else {
        rate_limits::rate_limited_error(
            &decision,
            "Too many failed authentication attempts from your address",
        )
    }
}
