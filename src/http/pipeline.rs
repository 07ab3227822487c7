//! The request pipeline of the control plane: the checks before a handler, and the audit event, response and
//! log line after it.
//!
//! The order of errors is part of the contract: the route (404, 405), the credential (401), the address
//! (403), the rate limit (429), the scope (403), the body (415, 413, 400). The handler checks
//! everything else.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::header::{ALLOW, HeaderValue, IF_MATCH, USER_AGENT};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::reply::Response;

use super::auth;
use super::call::{self, BodyLimits, Call};
use super::conn::request_head::RequestHead;
use super::data_plane_request::MAX_BODY_BYTES;
use super::rate_limits;
use super::reply::{self, Reply};
use super::request_id::{add_request_id, received_or_new_request_id};
use super::request_log::{RequestLog, log_unmatched};
use super::route::{AuthRequirement, Body, Dispatch, Route};
use super::router::{Router, UnmatchedRoute};
use super::{address, batch, idempotency};
use crate::app::App;
use crate::app::request_memory::MemoryReservation;
use crate::domain::access::{self, Caller};
use crate::domain::action::Access;
use crate::domain::audit::EventContext;
use crate::domain::fields::Json;
use crate::domain::redaction::Redactor;
use crate::error::{Code, CodeClass, Error, Result};
use crate::service::access_blocks;
use crate::service::access_change_attempts::AccessChangeAttempts;
use crate::service::{self, RequestContext};
use crate::verify::call_buckets::CallDecision;

/// A control-plane request before authentication.
pub(crate) struct Request {
    /// The route's index in the table.
    route_index: usize,
    head: RequestHead,
    client_ip: Option<IpAddr>,
    request_id: String,
    redactor: Redactor,
    /// The monotonic time at which the request arrived.
    arrived_at: Duration,
}

impl Request {
    pub(crate) fn new(app: &App, route_index: usize, head: RequestHead) -> Self {
        let client_ip =
            address::client_address(head.peer.ip(), &head.headers, &app.config.http.trusted_proxies);
        let request_id = received_or_new_request_id(&head.headers, app.clock.now());
        let redactor = auth::request_redactor(&head.headers);
        Self { route_index, head, client_ip, request_id, redactor, arrived_at: app.clock.monotonic() }
    }

    /// The field `context` of the request's audit events, without secrets and with bounded strings: each operation of
    /// a batch has a copy.
    fn event_context(&self) -> EventContext {
        let user_agent = self.head.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        EventContext {
            request_id: Some(self.request_id.clone()),
            method: Some(self.redactor.recorded_text(self.head.method.as_str())),
            path: Some(self.redactor.recorded_text(self.head.uri.path())),
            status: None,
            ip: self.client_ip.map(|ip| ip.to_string()),
            user_agent: user_agent.map(|agent| self.redactor.recorded_text(agent)),
            batch_id: None,
        }
    }
}

/// The runtime on which control-plane calls run, and their tracker. It isn't a worker's runtime, so that
/// these calls don't delay verifications.
#[derive(Clone)]
pub(crate) struct AdminRequestTasks {
    /// Tracks the running calls, for a graceful shutdown.
    pub(crate) tracker: TaskTracker,
    /// The runtime for calls that may take long.
    pub(crate) runtime: Handle,
}

