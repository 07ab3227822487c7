//! Lists: pages, cursors, orders and filters, also while rows change.

use std::time::Duration;

use serde_json::{Value, json};

use super::{column, expect_error, expect_ok};
use crate::support::{Client, Server};

/// Returns the IDs of one page and the cursor of the next.
async fn page(client: &Client, path: &str, cursor: Option<&str>) -> (Vec<String>, Option<String>) {
    let path = cursor.map_or(path.to_owned(), |cursor| format!("{path}&cursor={cursor}"));
    let answer = client.get(&path).await;
    let next = answer.json["metadata"]["nextCursor"].as_str().map(str::to_owned);
    assert_eq!(answer.json["metadata"]["hasMore"], json!(next.is_some()), "{}", answer.text);
    (column(&expect_ok(answer, 200), "id"), next)
}

/// Returns the IDs of all pages. `after_page` runs after each page that has a next one, with the number of
/// pages read.
async fn walk(client: &Client, path: &str, mut after_page: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut ids, mut next) = page(client, path, None).await;
    let mut pages = 1;
    while let Some(cursor) = next {
        after_page(pages).await;
        let (page_ids, page_next) = page(client, path, Some(&cursor)).await;
        assert!(!page_ids.is_empty() && pages < 100, "a cursor led to an empty page");
        ids.extend(page_ids);
        next = page_next;
        pages += 1;
    }
    ids
}

async fn users(server: &Server, names: &[&str]) {
    for name in names {
        server.user(&format!("user_{name}")).await;
    }
}

fn ids(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("user_{name}")).collect()
}

/// Lists are ordered by insertion, not by ID.
#[tokio::test]
async fn pages_follow_the_order_of_insertion() {
    let server = Server::start().await;
    let admin = server.admin();
    users(&server, &["m", "a", "z", "b", "y"]).await;
    assert_eq!(walk(&admin, "/users?limit=2", async |_| ()).await, ids(&["y", "b", "z", "a", "m"]));
    assert_eq!(walk(&admin, "/users?limit=2&order=asc", async |_| ()).await, ids(&["m", "a", "z", "b", "y"]));
    assert_eq!(walk(&admin, "/users?limit=1&order=desc", async |_| ()).await.len(), 5);
    let (all, next) = page(&admin, "/users?limit=5", None).await;
    assert_eq!((all.len(), next), (5, None), "a full last page has no cursor");
}

#[tokio::test]
async fn a_page_has_twenty_rows_by_default() {
    let server = Server::start().await;
    let admin = server.admin();
    for n in 0..21 {
        server.user(&format!("user_{n}")).await;
    }
    assert_eq!(expect_ok(admin.get("/users").await, 200).as_array().unwrap().len(), 20);
    assert_eq!(expect_ok(admin.get("/users?limit=100").await, 200).as_array().unwrap().len(), 21);
}

#[tokio::test]
async fn changes_during_paging_neither_hide_nor_repeat_rows() {
    let server = Server::start().await;
    let admin = server.admin();
    for (order, expected) in [("desc", ["f", "e", "d", "b"]), ("asc", ["b", "d", "e", "f"])] {
        users(
            &server,
            &["a", "b", "c", "d", "e", "f"].map(|n| format!("{n}-{order}")).each_ref().map(String::as_str),
        )
        .await;
        let path = format!("/users?limit=2&order={order}&q=user_");
        let listed = walk(&admin, &path, async |pages| {
            // Deletes the row at the cursor, one before it and one after it. Each page, a new row is added.
            if pages == 1 {
                let at_cursor = if order == "desc" { "e" } else { "b" };
                for name in [at_cursor, "c", "a"] {
                    expect_ok(admin.delete(&format!("/users/user_{name}-{order}")).await, 200);
                }
            }
            server.user(&format!("user_new{pages}-{order}")).await;
        })
        .await;
        let mut unique = listed.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), listed.len(), "{order}: a row was listed twice: {listed:?}");
        let old: Vec<_> = listed.iter().filter(|id| id.len() == format!("user_a-{order}").len()).collect();
        let mut expected: Vec<_> = expected.iter().map(|name| format!("user_{name}-{order}")).collect();
        if order == "asc" {
            // This row was listed before it was deleted.
            expected.insert(0, format!("user_a-{order}"));
        }
        assert_eq!(old, expected.iter().collect::<Vec<_>>(), "{order}");
        for id in walk(&admin, "/users?limit=100", async |_| ()).await {
            expect_ok(admin.delete(&format!("/users/{id}")).await, 200);
        }
    }
}

