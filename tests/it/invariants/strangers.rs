//! Invariant 5 against who knows the other organization's ids: changes, cursors, and what both share.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Server};

/// Two organizations with a user and a key each, and a user of both.
async fn two_organizations(server: &Server) -> (Client, Client) {
    for organization in ["org_a", "org_b"] {
        server.organization(organization).await;
    }
    let (a, _) = server.key(Some("org_a"), &["*"]).await;
    let (b, _) = server.key(Some("org_b"), &["*"]).await;
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
    (a, b)
}

/// Everything of an organization, as the platform sees it.
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
async fn i5_changes_of_another_organizations_things_find_nothing_and_do_nothing() {
    let server = Server::start().await;
    let (a, _) = two_organizations(&server).await;
    let (_, key) = server.key(Some("org_b"), &["workflows:read"]).await;
    let key = format!("/api-keys/{}", key["id"].as_str().unwrap());
    let before = (state(&server, "org_a").await, state(&server, "org_b").await);
    let none = || json!({});
    for (method, path, body) in [
        (Method::PATCH, "/organizations/org_b", json!({"name": "mine"})),
        (Method::PATCH, "/organizations/org_b", json!({"status": "suspended"})),
        (Method::POST, "/organizations/org_b/members", json!({"user_id": "user_a", "role": "owner"})),
        (Method::POST, "/organizations/org_a/members", json!({"user_id": "user_b", "role": "owner"})),
        (Method::PATCH, "/organizations/org_b/members/user_b", json!({"role": "owner"})),
        (Method::PATCH, "/organizations/org_b/members/user_both", json!({"role": "owner"})),
        (Method::DELETE, "/organizations/org_b/members/user_both", none()),
        (Method::DELETE, "/organizations/org_a/members/user_b", none()),
        (Method::PATCH, "/users/user_b", json!({"name": "mine"})),
        (Method::DELETE, "/users/user_b", none()),
        (Method::DELETE, "/organizations/org_b", none()),
        (
            Method::POST,
            "/api-keys",
            json!({"name": "n", "organization_id": "org_b", "scopes": ["workflows:read"]}),
        ),
        (Method::POST, "/api-keys", json!({"name": "n", "user_id": "user_b", "scopes": ["workflows:read"]})),
        (Method::PATCH, &key, json!({"name": "mine"})),
        (Method::DELETE, &key, none()),
        (Method::POST, &format!("{key}/revoke"), none()),
        (Method::POST, &format!("{key}/rotate"), none()),
        (Method::POST, &format!("{key}/expire-previous"), none()),
    ] {
        let answer = a.call(method.clone(), path, Some(body.clone())).await;
        assert_eq!((answer.status, answer.code()), (404, "NOT_FOUND"), "{method} {path} {body}: {answer:?}");
        // The same answer as for what has never been.
        let stranger = path.replace("_b", "_x");
        let body = serde_json::from_str(&body.to_string().replace("_b", "_x")).unwrap();
        let nothing = a.call(method, &stranger, Some(body)).await;
        assert_eq!(nothing.json["error"], answer.json["error"], "{path}");
    }
    assert_eq!((state(&server, "org_a").await, state(&server, "org_b").await), before);
}

/// The one thing that may be learnt: that an address is taken. Not by whom.
#[tokio::test]
async fn i5_a_taken_address_is_a_bare_conflict() {
    let server = Server::start().await;
    let (a, _) = two_organizations(&server).await;
    let answer = a.post("/users", json!({"name": "n", "email": "USER_B@example.com"})).await;
    assert_eq!((answer.status, answer.code()), (409, "ALREADY_EXISTS"));
    assert!(!answer.text.contains("user_") && !answer.text.contains("org_"), "{}", answer.text);
    // Whose id is taken can't be learnt at all: only the platform names ids.
    for id in ["user_b", "user_x"] {
        let answer = a.post("/users", json!({"id": id, "name": "n", "email": "free@example.com"})).await;
        assert_eq!((answer.status, answer.code()), (403, "PLATFORM_KEY_REQUIRED"), "{id}");
    }
    for id in ["key_b", "key_x"] {
        let body = json!({"id": id, "name": "n", "scopes": ["workflows:read"]});
        assert_eq!(a.post("/api-keys", body).await.code(), "PLATFORM_KEY_REQUIRED", "{id}");
    }
}

#[tokio::test]
async fn i5_a_cursor_is_worth_nothing_in_other_hands_or_other_lists() {
    let server = Server::start().await;
    let (a, b) = two_organizations(&server).await;
    let admin = server.admin();
    for client in [&a, &b] {
        let body = json!({"name": "n", "scopes": ["workflows:read"]});
        assert_eq!(client.post("/api-keys", body).await.status, 201);
    }
    for (of_a, of_b) in [
        ("/users?limit=1", "/users?limit=1"),
        ("/api-keys?limit=1", "/api-keys?limit=1"),
        ("/audit-logs?limit=1", "/audit-logs?limit=1"),
        ("/organizations/org_a/members?limit=1", "/organizations/org_b/members?limit=1"),
    ] {
        let cursor = |answer: crate::support::Answer| {
            answer.json["metadata"]["nextCursor"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
        };
        let (theirs, platforms) = (cursor(b.get(of_b).await), cursor(admin.get(of_a).await));
        let foreign = [theirs, platforms];
        // A list that names its organization is the same list for who reaches it.
        let foreign = if of_a.contains("org_a") { &foreign[..1] } else { &foreign[..] };
        for cursor in foreign {
            let answer = a.get(&format!("{of_a}&cursor={cursor}")).await;
            assert_eq!((answer.status, answer.code()), (400, "INVALID_CURSOR"), "{of_a}: {answer:?}");
        }
        let own = cursor(a.get(of_a).await);
        assert_eq!(a.get(&format!("{of_a}&cursor={own}")).await.status, 200);
        for other in
            ["/users?order=asc", "/api-keys?status=active", "/audit-logs?access=read", "/scopes?limit=1"]
        {
            let answer = a.get(&format!("{other}&cursor={own}")).await;
            assert_eq!(answer.code(), "INVALID_CURSOR", "{of_a} for {other}");
        }
    }
}

/// What ends with a shared user is told to each organization as far as it is its own.
#[tokio::test]
async fn i5_the_end_of_a_shared_user_tells_each_organization_of_its_own_keys_alone() {
    let server = Server::start().await;
    let (a, b) = two_organizations(&server).await;
    for (organization, count) in [("org_a", 1), ("org_b", 3)] {
        for _ in 0..count {
            let body = json!({"organization_id": organization, "user_id": "user_both", "name": "n",
                "scopes": ["workflows:read"]});
            server.key_with(body).await;
        }
    }
    assert_eq!(server.admin().delete("/users/user_both").await.status, 200);
    for (client, count) in [(a, 1), (b, 3)] {
        let events = client.get("/audit-logs?action=user.delete").await;
        let [event] = events.data().as_array().unwrap().as_slice() else { panic!("{events:?}") };
        let expected = json!([{"field": "revoked_keys", "from": 0, "to": count}]);
        assert_eq!(event["changes"], expected, "{event}");
    }
}
