//! The gates that every call passes on its way to a handler, and what is recorded and said of it.
//!
//! The order of refusals is the contract's: the route (404, 405), the credential (401), the address
//! (403), the rate (429), the scope (403), the body (415, 413, 400); what follows is the handler's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::HeaderMap;
use http::header::{ACCEPT, ALLOW, HeaderName, HeaderValue, IF_MATCH, USER_AGENT};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use warp::reply::Response;

use super::auth::{self, Class};
use super::call::{self, Call};
use super::reply::{self, Reply};
use super::routes::{AuthRequirement, BATCH, Body, Handler, NotFound, Route, WHOAMI};
use super::server::Head;
use super::{address, idempotency};
use crate::app::App;
use crate::domain::access::{self, Caller};
use crate::domain::audit::{EventContext, Target, cut};
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::service::{self, RequestContext};
use crate::verify::bucket::RateLimitDecision;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What came, before it is known who sent it.
pub(crate) struct Request {
    /// The index in [`ROUTES`](super::routes::ROUTES).
    route_index: usize,
    head: Head,
    ip: Option<IpAddr>,
    id: String,
    arrived: Duration,
}

impl Request {
    pub(crate) fn new(app: &App, route_index: usize, head: Head) -> Self {
        let ip = address::client_address(head.peer.ip(), &head.headers, &app.config.http.trusted_proxies);
        let id = request_id(&head.headers, app.clock.now());
        Self { route_index, head, ip, id, arrived: app.clock.monotonic() }
    }

    fn header(&self, name: HeaderName) -> Option<String> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    fn context(&self) -> EventContext {
        EventContext {
            request_id: Some(self.id.clone()),
            method: Some(self.head.method.to_string()),
            path: Some(cut(self.head.uri.path())),
            status: None,
            ip: self.ip.map(|ip| ip.to_string()),
            user_agent: self.header(USER_AGENT).map(|agent| cut(&agent)),
            batch_id: None,
        }
    }
}

/// The caller's own name for the request, if it is one; else a new one.
pub(crate) fn request_id(headers: &HeaderMap, now: Timestamp) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_request_id(id));
    // It names and guards nothing, so that the operating system need not be asked for its randomness.
    given.map_or_else(|| Kind::Request.new_id(now, fastrand::u128(..)), str::to_owned)
}

fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Where calls run: apart from the workers, which others' verifications wait for.
#[derive(Clone)]
pub(crate) struct Tasks {
    /// Knows when all have ended.
    pub(crate) tracker: TaskTracker,
    /// The runtime for what may take long.
    pub(crate) runtime: Handle,
}

/// Leads a request to its answer, in a task that goes on when the client goes away.
pub(crate) async fn answer<S, B>(
    app: Arc<App>,
    request: Request,
    target: Result<(&'static Route, Handler, Vec<String>), NotFound>,
    body: S,
    tasks: &Tasks,
) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf + Send,
{
    let id = request.id.clone();
    let route_index = request.route_index;
    let panic_app = app.clone();
    let work = async move {
        let counted = app.clone();
        let response = match target {
            Err(missing) => refuse_route(&app, &request, body, missing).await,
            Ok((route, handler, params)) => {
                let mut pipeline =
                    RequestPipeline { app, request, route, handler, ctx: None, rate_limit: None };
                let result = pipeline.run(params, body).await;
                pipeline.finish(result).await
            }
        };
        // Here, where also those are counted that nobody waits for any more.
        counted.traffic.answered(route_index, response.status().as_u16());
        response
    };
    // The panic itself is in the log by now, without what it said.
    tasks.tracker.spawn_on(work, &tasks.runtime).await.unwrap_or_else(|_| {
        tracing::error!(request_id = %id, "a handler panicked");
        let mut response = reply::write_error(&Error::internal("panic"), panic_app.clock.now(), &id);
        add_request_id(&mut response, &id);
        panic_app.traffic.answered(route_index, response.status().as_u16());
        response
    })
}

/// An unknown path, or a known one with another method.
async fn refuse_route<S, B>(app: &App, request: &Request, body: S, missing: NotFound) -> Response
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    if request.head.has_body {
        call::discard(body, app.config.http.max_body_bytes, app.config.http.body_timeout).await;
    }
    let NotFound { mut error, allow } = missing;
    if request.head.uri.path().starts_with("/admin/")
        && let Err(unrecorded) = aggregate_anonymous(app, request, error.code)
    {
        error = unrecorded;
    }
    let mut response = reply::write_error(&error, app.clock.now(), &request.id);
    if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
        response.headers_mut().insert(ALLOW, allow);
    }
    add_request_id(&mut response, &request.id);
    tracing::debug!(request_id = %request.id, status = response.status().as_u16(), "no such route");
    response
}

