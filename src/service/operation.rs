//! Operations on single resources, in two steps. Preparing one parses and validates the request, hashes, and draws random
//! numbers: it may wait, and nothing is locked. Applying it reads and writes in a transaction: the writer runs it on its
//! own thread, and may run it again. Single requests, batches and requests with an `Idempotency-Key` apply the same
//! operations.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{
    RequestContext, aggregate_events, record_change, record_or_aggregate, record_read, run_in_transaction,
};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::action::{Access, Action};
use crate::domain::audit::{AuditEntry, Event};
use crate::error::{Code, Error, ErrorDetail, Result};
/// The transaction in which operations are applied.
pub(crate) use crate::store::db::Tx;

/// The answer to an operation, in the form that is kept for an `Idempotency-Key`.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The `data` or, if the status isn't a success, the `error` of the response, as JSON.
    pub(crate) data: String,
    /// The strong ETag of the resource; `None` if it has none.
    pub(crate) etag: Option<String>,
    /// True if `data` contains the secret of a key.
    pub(crate) holds_secret: bool,
    /// The code of an error; `None` for a success, and for an answer that was kept.
    pub(crate) code: Option<Code>,
}

impl Answer {
    /// The answer with this status and data.
    ///
    /// # Errors
    /// `INTERNAL` if the data can't be serialized.
    pub(crate) fn new(status: u16, data: &impl Serialize) -> Result<Self> {
        let data = serde_json::to_string(data).map_err(Error::internal)?;
        Ok(Self { status, data, etag: None, holds_secret: false, code: None })
    }

    /// The answer with status 200.
    pub(crate) fn ok(data: &impl Serialize) -> Result<Self> {
        Self::new(200, data)
    }

    /// The answer with status 201.
    pub(crate) fn created(data: &impl Serialize) -> Result<Self> {
        Self::new(201, data)
    }

    /// The answer to a request that failed with this code, whose error has more fields than an [`Error`].
    pub(crate) fn error(code: Code, error: &impl Serialize) -> Result<Self> {
        Ok(Self { code: Some(code), ..Self::new(code.status(), error)? })
    }

    pub(crate) fn with_etag(self, etag: String) -> Self {
        Self { etag: Some(etag), ..self }
    }

    pub(crate) fn holding_secret(self) -> Self {
        Self { holds_secret: true, ..self }
    }

    /// The answer to a request that failed.
    pub(crate) fn from_error(error: &Error) -> Self {
        let data = ErrorData { code: error.code.name(), message: &error.message, details: &error.details };
        let data = serde_json::to_string(&data).unwrap_or_default();
        Self { status: error.code.status(), data, etag: None, holds_secret: false, code: Some(error.code) }
    }

    /// Maximum memory that the answer takes until it is sent, in bytes: its JSON exists twice while the envelope is
    /// written around it.
    pub(crate) fn max_memory_bytes(&self) -> usize {
        2 * self.data.len()
    }
}

/// The `error` of a response.
#[derive(Serialize)]
struct ErrorData<'a> {
    code: &'a str,
    message: &'a str,
    details: &'a [ErrorDetail],
}

/// The data of the answer to a deletion.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Deleted<'a> {
    /// The id of the deleted resource.
    #[schema(value_type = String)]
    pub(crate) id: &'a str,
    /// Always `true`.
    pub(crate) deleted: bool,
}

/// What an operation does in a transaction: returns its answer and the entries for the audit log.
type Work = Box<dyn FnMut(&Tx<'_>, &Caller) -> Result<(Answer, Vec<AuditEntry>)> + Send>;

/// A prepared operation.
pub struct Operation(Work);

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operation")
    }
}

impl Operation {
    pub(crate) fn new(
        work: impl FnMut(&Tx<'_>, &Caller) -> Result<(Answer, Vec<AuditEntry>)> + Send + 'static,
    ) -> Self {
        Self(Box::new(work))
    }

    /// Does the work of the operation in a transaction, without recording it there.
    pub(super) fn work(&mut self, tx: &Tx<'_>, caller: &Caller) -> Result<(Answer, Vec<AuditEntry>)> {
        (self.0)(tx, caller)
    }

    /// Applies the operation in a transaction, and records it there. `caller` is the caller as read in the same
    /// transaction. If the operation fails, its changes must be rolled back.
    pub(crate) fn apply(&mut self, tx: &Tx<'_>, ctx: &RequestContext, caller: &Caller) -> Result<Answer> {
        let (answer, entries) = self.work(tx, caller)?;
        match ctx.access {
            Access::Read => record_read(tx, ctx, entries)?,
            Access::Write => record_change(tx, ctx, answer.status, entries)?,
        }
        Ok(answer)
    }

    /// Runs the operation in a transaction of its own. A change returns after the commit; if an error is returned, nothing
    /// was changed. A read is recorded before it returns.
    ///
    /// # Errors
    /// Those of the operation, and of the database.
    pub async fn run(self, app: &App, ctx: &Arc<RequestContext>) -> Result<()> {
        self.answer(app, ctx).await.map(drop)
    }

    /// [`run`](Self::run), with the answer.
    pub(crate) async fn answer(mut self, app: &App, ctx: &Arc<RequestContext>) -> Result<Answer> {
        let context = ctx.clone();
        if ctx.access == Access::Read {
            let (answer, entries) = app.db.read(move |tx| (self.0)(tx, &context.caller)).await?;
            for (index, entry) in entries.into_iter().enumerate() {
                let event = ctx.audit_event(index, entry, answer.status, None);
                record_or_aggregate(app, ctx, event, Action::RequestRead).await?;
            }
            return Ok(answer);
        }
        run_in_transaction(app, ctx, move |tx, caller| self.apply(tx, &context, caller)).await
    }
}

/// Applies a prepared request in a transaction.
pub(crate) type Apply<P> = fn(&mut P, &Tx<'_>, &Caller) -> Result<Applied>;

/// What a transaction has done for a request.
pub(crate) struct Applied {
    pub(crate) answer: Answer,
    /// The data to store for a replay; `None` if it is that of the answer.
    pub(crate) stored_data: Option<String>,
    /// The events that are not stored in the transaction, to be aggregated after the commit.
    pub(crate) aggregated: Vec<Event>,
}

impl From<Answer> for Applied {
    fn from(answer: Answer) -> Self {
        Self { answer, stored_data: None, aggregated: Vec::new() }
    }
}

/// Applies a prepared request in a transaction of its own. Returns after the commit; if an error is returned, nothing was
/// changed.
///
/// # Errors
/// Those of `apply`, and of the database.
pub(crate) async fn apply<P: Send + 'static>(
    app: &App,
    ctx: &Arc<RequestContext>,
    mut prepared: P,
    apply: Apply<P>,
) -> Result<Answer> {
    let run = move |tx: &Tx<'_>, caller: &Caller| apply(&mut prepared, tx, caller);
    let Applied { answer, aggregated, .. } = run_in_transaction(app, ctx, run).await?;
    aggregate_events(app, ctx, aggregated);
    Ok(answer)
}
