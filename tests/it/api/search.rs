//! `GET /search`: organizations, users and API keys at once.

use serde_json::{Value, json};
use tollhouse::service::housekeeping;

use super::{column, expect_invalid, expect_ok};
use crate::support::{Client, Server};

/// The results of a search.
async fn search(client: &Client, q: &str) -> Value {
    let q: String = form_urlencoded::byte_serialize(q.as_bytes()).collect();
    expect_ok(client.get(&format!("/search?q={q}")).await, 200)
}

async fn found(client: &Client, q: &str) -> Vec<String> {
    column(&search(client, q).await, "id")
}

/// A server with two organizations, each with a user and a key.
async fn fixture() -> Server {
    let server = Server::start().await;
    let admin = server.admin();
    for (id, name) in [("org_acme", "Acme"), ("org_best", "Best Acme Friends")] {
        let body = json!({"id": id, "name": name, "email": format!("office@{}.example", &id[4..])});
        expect_ok(admin.post("/organizations", body).await, 201);
    }
    for (id, name, external_id, organization) in [
        ("user_ada", "Ada Acme", "7", "org_acme"),
        ("user_bob", "Bob", "5f7c8ec7-c33c-6c00-4bba-fe82aa10bb20", "org_best"),
    ] {
        let user = json!({"id": id, "name": name, "email": format!("{}@acme.example", &id[5..]), "external_id": external_id});
        expect_ok(admin.post("/users", user).await, 201);
        let members = format!("/organizations/{organization}/members");
        expect_ok(admin.post(&members, json!({"user_id": id, "role": "member"})).await, 201);
        let key = json!({"id": format!("key_{}", &id[5..]), "organization_id": organization, "name": "acme key", "scopes": []});
        expect_ok(admin.post("/api-keys", key).await, 201);
    }
    server
}

#[tokio::test]
async fn resources_are_found_by_id_start_email_external_id_and_words() {
    let server = fixture().await;
    let admin = server.admin();
    assert_eq!(
        search(&admin, "acme").await,
        json!([
            {"type": "organization", "id": "org_best", "title": "Best Acme Friends", "subtitle": "office@best.example"},
            {"type": "organization", "id": "org_acme", "title": "Acme", "subtitle": "office@acme.example"},
            {"type": "user", "id": "user_bob", "title": "Bob", "subtitle": "bob@acme.example"},
            {"type": "user", "id": "user_ada", "title": "Ada Acme", "subtitle": "ada@acme.example"},
            {"type": "api_key", "id": "key_bob", "title": "acme key", "subtitle": start_of(&admin, "key_bob").await},
            {"type": "api_key", "id": "key_ada", "title": "acme key", "subtitle": start_of(&admin, "key_ada").await},
        ])
    );
    let start = start_of(&admin, "key_ada").await;
    for (q, expected) in [
        // What has exactly this id comes first; the other has the word in its name.
        ("org_acme", &["org_acme", "org_best"][..]),
        ("user_ada", &["user_ada"]),
        ("key_ada", &["key_ada"]),
        (&start, &["key_ada"]),
        ("ADA@acme.example", &["user_ada"]),
        // Exact external ids, also those without a word that is long enough.
        ("7", &["user_ada"]),
        ("5f7c8ec7-c33c-6c00-4bba-fe82aa10bb20", &["user_bob"]),
        ("5f7c8ec7", &["user_bob"]),
        ("fri acm", &["org_best"]),
        ("nothing", &[]),
        ("8", &[]),
    ] {
        assert_eq!(found(&admin, q).await, expected, "{q}");
    }
    // What has exactly this id comes first, although it is the oldest.
    for number in 0..7 {
        let user = json!({"id": format!("user_ada-{number}"), "name": "n", "email": format!("ada{number}@b.example")});
        expect_ok(admin.post("/users", user).await, 201);
    }
    let expected = ["user_ada", "user_ada-6", "user_ada-5", "user_ada-4", "user_ada-3"];
    assert_eq!(found(&admin, "user_ada").await, expected);
}

async fn start_of(admin: &Client, id: &str) -> String {
    let key = expect_ok(admin.get(&format!("/api-keys/{id}")).await, 200);
    key["start"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn i5_a_search_shows_only_what_the_key_may_list() {
    let server = fixture().await;
    let admin = server.admin();
    let (best, key) = server.key(Some("org_best"), &["*"]).await;
    assert_eq!(found(&best, "acme").await, ["org_best", "user_bob", "key_bob"]);
    assert_eq!(found(&best, "org_acme").await, ["org_best"], "it has the word in its name");
    for q in ["user_ada", "key_ada", "7", "ada@acme.example", "ada", &start_of(&admin, "key_ada").await] {
        assert_eq!(found(&best, q).await, [""; 0], "{q}");
    }
    assert_eq!(found(&best, key["id"].as_str().unwrap()).await, [key["id"].as_str().unwrap()]);
    for (scope, expected) in [
        ("admin:orgs", &["org_best", "org_acme"][..]),
        ("admin:users", &["user_bob", "user_ada"]),
        ("admin:keys", &["key_bob", "key_ada"]),
        ("admin:audit", &[]),
    ] {
        let (client, _) = server.key(None, &[scope]).await;
        assert_eq!(found(&client, "acme").await, expected, "{scope}");
        for (id, scope_of_id) in
            [("org_acme", "admin:orgs"), ("user_ada", "admin:users"), ("key_ada", "admin:keys")]
        {
            assert_eq!(
                found(&client, id).await.contains(&id.to_owned()),
                scope == scope_of_id,
                "{scope} {id}"
            );
        }
    }
}

#[tokio::test]
async fn a_search_that_makes_no_sense_is_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    for (query, code) in [("?q=one%20two%20three%20four", "TOO_MANY"), ("?q=ada%20l", "INVALID_LENGTH")] {
        expect_invalid(&admin.get(&format!("/search{query}")).await, &[("q", code)]);
    }
    for query in ["", "?q="] {
        assert_eq!(expect_ok(admin.get(&format!("/search{query}")).await, 200), json!([]));
    }
    expect_invalid(&admin.get("/search?q=ada&limit=3").await, &[("limit", "UNKNOWN_PARAMETER")]);
}

#[tokio::test]
async fn searches_are_aggregated_in_the_audit_log() {
    let server = Server::start().await;
    let admin = server.admin();
    for _ in 0..3 {
        search(&admin, "anything").await;
    }
    housekeeping::write_aggregated_events(&server.app, true).await.unwrap();
    let events = expect_ok(admin.get("/audit-logs?action=search.read").await, 200);
    assert_eq!((events.as_array().unwrap().len(), &events[0]["count"]), (1, &json!(3)));
    assert!(!events.to_string().contains("anything"));
}
