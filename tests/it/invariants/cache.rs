//! Invariant 3 at the cache: a record read before a commit is never served after it, whenever its load ends.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};
use tollhouse::domain::api_key::{ApiKey, Credential, Status};
use tollhouse::domain::invalidation::Invalidation;
use tollhouse::domain::time::Timestamp;
use tollhouse::verify::cache::{KeyCache, LoadFuture};
use tollhouse::verify::version_clock::VersionClock;

use super::until;
use crate::support::NOW;

/// Enough for a few records, in bytes.
const MAX_BYTES: u64 = 1 << 20;

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
        limits: None,
        self_rotation: false,
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
        owner_external_id: None,
        memo: Default::default(),
    }
}

/// A loader reads the row before the commit and fills the cache after it. The loaded record is not served,
/// whether the key, its organization, its owner or everything changed.
#[tokio::test]
async fn i3_a_load_overtaken_by_a_commit_is_not_served() {
    let id = |id: &str| Invalidation::Id(id.to_owned());
    for changed in [id("key_1"), id("org_1"), id("user_1"), Invalidation::All] {
        let version_clock = Arc::new(VersionClock::default());
        // The stored row's status.
        let row = Arc::new(Mutex::new(Status::Active));
        let has_read = Arc::new(Notify::new());
        let resume = Arc::new(Notify::new());
        let loads = Arc::new(AtomicUsize::new(0));
        let load = {
            let (row, has_read, resume, loads) =
                (row.clone(), has_read.clone(), resume.clone(), loads.clone());
            move |_| -> LoadFuture {
                let (row, has_read, resume) = (row.clone(), has_read.clone(), resume.clone());
                let load_index = loads.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move {
                    let record = credential(*row.lock().unwrap());
                    if load_index == 0 {
                        has_read.notify_one();
                        resume.notified().await;
                    }
                    Ok(Some(record))
                })
            }
        };
        let cache = Arc::new(KeyCache::new(MAX_BYTES, version_clock.clone(), load));
        let slow = tokio::spawn({
            let cache = cache.clone();
            async move { cache.get(&[1; 32]).await }
        });
        has_read.notified().await;
        *row.lock().unwrap() = Status::Revoked; // The commit.
        version_clock.publish(std::slice::from_ref(&changed)); // Published before the change is answered.
        resume.notify_one(); // The fill comes last.
        assert_eq!(slow.await.unwrap().unwrap().unwrap().key.status, Status::Active);

        for expected_loads in [2, 2] {
            let credential = cache.get(&[1; 32]).await.unwrap().unwrap();
            assert_eq!(credential.key.status, Status::Revoked, "{changed:?}");
            assert_eq!(loads.load(Ordering::SeqCst), expected_loads, "{changed:?}");
        }
    }
}

/// A slow load that ends after a quicker, later one does not restore the old state.
#[tokio::test]
async fn i3_an_old_load_does_not_replace_a_newer_one() {
    let version_clock = Arc::new(VersionClock::default());
    let has_begun = Arc::new(Notify::new());
    let resume = Arc::new(Notify::new());
    let loads = Arc::new(AtomicUsize::new(0));
    let load = {
        let (has_begun, resume, loads) = (has_begun.clone(), resume.clone(), loads.clone());
        move |_| -> LoadFuture {
            let (has_begun, resume) = (has_begun.clone(), resume.clone());
            let load_index = loads.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                if load_index == 0 {
                    has_begun.notify_one();
                    resume.notified().await;
                }
                Ok(Some(credential(if load_index == 0 { Status::Active } else { Status::Disabled })))
            })
        }
    };
    let cache = Arc::new(KeyCache::new(MAX_BYTES, version_clock.clone(), load));
    let slow = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get(&[1; 32]).await }
    });
    has_begun.notified().await;
    version_clock.publish(&[Invalidation::Id("key_1".into())]);
    let status = async || cache.get(&[1; 32]).await.unwrap().unwrap().key.status;
    assert_eq!(status().await, Status::Disabled);
    resume.notify_one();
    slow.await.unwrap().unwrap();
    assert_eq!(status().await, Status::Disabled);
}

