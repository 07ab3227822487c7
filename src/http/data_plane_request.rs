//! A request to the data plane: its caller, its body, and the response to an error.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::AUTHORIZATION;
use http_body_util::BodyDataStream;
use hyper::body::{Body as _, Incoming};
use warp::reply::Response;

use super::call::{self, BodyLimits};
use super::conn::request_head::RequestHead;
use super::request_id::received_or_new_request_id;
use super::route::Endpoint;
use super::{address, auth, reply};
use crate::app::App;
use crate::clock::Reading;
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

/// The body of a request to the data plane, as it arrives.
pub(crate) type RequestBody = Incoming;

/// A request to the data plane.
pub(crate) struct DataPlaneRequest<'a> {
    pub(crate) app: &'a App,
    endpoint: Endpoint,
    pub(crate) head: &'a RequestHead,
    /// The client's IP address, behind trusted proxies; `None` if the address is unknown.
    pub(crate) client_ip: Option<IpAddr>,
    /// The time at which the request arrived.
    pub(crate) arrival: Reading,
    /// The time by which keys expire, at the request's arrival.
    expiry_time: Timestamp,
    /// The request's `X-Request-Id`, received from the client or generated.
    pub(crate) request_id: String,
}

impl<'a> DataPlaneRequest<'a> {
    pub(super) fn new(app: &'a App, endpoint: Endpoint, head: &'a RequestHead) -> Self {
        let arrival = app.clock.read();
        Self {
            app,
            endpoint,
            head,
            client_ip: address::client_address(
                head.peer.ip(),
                &head.headers,
                &app.config.http.trusted_proxies,
            ),
            arrival,
            expiry_time: app.clock.expiry_time_at(arrival.wall, arrival.monotonic),
            request_id: received_or_new_request_id(&head.headers, arrival.wall),
        }
    }

    /// The response of an endpoint with the usual error format.
    pub(super) fn respond(&self, result: Result<Response>) -> Response {
        result.unwrap_or_else(|error| self.error_response(&error))
    }

