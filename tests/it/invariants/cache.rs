//! Invariant 3 at the cache: what was read before a commit is not believed after it, whenever it arrives.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};
use tollhouse::domain::api_key::{ApiKey, Credential, Status};
use tollhouse::domain::invalidation::Invalidation;
use tollhouse::domain::time::Timestamp;
use tollhouse::verify::cache::{KeyCache, Loading, VersionClock};

use super::until;
use crate::support::NOW;

/// Bytes for some records.
const ROOM: u64 = 1 << 20;

fn credential(status: Status) -> Credential {
    let key = ApiKey {
        id: "key_1".into(),
        organization_id: Some("org_1".into()),
        user_id: Some("user_1".into()),
        name: "k".into(),
        start: "toll_0000".into(),
        scopes: Vec::new(),
        status,
        expires_at: None,
        allowed_ips: None,
        rate_limit: None,
        quota: None,
        metadata: Default::default(),
        created_by: None,
        created_at: Timestamp::from_millis(NOW),
        updated_at: Timestamp::from_millis(NOW),
        last_used_at: None,
        rotated_at: None,
        previous_secret_expires_at: None,
        revoked_at: None,
        revoked_reason: None,
        revision: 1,
    };
    Credential {
        seq: 1,
        key,
        secret_ends_at: None,
        organization: None,
        owner: None,
        memo: Default::default(),
    }
}

/// A loader read the row before the commit and fills the cache after it: nobody believes what it
/// brought, whichever of the key, its organization, its owner or everything changed.
#[tokio::test]
async fn i3_a_load_that_was_overtaken_by_a_commit_is_not_believed() {
    let id = |id: &str| Invalidation::Id(id.to_owned());
    for changed in [id("key_1"), id("org_1"), id("user_1"), Invalidation::All] {
        let version_clock = Arc::new(VersionClock::default());
        // The row as it lies in the file, and the loader's two halves.
        let row = Arc::new(Mutex::new(Status::Active));
        let (has_read, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let loads = Arc::new(AtomicUsize::new(0));
        let load = {
            let (row, has_read, go_on, loads) = (row.clone(), has_read.clone(), go_on.clone(), loads.clone());
            move |_| -> Loading {
                let (row, has_read, go_on) = (row.clone(), has_read.clone(), go_on.clone());
                let nth = loads.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move {
                    let read = credential(*row.lock().unwrap());
                    if nth == 0 {
                        has_read.notify_one();
                        go_on.notified().await;
                    }
                    Ok(Some(read))
                })
            }
        };
        let cache = Arc::new(KeyCache::new(ROOM, version_clock.clone(), load));
        let slow = tokio::spawn({
            let cache = cache.clone();
            async move { cache.get(&[1; 32]).await }
        });
        has_read.notified().await;
        *row.lock().unwrap() = Status::Revoked; // The commit,
        version_clock.publish(std::slice::from_ref(&changed)); // what follows it before its answer,
        go_on.notify_one(); // and only now the fill.
        assert_eq!(slow.await.unwrap().unwrap().unwrap().key.status, Status::Active);

        for expected_loads in [2, 2] {
            let found = cache.get(&[1; 32]).await.unwrap().unwrap();
            assert_eq!(found.key.status, Status::Revoked, "{changed:?}");
            assert_eq!(loads.load(Ordering::SeqCst), expected_loads, "{changed:?}");
        }
    }
}

/// A slow loader that fills after a quick one that read later does not bring the old state back.
#[tokio::test]
async fn i3_an_old_load_does_not_replace_a_newer_one() {
    let version_clock = Arc::new(VersionClock::default());
    let gates = Arc::new([Notify::new(), Notify::new()]);
    let nth = Arc::new(AtomicUsize::new(0));
    let load = {
        let (gates, nth) = (gates.clone(), nth.clone());
        move |_| -> Loading {
            let (gates, nth) = (gates.clone(), nth.fetch_add(1, Ordering::SeqCst));
            Box::pin(async move {
                if nth == 0 {
                    gates[0].notify_one();
                    gates[1].notified().await;
                }
                Ok(Some(credential(if nth == 0 { Status::Active } else { Status::Disabled })))
            })
        }
    };
    let cache = Arc::new(KeyCache::new(ROOM, version_clock.clone(), load));
    let slow = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get(&[1; 32]).await }
    });
    gates[0].notified().await;
    version_clock.publish(&[Invalidation::Id("key_1".into())]);
    let state = async || cache.get(&[1; 32]).await.unwrap().unwrap().key.status;
    assert_eq!(state().await, Status::Disabled);
    gates[1].notify_one();
    slow.await.unwrap().unwrap();
    assert_eq!(state().await, Status::Disabled);
}

