//! The program is repeatedly killed with SIGKILL at random moments while clients change resources, on one data
//! directory. After each restart every acknowledged change must be stored, every change must have its event and
//! every event its change, and the hash chain must verify.
//!
//! `CRASH_ROUNDS` and `CRASH_SEED` set the number of rounds and the seed. The seed determines the requests and the
//! moments of the kills, but not how the tasks interleave. SIGKILL ends the process, but data already passed to
//! the kernel survives; `scripts/torture` also loses power.

mod batch;
mod load_client;
mod quota;
mod reports;
mod resource;
mod snapshot;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::{ADMIN_KEY, Binary, number_from_env};
use load_client::LoadClient;
use snapshot::Snapshot;

/// Number of clients that change resources concurrently.
const CLIENTS: usize = 16;
/// Upper limit on the number of changes acknowledged before the kill.
const MAX_CHANGES: usize = 400;
/// Upper limit on the delay between the last counted change and the kill, in microseconds.
const MAX_DELAY_US: u64 = 20_000;

/// The shared state of the load clients.
pub(crate) struct Load {
    /// Changes acknowledged so far.
    acknowledged: watch::Sender<usize>,
    /// Set before the kill; earlier, an unanswered request is a failure.
    killed: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i2_a_kill_loses_no_acknowledged_change() {
    let rounds = number_from_env("CRASH_ROUNDS").unwrap_or(5);
    let seed = number_from_env("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}, {rounds} rounds");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| LoadClient::new(number, rng.fork())).collect();

    for round in 1..=rounds {
        let mut server = serve(dir.path());
        clients = check_after_restart(&server, dir.path(), clients).await;
        clients = run_until_killed(&mut server, clients, &mut rng).await;
        let changes: usize = clients.iter().map(|client| client.acknowledged.len()).sum();
        let unanswered = clients.iter().filter(|client| client.is_in_doubt()).count();
        println!("round {round}: killed after {changes} changes in total, {unanswered} unanswered");
    }
    let mut server = serve(dir.path());
    check_after_restart(&server, dir.path(), clients).await;
    assert_eq!(server.terminate(), Some(0), "a graceful shutdown after the kills");
}

fn serve(dir: &Path) -> Binary {
    Binary::serve_with(dir, |command| {
        command
            .env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY)
            .env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0")
            .env("TOLLHOUSE_RATE_LIMITS__BATCH_PER_MINUTE", "0")
            .env("TOLLHOUSE_RATE_LIMITS__FAILED_AUTH_PER_MINUTE", "0")
            .env("TOLLHOUSE_LOG__LEVEL", "warn");
    })
}

/// Runs all clients concurrently and kills the server while they run.
async fn run_until_killed(
    server: &mut Binary,
    clients: Vec<LoadClient>,
    rng: &mut fastrand::Rng,
) -> Vec<LoadClient> {
    let load = Arc::new(Load { acknowledged: watch::Sender::new(0), killed: AtomicBool::new(false) });
    let mut running = JoinSet::new();
    for mut client in clients {
        let admin = server.admin();
        let load = load.clone();
        running.spawn(async move {
            client.run(&admin, &load).await;
            client
        });
    }
    let kill_after = rng.usize(..=MAX_CHANGES);
    let delay = Duration::from_micros(rng.u64(..=MAX_DELAY_US));
    let mut acknowledged = load.acknowledged.subscribe();
    tokio::select! {
        reached = tokio::time::timeout(Duration::from_secs(60), acknowledged.wait_for(|n| *n >= kill_after)) => {
            reached.expect("changes are answered in time").unwrap();
        }
        Some(ended) = running.join_next() => panic!("a client ended before the kill: {:?}", ended.err()),
    }
    // This sleep waits for nothing. It spreads the kills over the time between two acknowledgements.
    tokio::time::sleep(delay).await;
    load.killed.store(true, Ordering::SeqCst);
    server.kill();
    running.join_all().await
}

/// Checks the API's answers and the database after a kill and a restart.
async fn check_after_restart(server: &Binary, dir: &Path, clients: Vec<LoadClient>) -> Vec<LoadClient> {
    let mut checking = JoinSet::new();
    for mut client in clients {
        let admin = server.admin();
        checking.spawn(async move {
            client.check(&admin).await;
            client
        });
    }
    let clients = checking.join_all().await;

    let dir = dir.to_str().unwrap();
    let verified = Binary::run(&["audit", "verify", "--data", dir]);
    assert!(verified.status.success(), "{verified:?}");
    let snapshot = Snapshot::read(&format!("{dir}/tollhouse.db"));
    snapshot.check_rows();
    for client in &clients {
        client.resources.iter().for_each(|resource| snapshot.check_resource(resource));
        client.acknowledged.iter().for_each(|change| snapshot.check_acknowledged(change));
    }
    clients
}

/// The revision in an ETag: the number of stored changes, after the dash.
fn revision(etag: Option<&str>) -> i64 {
    let number = etag.and_then(|etag| etag.trim_matches('"').split_once('-')).map(|(_, number)| number);
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("not a Tollhouse ETag: {etag:?}"))
}

/// A resource from an answer, without the fields that are not part of its tracked state.
fn state(data: &Value) -> Value {
    let mut state = data.clone();
    let fields = state.as_object_mut().unwrap();
    fields.remove("key");
    fields.remove("last_used_at");
    state
}
