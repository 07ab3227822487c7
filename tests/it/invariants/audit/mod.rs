//! Invariant 2 and the contract's §6: what is recorded, how it is folded, what it never holds.

mod aggregated;
mod recorded;
mod secrets;

use serde_json::Value;
use tollhouse::store;

use crate::support::Server;

/// All events as they lie in the file, without a call that would add to them.
async fn events(server: &Server) -> Vec<Value> {
    let rows = server.app.db.read(|tx| store::audit::links(tx, 1, 1_000_000)).await.unwrap();
    rows.into_iter().map(|row| serde_json::from_str(&row.link.unwrap().0.json).unwrap()).collect()
}
