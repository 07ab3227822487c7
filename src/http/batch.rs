//! `/admin/v1/batch`

use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::value::RawValue;

use super::call::Call;
use super::pipeline;
use super::replay;
use super::reply::Reply;
use super::routes::{self, Dispatch, HandlerFuture, Route, RouteMatch};
use crate::domain::audit::EventContext;
use crate::domain::batch::{Batch, Method as OperationMethod, Operation as RequestedOperation};
use crate::domain::id::Kind;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::service::RequestContext;
use crate::service::aggregated::REQUEST_REFUSED;
use crate::service::batch::{self, BatchOperation, BatchOutcome};

/// The path prefix of all operations of a batch; an operation may omit it.
const PATH_PREFIX: &str = "/admin/v1";

/// The results of a batch.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct BatchResults {
    /// The result of each operation, in order.
    pub(crate) results: Vec<OperationResult>,
}

/// The result of an operation.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = BatchResult)]
pub(crate) struct OperationResult {
    /// The `id` of the operation, if it has one.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// The HTTP status that a separate request would get.
    #[schema(example = 201)]
    pub(crate) status: u16,
    /// The `ETag` header, if the response has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "\"1a2073bcba8-1\"")]
    pub(crate) etag: Option<String>,
    /// The response body that a separate request would get.
    #[schema(value_type = Object)]
    pub(crate) body: Box<RawValue>,
}

/// Run a batch
///
/// Runs up to 100 operations, which are changes or reads of single resources, in order and in one
/// transaction. Each operation is authorized, validated and recorded like a separate request, and sees
/// the effects of the operations before it. A batch counts as one request, in its own rate limit.
/// Lists, exports and batches can't be operations.
///
/// If an operation of an atomic batch fails, no changes are made: `error.results` has its status, and
/// `424` for all others. In a batch that isn't atomic, operations succeed or fail independently.
#[utoipa::path(
    post, path = "/admin/v1/batch", tag = "Batch", operation_id = "runBatch",
    request_body = Batch,
    responses(
        (status = 200, description = "The batch ran; `results` has the status of each operation.", body = BatchResults),
        (status = 409, description = "`BATCH_FAILED`: an operation failed and no changes were made; see `error.results`."),
    ),
)]
pub(crate) async fn run_batch(call: Call) -> Result<Reply> {
    call.reject_query()?;
    let batch = Batch::read(call.require_body()?)?;
    let id = call.app.new_id(Kind::Batch)?;
    let mut operations = Vec::with_capacity(batch.operations.len());
    let mut details = Vec::new();
    let mut operation_ids = Vec::with_capacity(batch.operations.len());
    let is_read: Vec<_> =
        batch.operations.iter().map(|operation| operation.method == OperationMethod::Get).collect();
    for (index, operation) in batch.operations.into_iter().enumerate() {
        operation_ids.push(operation.id.clone());
        match prepare_operation(&call, &id, operation)? {
            Some(operation) => operations.push(operation),
            None => details.push(ErrorDetail {
                pointer: Some(format!("/operations/{index}/path")),
                parameter: None,
                code: "NOT_IN_BATCH".into(),
                message: "Can't be used in a batch; only changes and reads of single resources can."
                    .to_owned(),
            }),
        }
    }
    if !details.is_empty() {
        return Err(Error::invalid_request(details));
    }
    let context = EventContext { batch_id: Some(id), ..call.ctx.context.clone() };
    let ctx = Arc::new(RequestContext { context, ..(*call.ctx).clone() });
    let ran = batch::run(&call.app, &ctx, batch.atomic, operations).await?;
    batch_reply(&call, operation_ids, &is_read, ran)
}

/// The route of an operation; `None` if there is none for its path and method.
pub(super) fn operation_route(operation: &RequestedOperation) -> Result<Option<&'static Route>> {
    let path = add_path_prefix(&operation.path);
    let path = path.split('?').next().unwrap_or_default();
    let method = Method::from_bytes(operation.method.name().as_bytes()).map_err(Error::internal)?;
    Ok(routes::find_route(&method, path)?.ok().map(|matched| matched.route))
}

/// Adds [`PATH_PREFIX`] to an operation's path that omits the prefix.
fn add_path_prefix(path: &str) -> String {
    let has_prefix = path.strip_prefix(PATH_PREFIX).is_some_and(|rest| rest.starts_with('/'));
    if has_prefix { path.to_owned() } else { format!("{PATH_PREFIX}{path}") }
}