    /// The JSON response to an error. Logs the error if it is a server error (5xx).
    pub(crate) fn error_response(&self, error: &Error) -> Response {
        self.log_server_error(error);
        reply::write_error(error, self.arrival.wall, &self.request_id)
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

    /// Logs an error of the server. Of the requests that fail with the same code because something isn't available, one a
    /// minute is logged: there can be thousands a second.
    pub(crate) fn log_server_error(&self, error: &Error) {
        let repeated = &self.app.traffic.repeated_requests;
        let is_logged = match error.code.class() {
            CodeClass::Bug => true,
            CodeClass::Unavailable => repeated.count_request(self.app.clock.now(), error.code.name()),
            _ => false,
        };
        if is_logged {
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
    pub(crate) async fn authorize_caller(
        &self,
        body: RequestBody,
        allow_basic: bool,
    ) -> Result<(Arc<Credential>, RequestBody)> {
        if let Some(caller) = self.find_known_caller(self.expiry_time) {
            self.app.unstored.record_call(&caller, self.arrival.wall);
            return Ok((caller, body));
        }
        // Boxed, like every rare branch, so that the futures of most requests stay small.
        Box::pin(self.authorize_new_caller(body, allow_basic)).await
    }

    async fn authorize_new_caller(
        &self,
        body: RequestBody,
        allow_basic: bool,
    ) -> Result<(Arc<Credential>, RequestBody)> {
        let authenticated = self.authenticate(allow_basic).await;
        match self.authorize(authenticated).await {
            Ok(caller) => Ok((caller, body)),
            Err(error) => {
                call::discard_body(BodyDataStream::new(body), self.head, self.body_limits()).await;
                Err(error)
            }
        }
    }

    /// The caller that this connection knows, if it may still use the data plane at this time.
    fn find_known_caller(&self, now: Timestamp) -> Option<Arc<Credential>> {
        auth::find_caller_of_connection(self.app, self.head, now)
            .filter(|caller| self.check_access(caller).is_ok())
    }

    async fn authenticate(&self, allow_basic: bool) -> Result<Arc<Credential>> {
        if allow_basic && auth::uses_basic_auth(&self.head.headers) {
            auth::authenticate_basic(self.app, self.head).await
        } else {
            auth::authenticate_for_connection(self.app, self.head).await
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
        self.check_access(&credential)?;
        app.unstored.record_call(&credential, self.arrival.wall);
        Ok(credential)
    }

    fn check_access(&self, caller: &Credential) -> Result<()> {
        access::ensure_address_allowed(&caller.key, self.client_ip)?;
        access::require_scope(&caller.key, VERIFY_SCOPES)
    }

    /// Authorizes the caller and reads the body, which must be JSON. Also returns the time of
    /// [`read_body_with_time`](Self::read_body_with_time).
    ///
    /// # Errors
    /// Those of [`authorize_caller`](Self::authorize_caller), of the media type and of the body; `INVALID_REQUEST` if there
    /// is a query.
    pub(crate) async fn receive_json(&self, body: RequestBody) -> Result<(Arc<Credential>, Bytes, Reading)> {
        let (caller, body) = self.authorize_caller(body, false).await?;
        let media_type = call::check_media_type(&self.head.headers, false);
        let read = self.read_body_with_time(body, caller.key.organization_id.as_deref()).await;
        media_type?;
        let (bytes, at) = read?;
        call::parse_query_string(self.head.uri.query().unwrap_or_default()).finish(())?;
        Ok((caller, bytes, at))
    }

    /// Reads the whole body of a request. Its memory counts against the caller's organization.
    pub(crate) async fn read_body(&self, body: RequestBody, organization_id: Option<&str>) -> Result<Bytes> {
        self.read_body_with_time(body, organization_id).await.map(|(bytes, _)| bytes)
    }

    /// Reads the whole body of a request, like [`read_body`](Self::read_body). Also returns the time at which it was
    /// complete: that of the request's arrival, unless the server had to wait for the client.
    ///
    /// # Errors
    /// Those of the body; after a wait also those of [`authorize_caller`](Self::authorize_caller).
    pub(crate) async fn read_body_with_time(
        &self,
        mut body: RequestBody,
        organization_id: Option<&str>,
    ) -> Result<(Bytes, Reading)> {
        let limits = self.body_limits();
        let mut first = None;
        // Nearly every body has arrived with its head, in one chunk.
        if self.head.declared_body_bytes.is_some_and(|bytes| (1..=limits.max_bytes as u64).contains(&bytes)) {
            let frame = poll_fn(|context| Poll::Ready(Pin::new(&mut body).poll_frame(context))).await;
            first = match frame {
                Poll::Ready(frame) => frame,
                Poll::Pending => None,
            };
            if let Some(Ok(frame)) = &first
                && let Some(bytes) = frame.data_ref()
                && body.is_end_stream()
            {
                return Ok((bytes.clone(), self.arrival));
            }
        }
        let first = first.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()));
        let rest = stream::iter(first).chain(BodyDataStream::new(body));
        let reserve = |bytes| self.app.memory.data_plane.reserve(organization_id, bytes);
        let bytes = Box::pin(call::read_body(rest, self.head, limits, reserve)).await?;
        let at = self.app.clock.read();
        Box::pin(self.ensure_still_authorized(at)).await?;
        Ok((bytes, at))
    }

    /// Authorizes the caller again after a wait for its body, in which its key may have been revoked. A caller that
    /// authenticates in the body was not authorized before.
    async fn ensure_still_authorized(&self, at: Reading) -> Result<()> {
        let now = self.app.clock.expiry_time_at(at.wall, at.monotonic);
        if !self.head.headers.contains_key(AUTHORIZATION) || self.find_known_caller(now).is_some() {
            return Ok(());
        }
        let authenticated = self.authenticate(true).await;
        self.authorize(authenticated).await.map(|_| ())
    }

    fn body_limits(&self) -> BodyLimits {
        let max_bytes = match self.endpoint {
            Endpoint::VerifyBatch => MAX_BATCH_BODY_BYTES,
            _ => MAX_BODY_BYTES,
        };
        BodyLimits::new(&self.app.config.http, max_bytes)
    }
}
