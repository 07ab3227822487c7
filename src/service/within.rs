//! Runs handlers inside an open transaction.
//!
//! Usually a handler runs outside the transaction: [`mutate`](super::mutate) sends a closure to the writer.
//! If other work belongs to the same transaction (the other operations of a batch, or storing the response
//! for its replay), the writer's thread runs the whole handler over the open transaction, from validation to
//! the finished response. The handler then sees all earlier changes of the transaction, and the transaction
//! needs no knowledge of the handler or its response in advance.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;

use super::RequestContext;
use crate::clock::Clock;
use crate::domain::access::Caller;
use crate::error::{Error, Result};
use crate::store::db::Tx;

/// The handler of an operation. A handler can be run more than once, because the writer may repeat a
/// transaction; only the last run takes effect.
pub(crate) type Handler<R> =
    Box<dyn Fn(Arc<RequestContext>) -> Pin<Box<dyn Future<Output = Result<R>> + Send>> + Send + Sync>;

/// A closure that a handler runs in the open transaction.
type Work = Box<dyn FnOnce(&Tx<'_>) + Send>;

/// Slot through which a handler hands its closure to the transaction's thread.
#[derive(Default)]
pub(crate) struct Seat(Mutex<Option<Work>>);

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seat")
    }
}

impl Seat {
    /// Runs `work` in the open transaction.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Box::new(move |tx| drop(sender.send(work(tx)))));
        receiver.await.map_err(|_| Error::internal("a transaction ended before its handler"))?
    }

    fn take(&self) -> Option<Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs a handler to completion in an open transaction, after reading its caller in that transaction. If the
/// handler fails, this function doesn't roll back the handler's changes.
pub(crate) fn run<R>(tx: &Tx<'_>, clock: &Clock, ctx: &RequestContext, handler: &Handler<R>) -> Result<R> {
    run_with_caller(tx, ctx.reload_caller(tx, clock)?, ctx, handler)
}

/// The caller shared by several handlers in one transaction. The caller is read again only if an earlier
/// handler may have changed it.
#[derive(Default)]
pub(crate) struct SameCaller(RefCell<Option<(usize, Caller)>>);

impl SameCaller {
    /// Runs a handler like [`run`], but reads the shared caller only if an earlier handler may have changed
    /// it.
    pub(crate) fn run<R>(
        &self,
        tx: &Tx<'_>,
        clock: &Clock,
        ctx: &RequestContext,
        handler: &Handler<R>,
    ) -> Result<R> {
        // Every change of a caller queues an invalidation, and a rollback removes the invalidation. The
        // caller is therefore unchanged as long as `told`, the number of queued invalidations, is unchanged.
        let known = self.0.borrow().clone().filter(|(told, _)| *told == tx.told());
        let caller = match known {
            Some((_, caller)) => caller,
            None => ctx.read_caller(tx)?,
        };
        self.0.replace(Some((tx.told(), caller.clone())));
        ctx.ensure_admitted(&caller, clock)?;
        run_with_caller(tx, caller, ctx, handler)
    }
}

fn run_with_caller<R>(tx: &Tx<'_>, caller: Caller, ctx: &RequestContext, handler: &Handler<R>) -> Result<R> {
    let seat = Arc::new(Seat::default());
    let mut future = handler(Arc::new(RequestContext { caller, seat: Some(seat.clone()), ..ctx.clone() }));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => match seat.take() {
                Some(work) => work(tx),
                // The handler waits for something other than the transaction, which nothing would complete on
                // this thread, while every queued write waits.
                None => return Err(Error::internal("a handler waits for more than its transaction")),
            },
        }
    }
}