/// Handles a control-plane request in a task that outlives a client disconnect.
pub(crate) async fn answer<S, B>(
    app: Arc<App>,
    router: &'static Router,
    request: Request,
    matched: Result<(&'static Route, Vec<String>), UnmatchedRoute>,
    body: S,
    tasks: &AdminRequestTasks,
) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf + Send + 'static,
{
    let id = request.request_id.clone();
    let route_index = request.route_index;
    let panic_app = app.clone();
    let disconnected = CancellationToken::new();
    // Dropped with this future when the client disconnects.
    let _guard = disconnected.clone().drop_guard();
    let task = async move {
        let counting_app = app.clone();
        let response = match matched {
            Err(unmatched) => answer_unmatched(&app, &request, body, unmatched).await,
            Ok((route, params)) => {
                let mut pipeline = RequestPipeline {
                    app,
                    router,
                    request,
                    route,
                    ctx: None,
                    memory: None,
                    rate_limit: None,
                    disconnected,
                };
                let result = pipeline.check_and_handle(params, body).await;
                pipeline.record_and_respond(result).await
            }
        };
        // Counted inside the task, so that requests of disconnected clients are counted too.
        counting_app.traffic.responses.count_response(route_index, response.status().as_u16());
        response
    };
    // The panic hook has logged the panic, without its message.
    tasks.tracker.spawn_on(task, &tasks.runtime).await.unwrap_or_else(|_| {
        tracing::error!(request_id = %id, "handler panicked");
        let mut response = reply::write_error(&Error::internal("panic"), panic_app.clock.now(), &id);
        add_request_id(&mut response, &id);
        panic_app.traffic.responses.count_response(route_index, response.status().as_u16());
        response
    })
}

/// The limits of request bodies.
fn body_limits(app: &App) -> BodyLimits {
    BodyLimits::new(&app.config.http, app.config.http.max_body_bytes)
}

/// Responds to an unknown path, or to a known path with an unsupported method.
async fn answer_unmatched<S, B>(app: &App, request: &Request, body: S, unmatched: UnmatchedRoute) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
    B: Buf + Send + 'static,
{
    call::discard_body(body, &request.head, body_limits(app)).await;
    let UnmatchedRoute { mut error, allow } = unmatched;
    if request.head.uri.path().starts_with("/admin/")
        && let Err(audit_error) = record_anonymous_error(app, request, error.code)
    {
        *error = audit_error;
    }
    let mut response = reply::write_error(&error, app.clock.now(), &request.request_id);
    if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
        response.headers_mut().insert(ALLOW, allow);
    }
    add_request_id(&mut response, &request.request_id);
    log_unmatched(
        &request.head,
        request.client_ip,
        &request.request_id,
        &request.redactor,
        response.status(),
    );
    response
}

/// Records in the audit log the error of a request without a known caller, aggregated by client address.
fn record_anonymous_error(app: &App, request: &Request, code: Code) -> Result<()> {
    let subject =
        request.client_ip.map_or_else(|| "unknown".to_owned(), |ip| address::client_network(ip).to_string());
    let context = request.event_context();
    service::audit::aggregate_anonymous(app, &subject, app.clock.now(), code, context)
}

/// The state of a request in the pipeline.
struct RequestPipeline {
    app: Arc<App>,
    /// Finds the routes of a batch's operations.
    router: &'static Router,
    request: Request,
    route: &'static Route,
    /// The authenticated caller and the request's context; `None` before authentication and for open routes.
    ctx: Option<Arc<RequestContext>>,
    /// The memory reserved for the request; `None` before it is authorized.
    memory: Option<Arc<MemoryReservation>>,
    rate_limit: Option<CallDecision>,
    /// Canceled when the client disconnects.
    disconnected: CancellationToken,
}

impl RequestPipeline {
    async fn check_and_handle<S, B>(&mut self, mut params: Vec<String>, body: S) -> Result<Reply>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
        B: Buf + Send + 'static,
    {
        if self.route.body == Body::None {
            // The body is drained before authentication, so that a key that is revoked while a slow body
            // arrives is refused.
            if self.request.head.has_body {
                call::drain_body(body, body_limits(&self.app)).await;
            }
            let ctx = self.authorize(&mut params).await?;
            let memory = self.reserve_memory(&ctx)?;
            return self.call_handler(ctx, memory, params, (Bytes::new(), None)).await;
        }
        match self.authorize(&mut params).await {
            Ok(ctx) => {
                let memory = self.reserve_memory(&ctx)?;
                let body = self.read_body(body, &memory).await?;
                self.call_handler(ctx, memory, params, body).await
            }
            Err(error) => {
                call::discard_body(body, &self.request.head, body_limits(&self.app)).await;
                Err(error)
            }
        }
    }

