//! The program is killed with SIGKILL at random moments of a load of changes, over and over, with one data
//! directory. After each start everything acknowledged must be there, every change have its event and every
//! event its change, and the chain verify.
//!
//! `scripts/crash [ROUNDS]` runs many rounds with the release build. `CRASH_ROUNDS` and `CRASH_SEED` set the
//! number of rounds and the seed; the seed fixes what is asked and the moments, not how the tasks interleave.
//! SIGKILL takes the process and leaves what it had handed to the kernel: a loss of power is another matter,
//! against which every commit is synced to the disk (`scripts/bench writes` counts that).

mod actor;
mod batch;
mod ledger;
mod quota;
mod thing;

use std::env;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::{ADMIN_KEY, Binary};
use actor::Actor;
use ledger::Ledger;

/// Clients that change things at the same time.
const ACTORS: usize = 16;
/// The most changes that are acknowledged before the kill.
const MAX_CHANGES: usize = 400;
/// The longest time in which the load goes on after that many.
const LONGEST_DELAY_US: u64 = 20_000;

/// A load that is about to be cut off.
pub(crate) struct Load {
    /// Changes acknowledged so far.
    acknowledged: watch::Sender<usize>,
    /// Only a killed server may leave a request without its answer.
    killed: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i2_a_kill_at_any_moment_loses_nothing_acknowledged() {
    let rounds = number("CRASH_ROUNDS").unwrap_or(5);
    let seed = number("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("CRASH_SEED={seed}, {rounds} rounds");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut actors: Vec<_> = (0..ACTORS).map(|number| Actor::new(number, random.fork())).collect();

    for round in 1..=rounds {
        let mut server = serve(dir.path());
        actors = check(&server, dir.path(), actors).await;
        actors = work_until_killed(&mut server, actors, &mut random).await;
        let changes: usize = actors.iter().map(|actor| actor.acknowledged.len()).sum();
        let unanswered = actors.iter().filter(|actor| actor.is_in_doubt()).count();
        println!("round {round}: killed after {changes} changes in all, {unanswered} unanswered");
    }
    let mut server = serve(dir.path());
    check(&server, dir.path(), actors).await;
    assert_eq!(server.terminate(), Some(0), "a stop in peace after so many without");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
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

/// Lets all change things at once, and kills the server in the middle of it.
async fn work_until_killed(
    server: &mut Binary,
    actors: Vec<Actor>,
    random: &mut fastrand::Rng,
) -> Vec<Actor> {
    let load = Arc::new(Load { acknowledged: watch::Sender::new(0), killed: AtomicBool::new(false) });
    let mut working = JoinSet::new();
    for mut actor in actors {
        let (admin, load) = (server.admin(), load.clone());
        working.spawn(async move {
            actor.work(&admin, &load).await;
            actor
        });
    }
    let enough = random.usize(..=MAX_CHANGES);
    let delay = Duration::from_micros(random.u64(..=LONGEST_DELAY_US));
    let mut acknowledged = load.acknowledged.subscribe();
    tokio::select! {
        reached = tokio::time::timeout(Duration::from_secs(60), acknowledged.wait_for(|n| *n >= enough)) => {
            reached.expect("changes are answered").unwrap();
        }
        Some(ended) = working.join_next() => panic!("an actor ended before the kill: {:?}", ended.err()),
    }
    // Not to wait for anything: the kill should fall anywhere between two acknowledgements.
    tokio::time::sleep(delay).await;
    load.killed.store(true, Ordering::SeqCst);
    server.kill();
    working.join_all().await
}

/// Everything that can be asked of a server that was killed and started again.
async fn check(server: &Binary, dir: &Path, actors: Vec<Actor>) -> Vec<Actor> {
    let mut checking = JoinSet::new();
    for mut actor in actors {
        let admin = server.admin();
        checking.spawn(async move {
            actor.check(&admin).await;
            actor
        });
    }
    let actors = checking.join_all().await;

    let dir = dir.to_str().unwrap();
    let verified = Binary::run(&["audit", "verify", "--data", dir]);
    assert!(verified.status.success(), "{verified:?}");
    let ledger = Ledger::read(&format!("{dir}/tollhouse.db"));
    ledger.check_rows();
    for actor in &actors {
        actor.things.iter().for_each(|thing| ledger.check_thing(thing));
        actor.acknowledged.iter().for_each(|answered| ledger.check_acknowledged(answered));
    }
    actors
}

/// The number behind the dash of an ETag: how many changes are stored.
fn revision(etag: Option<&str>) -> i64 {
    let number = etag.and_then(|etag| etag.trim_matches('"').split_once('-')).map(|(_, number)| number);
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("not an ETag of ours: {etag:?}"))
}

/// The resource as answered, without what is no part of its stored state.
fn state(data: &Value) -> Value {
    let mut state = data.clone();
    let fields = state.as_object_mut().unwrap();
    fields.remove("key");
    fields.remove("last_used_at");
    state
}
