//! `Idempotency-Key`: connects the header and the handlers to the service.

use std::sync::Arc;

use http::HeaderName;

use super::auth;
use super::batch::PreparedBatch;
use super::call::Call;
use super::conn::request_head::RequestHead;
use super::replay;
use super::reply::Reply;
use super::route::Prepare;
use super::router::Router;
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::fields::Json;
use crate::error::{Error, ErrorDetail, Result};
use crate::service::RequestContext;
use crate::service::idempotency::{self, IdempotentOutcome, IdempotentRequest, Replay};
use crate::service::operation::{Answer, Applied, Apply, Operation, Tx};

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Maximum length of an idempotency key, in ASCII characters.
pub(crate) const MAX_IDEMPOTENCY_KEY_LENGTH: usize = 255;

/// Claims the idempotency key of a call; `None` if the call has no `Idempotency-Key` header.
///
/// # Errors
/// `INVALID_REQUEST` if the header is invalid; otherwise the errors of [`IdempotentRequest::claim`].
pub(crate) fn claim_idempotency_key(
    call: &Call,
    head: &RequestHead,
    body: &[u8],
) -> Result<Option<IdempotentRequest>> {
    let Some(key) = idempotency_key_header(head)? else { return Ok(None) };
    let path = head.uri.path_and_query().map_or_else(|| head.uri.path(), |path| path.as_str());
    let token = auth::bearer_token(&head.headers)?;
    let mut idempotent =
        IdempotentRequest::claim(&call.app, &call.ctx, token, key, [head.method.as_str(), path], body)?;
    if call.body.as_ref().is_some_and(Json::holds_secret) || call.ctx.redactor.contains_secret(path) {
        idempotent.seal_response();
    }
    Ok(Some(idempotent))
}

fn idempotency_key_header(head: &RequestHead) -> Result<Option<&str>> {
    let mut values = head.headers.get_all(IDEMPOTENCY_KEY).iter();
    let fault = |message: String| {
        let parameter = Some("Idempotency-Key".to_owned());
        Err(Error::invalid_request(vec![ErrorDetail {
            pointer: None,
            parameter,
            code: "INVALID_HEADER".into(),
            message,
        }]))
    };
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => fault("Send the Idempotency-Key header only once.".to_owned()),
        (Some(key), None) => match key.to_str() {
            Ok(key) if (1..=MAX_IDEMPOTENCY_KEY_LENGTH).contains(&key.len()) => Ok(Some(key)),
            _ => fault(format!("Must be 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} visible ASCII characters.")),
        },
    }
}

/// Applies an operation and stores its answer, or replays the answer of an earlier request.
pub(crate) async fn answer_operation(
    call: Call,
    prepare: Prepare,
    idempotent: IdempotentRequest,
) -> Result<Reply> {
    let (app, ctx) = (call.app.clone(), call.ctx.clone());
    let prepared = PreparedOperation { ctx: ctx.clone(), operation: prepare(call).await };
    let replay: Replay<PreparedOperation> = |_, tx, caller, stored| replay::operation(tx, caller, stored);
    answer(&app, &ctx, idempotent, prepared, PreparedOperation::apply, replay).await
}

/// An operation that may be replayed. Then an error of its preparation, such as an expiry that has passed meanwhile,
/// doesn't count.
struct PreparedOperation {
    ctx: Arc<RequestContext>,
    operation: Result<Operation>,
}

impl PreparedOperation {
    fn apply(&mut self, tx: &Tx<'_>, caller: &Caller) -> Result<Applied> {
        let operation = self.operation.as_mut().map_err(|error| error.clone())?;
        operation.apply(tx, &self.ctx, caller).map(Applied::from)
    }
}

/// Runs a batch and stores its answer, or replays the answer of an earlier request.
pub(crate) async fn answer_batch(
    call: Call,
    router: &Router,
    idempotent: IdempotentRequest,
) -> Result<Reply> {
    let prepared = PreparedBatch::prepare(&call, router).await;
    let ctx = prepared.as_ref().map_or(&call.ctx, PreparedBatch::ctx).clone();
    let apply: Apply<Result<PreparedBatch>> = |prepared, tx, caller| {
        let batch = prepared.as_mut().map_err(|error| error.clone())?;
        batch.apply_and_keep(tx, caller, replay::to_stored_results)
    };
    let replay: Replay<Result<PreparedBatch>> = |prepared, tx, caller, stored| {
        replay::batch(prepared.as_mut().map_err(|error| error.clone())?, tx, caller, stored)
    };
    answer(&call.app, &ctx, idempotent, prepared, apply, replay).await
}

async fn answer<P: Send + 'static>(
    app: &App,
    ctx: &Arc<RequestContext>,
    idempotent: IdempotentRequest,
    prepared: P,
    apply: Apply<P>,
    replay: Replay<P>,
) -> Result<Reply> {
    let idempotent = Arc::new(idempotent);
    match idempotency::apply_or_replay(app, ctx, &idempotent, prepared, apply, replay).await {
        Ok(IdempotentOutcome::Applied(answer)) => Ok(answer.into()),
        Ok(IdempotentOutcome::Replayed(answer)) => Ok(Reply::replayed(answer)),
        Ok(IdempotentOutcome::Refused(error)) => Err(error),
        // Stored and replayed like a success.
        Err(error) if error.code.is_decided_by_operation() => {
            let answer = Answer::from_error(&error);
            idempotency::record_and_store_refusal(app, ctx, &idempotent, &error, answer.clone()).await?;
            Ok(answer.into())
        }
        Err(error) => Err(error),
    }
}