    /// Authenticates and authorizes the caller and charges the rate limit: all checks that don't need the
    /// body.
    async fn authorize(&mut self, params: &mut Vec<String>) -> Result<Arc<RequestContext>> {
        let app = self.app.clone();
        let route = self.route;
        if route.auth == AuthRequirement::Open {
            return RequestContext::internal(&app, Caller::System, route.action);
        }
        let (credential, secret) = match auth::authenticate(&app, &self.request.head, route.auth).await {
            Ok(authenticated) => authenticated,
            Err(error) if error.code.class() == CodeClass::Authentication => {
                return Err(auth::charge_failure(&app, self.request.client_ip, error).await);
            }
            Err(error) => return Err(error),
        };
        let caller = Caller::Key(credential.clone());
        if route.auth == AuthRequirement::OwnKey {
            params.push(credential.key.id.clone());
        }
        let if_match = self.if_match();
        let ctx = Arc::new(RequestContext {
            caller: caller.clone(),
            secret: Some(secret),
            redactor: self.request.redactor.clone(),
            scopes: route.auth.scopes(),
            requires_current_secret: route.requires_current_secret(),
            requires_platform_key: route.auth.requires_platform_key(),
            action: route.action,
            access: route.action.access(),
            now: app.clock.now(),
            expiry_time: app.clock.expiry_time(),
            ip: self.request.client_ip,
            if_match: if_match.as_ref().ok().cloned().flatten(),
            target: route.audit_target(params, &self.request.redactor),
            context: self.request.event_context(),
            attempts: AccessChangeAttempts::new(app.access_blocks.clone()),
            random: app.random_bits()?,
        });
        self.ctx = Some(ctx.clone());
        let current = app.settings.get().await?;
        let limits = &current.settings.rate_limits;
        let class = route.limit_class();
        if let Err(error) = access::ensure_address_allowed(&credential.key, self.request.client_ip) {
            self.rate_limit = rate_limits::status(&app, limits, class, &caller);
            return Err(error);
        }
        let (rate_limit, allowed) = rate_limits::charge(&app, limits, class, &caller);
        self.rate_limit = rate_limit;
        allowed?;
        ctx.authorize(&caller)?;
        app.unstored.record_call(&credential, ctx.now);
        if_match.map(|_| ctx)
    }

    /// Starts the reservation of the request's memory, which lasts until the response is sent.
    fn reserve_memory(&mut self, ctx: &RequestContext) -> Result<Arc<MemoryReservation>> {
        let memory = Arc::new(self.app.memory.control_plane.reserve(ctx.caller.organization_id(), 0)?);
        self.memory = Some(memory.clone());
        Ok(memory)
    }

    /// The condition of a change, from `If-Match`; several lines of the header are one list. `None` for reads,
    /// which ignore the header.
    fn if_match(&self) -> Result<Option<String>> {
        if self.route.action.access() == Access::Read {
            return Ok(None);
        }
        let lines = call::readable_header_lines(&self.request.head.headers, &IF_MATCH)?;
        Ok((!lines.is_empty()).then(|| lines.join(",")))
    }

    /// Reads the request body; returns its bytes and the parsed JSON. Their memory is reserved until the response
    /// is sent.
    async fn read_body<S, B>(&self, body: S, memory: &MemoryReservation) -> Result<(Bytes, Option<Json>)>
    where
        S: Stream<Item = Result<B, warp::Error>> + Send + 'static,
        B: Buf + Send + 'static,
    {
        let has_body = self.request.head.has_body;
        if !has_body && self.route.body == Body::Optional {
            return Ok((Bytes::new(), None));
        }
        if let Err(error) = call::check_media_type(&self.request.head.headers, self.route.method == "PATCH") {
            call::discard_body(body, &self.request.head, body_limits(&self.app)).await;
            return Err(error);
        }
        let reserve = |bytes| self.app.memory.control_plane.reserve(memory.organization_id(), bytes);
        let http = &self.app.config.http;
        let max_bytes = match self.route.auth {
            AuthRequirement::OwnKey => MAX_BODY_BYTES,
            _ => http.max_body_bytes,
        };
        let limits = BodyLimits::new(http, max_bytes);
        let bytes = call::read_body(body, &self.request.head, limits, reserve).await?;
        if bytes.is_empty() && self.route.body == Body::Optional {
            return Ok((bytes, None));
        }
        memory.grow(bytes.len() + Json::max_tree_bytes(&bytes))?;
        let mut json = Json::parse(&bytes)?;
        self.request.redactor.flag_secrets(&mut json);
        Ok((bytes, Some(json)))
    }

