//! Invariant 5 against a caller who knows another organization's ids: changes, cursors, and shared users.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Server};

/// Creates two organizations with one user each and a user in both; returns a client with a key of each.
async fn two_organizations(server: &Server) -> (Client, Client) {
    for organization in ["org_a", "org_b"] {
        server.organization(organization).await;
    }
    let (client_a, _) = server.key(Some("org_a"), &["*"]).await;
    let (client_b, _) = server.key(Some("org_b"), &["*"]).await;
    for (user, organizations) in
        [("user_a", &["org_a"][..]), ("user_b", &["org_b"]), ("user_both", &["org_a", "org_b"])]
    {
        server.user(user).await;
        for organization in organizations {
            let member = json!({"user_id": user, "role": "member"});
            let path = format!("/organizations/{organization}/members");
            assert_eq!(server.admin().post(&path, member).await.status, 201);
        }
    }
    (client_a, client_b)
}

/// An organization with its members and keys, as a platform key sees them.
async fn state(server: &Server, organization: &str) -> Vec<Value> {
    let admin = server.admin();
    let mut state = Vec::new();
    for path in [
        format!("/organizations/{organization}"),
        format!("/organizations/{organization}/members?limit=100"),
        format!("/api-keys?organization_id={organization}&limit=100"),
    ] {
        let answer = admin.get(&path).await;
        assert_eq!(answer.status, 200);
        state.push(answer.data().clone());
    }
    state
}

#[tokio::test]
async fn i5_changes_of_another_organizations_resources_are_404_and_change_nothing() {
    let server = Server::start().await;
    let (client_a, _) = two_organizations(&server).await;
    let (_, key) = server.key(Some("org_b"), &["workflows:read"]).await;
    let key = format!("/api-keys/{}", key["id"].as_str().unwrap());
    let before = (state(&server, "org_a").await, state(&server, "org_b").await);
    let empty = || json!({});
    for (method, path, body) in [
        (Method::PATCH, "/organizations/org_b", json!({"name": "mine"})),
        (Method::PATCH, "/organizations/org_b", json!({"status": "suspended"})),
        (Method::POST, "/organizations/org_b/members", json!({"user_id": "user_a", "role": "owner"})),
        (Method::POST, "/organizations/org_a/members", json!({"user_id": "user_b", "role": "owner"})),
        (Method::PATCH, "/organizations/org_b/members/user_b", json!({"role": "owner"})),
        (Method::PATCH, "/organizations/org_b/members/user_both", json!({"role": "owner"})),
        (Method::DELETE, "/organizations/org_b/members/user_both", empty()),
        (Method::DELETE, "/organizations/org_a/members/user_b", empty()),
        (Method::PATCH, "/users/user_b", json!({"name": "mine"})),
        (Method::DELETE, "/users/user_b", empty()),
        (Method::DELETE, "/organizations/org_b", empty()),
        (
            Method::POST,
            "/api-keys",
            json!({"name": "n", "organization_id": "org_b", "scopes": ["workflows:read"]}),
        ),
        (Method::POST, "/api-keys", json!({"name": "n", "user_id": "user_b", "scopes": ["workflows:read"]})),
        (Method::PATCH, &key, json!({"name": "mine"})),
        (Method::DELETE, &key, empty()),
        (Method::POST, &format!("{key}/revoke"), empty()),
        (Method::POST, &format!("{key}/rotate"), empty()),
        (Method::POST, &format!("{key}/expire-previous"), empty()),
    ] {
        let answer = client_a.call(method.clone(), path, Some(body.clone())).await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{method} {path} {body}: {answer:?}");
        // The answer equals the one for ids that never existed.
        let unknown_path = path.replace("_b", "_x");
        let body = serde_json::from_str(&body.to_string().replace("_b", "_x")).unwrap();
        let unknown = client_a.call(method, &unknown_path, Some(body)).await;
        assert_eq!(unknown.json["error"], answer.json["error"], "{path}");
    }
    assert_eq!((state(&server, "org_a").await, state(&server, "org_b").await), before);
}