/// The `seq` of the newest row is not reused after its deletion, or a cursor at it would skip the new row.
#[tokio::test]
async fn positions_in_a_list_are_never_reused() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    users(&server, &["a", "b", "c"]).await;
    let members = "/organizations/org_1/members";
    for user in ["user_a", "user_b"] {
        expect_ok(admin.post(members, json!({"user_id": user, "role": "member"})).await, 201);
    }
    let listed = admin.get(&format!("{members}?limit=1&order=asc")).await;
    let cursor = listed.json["metadata"]["nextCursor"].as_str().unwrap().to_owned();
    assert_eq!(column(listed.data(), "user_id"), ["user_a"]);
    expect_ok(admin.delete(&format!("{members}/user_b")).await, 200);
    expect_ok(admin.delete(&format!("{members}/user_a")).await, 200);
    expect_ok(admin.post(members, json!({"user_id": "user_c", "role": "member"})).await, 201);
    let rest = expect_ok(admin.get(&format!("{members}?limit=1&order=asc&cursor={cursor}")).await, 200);
    assert_eq!(column(&rest, "user_id"), ["user_c"]);
}

#[tokio::test]
async fn a_cursor_is_valid_only_for_its_own_list() {
    let server = Server::start().await;
    let admin = server.admin();
    users(&server, &["a", "b", "c"]).await;
    for organization in ["org_1", "org_2", "org_3"] {
        server.organization(organization).await;
    }
    let (_, next) = page(&admin, "/users?limit=1&q=user", None).await;
    let cursor = next.unwrap();
    for path in ["/users?q=user", "/users?limit=2&q=user&order=desc"] {
        page(&admin, path, Some(&cursor)).await;
    }
    let twice = format!("/users?q=user&cursor={cursor}&cursor={cursor}");
    assert_eq!(admin.get(&twice).await.details(), [("cursor".to_owned(), "DUPLICATE_PARAMETER".to_owned())]);
    let mut corrupted = cursor.clone();
    corrupted.replace_range(20..21, if &cursor[20..21] == "A" { "B" } else { "A" });
    for (path, cursor) in [
        ("/users?limit=1", cursor.as_str()),
        ("/users?q=user_", &cursor),
        ("/users?q=user&order=asc", &cursor),
        ("/users?q=user&status=active", &cursor),
        ("/users?q=user&external_id=x", &cursor),
        ("/organizations?q=user", &cursor),
        ("/api-keys?q=user", &cursor),
        ("/organizations/org_1/members?limit=1", &cursor),
        ("/users/user_a/memberships?limit=1", &cursor),
        ("/audit-logs?limit=1", &cursor),
        ("/scopes?limit=1", &cursor),
        ("/users?q=user", &corrupted),
        ("/users?q=user", &cursor[1..]),
        ("/users?q=user", "1"),
        ("/users?q=user", "garbage!"),
        ("/users?q=user", &"A".repeat(201)),
    ] {
        let answer = admin.get(&format!("{path}&cursor={cursor}")).await;
        expect_error(&answer, 400, "INVALID_CURSOR");
        assert_eq!(answer.details(), [("cursor".to_owned(), "INVALID_CURSOR".to_owned())]);
    }
}

