//! Batches: run several operations in one transaction and in order, each with the result that it would have
//! as a single request.

use std::sync::Arc;

use super::operation::{Answer, Operation};
use super::{RequestContext, is_aggregated, unstored_read, unstored_refusal};
use crate::app::request_memory::MemoryReservation;
use crate::clock::Clock;
use crate::domain::access::Caller;
use crate::domain::action::Access;
use crate::domain::audit::{AuditEntry, Event};
use crate::error::{Code, CodeClass, Error, Result};
use crate::store;
use crate::store::db::Tx;

/// A batch that is ready to be applied.
pub(crate) struct Batch {
    pub(crate) ctx: Arc<RequestContext>,
    pub(crate) clock: Clock,
    /// True if either all operations take effect or none.
    pub(crate) atomic: bool,
    pub(crate) operations: Vec<BatchOperation>,
    /// The memory of the request, to which each answer is added: a batch whose answers take too much memory changes
    /// nothing.
    pub(crate) memory: Arc<MemoryReservation>,
}

/// One operation of a batch.
pub(crate) struct BatchOperation {
    pub(crate) ctx: Arc<RequestContext>,
    /// The error if the operation could not be prepared. It counts once the caller is authorized for the operation.
    pub(crate) prepared: Result<Operation>,
}

/// The results of a batch.
pub(crate) struct BatchOutcome {
    /// The result of each operation, in the order of the operations.
    pub(crate) results: Vec<Result<Answer>>,
    /// The index of the operation whose error failed an atomic batch; otherwise `None`.
    pub(crate) failed_index: Option<usize>,
    /// The events that are not stored in the transaction, to be aggregated after the commit.
    pub(crate) aggregated: Vec<Event>,
}

/// The caller shared by several operations in one transaction. The caller is read again only if an earlier
/// operation may have changed it.
#[derive(Default)]
struct SharedCaller(Option<(usize, Caller)>);

impl SharedCaller {
    fn read(&mut self, tx: &Tx<'_>, ctx: &RequestContext) -> Result<&Caller> {
        // Every change of a caller queues an invalidation, and a rollback removes the invalidation. The
        // caller is therefore unchanged as long as their number is.
        let count = tx.invalidation_count();
        let caller = match self.0.take() {
            Some((known, caller)) if known == count => caller,
            _ => ctx.read_caller(tx)?,
        };
        Ok(&self.0.insert((count, caller)).1)
    }
}

impl Batch {
    /// Runs the operations in a transaction, and records the batch. In an atomic batch, either all operations take effect
    /// or none; otherwise each operation succeeds or fails independently.
    ///
    /// # Errors
    /// Failures of the server that concern the whole batch, such as a full disk or an overloaded server; in an
    /// atomic batch also `INTERNAL`. The changes must then be rolled back.
    pub(crate) fn apply(&mut self, tx: &Tx<'_>, caller: &Caller) -> Result<BatchOutcome> {
        let outcome = if self.atomic { self.run_atomic(tx)? } else { self.run_independent(tx)? };
        let code = outcome.failed_index.map(|_| Code::BatchFailed);
        let entry = AuditEntry::without_target(caller.organization_id());
        let event = self.ctx.audit_event(0, entry, code.map_or(200, Code::status), code);
        // On a full disk, the event of a batch without a withdrawal would only take room.
        if !tx.is_storage_full() || tx.may_use_reserve() {
            store::audit::append(tx, event)?;
        }
        Ok(outcome)
    }

    fn run_atomic(&mut self, tx: &Tx<'_>) -> Result<BatchOutcome> {
        let mut succeeded = 0;
        let mut shared = SharedCaller::default();
        let applied = tx.run_in_savepoint(|tx| {
            let results = (0..self.operations.len()).map(|index| {
                let answer = self.run_one(index, tx, &mut shared)?;
                succeeded += 1;
                Ok(Ok(answer))
            });
            results.collect::<Result<Vec<_>>>()
        })?;
        match applied {
            Ok(results) => Ok(self.outcome(tx, results, None)),
            Err(error) if error.code.is_server_error() => Err(error),
            Err(error) => {
                let results = self.operations.iter().enumerate().map(|(index, operation)| {
                    operation.ctx.attempts.refuse();
                    let error =
                        if index == succeeded { error.clone() } else { failed_dependency_error(succeeded) };
                    record_failed_operation(tx, &operation.ctx, &error)?;
                    Ok(Err(error))
                });
                let results = results.collect::<Result<_>>()?;
                Ok(self.outcome(tx, results, Some(succeeded)))
            }
        }
    }