/// A loader that tells how often it was asked, and answers when it is let.
fn gated(found: bool) -> (Arc<AtomicUsize>, Arc<Semaphore>, impl Fn([u8; 32]) -> Loading) {
    let (loads, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, waited) = (loads.clone(), gate.clone());
    let load = move |_| -> Loading {
        counted.fetch_add(1, Ordering::SeqCst);
        let gate = waited.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok(found.then(|| credential(Status::Active)))
        })
    };
    (loads, gate, load)
}

/// Whoever asks while a key is being loaded waits for that load, also when who began it went away.
#[tokio::test]
async fn a_key_is_loaded_once_for_all_who_ask() {
    for found in [true, false] {
        let (loads, gate, load) = gated(found);
        let cache = Arc::new(KeyCache::new(ROOM, Arc::default(), load));
        let ask = |hash| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&hash).await.unwrap().is_some() })
        };
        let first = ask([1; 32]);
        until("the load has begun", || loads.load(Ordering::SeqCst) == 1).await;
        let others: Vec<_> = (0..100).map(|_| ask([1; 32])).collect();
        let another = ask([2; 32]);
        until("the other key's load has begun", || loads.load(Ordering::SeqCst) == 2).await;
        first.abort();
        gate.add_permits(2);
        for asked in others.into_iter().chain([another]) {
            assert_eq!(asked.await.unwrap(), found);
        }
        // From now on it is remembered, a miss too.
        assert_eq!(cache.get(&[1; 32]).await.unwrap().is_some(), found);
        assert_eq!(loads.load(Ordering::SeqCst), 2);
    }
}

/// A key that is made while its hash is being looked up, or after it was looked up in vain, is found by
/// who asks after the answer to its making.
#[tokio::test]
async fn i3_a_hash_that_was_nobodys_is_found_once_it_is_somebodys() {
    let version_clock = Arc::new(VersionClock::default());
    let made = Arc::new(AtomicBool::new(false));
    let (has_read, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let load = {
        let (made, has_read, go_on) = (made.clone(), has_read.clone(), go_on.clone());
        move |_| -> Loading {
            let (made, has_read, go_on) = (made.clone(), has_read.clone(), go_on.clone());
            Box::pin(async move {
                let found = made.load(Ordering::SeqCst).then(|| credential(Status::Active));
                if found.is_none() {
                    has_read.notify_one();
                    go_on.notified().await;
                }
                Ok(found)
            })
        }
    };
    let cache = Arc::new(KeyCache::new(ROOM, version_clock.clone(), load));
    let early = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get(&[1; 32]).await.unwrap().is_some() }
    });
    has_read.notified().await;
    made.store(true, Ordering::SeqCst);
    version_clock.publish(&[Invalidation::Secret([1; 32])]);
    // The load that saw nothing is still under way: nobody joins it any more.
    assert!(cache.get(&[1; 32]).await.unwrap().is_some());
    go_on.notify_one();
    assert!(!early.await.unwrap());
    assert!(cache.get(&[1; 32]).await.unwrap().is_some(), "the late miss is not believed");
}

/// However many hashes are tried, what is remembered of them is bounded, and no key is forgotten for it.
#[tokio::test]
async fn i10_guesses_push_no_key_out() {
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = loads.clone();
    let load = move |hash: [u8; 32]| -> Loading {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Ok((hash == [0; 32]).then(|| credential(Status::Active))) })
    };
    let cache = KeyCache::new(ROOM, Arc::default(), load);
    assert!(cache.get(&[0; 32]).await.unwrap().is_some());
    for guess in 1..=100_000_u32 {
        let mut hash = [1; 32];
        hash[..4].copy_from_slice(&guess.to_le_bytes());
        assert!(cache.get(&hash).await.unwrap().is_none());
    }
    let (keys, misses) = cache.len();
    assert!(keys == 1 && misses <= 65_536, "{keys} keys, {misses} misses");
    let before = loads.load(Ordering::SeqCst);
    assert!(cache.get(&[0; 32]).await.unwrap().is_some());
    assert_eq!(loads.load(Ordering::SeqCst), before, "the key was still there");
}
