//! `/admin/v1/batch`

use std::sync::Arc;

use http::Method;
use serde::Serialize;
use serde_json::value::RawValue;

use super::call::Call;
use super::pipeline;
use super::reply::Reply;
use super::routes::{self, BATCH, Dispatch, HandlerFuture, RouteMatch};
use crate::domain::audit::{EventContext, cut};
use crate::domain::batch::{Batch, Operation as RequestedOperation};
use crate::domain::id::Kind;
use crate::error::{Code, Detail, Error, Result};
use crate::service::RequestContext;
use crate::service::aggregated::REFUSED;
use crate::service::batch::{self, Operation, Ran};

/// Where the table of routes begins, for operations.
const BASE: &str = "/admin/v1";

/// What became of a batch.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = BatchResults)]
pub(crate) struct Results {
    /// Of each operation, in their order.
    pub(crate) results: Vec<OperationResult>,
}

/// What became of one operation.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = BatchResult)]
pub(crate) struct OperationResult {
    /// The operation's own `id`.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// The HTTP status, as if it had come alone.
    #[schema(example = 201)]
    pub(crate) status: u16,
    /// The ETag, where the answer has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "\"1a2073bcba8-1\"")]
    pub(crate) etag: Option<String>,
    /// The whole answer, as if it had come alone.
    #[schema(value_type = Object)]
    pub(crate) body: Box<RawValue>,
}

/// Run several operations
///
/// Up to 100 changes and reads of single things, one after the other in one transaction. Each is authorised,
/// validated and recorded as if it had come alone, and meets what those before it did. A batch counts once, in
/// a limit of its own, whatever it holds.
///
/// If one operation of an atomic batch fails, nothing is done: it keeps its own status in `error.results`, the
/// others have `424`. In a batch that isn't, each stands for itself. Lists, exports and batches can't be
/// operations.
#[utoipa::path(
    post, path = "/admin/v1/batch", tag = "Batch", operation_id = "runBatch",
    request_body = Batch,
    responses(
        (status = 200, description = "Done, or each for itself as `results` say.", body = Results),
        (status = 409, description = "`BATCH_FAILED`: an operation failed, and nothing was done; `error.results` say which."),
    ),
)]
pub(crate) async fn run(call: Call) -> Result<Reply> {
    call.no_query()?;
    let batch = Batch::read(call.body()?)?;
    let id = call.app.new_id(Kind::Batch)?;
    let mut operations = Vec::with_capacity(batch.operations.len());
    let mut details = Vec::new();
    let mut names = Vec::with_capacity(batch.operations.len());
    for (index, operation) in batch.operations.into_iter().enumerate() {
        names.push(operation.id.clone());
        match prepare(&call, &id, operation)? {
            Some(operation) => operations.push(operation),
            None => details.push(Detail {
                pointer: Some(format!("/operations/{index}/path")),
                parameter: None,
                code: "NOT_IN_BATCH".into(),
                message: "Can't be part of a batch: changes and reads of single things can.".to_owned(),
            }),
        }
    }
    if !details.is_empty() {
        return Err(Error::invalid(details));
    }
    let context = EventContext { batch_id: Some(id), ..call.ctx.context.clone() };
    let ctx = Arc::new(RequestContext { context, ..(*call.ctx).clone() });
    let ran = batch::run(&call.app, &ctx, batch.atomic, operations).await?;
    answer(&call, &names, ran)
}

/// Of a batch, the scopes that each of its operations asks one of; of another call nothing, since its route asks.
pub(crate) fn scopes(call: &Call) -> Vec<&'static [&'static str]> {
    if call.ctx.action != BATCH {
        return Vec::new();
    }
    let Some(Ok(batch)) = call.body.as_ref().map(Batch::read) else { return Vec::new() };
    let route = |operation: &RequestedOperation| {
        let path = whole(&operation.path);
        let method = Method::from_bytes(operation.method.name().as_bytes()).ok()?;
        let path = path.split('?').next().unwrap_or_default();
        routes::find(&method, path).ok()?.ok().map(|found| found.route.auth.scopes())
    };
    batch.operations.iter().filter_map(route).collect()
}

