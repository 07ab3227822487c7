//! Batches: run several operations in one transaction and in order, each with the result that it would have
//! as a single request.

use std::cell::Cell;
use std::sync::Arc;

use super::within::{Handler, SameCaller};
use super::{RequestContext, aggregate_refusal, aggregate_unrecorded, is_aggregated, run_in_transaction};
use crate::app::App;
use crate::clock::Clock;
use crate::domain::audit::AuditEntry;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::db::Tx;

/// One operation of a batch.
pub(crate) struct BatchOperation<R> {
    pub(crate) ctx: Arc<RequestContext>,
    pub(crate) handler: Handler<R>,
}

/// The results of a batch.
pub(crate) struct BatchOutcome<R> {
    /// The result of each operation, in the order of the operations.
    pub(crate) results: Vec<Result<R>>,
    /// The index of the operation whose error failed an atomic batch; otherwise `None`.
    pub(crate) failed_index: Option<usize>,
    /// True if storage was full, so that neither reads nor refusals nor the batch have an audit event of their own.
    was_storage_full: bool,
}

/// Runs the operations of a batch. In an atomic batch, either all operations take effect or none; otherwise
/// each operation succeeds or fails independently.
///
/// # Errors
/// Failures of the server that concern the whole batch, such as a full disk or an overloaded server; in an
/// atomic batch also `INTERNAL`. If an error is returned, nothing was changed.
pub(crate) async fn run<R: Send + 'static>(
    app: &App,
    ctx: &Arc<RequestContext>,
    atomic: bool,
    operations: Vec<BatchOperation<R>>,
) -> Result<BatchOutcome<R>> {
    let batch_ctx = ctx.clone();
    let clock = app.clock.clone();
    let operations = Arc::new(operations);
    let batch = operations.clone();
    let outcome = run_in_transaction(app, ctx, move |tx, caller| {
        let shared_caller = SameCaller::default();
        let run_one = |operation: &BatchOperation<R>, tx: &Tx<'_>| {
            let result = shared_caller.run(tx, &clock, &operation.ctx, &operation.handler);
            operation.ctx.attempts.record_outcome(&result);
            result
        };
        let outcome =
            if atomic { run_atomic(tx, &batch, run_one)? } else { run_independent(tx, &batch, run_one)? };
        let code = outcome.failed_index.map(|_| Code::BatchFailed);
        let event = batch_ctx.audit_event(
            0,
            AuditEntry::without_target(caller.organization_id()),
            code.map_or(200, Code::status),
            code,
        );
        // On a full disk, the event of a batch without a withdrawal would only take room.
        if !tx.is_storage_full() || tx.may_use_reserve() {
            store::audit::append(tx, event)?;
        }
        Ok(outcome)
    })
    .await?;
    if outcome.was_storage_full {
        let executed = operations.iter().map(|operation| &operation.ctx).zip(&outcome.results);
        aggregate_unrecorded(app, executed);
        return Ok(outcome);
    }
    for (operation, result) in operations.iter().zip(&outcome.results) {
        if let Err(error) = result {
            aggregate_refusal(app, &operation.ctx, error);
        }
    }
    Ok(outcome)
}

/// Runs the operations of an atomic batch: either all operations take effect or none.
fn run_atomic<R>(
    tx: &Tx<'_>,
    operations: &[BatchOperation<R>],
    run_one: impl Fn(&BatchOperation<R>, &Tx<'_>) -> Result<R>,
) -> Result<BatchOutcome<R>> {
    let succeeded = Cell::new(0);
    let run_all = |tx: &Tx<'_>| {
        let results = operations.iter().map(|operation| {
            let result = run_one(operation, tx)?;
            succeeded.set(succeeded.get() + 1);
            Ok(Ok(result))
        });
        results.collect::<Result<Vec<_>>>()
    };
    match tx.run_in_savepoint(run_all)? {
        Ok(results) => {
            Ok(BatchOutcome { results, failed_index: None, was_storage_full: tx.is_storage_full() })
        }
        Err(error) if error.code.status() >= 500 => Err(error),
        Err(error) => {
            let failed_index = succeeded.get();
            operations.iter().for_each(|operation| operation.ctx.attempts.refuse());
            let results = operations.iter().enumerate().map(|(index, operation)| {
                let error =
                    if index == failed_index { error.clone() } else { failed_dependency_error(failed_index) };
                record_failed_operation(tx, operation, &error)?;
                Ok(Err(error))
            });
            Ok(BatchOutcome {
                results: results.collect::<Result<_>>()?,
                failed_index: Some(failed_index),
                was_storage_full: tx.is_storage_full(),
            })
        }
    }
}

/// Runs the operations of a batch that is not atomic: each operation succeeds or fails independently.
fn run_independent<R>(
    tx: &Tx<'_>,
    operations: &[BatchOperation<R>],
    run_one: impl Fn(&BatchOperation<R>, &Tx<'_>) -> Result<R>,
) -> Result<BatchOutcome<R>> {
    let results =
        operations.iter().map(|operation| match tx.run_in_savepoint(|tx| run_one(operation, tx))? {
            Err(error) if error.code.status() > 500 && !error.caused_by_request => Err(error),
            Err(error) => {
                record_failed_operation(tx, operation, &error)?;
                Ok(Err(error))
            }
            success => Ok(success),
        });
    let results = results.collect::<Result<Vec<_>>>()?;
    // While storage is full, a batch that takes no access away fails as a whole.
    if tx.is_storage_full() && !tx.may_use_reserve() {
        let mut errors = results.iter().filter_map(|result| result.as_ref().err());
        if let Some(full) = errors.find(|error| error.code == Code::StorageFull) {
            return Err(full.clone());
        }
    }
    Ok(BatchOutcome { results, failed_index: None, was_storage_full: tx.is_storage_full() })
}

/// Runs the reads of a batch again, for the replay of its response. Each read authorizes the caller as in the
/// transaction `tx`; the outer error fails the whole replay.
pub(super) fn run_reads<R>(
    tx: &Tx<'_>,
    clock: &Clock,
    reads: &[BatchOperation<R>],
) -> Result<Vec<Result<R>>> {
    let shared_caller = SameCaller::default();
    let run_one =
        |read: &BatchOperation<R>, tx: &Tx<'_>| shared_caller.run(tx, clock, &read.ctx, &read.handler);
    run_independent(tx, reads, run_one).map(|outcome| outcome.results)
}

/// Appends the audit event of a failed operation, whose changes were rolled back before. Successful
/// operations append their audit events themselves.
fn record_failed_operation<R>(tx: &Tx<'_>, operation: &BatchOperation<R>, error: &Error) -> Result<()> {
    // `run` aggregates these refusals after the commit.
    if is_aggregated(error) || tx.is_storage_full() {
        return Ok(());
    }
    store::audit::append(tx, operation.ctx.refusal_event(error))
}

fn failed_dependency_error(failed_index: usize) -> Error {
    let message = format!("Not executed because the operation at /operations/{failed_index} failed.");
    Error::new(Code::FailedDependency, message)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