fn aggregate_anonymous(app: &App, request: &Request, code: Code) -> Result<()> {
    let subject = request.ip.map_or_else(|| "unknown".to_owned(), |ip| address::subject(ip).to_string());
    service::audit::aggregate_anonymous(app, &subject, app.clock.now(), code, request.context())
}

pub(crate) fn add_request_id(response: &mut Response, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

/// What a path names.
pub(crate) fn target(route: &Route, params: &[String]) -> Option<Target> {
    params.last().map(|id| Target {
        kind: route.action.split('.').next().unwrap_or_default().into(),
        id: Some(cut(id)),
        name: None,
    })
}

/// One call's way through the gates.
struct RequestPipeline {
    app: Arc<App>,
    request: Request,
    route: &'static Route,
    handler: Handler,
    /// Who calls, once that is known.
    ctx: Option<Arc<RequestContext>>,
    rate_limit: Option<RateLimitDecision>,
}

impl RequestPipeline {
    async fn run<S, B>(&mut self, params: Vec<String>, body: S) -> Result<Reply>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send,
        B: Buf,
    {
        let (max, within) = (self.app.config.http.max_body_bytes, self.app.config.http.body_timeout);
        let announced = self.request.head.has_body;
        if self.route.body == Body::None {
            // Before the caller is known: however slowly it comes, who was revoked meanwhile is refused.
            if announced {
                call::discard(body, max, within).await;
            }
            let ctx = self.authorise(&params).await?;
            return self.handle(ctx, params, (Bytes::new(), None)).await;
        }
        match self.authorise(&params).await {
            Ok(ctx) => {
                let body = self.read_body(body, max, within).await?;
                self.handle(ctx, params, body).await
            }
            Err(error) => {
                if announced {
                    call::discard(body, max, within).await;
                }
                Err(error)
            }
        }
    }

    /// The gates before the body.
    async fn authorise(&mut self, params: &[String]) -> Result<Arc<RequestContext>> {
        let (app, route) = (self.app.clone(), self.route);
        if route.auth == AuthRequirement::Open {
            return RequestContext::internal(&app, Caller::System, route.action, "read");
        }
        let (credential, secret) = match auth::authenticate(&app, &self.request.head.headers).await {
            Ok(found) => found,
            Err(error) if error.code.status() == 401 => {
                return Err(auth::charge_failure(&app, self.request.ip, error).await);
            }
            Err(error) => return Err(error),
        };
        let caller = Caller::Key(credential.clone());
        let ctx = Arc::new(RequestContext {
            caller: caller.clone(),
            secret: Some(secret),
            scopes: route.auth.scopes(),
            action: route.action,
            access: route.access(),
            now: app.clock.now(),
            ip: self.request.ip,
            if_match: self.request.header(IF_MATCH),
            target: target(route, params),
            context: self.request.context(),
            random: app.random()?,
            seat: None,
        });
        self.ctx = Some(ctx.clone());
        let current = app.settings.get().await?;
        let limits = &current.settings.rate_limits;
        if let Err(error) = access::ensure_address_allowed(&credential.key, self.request.ip) {
            self.rate_limit = auth::calls_left(&app, limits, self.class(), &caller);
            return Err(error);
        }
        let (rate_limit, allowed) = auth::charge_call(&app, limits, self.class(), &caller);
        self.rate_limit = rate_limit;
        allowed?;
        caller.require_scope(route.auth.scopes())?;
        if route.auth.requires_platform_key() {
            caller.require_platform()?;
        }
        app.note_call(&credential, ctx.now);
        Ok(ctx)
    }

    /// What the call is counted as.
    fn class(&self) -> Class {
        if self.route.action == BATCH { Class::Batch } else { Class::Admin }
    }

    /// The body as it came, and what it says.
    async fn read_body<S, B>(&self, body: S, max: usize, within: Duration) -> Result<(Bytes, Option<Json>)>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send,
        B: Buf,
    {
        let announced = self.request.head.has_body;
        if !announced && self.route.body == Body::Optional {
            return Ok((Bytes::new(), None));
        }
        if let Err(error) = call::media_type(&self.request.head.headers, self.route.method == "PATCH") {
            call::discard(body, max, within).await;
            return Err(error);
        }
        let bytes = call::collect(body, max, within).await?;
        if bytes.is_empty() && self.route.body == Body::Optional {
            return Ok((bytes, None));
        }
        let json = Json::parse(&bytes)?;
        Ok((bytes, Some(json)))
    }

    async fn handle(
        &self,
        ctx: Arc<RequestContext>,
        params: Vec<String>,
        (bytes, body): (Bytes, Option<Json>),
    ) -> Result<Reply> {
        let (app, query) = (self.app.clone(), self.request.head.uri.query().unwrap_or_default().to_owned());
        let accept = self.request.head.headers.get_all(ACCEPT).iter().cloned().collect();
        let call = Call { app, ctx, params, query, accept, body, limits: self.rate_limit };
        if self.route.is_idempotent_by_key()
            && let Some(idempotent) = idempotency::claim(&call, &self.request.head, &bytes)?
        {
            return idempotency::answer(call, self.handler, idempotent).await;
        }
        (self.handler)(call).await
    }

    /// Records a refusal, writes the answer out and says a line about it.
    async fn finish(self, result: Result<Reply>) -> Response {
        let result = self.recorded(result).await;
        let (now, id) = (self.app.clock.now(), &self.request.id);
        let code = result.as_ref().map_or_else(|error| Some(error.code), Reply::code);
        let cause = result.as_ref().err().and_then(|error| error.cause.clone());
        let mut response = match result {
            Ok(reply) => reply::write(reply, now, id),
            Err(error) => reply::write_error(&error, now, id),
        };
        add_request_id(&mut response, id);
        if let Some(rate_limit) = &self.rate_limit {
            reply::add_limits(response.headers_mut(), self.class().policy(), rate_limit, now);
        }
        self.log(response.status().as_u16(), code, cause.as_deref());
        response
    }

    /// A refusal is recorded before it is answered; what can't be recorded is not answered as if it were.
    async fn recorded(&self, result: Result<Reply>) -> Result<Reply> {
        match (&result, &self.ctx) {
            (Ok(_), Some(ctx)) if self.route.action == WHOAMI => service::aggregate_read(&self.app, ctx),
            (Err(error), Some(ctx)) => service::refuse(&self.app, ctx, error).await?,
            (Err(error), None) if self.route.auth != AuthRequirement::Open => {
                aggregate_anonymous(&self.app, &self.request, error.code)?;
            }
            _ => {}
        }
        result
    }

    fn log(&self, status: u16, code: Option<Code>, cause: Option<&str>) {
        let latency_us =
            u64::try_from(self.app.clock.monotonic().saturating_sub(self.request.arrived).as_micros())
                .unwrap_or(u64::MAX);
        let key = self.ctx.as_ref().and_then(|ctx| ctx.caller.key()).map_or("-", |key| key.id.as_str());
        let (id, method, route) = (&self.request.id, &self.request.head.method, self.route.path);
        let code = code.map_or("-", Code::name);
        let trace = trace_parent(&self.request.head.headers).unwrap_or("-");
        if let Some(cause) = cause {
            tracing::error!(request_id = %id, cause, "failed");
        }
        tracing::info!(request_id = %id, %method, route, status, code, latency_us, key, traceparent = trace, "request");
    }
}

/// `traceparent` of W3C Trace Context (§3.2). One of another form is nobody's trace and could hold anything.
fn trace_parent(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get("traceparent")?.to_str().ok()?;
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts: Vec<_> = given.split('-').collect();
    let known = matches!(parts.as_slice(), [version, trace, parent, flags]
        if hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2));
    known.then_some(given)
}
