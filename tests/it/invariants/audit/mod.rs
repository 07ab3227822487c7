//! Invariant 2 and the contract's §6: what the audit log records, how it aggregates events, and what an event
//! never contains.

mod aggregated;
mod recorded;
mod secrets;

use serde_json::Value;
use tollhouse::store;

use crate::support::Server;

/// All events, read from the database: reading them through the API would append another event.
async fn events(server: &Server) -> Vec<Value> {
    let rows = server.app.db.read(|tx| store::audit::chain_rows(tx, 1, 1_000_000)).await.unwrap();
    rows.into_iter().map(|row| serde_json::from_str(&row.link.unwrap().0.json).unwrap()).collect()
}
