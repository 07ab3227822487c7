//! Short reads that must not wait behind long ones: a thread and a connection of their own.
//!
//! A verification of a key that isn't in memory is one look at an index. In the pool of readers it would
//! stand in line behind exports and analytics; here it stands behind its like, and whatever waits
//! together is read in one transaction.

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use r2d2::ManageConnection as _;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::db::Options;
use super::schema;
use super::tx::Tx;
use crate::error::{Error, Result};

/// Lookups that may wait; a further one is answered 503. As many as there can be connections, mostly.
const MAX_WAITING: usize = 16_384;

/// Lookups that share one transaction at most.
const MAX_TOGETHER: usize = 256;

/// Reads, and tells who waits for it. The error is the transaction's.
type Lookup = Box<dyn FnOnce(Result<&Tx<'_>>) + Send>;

/// The way to the thread. It ends when this is dropped or closed.
pub(super) struct Lookups(Mutex<Option<SyncSender<Lookup>>>);

impl Lookups {
    /// Starts the thread.
    pub(super) fn start(options: &Options) -> Result<Arc<Self>> {
        let conn = schema::readers(options).connect().map_err(Error::internal)?;
        let (sender, waiting) = mpsc::sync_channel(MAX_WAITING);
        let thread = thread::Builder::new().name("lookups".to_owned());
        thread.spawn(move || run(conn, &waiting)).map_err(Error::internal)?;
        Ok(Arc::new(Self(Mutex::new(Some(sender)))))
    }

    /// Runs a short read, as of no earlier than this call.
    ///
    /// # Errors
    /// The closure's own; `UNAVAILABLE` when too many wait or the database is closed.
    pub(super) async fn run<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // A receiver that went away has nothing to be told.
        let lookup: Lookup = Box::new(move |tx| drop(answer.send(tx.and_then(f))));
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(sender) = sender else { return Err(Error::unavailable("The server is shutting down.", 1)) };
        sender.try_send(lookup).map_err(|error| match error {
            TrySendError::Full(_) => Error::unavailable("Too many keys are being looked up; try again.", 1),
            TrySendError::Disconnected(_) => Error::internal("the thread for lookups has stopped"),
        })?;
        answered.await.map_err(|_| Error::internal("a lookup panicked"))?
    }

    /// Lets the thread end.
    pub(super) fn close(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn run(mut conn: Connection, waiting: &Receiver<Lookup>) {
    while let Ok(first) = waiting.recv() {
        // Taken before the transaction begins, so that it sees what was committed before each was asked.
        let mut group: Vec<Lookup> =
            std::iter::once(first).chain(waiting.try_iter()).take(MAX_TOGETHER).collect();
        let look = std::panic::AssertUnwindSafe(|| match conn.transaction() {
            Ok(transaction) => {
                let tx = Tx::new(&transaction);
                group.drain(..).for_each(|lookup| lookup(Ok(&tx)));
            }
            Err(error) => {
                let error = Error::from(error);
                group.drain(..).for_each(|lookup| lookup(Err(error.clone())));
            }
        });
        // Whoever shared the transaction with a panic hears of it as an error, and the next ones are read.
        let _ = std::panic::catch_unwind(look);
    }
}
