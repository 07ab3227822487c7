//! A damaged page with some of the keys: the others can be verified, and nobody gains access by it.

use serde_json::json;

use super::damaged_pages::{assert_blocked, start, store_keys};
use super::full_disk::{readiness, verify};
use crate::support::Binary;

#[tokio::test(flavor = "multi_thread")]
async fn i15_only_several_unreadable_keys_make_the_server_unready() {
    let stored = store_keys().await;
    let pages = stored.trees().into_iter().find(|(name, _)| name == "api_key_hashes").unwrap().1;
    let mut unready = 0;
    for page in &pages[1..] {
        let server = start(stored.damaged_copy(*page)).await.unwrap();
        // The page may have the caller's own key, which then verifies nothing any more.
        let mut client = server.client(Some(&stored.verifier));
        if verify(&client, &stored.verifier).await.is_null() {
            client = server.admin();
        }
        let (mut unreadable, mut readable) = (Vec::new(), None);
        for secret in &stored.keys {
            match verify(&client, secret).await.is_null() {
                true => unreadable.push(secret),
                false => readable = Some(secret),
            }
        }
        let (Some(readable), true) = (readable, unreadable.len() >= 3) else { continue };
        verify(&client, readable).await;
        for _ in 0..5 {
            assert!(verify(&client, unreadable[0]).await.is_null());
            let (status, verifies, _, reasons) = readiness(&client, "").await;
            assert!(verifies && status == 200, "one key that fails again and again: {reasons:?}");
        }
        for secret in &unreadable[..3] {
            assert!(verify(&client, secret).await.is_null());
        }
        let (status, verifies, _, reasons) = readiness(&client, "").await;
        assert!(!verifies && status == 503, "{reasons:?}");
        verify(&client, readable).await;
        assert!(readiness(&client, "").await.1);
        unready += 1;
    }
    assert!(unready > 0, "{pages:?}");
}

#[tokio::test]
async fn i15_a_server_starts_whichever_part_of_the_keys_is_damaged() {
    let stored = store_keys().await;
    let pages = stored.trees().into_iter().find(|(name, _)| name == "api_keys").unwrap().1;
    assert!(pages.len() > 3, "{pages:?}");
    let mut verifying = 0;
    for page in &pages[1..] {
        let dir = stored.damaged_copy(*page);
        let mut server = Binary::serve(&dir.path().join("data"));
        let mut expired = 0;
        for secret in &stored.keys {
            // By the program's clock the secrets have expired.
            expired += u32::from(verify(&server.client(&stored.verifier), secret).await == "EXPIRED");
            expired += u32::from(verify(&server.admin(), secret).await == "EXPIRED");
        }
        server.terminate();
        verifying += u32::from(expired > 0);
    }
    // The rows of both callers may be on one page.
    assert!(verifying as usize >= pages.len() - 2, "{verifying} of {pages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn i15_a_ready_server_verifies_keys_whichever_root_is_damaged() {
    let stored = store_keys().await;
    let mut unready = Vec::new();
    for (tree, pages) in stored.trees() {
        let Some(server) = start(stored.damaged_copy(pages[0])).await else { continue };
        let callers = [server.admin(), server.client(Some(&stored.verifier))];
        let mut verified = 0;
        for caller in &callers {
            for secret in &stored.keys[..5] {
                verified += u32::from(!verify(caller, secret).await.is_null());
            }
        }
        let (status, verifies, _, reasons) = readiness(&callers[0], "").await;
        if verified == 0 {
            assert!(!verifies && status == 503, "{tree}: {reasons:?}");
            unready.push(tree);
        } else {
            assert!(verifies && status == 200, "{tree}, {verified} verified: {reasons:?}");
        }
    }
    for expected in ["api_key_hashes", "organizations", "users", "sqlite_autoindex_scopes_1"] {
        assert!(unready.iter().any(|tree| tree == expected), "{expected} is not in {unready:?}");
    }
}

/// The key is stored as active, so that the change finds nothing to do and succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn i4_a_change_that_stores_nothing_does_not_undo_a_revocation() {
    let stored = store_keys().await;
    let server = start(stored.damaged_copy(stored.root_of("api_keys_status"))).await.unwrap();
    let admin = server.admin();
    let manager = server.client(Some(&stored.manager));
    assert_blocked(&admin.delete("/api-keys/key_20").await);
    manager.patch("/api-keys/key_20", json!({"status": "active"})).await;
    assert_eq!(verify(&admin, &stored.keys[20]).await, "REVOKED");
}
