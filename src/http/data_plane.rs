//! The data plane's request path, without the control plane's pipeline: no task per request, no audit
//! event, no log line for successful requests. Responses are counted per route and status,
//! verifications by the verifier.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use warp::reply::Response;

use super::pipeline::{add_request_id, request_id};
use super::routes::VERIFY_SCOPES;
use super::server::Head;
use super::{address, auth, call, forward_auth, introspect, reply, verify};
use crate::app::App;
use crate::domain::access;
use crate::domain::api_key::Credential;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

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

/// A request to the data plane.
pub(crate) struct DataPlaneRequest<'a> {
    pub(crate) app: &'a App,
    pub(crate) head: &'a Head,
    /// The client's address; `None` if it is unknown.
    pub(crate) ip: Option<IpAddr>,
    /// When the request arrived.
    pub(crate) now: Timestamp,
    /// The request id.
    pub(crate) id: String,
}

/// Handles a request.
pub(crate) async fn answer<S, B>(app: &App, endpoint: Endpoint, head: &Head, body: S) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Send,
    B: Buf,
{
    let ip = address::client_address(head.peer.ip(), &head.headers, &app.config.http.trusted_proxies);
    let now = app.clock.now();
    let request = DataPlaneRequest { app, head, ip, now, id: request_id(&head.headers, now) };
    let arrived = app.clock.monotonic();
    let mut response = match endpoint {
        Endpoint::Verify => match verify::answer(&request, body).await {
            Ok(response) => response,
            Err(error) => request.refuse(&error),
        },
        Endpoint::Introspect => introspect::answer(&request, body).await,
        // The body is not read, because it is meant for the upstream.
        Endpoint::ForwardAuth => forward_auth::answer(&request).await,
    };
    add_request_id(&mut response, &request.id);
    app.traffic.took(endpoint as usize, app.clock.monotonic().saturating_sub(arrived));
    response
}

impl DataPlaneRequest<'_> {
    /// The response to an error, which is logged if it is a server error.
    pub(crate) fn refuse(&self, error: &Error) -> Response {
        self.log(error);
        reply::write_error(error, self.now, &self.id)
    }

    /// Logs an error if it is a server error.
    pub(crate) fn log(&self, error: &Error) {
        if error.code.status() >= 500 {
            tracing::error!(request_id = %self.id, path = self.head.uri.path(), %error, "request failed");
        }
    }

    /// Authenticates and authorizes the caller, by HTTP Basic too if `allow_basic` is true. If the request is
    /// refused, its body is drained, so that the connection can be reused.
    ///
    /// # Errors
    /// In this order: 401 (429 after too many failures), 403 for the address, 403 for the scope.
    pub(crate) async fn caller<S, B>(&self, body: S, allow_basic: bool) -> Result<(Arc<Credential>, S)>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send,
        B: Buf,
    {
        match self.authorize(allow_basic).await {
            Ok(caller) => Ok((caller, body)),
            Err(error) => {
                if self.head.has_body {
                    let http = &self.app.config.http;
                    call::discard(body, http.max_body_bytes, http.body_timeout).await;
                }
                Err(error)
            }
        }
    }

    async fn authorize(&self, allow_basic: bool) -> Result<Arc<Credential>> {
        let app = self.app;
        let headers = &self.head.headers;
        let authenticated = if allow_basic && auth::is_basic(headers) {
            auth::authenticate_basic(app, headers).await
        } else {
            auth::authenticate_cached(app, self.head).await
        };
        let credential = match authenticated {
            Ok(credential) => credential,
            Err(error) if error.code.status() == 401 => {
                return Err(auth::charge_failure(app, self.ip, error).await);
            }
            Err(error) => return Err(error),
        };
        access::ensure_address_allowed(&credential.key, self.ip)?;
        access::require_scope(&credential.key, VERIFY_SCOPES)?;
        app.note_call(&credential, self.now);
        Ok(credential)
    }

    /// Reads the whole body.
    pub(crate) async fn body<S, B>(&self, body: S) -> Result<Bytes>
    where
        S: Stream<Item = Result<B, warp::Error>>,
        B: Buf,
    {
        call::collect(body, self.app.config.http.max_body_bytes, self.app.config.http.body_timeout).await
    }
}