/// A loader that counts its calls and waits for a permit before each result.
fn blocking_loader(exists: bool) -> (Arc<AtomicUsize>, Arc<Semaphore>, impl Fn([u8; 32]) -> LoadFuture) {
    let loads = Arc::new(AtomicUsize::new(0));
    let permits = Arc::new(Semaphore::new(0));
    let (load_counter, load_permits) = (loads.clone(), permits.clone());
    let load = move |_| -> LoadFuture {
        load_counter.fetch_add(1, Ordering::SeqCst);
        let permits = load_permits.clone();
        Box::pin(async move {
            permits.acquire().await.unwrap().forget();
            Ok(exists.then(|| credential(Status::Active)))
        })
    };
    (loads, permits, load)
}

/// Lookups during a load wait for that load, even if the lookup that started it was canceled.
#[tokio::test]
async fn concurrent_lookups_share_one_load() {
    for exists in [true, false] {
        let (loads, permits, load) = blocking_loader(exists);
        let cache = Arc::new(KeyCache::new(MAX_BYTES, Arc::default(), load));
        let get = |hash| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&hash).await.unwrap().is_some() })
        };
        let first = get([1; 32]);
        until("the load has begun", || loads.load(Ordering::SeqCst) == 1).await;
        let others: Vec<_> = (0..100).map(|_| get([1; 32])).collect();
        let other_key = get([2; 32]);
        until("the other key's load has begun", || loads.load(Ordering::SeqCst) == 2).await;
        first.abort();
        permits.add_permits(2);
        for lookup in others.into_iter().chain([other_key]) {
            assert_eq!(lookup.await.unwrap(), exists);
        }
        // Hits and misses are both cached.
        assert_eq!(cache.get(&[1; 32]).await.unwrap().is_some(), exists);
        assert_eq!(loads.load(Ordering::SeqCst), 2);
    }
}

/// A key created while its hash is being loaded, or after a lookup missed, is found by every lookup that
/// begins after the creation was answered.
#[tokio::test]
async fn i3_a_cached_miss_ends_when_the_key_is_created() {
    let version_clock = Arc::new(VersionClock::default());
    let is_created = Arc::new(AtomicBool::new(false));
    let has_read = Arc::new(Notify::new());
    let resume = Arc::new(Notify::new());
    let load = {
        let (is_created, has_read, resume) = (is_created.clone(), has_read.clone(), resume.clone());
        move |_| -> LoadFuture {
            let (is_created, has_read, resume) = (is_created.clone(), has_read.clone(), resume.clone());
            Box::pin(async move {
                let record = is_created.load(Ordering::SeqCst).then(|| credential(Status::Active));
                if record.is_none() {
                    has_read.notify_one();
                    resume.notified().await;
                }
                Ok(record)
            })
        }
    };
    let cache = Arc::new(KeyCache::new(MAX_BYTES, version_clock.clone(), load));
    let early = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get(&[1; 32]).await.unwrap().is_some() }
    });
    has_read.notified().await;
    is_created.store(true, Ordering::SeqCst);
    version_clock.publish(&[Invalidation::Secret([1; 32])]);
    // The load that missed is still running; later lookups no longer join it.
    assert!(cache.get(&[1; 32]).await.unwrap().is_some());
    resume.notify_one();
    assert!(!early.await.unwrap());
    assert!(cache.get(&[1; 32]).await.unwrap().is_some(), "the outdated miss is not cached");
}

/// The number of cached misses is bounded, and misses never evict a key.
#[tokio::test]
async fn i10_guesses_evict_no_key() {
    let loads = Arc::new(AtomicUsize::new(0));
    let load_counter = loads.clone();
    let load = move |hash: [u8; 32]| -> LoadFuture {
        load_counter.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Ok((hash == [0; 32]).then(|| credential(Status::Active))) })
    };
    let cache = KeyCache::new(MAX_BYTES, Arc::default(), load);
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
    assert_eq!(loads.load(Ordering::SeqCst), before, "the key was still cached");
}