/// Binds an operation to its route's handler and authorization. `None` if the route can't be used in a batch.
pub(super) fn prepare_operation(
    call: &Call,
    batch_id: &str,
    requested: RequestedOperation,
) -> Result<Option<BatchOperation<Reply>>> {
    let method = requested.method.name();
    let path = add_path_prefix(&requested.path);
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let matched = routes::find_route(&Method::from_bytes(method.as_bytes()).map_err(Error::internal)?, path)?;
    let ctx = RequestContext {
        scopes: &[],
        requires_current_secret: false,
        action: REQUEST_REFUSED,
        access: if method == "GET" { "read" } else { "write" },
        if_match: requested.if_match,
        target: None,
        context: EventContext {
            method: Some(method.to_owned()),
            path: Some(call.ctx.redactor.recorded_text(path)),
            batch_id: Some(batch_id.to_owned()),
            ..call.ctx.context.clone()
        },
        random: call.app.random_bits()?,
        seat: None,
        ..(*call.ctx).clone()
    };
    let RouteMatch { route, params, .. } = match matched {
        Ok(matched) => matched,
        Err(unmatched) => {
            let refuse =
                move |_| -> HandlerFuture { Box::pin(std::future::ready(Err((*unmatched.error).clone()))) };
            return Ok(Some(BatchOperation { ctx: Arc::new(ctx), handler: Box::new(refuse) }));
        }
    };
    let Dispatch::Pipeline(handler) = route.dispatch else { return Ok(None) };
    if !route.in_batch {
        return Ok(None);
    }
    let target = pipeline::audit_target(route, &params, &ctx.redactor);
    let ctx = RequestContext {
        scopes: route.auth.scopes(),
        requires_current_secret: route.requires_current_secret(),
        action: route.action,
        target,
        ..ctx
    };
    let ctx = Arc::new(ctx).with_access_change(&params, requested.body.as_ref());
    let app = call.app.clone();
    let disconnected = call.disconnected.clone();
    let memory = call.memory.clone();
    let query = query.to_owned();
    let body = requested.body;
    let handler = move |ctx: Arc<RequestContext>| -> HandlerFuture {
        if route.auth.requires_platform_key()
            && let Err(error) = ctx.caller.require_platform()
        {
            return Box::pin(std::future::ready(Err(error)));
        }
        let memory = memory.clone();
        let call = Call {
            app: app.clone(),
            ctx,
            path_params: params.clone(),
            query: query.clone(),
            negotiation: HeaderMap::new(),
            body: body.clone(),
            memory: memory.clone(),
            rate_limit: None,
            disconnected: disconnected.clone(),
        };
        Box::pin(async move {
            let reply = handler(call).await?;
            // Reserved within the transaction, so that a batch whose results take too much memory changes nothing.
            memory.grow(reply.max_memory_bytes())?;
            Ok(reply)
        })
    };
    Ok(Some(BatchOperation { ctx, handler: Box::new(handler) }))
}

/// Converts the result of an operation. The second value is true if it contains a secret.
pub(super) fn operation_result(
    call: &Call,
    id: Option<String>,
    result: Result<Reply>,
) -> Result<(OperationResult, bool)> {
    let request_id = call.ctx.context.request_id.as_deref().unwrap_or_default();
    let reply = result.unwrap_or_else(|error| {
        if let Some(cause) = &error.cause {
            let cause = &*call.ctx.redactor.redact(cause);
            tracing::error!(request_id, cause, "batch operation failed");
        }
        Reply::from_error(&error)
    });
    let Reply::Enveloped(enveloped) = reply else {
        return Err(Error::internal("a batch operation returned a raw response"));
    };
    let body = enveloped.to_json(call.ctx.now, request_id);
    let result = OperationResult {
        id,
        status: enveloped.status().as_u16(),
        etag: enveloped.etag().map(str::to_owned),
        body: RawValue::from_string(body).map_err(Error::internal)?,
    };
    Ok((result, enveloped.has_secret()))
}

fn batch_reply(
    call: &Call,
    operation_ids: Vec<Option<String>>,
    is_read: &[bool],
    outcome: BatchOutcome<Reply>,
) -> Result<Reply> {
    let mut has_secret = false;
    let mut results = Vec::with_capacity(operation_ids.len());
    for (id, result) in operation_ids.into_iter().zip(outcome.results) {
        let (result, has_secret_itself) = operation_result(call, id, result)?;
        has_secret |= has_secret_itself;
        results.push(result);
    }
    let Some(failed_index) = outcome.failed_index else {
        // A batch runs in a transaction that is already open only if its response is stored.
        let is_stored = call.ctx.seat.is_some();
        let stored = if is_stored { replay::to_stored_results(&results, is_read)? } else { None };
        let reply = Reply::ok(&BatchResults { results })?.with_stored_payload(stored);
        return Ok(if has_secret { reply.mark_secret() } else { reply });
    };
    let failed = FailedBatchError {
        code: Code::BatchFailed.name(),
        message: format!("The operation at /operations/{failed_index} failed; no changes were made."),
        details: [],
        results,
    };
    Reply::from_error_payload(Code::BatchFailed, &failed)
}

/// The `error` member of the response to an atomic batch that failed.
#[derive(Serialize)]
struct FailedBatchError {
    code: &'static str,
    message: String,
    details: [ErrorDetail; 0],
    results: Vec<OperationResult>,
}
