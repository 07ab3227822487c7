//! Invariant 3 at the cache: what was read before a commit is not believed after it, whenever it arrives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tollhouse::domain::api_key::{ApiKey, Credential, Status};
use tollhouse::domain::stale::Stale;
use tollhouse::domain::time::Timestamp;
use tollhouse::verify::cache::{KeyCache, Loading, Stamps};

use crate::support::NOW;

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
    Credential { seq: 1, key, secret_ends_at: None, organization: None, owner: None }
}

/// A loader read the row before the commit and fills the cache after it: nobody believes what it
/// brought, whichever of the key, its organization, its owner or everything changed.
#[tokio::test]
async fn i3_a_load_that_was_overtaken_by_a_commit_is_not_believed() {
    let id = |id: &str| Stale::Id(id.to_owned());
    for changed in [id("key_1"), id("org_1"), id("user_1"), Stale::All] {
        let stamps = Arc::new(Stamps::default());
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
        let cache = Arc::new(KeyCache::new(10, stamps.clone(), load));
        let slow = tokio::spawn({
            let cache = cache.clone();
            async move { cache.get(&[1; 32]).await }
        });
        has_read.notified().await;
        *row.lock().unwrap() = Status::Revoked; // The commit,
        stamps.mark(std::slice::from_ref(&changed)); // what follows it before its answer,
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
    let stamps = Arc::new(Stamps::default());
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
    let cache = Arc::new(KeyCache::new(10, stamps.clone(), load));
    let slow = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get(&[1; 32]).await }
    });
    gates[0].notified().await;
    stamps.mark(&[Stale::Id("key_1".into())]);
    let state = async || cache.get(&[1; 32]).await.unwrap().unwrap().key.status;
    assert_eq!(state().await, Status::Disabled);
    gates[1].notify_one();
    slow.await.unwrap().unwrap();
    assert_eq!(state().await, Status::Disabled);
}
