//! Handlers within a transaction.
//!
//! Mostly a handler runs outside of it: [`mutate`](super::mutate) sends the writer what is to be done. Where
//! more belongs into that same transaction (the other operations of a batch, an answer that is kept for its
//! repetition), the writer's thread runs the handler itself, over the open transaction, from its first
//! fault to its finished answer. So it meets everything as those before it left it, and nothing of it, nor
//! of its answer, has to be known beforehand.

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

/// A handler, which can be begun more than once: only its last run counts.
pub(crate) type Handler<R> =
    Box<dyn Fn(Arc<RequestContext>) -> Pin<Box<dyn Future<Output = Result<R>> + Send>> + Send + Sync>;

type Work = Box<dyn FnOnce(&Tx<'_>) + Send>;

/// Where a handler within a transaction lays down what it wants done in it.
#[derive(Default)]
pub(crate) struct Seat(Mutex<Option<Work>>);

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seat")
    }
}

impl Seat {
    /// Has it done in the open transaction.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Box::new(move |tx| drop(answer.send(work(tx)))));
        answered.await.map_err(|_| Error::internal("a transaction ended before its handler"))?
    }

    fn take(&self) -> Option<Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs a handler to its end over an open transaction, for the caller as it is there. When it fails, what
/// it did is not rolled back here.
pub(crate) fn run<R>(tx: &Tx<'_>, clock: &Clock, ctx: &RequestContext, handler: &Handler<R>) -> Result<R> {
    run_as(tx, ctx.reload(tx, clock)?, ctx, handler)
}

/// The caller of several handlers, read again when something changed.
#[derive(Default)]
pub(crate) struct SameCaller(RefCell<Option<(usize, Caller)>>);

impl SameCaller {
    /// [`run`], for a caller that all of them have.
    pub(crate) fn run<R>(
        &self,
        tx: &Tx<'_>,
        clock: &Clock,
        ctx: &RequestContext,
        handler: &Handler<R>,
    ) -> Result<R> {
        // Nothing changes a caller without saying so, and what is rolled back is unsaid.
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
    let mut handling = handler(Arc::new(RequestContext { caller, seat: Some(seat.clone()), ..ctx.clone() }));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match handling.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => match seat.take() {
                Some(work) => work(tx),
                // Nobody would wake it here, and all writers would wait with it.
                None => return Err(Error::internal("a handler waits for more than its transaction")),
            },
        }
    }
}
