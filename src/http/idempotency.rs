//! `Idempotency-Key`: connects the header and the handlers to the service.

use std::sync::Arc;

use http::HeaderName;

use super::auth;
use super::call::Call;
use super::replay;
use super::reply::Reply;
use super::routes::Handler;
use super::server::RequestHead;
use crate::domain::access::Caller;
use crate::domain::fields::Json;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::service::RequestContext;
use crate::service::idempotency::{self, IdempotentOutcome, IdempotentRequest, StoredResponse};

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

/// Runs the handler and stores its response, or replays the response of an earlier request.
pub(crate) async fn answer_idempotently(
    call: Call,
    handler: Handler,
    idempotent: IdempotentRequest,
) -> Result<Reply> {
    let app = call.app.clone();
    let ctx = call.ctx.clone();
    let idempotent = Arc::new(idempotent);
    let original = call.clone();
    let repeated = call.clone();
    let authorize_replay =
        move |caller: &Caller, stored: &StoredResponse| replay::authorize(&repeated, caller, stored);
    let execute = Box::new(move |ctx: Arc<RequestContext>| handler(Call { ctx, ..call.clone() }));
    match idempotency::run_or_replay(&app, &ctx, &idempotent, execute, Reply::to_stored, authorize_replay)
        .await
    {
        Ok(IdempotentOutcome::Executed(reply)) => Ok(reply),
        Ok(IdempotentOutcome::Replayed(replayed)) => replay::write_replayed(&original, replayed),
        Ok(IdempotentOutcome::Refused(error)) => Err(error),
        // Errors that the operation itself decides (404, 409) are stored and replayed like a success.
        Err(error) if matches!(error.code.status(), 404 | 409) => {
            let reply = Reply::from_error(&error);
            let stored = reply
                .to_stored()
                .ok_or_else(|| Error::new(Code::Internal, "an error response without a payload"))?;
            idempotency::record_and_store_refusal(&app, &ctx, &idempotent, &error, stored).await?;
            Ok(reply)
        }
        Err(error) => Err(error),
    }
}
