//! `expand`: names of the organization and the user that a resource belongs to.

use serde_json::{Value, json};

use super::{expect_error, expect_invalid, expect_ok};
use crate::support::Server;

/// A server with a member's key in `org_1`, a key without an owner there, and a platform key.
async fn fixture() -> Server {
    let server = Server::start().await;
    let admin = server.admin();
    let organization = json!({"id": "org_1", "name": "Acme", "email": "a@b"});
    expect_ok(admin.post("/organizations", organization).await, 201);
    expect_ok(admin.post("/users", json!({"id": "user_1", "name": "Ada", "email": "ada@b"})).await, 201);
    expect_ok(
        admin.post("/organizations/org_1/members", json!({"user_id": "user_1", "role": "owner"})).await,
        201,
    );
    for key in [
        json!({"id": "key_owned", "organization_id": "org_1", "user_id": "user_1", "name": "n", "scopes": []}),
        json!({"id": "key_plain", "organization_id": "org_1", "name": "n", "scopes": []}),
        json!({"id": "key_platform", "name": "n", "scopes": []}),
    ] {
        server.key_with(key).await;
    }
    server
}

/// The ids of the listed keys, and what `expand` adds to them.
fn added(keys: &Value) -> Vec<(&str, Option<&Value>, Option<&Value>)> {
    let keys = keys.as_array().unwrap().iter();
    keys.map(|key| (key["id"].as_str().unwrap(), key.get("organization"), key.get("user"))).collect()
}

#[tokio::test]
async fn names_are_added_to_keys_and_memberships() {
    let server = fixture().await;
    let admin = server.admin();
    let acme = json!({"id": "org_1", "name": "Acme"});
    let ada = json!({"id": "user_1", "name": "Ada", "email": "ada@b"});
    let null = Value::Null;
    let listed = expect_ok(admin.get("/api-keys?limit=3&expand=organization,user").await, 200);
    let expected = [
        ("key_platform", Some(&null), Some(&null)),
        ("key_plain", Some(&acme), Some(&null)),
        ("key_owned", Some(&acme), Some(&ada)),
    ];
    assert_eq!(added(&listed), expected);
    let listed = expect_ok(admin.get("/api-keys?limit=3&expand=user").await, 200);
    assert_eq!(added(&listed)[2], ("key_owned", None, Some(&ada)));
    let listed = expect_ok(admin.get("/api-keys?limit=3&expand=").await, 200);
    assert_eq!(added(&listed)[2], ("key_owned", None, None));
    let without = admin.get("/api-keys/key_owned").await;
    let with = admin.get("/api-keys/key_owned?expand=organization").await;
    assert_eq!(with.header("etag"), without.header("etag"));
    let mut expected = expect_ok(without, 200);
    expected["organization"] = acme.clone();
    assert_eq!(expect_ok(with, 200), expected);
    for path in ["/organizations/org_1/members", "/users/user_1/memberships"] {
        let listed = expect_ok(admin.get(&format!("{path}?expand=organization")).await, 200);
        assert_eq!(
            (&listed[0]["organization"], &listed[0]["user"]["name"]),
            (&acme, &json!("Ada")),
            "{path}"
        );
        assert_eq!(expect_ok(admin.get(path).await, 200)[0].get("organization"), None);
    }
    let member = admin.get("/organizations/org_1/members/user_1?expand=organization").await;
    assert_eq!(expect_ok(member, 200)["organization"], acme);
    let operation = json!({"method": "GET", "path": "/api-keys/key_owned?expand=organization"});
    let batch = expect_ok(admin.post("/batch", json!({"operations": [operation]})).await, 200);
    assert_eq!(batch["results"][0]["body"]["data"]["organization"], acme);
    // Of what was deleted, no names are left.
    expect_ok(admin.delete("/organizations/org_1").await, 200);
    let listed = expect_ok(admin.get("/api-keys?limit=3&expand=organization,user").await, 200);
    assert_eq!(added(&listed)[2], ("key_owned", Some(&null), Some(&ada)));
}

#[tokio::test]
async fn i5_names_that_a_key_may_not_read_are_not_added() {
    let server = fixture().await;
    let admin = server.admin();
    let (keys_only, _) = server.key(Some("org_1"), &["admin:keys"]).await;
    for (expand, scope) in
        [("organization", "admin:orgs"), ("user", "admin:users"), ("user,organization", "admin:orgs")]
    {
        for path in ["/api-keys", "/api-keys/key_owned"] {
            let answer = keys_only.get(&format!("{path}?expand={expand}")).await;
            expect_error(&answer, 403, "INSUFFICIENT_SCOPE");
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
            assert_eq!(answer.header("www-authenticate"), Some(challenge.as_str()));
            let operation = json!({"method": "GET", "path": format!("/api-keys/key_owned?expand={expand}")});
            let batch = keys_only.post("/batch", json!({"atomic": false, "operations": [operation]})).await;
            assert_eq!(expect_ok(batch, 200)["results"][0]["status"], 403);
        }
    }
    let (members_only, _) = server.key(Some("org_1"), &["admin:users"]).await;
    for path in
        ["/organizations/org_1/members", "/organizations/org_1/members/user_1", "/users/user_1/memberships"]
    {
        let answer = members_only.get(&format!("{path}?expand=organization")).await;
        expect_error(&answer, 403, "INSUFFICIENT_SCOPE");
    }
    // The owner leaves the organization, and stays known to the platform.
    let (own, _) = server.key(Some("org_1"), &["*"]).await;
    let other = json!({"id": "user_2", "name": "Bob", "email": "bob@b"});
    expect_ok(admin.post("/users", other).await, 201);
    expect_ok(
        admin.post("/organizations/org_1/members", json!({"user_id": "user_2", "role": "owner"})).await,
        201,
    );
    expect_ok(admin.delete("/organizations/org_1/members/user_1").await, 200);
    let path = "/api-keys/key_owned?expand=organization,user";
    let key = expect_ok(own.get(path).await, 200);
    assert_eq!((&key["user_id"], key.get("user")), (&json!("user_1"), Some(&Value::Null)));
    assert_eq!(key["organization"]["name"], "Acme");
    assert_eq!(expect_ok(admin.get(path).await, 200)["user"]["name"], "Ada");
}

#[tokio::test]
async fn unknown_names_are_refused() {
    let server = fixture().await;
    let admin = server.admin();
    for path in [
        "/api-keys?expand=owner",
        "/api-keys?expand=user,",
        "/api-keys/key_plain?expand=user%20organization",
        "/organizations/org_1/members?expand=user",
    ] {
        expect_invalid(&admin.get(path).await, &[("expand", "INVALID_VALUE")]);
    }
    let twice = admin.get("/api-keys?expand=user&expand=organization").await;
    expect_invalid(&twice, &[("expand", "DUPLICATE_PARAMETER")]);
}