/// A cursor is valid only for the organization, or the platform, whose key received it.
#[tokio::test]
async fn i5_a_cursor_of_another_organization_is_refused() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut clients = vec![admin.clone()];
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
        let (client, _) = server.key(Some(organization), &["*"]).await;
        for n in 0..3 {
            let user = json!({"email": format!("{n}@{organization}"), "name": "n"});
            expect_ok(client.post("/users", user).await, 201);
            expect_ok(client.post("/api-keys", json!({"name": "n", "scopes": []})).await, 201);
        }
        clients.push(client);
    }
    for path in ["/users?limit=1", "/api-keys?limit=1", "/audit-logs?limit=1"] {
        for (owner_index, owner) in clients.iter().enumerate() {
            let (_, next) = page(owner, path, None).await;
            let path = format!("{path}&cursor={}", next.unwrap());
            for (index, client) in clients.iter().enumerate() {
                let answer = client.get(&path).await;
                if index == owner_index {
                    expect_ok(answer, 200);
                } else {
                    expect_error(&answer, 400, "INVALID_CURSOR");
                }
            }
        }
    }
}

/// No filter finds rows that the list itself doesn't show.
#[tokio::test]
async fn i5_no_filter_reaches_another_organization() {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_alpha", "org_beta"] {
        server.organization(organization).await;
    }
    let user =
        json!({"id": "user_alpha", "email": "alpha@example.com", "name": "alpha", "external_id": "alpha-1"});
    expect_ok(admin.post("/users", user).await, 201);
    expect_ok(
        admin
            .post("/organizations/org_alpha/members", json!({"user_id": "user_alpha", "role": "owner"}))
            .await,
        201,
    );
    let key = json!({"id": "key_alpha", "organization_id": "org_alpha", "user_id": "user_alpha", "name": "alpha", "scopes": ["workflows:read"]});
    server.key_with(key).await;
    let (beta, _) = server.key(Some("org_beta"), &["*"]).await;
    for path in [
        "/organizations?q=org_alpha",
        "/users?email=alpha@example.com",
        "/users?external_id=alpha-1",
        "/users?q=alpha",
        "/api-keys?user_id=user_alpha",
        "/api-keys?scope=workflows:read",
        "/api-keys?q=alpha",
        "/audit-logs?target_id=key_alpha",
    ] {
        let shown = expect_ok(admin.get(path).await, 200);
        assert!(!shown.as_array().unwrap().is_empty(), "{path} finds it for the platform");
        assert_eq!(expect_ok(beta.get(path).await, 200), Value::Array(Vec::new()), "{path}");
    }
    for path in [
        "/api-keys?organization_id=org_alpha",
        "/audit-logs?org_id=org_alpha",
        "/audit-logs/export?org_id=org_alpha",
    ] {
        expect_error(&beta.get(path).await, 404, "NOT_FOUND");
    }
    let exported = beta.get("/audit-logs/export?target_id=key_alpha").await;
    assert_eq!((exported.status, exported.text.as_str()), (200, ""));
}

/// A filter by time is resolved to a position in the list, and each row's own time decides. Here the clock
/// was set back by four hours, so that the times of the rows are not in the order of the list.
#[tokio::test]
async fn filters_by_time_find_all_events_after_the_clock_was_set_back() {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut server = Server::start().await;
    for round in 0..2 {
        for hour in 0..4 {
            server.organization(&format!("org_{round}-{hour}")).await;
            server.advance(HOUR);
        }
        server =
            Server::start_in(server.stop().await, |config| config.rate_limits.admin_per_minute = 0).await;
    }
    let admin = server.admin();
    let path = "/audit-logs?action=organization.create&limit=3";
    let all = expect_ok(admin.get("/audit-logs?action=organization.create&limit=100").await, 200);
    let occurred = |event: &Value| event["occurred_at"].as_str().unwrap().to_owned();
    let mut times: Vec<_> = all.as_array().unwrap().iter().map(occurred).collect();
    times.sort();
    times.dedup();
    assert_eq!((all.as_array().unwrap().len(), times.len()), (8, 4), "each hour occurs twice");
    for from in &times {
        for to in &times {
            let within = |event: &&Value| (from..to).contains(&&occurred(event));
            let mut expected: Vec<_> = all.as_array().unwrap().iter().filter(within).collect();
            for order in ["desc", "asc"] {
                let path = format!("{path}&order={order}&from={from}&to={to}");
                let ids: Vec<_> = expected.iter().map(|event| event["id"].as_str().unwrap()).collect();
                assert_eq!(walk(&admin, &path, async |_| ()).await, ids, "{order} {from} {to}");
                expected.reverse();
            }
        }
    }
}