    async fn call_handler(
        &self,
        ctx: Arc<RequestContext>,
        memory: Arc<MemoryReservation>,
        params: Vec<String>,
        (bytes, body): (Bytes, Option<Json>),
    ) -> Result<Reply> {
        let app = self.app.clone();
        let ctx = ctx.with_access_change(&params, body.as_ref());
        let query = self.request.head.uri.query().unwrap_or_default().to_owned();
        let negotiation = call::negotiation_headers(&self.request.head.headers);
        let disconnected = self.disconnected.clone();
        let rate_limit = self.rate_limit;
        let reserved = memory.clone();
        let call = Call {
            app,
            ctx,
            path_params: params,
            query,
            negotiation,
            body,
            memory,
            rate_limit,
            disconnected,
        };
        let idempotent = match self.route.is_idempotent_by_key() {
            true => idempotency::claim_idempotency_key(&call, &self.request.head, &bytes)?,
            false => None,
        };
        let reply = match self.route.dispatch {
            Dispatch::Operation(prepare) => match idempotent {
                Some(idempotent) => idempotency::answer_operation(call, prepare, idempotent).await?,
                None => {
                    let (app, ctx) = (call.app.clone(), call.ctx.clone());
                    prepare(call).await?.answer(&app, &ctx).await?.into()
                }
            },
            Dispatch::Batch => match idempotent {
                Some(idempotent) => idempotency::answer_batch(call, self.router, idempotent).await?,
                None => batch::run_batch(call, self.router).await?,
            },
            Dispatch::Pipeline(handler) => handler(call).await?,
            Dispatch::DataPlane(_) | Dispatch::Page => {
                return Err(Error::internal("a route of another part of the server"));
            }
        };
        // A response that reports a change is sent in any case. Of a batch, each result was reserved before.
        if self.route.action.access() == Access::Read || reply.is_replayed() {
            reserved.grow(reply.max_memory_bytes())?;
        }
        Ok(reply)
    }

    /// Records the handler's outcome in the audit log, builds the response and logs the request.
    async fn record_and_respond(self, result: Result<Reply>) -> Response {
        let result = access_blocks::block_unstored(&self.app, self.ctx.as_deref(), result).await;
        let result = self.record_outcome(result).await;
        let now = self.app.clock.now();
        let id = &self.request.request_id;
        let code = result.as_ref().map_or_else(|error| Some(error.code), Reply::error_code);
        let cause = result.as_ref().err().and_then(|error| error.cause.clone());
        let mut response = match result {
            Ok(reply) => reply::write_reply(reply, now, id, self.memory.clone()),
            Err(error) => reply::write_error(&error, now, id),
        };
        add_request_id(&mut response, id);
        if let Some(rate_limit) = &self.rate_limit {
            let limits = rate_limits::policies(self.route.limit_class(), rate_limit);
            rate_limits::add_headers(response.headers_mut(), &limits, now);
        }
        self.log_request(response.status().as_u16(), code, cause.as_deref());
        response
    }

    /// Records errors, and aggregated reads, in the audit log before the response is sent. If an error
    /// can't be recorded, that failure becomes the response.
    async fn record_outcome(&self, result: Result<Reply>) -> Result<Reply> {
        match (&result, &self.ctx) {
            _ if !self.route.action.is_audited() => {}
            (Ok(_), Some(ctx)) if self.route.action.is_aggregated() => {
                service::aggregate_read(&self.app, ctx)
            }
            (Err(error), Some(ctx)) => {
                let recorded = service::record_refusal(&self.app, ctx, error).await;
                // On a damaged database the response says what happened to the request, also if that can't be recorded.
                if error.database_fault.is_none() {
                    recorded?;
                }
            }
            (Err(error), None) if self.route.auth != AuthRequirement::Open => {
                record_anonymous_error(&self.app, &self.request, error.code)?;
            }
            _ => {}
        }
        result
    }

    fn log_request(&self, status: u16, code: Option<Code>, cause: Option<&str>) {
        let Request { head, client_ip, request_id, redactor, arrived_at, .. } = &self.request;
        let log = RequestLog {
            app: &self.app,
            head,
            client_ip: *client_ip,
            request_id,
            redactor,
            arrived_at: *arrived_at,
            route: self.route.path,
            key_id: self.ctx.as_ref().and_then(|ctx| ctx.caller.key()).map(|key| key.id.as_str()),
        };
        log.write(status, code, cause);
    }
}