    fn run_independent(&mut self, tx: &Tx<'_>) -> Result<BatchOutcome> {
        let all = 0..self.operations.len();
        let results = self.run_each(tx, all)?;
        // While storage is full, a batch that takes no access away fails as a whole.
        if tx.is_storage_full() && !tx.may_use_reserve() {
            let mut errors = results.iter().filter_map(|result| result.as_ref().err());
            if let Some(full) = errors.find(|error| error.code == Code::StorageFull) {
                return Err(full.clone());
            }
        }
        Ok(self.outcome(tx, results, None))
    }

    /// Runs the reads of the batch with these indexes again, for the replay of its response. Each read authorizes the
    /// caller as in the transaction `tx`.
    ///
    /// # Errors
    /// Failures of the server that concern the whole replay.
    pub(crate) fn run_reads(&mut self, tx: &Tx<'_>, reads: &[usize]) -> Result<BatchOutcome> {
        let results = self.run_each(tx, reads.iter().copied())?;
        let ran = reads.iter().filter_map(|index| self.operations.get(*index)).zip(&results);
        let aggregated = unstored_events(tx, ran);
        Ok(BatchOutcome { results, failed_index: None, aggregated })
    }

    /// Runs the operations with these indexes: each succeeds or fails independently.
    fn run_each(&mut self, tx: &Tx<'_>, indexes: impl Iterator<Item = usize>) -> Result<Vec<Result<Answer>>> {
        let mut shared = SharedCaller::default();
        let results =
            indexes.map(|index| match tx.run_in_savepoint(|tx| self.run_one(index, tx, &mut shared))? {
                Err(error) if error.code.class() == CodeClass::Unavailable && !error.caused_by_request => {
                    Err(error)
                }
                Err(error) => {
                    record_failed_operation(tx, &self.operations[index].ctx, &error)?;
                    Ok(Err(error))
                }
                success => Ok(success),
            });
        results.collect()
    }

    fn run_one(&mut self, index: usize, tx: &Tx<'_>, shared: &mut SharedCaller) -> Result<Answer> {
        let BatchOperation { ctx, prepared } = &mut self.operations[index];
        let mut run = || {
            let caller = shared.read(tx, ctx)?;
            ctx.ensure_admitted(caller, &self.clock)?;
            let answer = prepared.as_mut().map_err(|error| error.clone())?.apply(tx, ctx, caller)?;
            self.memory.grow(answer.max_memory_bytes())?;
            Ok(answer)
        };
        let result = run();
        ctx.attempts.record_outcome(&result);
        result
    }

    fn outcome(
        &self,
        tx: &Tx<'_>,
        results: Vec<Result<Answer>>,
        failed_index: Option<usize>,
    ) -> BatchOutcome {
        let aggregated = unstored_events(tx, self.operations.iter().zip(&results));
        BatchOutcome { results, failed_index, aggregated }
    }
}

/// The events of operations that were not stored in the transaction: refusals that a client can repeat cheaply and, while
/// storage is full, all reads and refusals.
fn unstored_events<'a>(
    tx: &Tx<'_>,
    ran: impl Iterator<Item = (&'a BatchOperation, &'a Result<Answer>)>,
) -> Vec<Event> {
    let is_storage_full = tx.is_storage_full();
    let event = |(operation, result): (&BatchOperation, &Result<Answer>)| match result {
        Ok(_) if operation.ctx.access == Access::Read && is_storage_full => {
            Some(unstored_read(&operation.ctx))
        }
        Ok(_) => None,
        Err(error) => unstored_refusal(&operation.ctx, error, is_storage_full),
    };
    ran.filter_map(event).collect()
}

/// Appends the audit event of a failed operation, whose changes were rolled back before, unless it is aggregated.
/// Successful operations append their audit events themselves.
fn record_failed_operation(tx: &Tx<'_>, ctx: &RequestContext, error: &Error) -> Result<()> {
    if is_aggregated(error) || tx.is_storage_full() {
        return Ok(());
    }
    store::audit::append(tx, ctx.refusal_event(error))
}

fn failed_dependency_error(failed_index: usize) -> Error {
    let message = format!("Not executed because the operation at /operations/{failed_index} failed.");
    Error::new(Code::FailedDependency, message)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
