//! The short way of the data plane: no task of its own, no audit event, no log line for what went well.
//! Who asks is counted by the answers that it gets; what is asked is counted by the verifier.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use warp::reply::Response;

use super::pipeline::{add_request_id, request_id};
use super::routes::VERIFIERS;
use super::server::Head;
use super::{address, auth, call, forward_auth, introspect, reply, verify};
use crate::app::App;
use crate::domain::access;
use crate::domain::api_key::Credential;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

/// What the data plane answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Is this key good?
    Verify,
    /// The same in the form of RFC 7662.
    Introspect,
    /// May this request pass? Asked by proxies.
    ForwardAuth,
}

/// A question on its way.
pub(crate) struct DataPlaneRequest<'a> {
    /// The house.
    pub(crate) app: &'a App,
    /// What came.
    pub(crate) head: &'a Head,
    /// The client's address, if it is known.
    pub(crate) ip: Option<IpAddr>,
    /// When it came.
    pub(crate) now: Timestamp,
    /// Its name.
    pub(crate) id: String,
}

/// Leads a question to its answer.
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
        // The client's body stays where it is: it is the upstream's.
        Endpoint::ForwardAuth => forward_auth::answer(&request).await,
    };
    add_request_id(&mut response, &request.id);
    app.traffic.took(endpoint as usize, app.clock.monotonic().saturating_sub(arrived));
    response
}

impl DataPlaneRequest<'_> {
    /// Writes a refusal or a failure out, and logs what is ours to mend.
    pub(crate) fn refuse(&self, error: &Error) -> Response {
        self.log(error);
        reply::write_error(error, self.now, &self.id)
    }

    /// Logs what is ours to mend.
    pub(crate) fn log(&self, error: &Error) {
        if error.code.status() >= 500 {
            tracing::error!(request_id = %self.id, path = self.head.uri.path(), %error, "failed");
        }
    }

    /// Who asks, if it may: with its key, from its address, with its scope. The body of a refused
    /// question is read away, so that the connection can go on.
    ///
    /// # Errors
    /// In the order of the contract: 401 (429 after too many), 403 for the address, 403 for the scope.
    pub(crate) async fn caller<S, B>(&self, body: S, basic: bool) -> Result<(Arc<Credential>, S)>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send,
        B: Buf,
    {
        match self.authorise(basic).await {
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

    async fn authorise(&self, basic: bool) -> Result<Arc<Credential>> {
        let (app, headers) = (self.app, &self.head.headers);
        let known = if basic && auth::is_basic(headers) {
            auth::authenticate_basic(app, headers).await
        } else {
            auth::authenticate_cached(app, self.head).await
        };
        let credential = match known {
            Ok(credential) => credential,
            Err(error) if error.code.status() == 401 => {
                return Err(auth::charge_failure(app, self.ip, error).await);
            }
            Err(error) => return Err(error),
        };
        access::ensure_address_allowed(&credential.key, self.ip)?;
        access::require_scope(&credential.key, VERIFIERS)?;
        app.note_call(&credential, self.now);
        Ok(credential)
    }

    /// The body, whole.
    pub(crate) async fn body<S, B>(&self, body: S) -> Result<Bytes>
    where
        S: Stream<Item = Result<B, warp::Error>>,
        B: Buf,
    {
        call::collect(body, self.app.config.http.max_body_bytes, self.app.config.http.body_timeout).await
    }
}