/// The only fact that may be learned is that an email address is taken, not by whom.
#[tokio::test]
async fn i5_a_taken_email_address_is_a_bare_conflict() {
    let server = Server::start().await;
    let (client_a, _) = two_organizations(&server).await;
    let answer = client_a.post("/users", json!({"name": "n", "email": "USER_B@example.com"})).await;
    assert_eq!((answer.status, answer.code()), (409, "ALREADY_EXISTS"));
    assert!(!answer.text.contains("user_") && !answer.text.contains("org_"), "{}", answer.text);
    // Whether an id is taken can't be learned: only platform keys may choose ids.
    for id in ["user_b", "user_x"] {
        let answer =
            client_a.post("/users", json!({"id": id, "name": "n", "email": "free@example.com"})).await;
        assert_eq!((answer.status, answer.code()), (403, "PLATFORM_KEY_REQUIRED"), "{id}");
    }
    for id in ["key_b", "key_x"] {
        let body = json!({"id": id, "name": "n", "scopes": ["workflows:read"]});
        assert_eq!(client_a.post("/api-keys", body).await.code(), "PLATFORM_KEY_REQUIRED", "{id}");
    }
}

#[tokio::test]
async fn i5_a_cursor_is_valid_only_for_its_caller_and_list() {
    let server = Server::start().await;
    let (client_a, client_b) = two_organizations(&server).await;
    let admin = server.admin();
    for client in [&client_a, &client_b] {
        let body = json!({"name": "n", "scopes": ["workflows:read"]});
        assert_eq!(client.post("/api-keys", body).await.status, 201);
    }
    for (list_a, list_b) in [
        ("/users?limit=1", "/users?limit=1"),
        ("/api-keys?limit=1", "/api-keys?limit=1"),
        ("/audit-logs?limit=1", "/audit-logs?limit=1"),
        ("/organizations/org_a/members?limit=1", "/organizations/org_b/members?limit=1"),
    ] {
        let cursor = |answer: crate::support::Answer| {
            answer.json["metadata"]["nextCursor"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
        };
        let foreign = [cursor(client_b.get(list_b).await), cursor(admin.get(list_a).await)];
        // A list that names its organization is the same list for every caller that can read it, so the
        // platform's cursor is valid there.
        let foreign = if list_a.contains("org_a") { &foreign[..1] } else { &foreign[..] };
        for cursor in foreign {
            let answer = client_a.get(&format!("{list_a}&cursor={cursor}")).await;
            assert_eq!((answer.status, answer.code()), (400, "INVALID_CURSOR"), "{list_a}: {answer:?}");
        }
        let own_cursor = cursor(client_a.get(list_a).await);
        assert_eq!(client_a.get(&format!("{list_a}&cursor={own_cursor}")).await.status, 200);
        for other in
            ["/users?order=asc", "/api-keys?status=active", "/audit-logs?access=read", "/scopes?limit=1"]
        {
            let answer = client_a.get(&format!("{other}&cursor={own_cursor}")).await;
            assert_eq!(answer.code(), "INVALID_CURSOR", "{list_a} for {other}");
        }
    }
}

#[tokio::test]
async fn i5_deleting_a_shared_user_shows_each_organization_only_its_own_revoked_keys() {
    let server = Server::start().await;
    let (client_a, client_b) = two_organizations(&server).await;
    for (organization, count) in [("org_a", 1), ("org_b", 3)] {
        for _ in 0..count {
            let body = json!({"organization_id": organization, "user_id": "user_both", "name": "n",
                "scopes": ["workflows:read"]});
            server.key_with(body).await;
        }
    }
    assert_eq!(server.admin().delete("/users/user_both").await.status, 200);
    for (client, count) in [(client_a, 1), (client_b, 3)] {
        let events = client.get("/audit-logs?action=user.delete").await;
        let [event] = events.data().as_array().unwrap().as_slice() else { panic!("{events:?}") };
        let expected = json!([{"field": "revoked_keys", "from": 0, "to": count}]);
        assert_eq!(event["changes"], expected, "{event}");
    }
}
