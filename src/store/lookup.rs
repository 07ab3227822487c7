//! Short reads, on a thread and a connection of their own, so that they don't queue behind long reads.
//!
//! The verification of a key that isn't in memory is one index lookup. In the pool of readers it would
//! queue behind exports and analytics; here it queues only behind other lookups, and all waiting lookups
//! are read in one transaction.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::database_faults::DatabaseFaults;
use super::engine::{Connection, ReaderManager};
use super::tx::Tx;
use super::tx_state::TxState;
use crate::error::{Error, Result};

/// Maximum number of waiting lookups; further lookups fail with status 503. In most setups this is at least
/// the maximum number of client connections, so the queue doesn't fill up.
const MAX_WAITING_LOOKUPS: usize = 16_384;

/// Maximum number of lookups that share one transaction.
const MAX_LOOKUPS_PER_TRANSACTION: usize = 256;

/// Runs a read in the given transaction and sends the result to the caller. Gets an error instead of a
/// transaction when the transaction could not be opened.
type Lookup = Box<dyn FnOnce(Result<&Tx<'_>>) + Send>;

/// Handle to the lookup thread, which ends when the handle is dropped or closed.
pub(super) struct Lookups {
    /// `None` once the database is closing.
    queue: Mutex<Option<SyncSender<Lookup>>>,
    faults: Arc<DatabaseFaults>,
}

impl Lookups {
    pub(super) fn start(readers: &ReaderManager, faults: Arc<DatabaseFaults>) -> Result<Arc<Self>> {
        let conn = readers.open()?;
        let (sender, waiting) = mpsc::sync_channel(MAX_WAITING_LOOKUPS);
        let thread = thread::Builder::new().name("lookups".to_owned());
        thread.spawn(move || run_lookup_thread(conn, &waiting)).map_err(Error::internal)?;
        Ok(Arc::new(Self { queue: Mutex::new(Some(sender)), faults }))
    }

    /// Runs a short read, which sees everything committed before this call.
    ///
    /// # Errors
    /// The closure's error; `UNAVAILABLE` when too many lookups are waiting or the database is closed.
    pub(super) async fn run_lookup<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // The result is discarded when the caller has dropped the receiver.
        let lookup: Lookup = Box::new(move |tx| drop(answer.send(tx.and_then(f))));
        let sender = self.queue.lock().clone();
        let Some(sender) = sender else { return Err(Error::unavailable("The server is shutting down.", 1)) };
        sender.try_send(lookup).map_err(|error| match error {
            TrySendError::Full(_) => Error::unavailable("Too many keys are being looked up. Try again.", 1),
            TrySendError::Disconnected(_) => Error::internal("the lookup thread has stopped"),
        })?;
        let result = answered.await.map_err(|_| Error::internal("a lookup panicked"))?;
        result.inspect_err(|error| self.faults.observe(error))
    }

    /// Refuses new lookups. The thread ends once those waiting are answered.
    pub(super) fn close(&self) {
        drop(self.queue.lock().take());
    }
}

fn run_lookup_thread(conn: Connection, waiting: &Receiver<Lookup>) {
    while let Ok(first) = waiting.recv() {
        // The group is collected before the transaction begins, so that each lookup sees everything that was
        // committed before its call.
        let mut group: Vec<Lookup> =
            std::iter::once(first).chain(waiting.try_iter()).take(MAX_LOOKUPS_PER_TRANSACTION).collect();
        let run_group = std::panic::AssertUnwindSafe(|| match conn.begin() {
            Ok(transaction) => {
                let state = TxState::default();
                let tx = Tx::new(&transaction, &state);
                group.drain(..).for_each(|lookup| lookup(Ok(&tx)));
            }
            Err(error) => {
                let error = error.in_file(conn.path());
                group.drain(..).for_each(|lookup| lookup(Err(error.clone())));
            }
        });
        // A panic fails only the lookups of this group, because their senders are dropped. The thread
        // continues.
        let _ = std::panic::catch_unwind(run_group);
    }
}
