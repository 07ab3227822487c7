//! A request to the data plane: its caller, its body, and the response to an error.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use warp::reply::Response;

use super::call::{self, BodyLimits};
use super::conn::request_head::RequestHead;
use super::request_id::received_or_new_request_id;
use super::route::Endpoint;
use super::{address, auth, reply};
use crate::app::App;
use crate::domain::access;
use crate::domain::api_key::Credential;
use crate::domain::redaction::Redactor;
use crate::domain::time::Timestamp;
use crate::error::{CodeClass, Error, Result};
use crate::verify::verifier::Verdict;

/// Any one of these scopes permits a key to verify other keys.
pub(super) const VERIFY_SCOPES: &[&str] = &["keys:verify", "admin:keys"];

/// Maximum size of a request body. The body of the largest valid request has about 10 KB.
pub(super) const MAX_BODY_BYTES: usize = 32 * 1024;

/// Maximum size of a request body with several verifications.
const MAX_BATCH_BODY_BYTES: usize = 256 * 1024;

/// A request to the data plane.
pub(crate) struct DataPlaneRequest<'a> {
    pub(crate) app: &'a App,
    endpoint: Endpoint,
    pub(crate) head: &'a RequestHead,
    /// The client's IP address, behind trusted proxies; `None` if the address is unknown.
    pub(crate) client_ip: Option<IpAddr>,
    /// Wall-clock time at which the request arrived.
    pub(crate) now: Timestamp,
    /// The time by which keys expire, at the request's arrival.
    expiry_time: Timestamp,
    /// The request's `X-Request-Id`, received from the client or generated.
    pub(crate) request_id: String,
}

impl<'a> DataPlaneRequest<'a> {
    /// `arrived_at` is the monotonic time at which the request arrived.
    pub(super) fn new(app: &'a App, endpoint: Endpoint, head: &'a RequestHead, arrived_at: Duration) -> Self {
        let now = app.clock.now();
        Self {
            app,
            endpoint,
            head,
            client_ip: address::client_address(
                head.peer.ip(),
                &head.headers,
                &app.config.http.trusted_proxies,
            ),
            now,
            expiry_time: app.clock.expiry_time_at(now, arrived_at),
            request_id: received_or_new_request_id(&head.headers, now),
        }
    }

    /// The response of an endpoint with the usual error format.
    pub(super) fn respond(&self, result: Result<Response>) -> Response {
        result.unwrap_or_else(|error| self.error_response(&error))
    }

    /// The JSON response to an error. Logs the error if it is a server error (5xx).
    pub(crate) fn error_response(&self, error: &Error) -> Response {
        self.log_server_error(error);
        reply::write_error(error, self.now, &self.request_id)
    }

    pub(super) fn redactor(&self) -> Redactor {
        auth::request_redactor(&self.head.headers)
    }

    /// Logs the result of a verification at the level `trace`.
    pub(crate) fn trace_verdict(&self, verdict: &Verdict) {
        tracing::trace!(
            request_id = self.request_id,
            code = verdict.outcome.name(),
            key = verdict.credential().map_or("-", |credential| credential.key.id.as_str()),
            "key verified"
        );
    }

    /// Logs an error of the server.
    pub(crate) fn log_server_error(&self, error: &Error) {
        if error.code.is_server_error() {
            let redactor = self.redactor();
            let path = redactor.logged_text(self.head.uri.path());
            let cause = error.to_string();
            let cause = &*redactor.redact(&cause);
            tracing::error!(request_id = self.request_id, path, cause, "request failed");
        }
    }

    /// Authenticates the caller by bearer token, or by HTTP Basic if `allow_basic` is true, and authorizes
    /// it. Returns the caller's credential and the unread body. If the request is refused, its body is
    /// drained, so that the connection can be reused.
    ///
    /// # Errors
    /// Checked in this order: 401 for the credential (429 after too many failures from the address), 403 for
    /// the address, 403 for the scope.
    pub(crate) async fn authorize_caller<S, B>(
        &self,
        body: S,
        allow_basic: bool,
    ) -> Result<(Arc<Credential>, S)>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
        B: Buf + Send + 'static,
    {
        let authenticated = if allow_basic && auth::uses_basic_auth(&self.head.headers) {
            auth::authenticate_basic(self.app, self.head).await
        } else {
            auth::authenticate_cached(self.app, self.head, self.expiry_time).await
        };
        match self.authorize(authenticated).await {
            Ok(caller) => Ok((caller, body)),
            Err(error) => {
                call::discard_body(body, self.head, self.body_limits()).await;
                Err(error)
            }
        }
    }

    /// Authorizes an authenticated caller. Charges a failed authentication to the client's address.
    ///
    /// # Errors
    /// Those of [`authorize_caller`](Self::authorize_caller).
    pub(crate) async fn authorize(&self, authenticated: Result<Arc<Credential>>) -> Result<Arc<Credential>> {
        let app = self.app;
        let credential = match authenticated {
            Ok(credential) => credential,
            Err(error) if error.code.class() == CodeClass::Authentication => {
                return Err(auth::charge_failure(app, self.client_ip, error).await);
            }
            Err(error) => return Err(error),
        };
        access::ensure_address_allowed(&credential.key, self.client_ip)?;
        access::require_scope(&credential.key, VERIFY_SCOPES)?;
        app.unstored.record_call(&credential, self.now);
        Ok(credential)
    }

    /// Reads the whole body of a request. Its memory counts against the caller's organization.
    pub(crate) async fn read_body<S, B>(&self, body: S, organization_id: Option<&str>) -> Result<Bytes>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
        B: Buf + Send + 'static,
    {
        let reserve = |bytes| self.app.memory.data_plane.reserve(organization_id, bytes);
        call::read_body(body, self.head, self.body_limits(), reserve).await
    }

    fn body_limits(&self) -> BodyLimits {
        let max_bytes = match self.endpoint {
            Endpoint::VerifyBatch => MAX_BATCH_BODY_BYTES,
            _ => MAX_BODY_BYTES,
        };
        BodyLimits::new(&self.app.config.http, max_bytes)
    }
}
