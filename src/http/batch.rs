//! `/admin/v1/batch`

use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::value::RawValue;

use super::call::Call;
use super::reply::{self, Reply};
use super::route::Dispatch;
use super::router::{RouteMatch, Router};
use crate::domain::access::Caller;
use crate::domain::action::{Access, Action};
use crate::domain::audit::{Event, EventContext};
use crate::domain::batch::{
    Batch as RequestedBatch, Method as OperationMethod, Operation as RequestedOperation,
};
use crate::domain::id::Kind;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::service::RequestContext;
use crate::service::batch::{Batch, BatchOperation, BatchOutcome};
use crate::service::operation::{self, Answer, Applied, Tx};

/// The path prefix of all operations of a batch; an operation may omit it.
const PATH_PREFIX: &str = "/admin/v1";
/// Why an operation with an unknown path fails.
const NOT_AN_ADMIN_PATH: &str =
    "The Admin API doesn't have this path, and a batch can contain only operations of the Admin API.";

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
/// Lists, exports, batches and requests outside the Admin API can't be operations.
///
/// If an operation of an atomic batch fails, no changes are made: `error.results` has its status, and
/// `424` for all others. In a batch that isn't atomic, operations succeed or fail independently.
#[utoipa::path(
    post, path = "/admin/v1/batch", tag = "Batch", operation_id = "runBatch",
    request_body = RequestedBatch,
    responses(
        (status = 200, description = "The batch ran; `results` has the status of each operation.", body = BatchResults),
        (status = 409, description = "`BATCH_FAILED`: an operation failed and no changes were made; see `error.results`."),
    ),
)]
pub(crate) async fn run_batch(call: Call, router: &Router) -> Result<Reply> {
    let batch = PreparedBatch::prepare(&call, router).await?;
    operation::apply(&call.app, &call.ctx, batch, PreparedBatch::apply).await.map(Reply::from)
}

/// A batch whose operations are prepared.
pub(super) struct PreparedBatch {
    batch: Batch,
    /// The ids that the client gave to the operations.
    ids: Vec<Option<String>>,
}

