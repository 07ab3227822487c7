//! The data plane's request path, without the control plane's pipeline: no task per request, no audit
//! event, no log line for successful requests at usual levels. Responses are counted per route and status,
//! verifications by the verifier.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use warp::reply::Response;

use super::call::BodyLimits;
use super::conn::request_head::RequestHead;
use super::request_id::{add_request_id, received_or_new_request_id};
use super::routes::VERIFY_SCOPES;
use super::{address, auth, call, forward_auth, introspect, reply, request_log, verify};
use crate::app::App;
use crate::domain::access;
use crate::domain::api_key::Credential;
use crate::domain::redaction::Redactor;
use crate::domain::time::Timestamp;
use crate::error::{CodeClass, Error, Result};
use crate::verify::verifier::Verdict;

/// Maximum size of a request body. The body of the largest valid request has about 10 KB.
const MAX_BODY_BYTES: usize = 32 * 1024;

/// The endpoints of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/keys/verify`.
    Verify,
    /// `POST /v1/introspect` (RFC 7662).
    Introspect,
    /// `/v1/forward-auth`, for reverse proxies.
    ForwardAuth,
}

impl Endpoint {
    /// The path of the endpoint's route.
    fn path(self) -> &'static str {
        match self {
            Endpoint::Verify => "/v1/keys/verify",
            Endpoint::Introspect => "/v1/introspect",
            Endpoint::ForwardAuth => "/v1/forward-auth",
        }
    }
}

/// A request to the data plane.
pub(crate) struct DataPlaneRequest<'a> {
    pub(crate) app: &'a App,
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

/// Handles a request to the data plane.
pub(crate) async fn answer<S, B>(app: &App, endpoint: Endpoint, head: &RequestHead, body: S) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf + Send + 'static,
{
    let client_ip = address::client_address(head.peer.ip(), &head.headers, &app.config.http.trusted_proxies);
    let now = app.clock.now();
    let arrived_at = app.clock.monotonic();
    let request = DataPlaneRequest {
        app,
        head,
        client_ip,
        now,
        expiry_time: app.clock.expiry_time_at(now, arrived_at),
        request_id: received_or_new_request_id(&head.headers, now),
    };
    let mut response = match endpoint {
        Endpoint::Verify => match verify::answer(&request, body).await {
            Ok(response) => response,
            Err(error) => request.error_response(&error),
        },
        Endpoint::Introspect => introspect::answer(&request, body).await,
        // The body is not read, because it is meant for the upstream.
        Endpoint::ForwardAuth => forward_auth::answer(&request).await,
    };
    add_request_id(&mut response, &request.request_id);
    let latency = app.clock.monotonic().saturating_sub(arrived_at);
    app.traffic.responses.observe_response_time(endpoint as usize, latency);
    // The fields are formatted only if this event is logged.
    tracing::trace!(
        request_id = request.request_id,
        route = endpoint.path(),
        status = response.status().as_u16(),
        latency_us = request_log::whole_micros(latency),
        ip = request_log::address(client_ip),
        user_agent = request_log::user_agent(&head.headers, &request.redactor()),
        "request"
    );
    response
}

impl DataPlaneRequest<'_> {
    /// The JSON response to an error. Logs the error if it is a server error (5xx).
    pub(crate) fn error_response(&self, error: &Error) -> Response {
        self.log_server_error(error);
        reply::write_error(error, self.now, &self.request_id)
    }

    fn redactor(&self) -> Redactor {
        auth::request_redactor(&self.head.headers)
    }

    /// Logs the result of a verification at the level `trace`.
    pub(crate) fn trace_verdict(&self, verdict: &Verdict) {
        tracing::trace!(
            request_id = self.request_id,
            code = verdict.outcome.name(),
            key = verdict.credential.as_ref().map_or("-", |credential| credential.key.id.as_str()),
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
        BodyLimits::new(&self.app.config.http, MAX_BODY_BYTES)
    }
}
