//! Runs a read that stops when its caller no longer waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::engine::Connection;
use super::tx::Tx;
use super::tx_state::TxState;
use crate::error::Result;

/// Number of steps of SQLite's virtual machine after which a read checks whether it should stop. 1000 steps
/// take about 10 µs.
const STEPS_BETWEEN_CHECKS: i32 = 1000;

/// Number of checks (see [`STEPS_BETWEEN_CHECKS`]) after which a read yields its CPU core. Without the yield,
/// the verification of a key could wait milliseconds until the kernel preempts a long read.
const CHECKS_BETWEEN_YIELDS: u32 = 8;

/// Makes a read stop when this value is dropped, by setting a flag that the read checks.
#[derive(Default)]
pub(super) struct StopOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn run_read<T>(
    conn: &Connection,
    stopped: Arc<AtomicBool>,
    f: impl FnOnce(&Tx<'_>) -> Result<T>,
) -> Result<T> {
    let mut checks = 0;
    let should_stop = move || {
        checks = (checks + 1) % CHECKS_BETWEEN_YIELDS;
        if checks == 0 {
            thread::yield_now();
        }
        stopped.load(Ordering::Relaxed)
    };
    conn.interrupt_when(STEPS_BETWEEN_CHECKS, should_stop)?;
    // Rolled back when dropped, a panic included.
    let transaction = conn.begin().map_err(|error| error.in_file(conn.path()))?;
    f(&Tx::new(&transaction, &TxState::default()))
}
