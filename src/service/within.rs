//! Handlers that run inside a transaction.
//!
//! Usually a handler runs outside the transaction: [`mutate`](super::mutate) sends the writer a closure.
//! Where more belongs in that same transaction (the other operations of a batch, a response that is stored
//! for its replay), the writer's thread runs the handler itself over the open transaction, from validation
//! to the finished response. The handler then sees everything that ran before it in the transaction, and
//! nothing about it or its response has to be known beforehand.

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

/// A handler. It can be started more than once; only its last run counts.
pub(crate) type Handler<R> =
    Box<dyn Fn(Arc<RequestContext>) -> Pin<Box<dyn Future<Output = Result<R>> + Send>> + Send + Sync>;

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

/// Runs a handler to completion over an open transaction, with the caller as read inside it. When the handler
/// fails, its changes are not rolled back here.
pub(crate) fn run<R>(tx: &Tx<'_>, clock: &Clock, ctx: &RequestContext, handler: &Handler<R>) -> Result<R> {
    run_as(tx, ctx.reload(tx, clock)?, ctx, handler)
}

/// The caller of several handlers in one transaction, read again only when something has changed.
#[derive(Default)]
pub(crate) struct SameCaller(RefCell<Option<(usize, Caller)>>);

impl SameCaller {
    /// Like [`run`], with the caller that all the handlers share.
    pub(crate) fn run<R>(
        &self,
        tx: &Tx<'_>,
        clock: &Clock,
        ctx: &RequestContext,
        handler: &Handler<R>,
    ) -> Result<R> {
        // Every change of a caller queues an invalidation, and a rollback removes it: as long as `told` is
        // the same, the caller is unchanged.
        let known = self.0.borrow().clone().filter(|(told, _)| *told == tx.told());
        let caller = match known {
            Some((_, caller)) => caller,
            None => ctx.read_caller(tx)?,
        };
        self.0.replace(Some((tx.told(), caller.clone())));
        ctx.admit(&caller, clock)?;
        run_as(tx, caller, ctx, handler)
    }
}

fn run_as<R>(tx: &Tx<'_>, caller: Caller, ctx: &RequestContext, handler: &Handler<R>) -> Result<R> {
    let seat = Arc::new(Seat::default());
    let mut future = handler(Arc::new(RequestContext { caller, seat: Some(seat.clone()), ..ctx.clone() }));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => match seat.take() {
                Some(work) => work(tx),
                // Nothing would wake the handler on this thread, and every queued write would wait for it.
                None => return Err(Error::internal("a handler waits for more than its transaction")),
            },
        }
    }
}
