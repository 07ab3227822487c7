//! `Idempotency-Key` on its way from the headers to the service.

use std::sync::Arc;

use http::HeaderName;

use super::auth;
use super::batch;
use super::call::Call;
use super::reply::Reply;
use super::routes::Handler;
use super::server::Head;
use crate::domain::access::Caller;
use crate::error::{Code, Detail, Error, Result};
use crate::service::RequestContext;
use crate::service::idempotency::{self, IdempotentOutcome, IdempotentRequest};

/// The name of the header.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Characters that a key may have.
pub(crate) const LONGEST_KEY: usize = 255;

/// Claims the key that a call comes with, if it does.
pub(crate) fn claim(call: &Call, head: &Head, body: &[u8]) -> Result<Option<IdempotentRequest>> {
    let Some(key) = given(head)? else { return Ok(None) };
    let path = head.uri.path_and_query().map_or_else(|| head.uri.path(), |path| path.as_str());
    let token = auth::bearer(&head.headers)?;
    IdempotentRequest::claim(&call.app, &call.ctx, token, key, [head.method.as_str(), path], body).map(Some)
}

fn given(head: &Head) -> Result<Option<&str>> {
    let mut given = head.headers.get_all(IDEMPOTENCY_KEY).iter();
    let fault = |message: String| {
        let parameter = Some("Idempotency-Key".to_owned());
        Err(Error::invalid(vec![Detail { pointer: None, parameter, code: "INVALID_HEADER".into(), message }]))
    };
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => fault("Send Idempotency-Key once.".to_owned()),
        (Some(key), None) => match key.to_str() {
            Ok(key) if (1..=LONGEST_KEY).contains(&key.len()) => Ok(Some(key)),
            _ => fault(format!("Must have 1 to {LONGEST_KEY} characters, all of them visible ASCII.")),
        },
    }
}

/// Answers as before, or for the first time, and then keeps the answer.
pub(crate) async fn answer(call: Call, handler: Handler, idempotent: IdempotentRequest) -> Result<Reply> {
    let (app, ctx, idempotent) = (call.app.clone(), call.ctx.clone(), Arc::new(idempotent));
    let original = call.clone();
    let may_see = move |caller: &Caller| {
        batch::scopes(&original).into_iter().try_for_each(|scopes| caller.require_scope(scopes))
    };
    let within = Box::new(move |ctx: Arc<RequestContext>| handler(Call { ctx, ..call.clone() }));
    match idempotency::answer(&app, &ctx, &idempotent, within, Reply::to_stored, may_see).await {
        Ok(IdempotentOutcome::Executed(reply)) => Ok(reply),
        Ok(IdempotentOutcome::Replayed(stored)) => Reply::from_stored(stored),
        Ok(IdempotentOutcome::Refused(error)) => Err(error),
        // What the operation decided is kept, too.
        Err(error) if matches!(error.code.status(), 404 | 409) => {
            let reply = Reply::failed(&error);
            let stored =
                reply.to_stored().ok_or_else(|| Error::new(Code::Internal, "an answer without a body"))?;
            idempotency::refuse(&app, &ctx, &idempotent, &error, stored).await?;
            Ok(reply)
        }
        Err(error) => Err(error),
    }
}