impl PreparedBatch {
    /// Prepares all operations of a batch.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, also if the route of an operation can't be used in a batch. An operation that can't be prepared
    /// is no error here.
    pub(super) async fn prepare(call: &Call, router: &Router) -> Result<Self> {
        call.reject_query()?;
        let requested = RequestedBatch::read(call.require_body()?)?;
        let batch_id = call.app.new_id(Kind::Batch)?;
        let mut ids = Vec::with_capacity(requested.operations.len());
        let mut operations = Vec::with_capacity(requested.operations.len());
        let mut details = Vec::new();
        for (index, operation) in requested.operations.into_iter().enumerate() {
            ids.push(operation.id.clone());
            match prepare_operation(call, router, &batch_id, operation).await? {
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
        let context = EventContext { batch_id: Some(batch_id), ..call.ctx.context.clone() };
        let batch = Batch {
            ctx: Arc::new(RequestContext { context, ..(*call.ctx).clone() }),
            clock: call.app.clock.clone(),
            atomic: requested.atomic,
            operations,
            memory: call.memory.clone(),
        };
        Ok(Self { batch, ids })
    }

    /// Runs the batch in a transaction.
    ///
    /// # Errors
    /// Those of [`Batch::apply`].
    pub(super) fn apply(&mut self, tx: &Tx<'_>, caller: &Caller) -> Result<Applied> {
        self.apply_and_keep(tx, caller, |_, _| Ok(None))
    }

    /// Like [`apply`](Self::apply), for an answer that is kept: `stored_data` returns its JSON in the form that is stored,
    /// or `None` if that is the JSON of the response.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply), and of `stored_data`.
    pub(super) fn apply_and_keep(
        &mut self,
        tx: &Tx<'_>,
        caller: &Caller,
        stored_data: fn(&[OperationResult], &[BatchOperation]) -> Result<Option<String>>,
    ) -> Result<Applied> {
        let BatchOutcome { results, failed_index, aggregated } = self.batch.apply(tx, caller)?;
        let holds_secret =
            results.iter().any(|result| result.as_ref().is_ok_and(|answer| answer.holds_secret));
        let results = self.results(results)?;
        let Some(failed_index) = failed_index else {
            let stored_data = stored_data(&results, self.operations())?;
            let answer = Answer { holds_secret, ..Answer::ok(&BatchResults { results })? };
            return Ok(Applied { answer, stored_data, aggregated });
        };
        let failed = FailedBatchError {
            code: Code::BatchFailed.name(),
            message: format!("The operation at /operations/{failed_index} failed; no changes were made."),
            details: [],
            results,
        };
        let answer = Answer::error(Code::BatchFailed, &failed)?;
        Ok(Applied { answer, stored_data: None, aggregated })
    }

    /// The context of the batch, with its id.
    pub(super) fn ctx(&self) -> &Arc<RequestContext> {
        &self.batch.ctx
    }

    /// The operations, in order.
    pub(super) fn operations(&self) -> &[BatchOperation] {
        &self.batch.operations
    }

    /// Runs the reads with these indexes again, and returns their results and the events to aggregate.
    pub(super) fn run_reads(
        &mut self,
        tx: &Tx<'_>,
        reads: &[usize],
    ) -> Result<(Vec<OperationResult>, Vec<Event>)> {
        let outcome = self.batch.run_reads(tx, reads)?;
        let results = reads.iter().zip(outcome.results);
        let results = results.map(|(index, result)| self.result(*index, result)).collect::<Result<_>>()?;
        Ok((results, outcome.aggregated))
    }

    fn results(&self, results: Vec<Result<Answer>>) -> Result<Vec<OperationResult>> {
        results.into_iter().enumerate().map(|(index, result)| self.result(index, result)).collect()
    }

    /// Converts the result of an operation.
    fn result(&self, index: usize, result: Result<Answer>) -> Result<OperationResult> {
        let ctx = &self.batch.ctx;
        let request_id = ctx.context.request_id.as_deref().unwrap_or_default();
        let answer = result.unwrap_or_else(|error| {
            if let Some(cause) = &error.cause {
                let cause = &*ctx.redactor.redact(cause);
                tracing::error!(request_id, cause, "batch operation failed");
            }
            Answer::from_error(&error)
        });
        let body = reply::envelope(&answer, None, ctx.now, request_id);
        Ok(OperationResult {
            id: self.ids.get(index).cloned().flatten(),
            status: answer.status,
            etag: answer.etag,
            body: RawValue::from_string(body).map_err(Error::internal)?,
        })
    }
}

/// Adds [`PATH_PREFIX`] to an operation's path that omits the prefix.
fn add_path_prefix(path: &str) -> String {
    let has_prefix = path.strip_prefix(PATH_PREFIX).is_some_and(|rest| rest.starts_with('/'));
    if has_prefix { path.to_owned() } else { format!("{PATH_PREFIX}{path}") }
}

/// Prepares an operation with the authorization of its route. `None` if the route can't be used in a batch.
async fn prepare_operation(
    call: &Call,
    router: &Router,
    batch_id: &str,
    requested: RequestedOperation,
) -> Result<Option<BatchOperation>> {
    let method = requested.method.name();
    let path = add_path_prefix(&requested.path);
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let matched = router.find(&Method::from_bytes(method.as_bytes()).map_err(Error::internal)?, path);
    let ctx = RequestContext {
        scopes: &[],
        requires_current_secret: false,
        requires_platform_key: false,
        action: Action::RequestRefused,
        access: if requested.method == OperationMethod::Get { Access::Read } else { Access::Write },
        if_match: requested.if_match,
        target: None,
        context: EventContext {
            method: Some(method.to_owned()),
            path: Some(call.ctx.redactor.recorded_text(path)),
            batch_id: Some(batch_id.to_owned()),
            ..call.ctx.context.clone()
        },
        random: call.app.random_bits()?,
        ..(*call.ctx).clone()
    };
    let RouteMatch { route, params, .. } = match matched {
        Ok(matched) => matched,
        Err(unmatched) => {
            let error = match unmatched.error.code {
                // The path may exist outside the Admin API.
                Code::NotFound => Error::new(Code::NotFound, NOT_AN_ADMIN_PATH),
                _ => *unmatched.error,
            };
            return Ok(Some(BatchOperation { ctx: Arc::new(ctx), prepared: Err(error) }));
        }
    };
    let Dispatch::Operation(prepare) = route.dispatch else { return Ok(None) };
    let target = route.audit_target(&params, &ctx.redactor);
    let ctx = RequestContext {
        scopes: route.auth.scopes(),
        requires_current_secret: route.action.requires_current_secret(),
        requires_platform_key: route.auth.requires_platform_key(),
        action: route.action,
        target,
        ..ctx
    };
    let ctx = Arc::new(ctx).with_access_change(&params, requested.body.as_ref());
    let call = Call {
        app: call.app.clone(),
        ctx: ctx.clone(),
        path_params: params,
        query: query.to_owned(),
        negotiation: HeaderMap::new(),
        body: requested.body,
        memory: call.memory.clone(),
        rate_limit: None,
        disconnected: call.disconnected.clone(),
    };
    Ok(Some(BatchOperation { ctx, prepared: prepare(call).await }))
}

/// The `error` member of the response to an atomic batch that failed.
#[derive(Serialize)]
struct FailedBatchError {
    code: &'static str,
    message: String,
    details: [ErrorDetail; 0],
    results: Vec<OperationResult>,
}
