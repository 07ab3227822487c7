//! Batches: several operations in one transaction, one after the other, each as if it had come alone.

use std::cell::Cell;
use std::sync::Arc;

use super::within::{Handler, SameCaller};
use super::{RequestContext, aggregate_refusal, is_cheap, transact};
use crate::app::App;
use crate::domain::audit::Entry;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::db::Tx;

/// One of them.
pub(crate) struct Operation<R> {
    /// Who asks for it, with what right, for what.
    pub(crate) ctx: Arc<RequestContext>,
    /// Answers it.
    pub(crate) handler: Handler<R>,
}

/// What became of a batch.
pub(crate) struct Ran<R> {
    /// Of each operation, in their order.
    pub(crate) results: Vec<Result<R>>,
    /// The one that failed, and all others with it.
    pub(crate) failed_index: Option<usize>,
}

/// Runs them. Of an atomic batch either all are done or none; otherwise each stands for itself.
///
/// # Errors
/// What is no answer to one of them but concerns all: the disk is full, the server overloaded, and in an
/// atomic batch also a fault of ours. Nothing is done then.
pub(crate) async fn run<R: Send + 'static>(
    app: &App,
    ctx: &Arc<RequestContext>,
    atomic: bool,
    operations: Vec<Operation<R>>,
) -> Result<Ran<R>> {
    let (batch, clock) = (ctx.clone(), app.clock.clone());
    let operations = Arc::new(operations);
    let asked = operations.clone();
    let ran = transact(app, ctx, move |tx, caller| {
        let same = SameCaller::default();
        let one =
            |operation: &Operation<R>, tx: &Tx<'_>| same.run(tx, &clock, &operation.ctx, &operation.handler);
        let ran = if atomic { together(tx, &asked, one)? } else { each(tx, &asked, one)? };
        let code = ran.failed_index.map(|_| Code::BatchFailed);
        let event =
            batch.event(0, Entry::about(caller.organization_id()), code.map_or(200, Code::status), code);
        store::audit::append(tx, event)?;
        Ok(ran)
    })
    .await?;
    for (operation, result) in operations.iter().zip(&ran.results) {
        if let Err(error) = result {
            aggregate_refusal(app, &operation.ctx, error);
        }
    }
    Ok(ran)
}

/// All of them, or none.
fn together<R>(
    tx: &Tx<'_>,
    operations: &[Operation<R>],
    one: impl Fn(&Operation<R>, &Tx<'_>) -> Result<R>,
) -> Result<Ran<R>> {
    let done = Cell::new(0);
    let all = |tx: &Tx<'_>| {
        let results = operations.iter().map(|operation| {
            let result = one(operation, tx)?;
            done.set(done.get() + 1);
            Ok(Ok(result))
        });
        results.collect::<Result<Vec<_>>>()
    };
    match tx.attempt(all)? {
        Ok(results) => Ok(Ran { results, failed_index: None }),
        Err(error) if error.code.status() >= 500 => Err(error),
        Err(error) => {
            let failed_index = done.get();
            let results = operations.iter().enumerate().map(|(nth, operation)| {
                let error = if nth == failed_index { error.clone() } else { failed_dependency(failed_index) };
                record(tx, operation, &error)?;
                Ok(Err(error))
            });
            Ok(Ran { results: results.collect::<Result<_>>()?, failed_index: Some(failed_index) })
        }
    }
}

/// Each for itself.
fn each<R>(
    tx: &Tx<'_>,
    operations: &[Operation<R>],
    one: impl Fn(&Operation<R>, &Tx<'_>) -> Result<R>,
) -> Result<Ran<R>> {
    let results = operations.iter().map(|operation| match tx.attempt(|tx| one(operation, tx))? {
        Err(error) if error.code.status() > 500 && !error.caused_by_request => Err(error),
        Err(error) => {
            record(tx, operation, &error)?;
            Ok(Err(error))
        }
        done => Ok(done),
    });
    Ok(Ran { results: results.collect::<Result<_>>()?, failed_index: None })
}

/// The event of one that failed, behind the rollback of what it did; those that succeed record themselves.
fn record<R>(tx: &Tx<'_>, operation: &Operation<R>, error: &Error) -> Result<()> {
    if is_cheap(error) {
        return Ok(()); // Folded after the commit.
    }
    store::audit::append(tx, operation.ctx.refusal(error))
}

fn failed_dependency(failed_index: usize) -> Error {
    let message = format!("Not done, because the operation at /operations/{failed_index} failed.");
    Error::new(Code::FailedDependency, message)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
