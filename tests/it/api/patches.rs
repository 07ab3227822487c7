//! Changes to single resources: merge patches, ETags and `If-Match`.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::conventions::send_raw;
use super::{expect_error, expect_invalid, expect_ok};
use crate::support::{Answer, Client, Server};

/// Sends a PATCH, or a DELETE if `patch` is `None`, with `If-Match`.
pub(super) async fn if_match(client: &Client, path: &str, etag: &str, patch: Option<Value>) -> Answer {
    let method = if patch.is_some() { Method::PATCH } else { Method::DELETE };
    let request = client.request(method, path).header("if-match", etag);
    client.send(patch.iter().fold(request, |request, body| request.json(body))).await
}

/// An omitted field is kept, `null` clears it, and a value replaces it. Metadata is merged pair by pair.
#[tokio::test]
async fn patches_are_merge_patches() {
    let server = Server::start().await;
    let admin = server.admin();
    let new = json!({"id": "user_1", "email": "a@b", "name": "Ada", "external_id": "x1", "metadata": {"a": "1", "b": "2"}});
    expect_ok(admin.post("/users", new).await, 201);
    let media_type = "application/merge-patch+json; charset=utf-8";
    let body = json!({"external_id": null, "metadata": {"a": null, "c": "3", "gone": null}}).to_string();
    let user = expect_ok(send_raw(&admin, Method::PATCH, "/users/user_1", media_type, body).await, 200);
    assert_eq!((&user["external_id"], &user["name"]), (&Value::Null, &json!("Ada")));
    assert_eq!(user["metadata"], json!({"b": "2", "c": "3"}));
    let user = expect_ok(admin.patch("/users/user_1", json!({"metadata": null})).await, 200);
    assert_eq!(user["metadata"], json!({}));
    for field in ["name", "email", "status"] {
        expect_invalid(
            &admin.patch("/users/user_1", json!({field: null})).await,
            &[(&format!("/{field}"), "NOT_NULLABLE")],
        );
    }
    let read_only = admin.patch("/users/user_1", json!({"id": "user_2", "updated_at": "now"})).await;
    expect_invalid(&read_only, &[("/id", "READ_ONLY"), ("/updated_at", "READ_ONLY")]);
    let forty_pairs = |from: usize| {
        (from..from + 40).map(|n| (n.to_string(), json!("v"))).collect::<serde_json::Map<_, _>>()
    };
    expect_ok(admin.patch("/users/user_1", json!({"metadata": forty_pairs(0)})).await, 200);
    expect_invalid(
        &admin.patch("/users/user_1", json!({"metadata": forty_pairs(20)})).await,
        &[("/metadata", "TOO_MANY")],
    );
    assert_eq!(expect_ok(admin.get("/users/user_1").await, 200)["metadata"], Value::Object(forty_pairs(0)));
    let values = json!({"metadata": {"x": "v".repeat(501), "y": "v".repeat(500), "": "v"}});
    expect_invalid(
        &admin.patch("/users/user_1", values).await,
        &[("/metadata/x", "INVALID_LENGTH"), ("/metadata/", "INVALID_LENGTH")],
    );
}

/// Creates the resources that have an ETag. Returns the path of each with a patch that changes it.
async fn resources_with_etag(server: &Server) -> Vec<(&'static str, Value)> {
    let admin = server.admin();
    server.organization("org_1").await;
    server.user("user_1").await;
    expect_ok(
        admin.post("/organizations/org_1/members", json!({"user_id": "user_1", "role": "member"})).await,
        201,
    );
    server.key_with(json!({"id": "key_1", "name": "k", "scopes": []})).await;
    vec![
        ("/organizations/org_1/members/user_1", json!({"role": "viewer"})),
        ("/users/user_1", json!({"name": "changed"})),
        ("/api-keys/key_1", json!({"name": "changed"})),
        ("/organizations/org_1", json!({"name": "changed"})),
    ]
}

#[tokio::test]
async fn a_patch_that_changes_nothing_keeps_the_etag() {
    let server = Server::start().await;
    let admin = server.admin();
    for (path, patch) in resources_with_etag(&server).await {
        let first = admin.get(path).await;
        let etag = first.header("etag").unwrap();
        assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "a strong ETag: {etag}");
        server.advance(Duration::from_secs(1));
        let changed = admin.patch(path, patch.clone()).await;
        assert_ne!(changed.header("etag"), first.header("etag"), "{path}");
        assert_ne!(changed.data()["updated_at"], first.data()["updated_at"], "{path}");
        server.advance(Duration::from_secs(1));
        for patch in [patch, json!({})] {
            let unchanged = admin.patch(path, patch).await;
            assert_eq!((unchanged.status, unchanged.header("etag")), (200, changed.header("etag")), "{path}");
            assert_eq!(unchanged.data(), changed.data(), "{path}");
        }
        let read = admin.get(path).await;
        assert_eq!((read.header("etag"), read.data()), (changed.header("etag"), changed.data()), "{path}");
    }
}

#[tokio::test]
async fn if_match_refuses_an_outdated_etag() {
    let server = Server::start().await;
    let admin = server.admin();
    for (path, patch) in resources_with_etag(&server).await {
        let outdated = admin.get(path).await.header("etag").unwrap().to_owned();
        let patched = if_match(&admin, path, &outdated, Some(patch.clone())).await;
        let current = patched.header("etag").unwrap().to_owned();
        let before = expect_ok(admin.get(path).await, 200);
        for other in [outdated.as_str(), &format!("W/{outdated}"), "garbage", "\"*\""] {
            expect_error(
                &if_match(&admin, path, other, Some(patch.clone())).await,
                412,
                "PRECONDITION_FAILED",
            );
            expect_error(&if_match(&admin, path, other, None).await, 412, "PRECONDITION_FAILED");
        }
        assert_eq!(expect_ok(admin.get(path).await, 200), before, "{path}");
        for matching in ["*", current.as_str(), &format!("W/{current}"), &format!("{outdated}, {current}")] {
            expect_ok(if_match(&admin, path, matching, Some(patch.clone())).await, 200);
        }
        expect_ok(if_match(&admin, path, &current, None).await, 200);
    }
}