/// An operation's path with what may be left out before it.
fn whole(path: &str) -> String {
    let is_whole = path.strip_prefix(BASE).is_some_and(|rest| rest.starts_with('/'));
    if is_whole { path.to_owned() } else { format!("{BASE}{path}") }
}

/// An operation and what answers it: the handler of its route, behind the route's own gate. `None` when the
/// route can't be part of a batch.
fn prepare(call: &Call, batch_id: &str, requested: RequestedOperation) -> Result<Option<Operation<Reply>>> {
    let method = requested.method.name();
    let path = whole(&requested.path);
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let found = routes::find(&Method::from_bytes(method.as_bytes()).map_err(Error::internal)?, path)?;
    let ctx = RequestContext {
        scopes: &[],
        action: REFUSED,
        access: if method == "GET" { "read" } else { "write" },
        if_match: requested.if_match,
        target: None,
        context: EventContext {
            method: Some(method.to_owned()),
            path: Some(cut(path)),
            batch_id: Some(batch_id.to_owned()),
            ..call.ctx.context.clone()
        },
        random: call.app.random()?,
        seat: None,
        ..(*call.ctx).clone()
    };
    let RouteMatch { route, params, .. } = match found {
        Ok(found) => found,
        Err(missing) => {
            let refuse =
                move |_| -> HandlerFuture { Box::pin(std::future::ready(Err(missing.error.clone()))) };
            return Ok(Some(Operation { ctx: Arc::new(ctx), handler: Box::new(refuse) }));
        }
    };
    let Dispatch::Pipeline(handler) = route.dispatch else { return Ok(None) };
    if !route.in_batch {
        return Ok(None);
    }
    let target = pipeline::target(route, &params);
    let ctx = RequestContext { scopes: route.auth.scopes(), action: route.action, target, ..ctx };
    let (app, query, body) = (call.app.clone(), query.to_owned(), requested.body);
    let handler = move |ctx: Arc<RequestContext>| -> HandlerFuture {
        if route.auth.requires_platform_key()
            && let Err(error) = ctx.caller.require_platform()
        {
            return Box::pin(std::future::ready(Err(error)));
        }
        let (app, params, query, body) = (app.clone(), params.clone(), query.clone(), body.clone());
        handler(Call { app, ctx, params, query, accept: Vec::new(), body, limits: None })
    };
    Ok(Some(Operation { ctx: Arc::new(ctx), handler: Box::new(handler) }))
}

fn answer(call: &Call, names: &[Option<String>], ran: Ran<Reply>) -> Result<Reply> {
    let mut secret = false;
    let request_id = call.ctx.context.request_id.as_deref().unwrap_or_default();
    let results = names.iter().zip(ran.results).map(|(id, result)| {
        let reply = result.unwrap_or_else(|error| {
            if let Some(cause) = &error.cause {
                tracing::error!(request_id, cause, "an operation of a batch failed");
            }
            Reply::failed(&error)
        });
        let Reply::Data(data) = reply else { return Err(Error::internal("a stream in a batch")) };
        secret |= data.shows_secret();
        let body = data.body(call.ctx.now, request_id);
        Ok(OperationResult {
            id: id.clone(),
            status: data.status().as_u16(),
            etag: data.etag().map(str::to_owned),
            body: RawValue::from_string(body).map_err(Error::internal)?,
        })
    });
    let results = results.collect::<Result<Vec<_>>>()?;
    let Some(failed_index) = ran.failed_index else {
        let reply = Reply::ok(&Results { results })?;
        return Ok(if secret { reply.with_secret() } else { reply });
    };
    let failed = Failed {
        code: Code::BatchFailed.name(),
        message: format!("Nothing was done, because the operation at /operations/{failed_index} failed."),
        details: [],
        results,
    };
    Reply::failed_with(Code::BatchFailed, &failed)
}

/// `error` of a batch that failed.
#[derive(Serialize)]
struct Failed {
    code: &'static str,
    message: String,
    details: [Detail; 0],
    results: Vec<OperationResult>,
}
