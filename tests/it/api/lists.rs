//! Lists: pages, cursors and orders, while others write.

use std::time::Duration;

use serde_json::{Value, json};

use super::{column, expect_error, expect_ok};
use crate::support::{Client, Server};

/// One page: its ids, and the cursor to go on with.
async fn page(client: &Client, path: &str, cursor: Option<&str>) -> (Vec<String>, Option<String>) {
    let path = cursor.map_or(path.to_owned(), |cursor| format!("{path}&cursor={cursor}"));
    let answer = client.get(&path).await;
    let next = answer.json["metadata"]["nextCursor"].as_str().map(str::to_owned);
    assert_eq!(answer.json["metadata"]["hasMore"], json!(next.is_some()), "{}", answer.text);
    (column(&expect_ok(answer, 200), "id"), next)
}

/// All pages; `between` runs after each of them.
async fn walk(client: &Client, path: &str, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut ids, mut next) = page(client, path, None).await;
    let mut pages = 1;
    while let Some(cursor) = next {
        between(pages).await;
        let (more, after) = page(client, path, Some(&cursor)).await;
        assert!(!more.is_empty() && pages < 100, "a cursor led to nothing");
        ids.extend(more);
        next = after;
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

/// The order is the one in which the rows were stored, whatever their ids say.
#[tokio::test]
async fn pages_follow_the_order_of_storing() {
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
async fn a_page_has_twenty_rows_unless_asked() {
    let server = Server::start().await;
    let admin = server.admin();
    for n in 0..21 {
        server.user(&format!("user_{n}")).await;
    }
    assert_eq!(expect_ok(admin.get("/users").await, 200).as_array().unwrap().len(), 20);
    assert_eq!(expect_ok(admin.get("/users?limit=100").await, 200).as_array().unwrap().len(), 21);
}

#[tokio::test]
async fn what_comes_and_goes_while_paging_hides_and_repeats_nothing() {
    let server = Server::start().await;
    let admin = server.admin();
    for (order, expected) in [("desc", ["f", "e", "d", "b"]), ("asc", ["b", "d", "e", "f"])] {
        users(
            &server,
            &["a", "b", "c", "d", "e", "f"].map(|n| format!("{n}-{order}")).each_ref().map(String::as_str),
        )
        .await;
        let path = format!("/users?limit=2&order={order}&q=user_");
        let found = walk(&admin, &path, async |pages| {
            // The row that the cursor stands on, one before it and one behind it go; others come.
            if pages == 1 {
                let (on, behind) = if order == "desc" { ("e", "c") } else { ("b", "c") };
                for name in [on, behind, "a"] {
                    expect_ok(admin.delete(&format!("/users/user_{name}-{order}")).await, 200);
                }
            }
            server.user(&format!("user_new{pages}-{order}")).await;
        })
        .await;
        let mut once = found.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), found.len(), "{order}: a row came twice: {found:?}");
        let old: Vec<_> = found.iter().filter(|id| id.len() == format!("user_a-{order}").len()).collect();
        let mut expected: Vec<_> = expected.iter().map(|name| format!("user_{name}-{order}")).collect();
        if order == "asc" {
            // What was read before it went was there then.
            expected.insert(0, format!("user_a-{order}"));
        }
        assert_eq!(old, expected.iter().collect::<Vec<_>>(), "{order}");
        for id in walk(&admin, "/users?limit=100", async |_| ()).await {
            expect_ok(admin.delete(&format!("/users/{id}")).await, 200);
        }
    }
}

/// When the newest row goes, the next one must not get its place, or a cursor behind it would miss that.
#[tokio::test]
async fn a_place_in_a_list_is_never_given_twice() {
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
async fn a_cursor_is_good_for_its_own_list_alone() {
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
    let mut bent = cursor.clone();
    bent.replace_range(20..21, if &cursor[20..21] == "A" { "B" } else { "A" });
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
        ("/users?q=user", &bent),
        ("/users?q=user", &cursor[1..]),
        ("/users?q=user", "1"),
        ("/users?q=user", "garbage!"),
        ("/users?q=user", ""),
        ("/users?q=user", &"A".repeat(201)),
    ] {
        let answer = admin.get(&format!("{path}&cursor={cursor}")).await;
        expect_error(&answer, 400, "INVALID_CURSOR");
        assert_eq!(answer.details(), [("cursor".to_owned(), "INVALID_CURSOR".to_owned())]);
    }
}

/// A cursor of the platform's or of another organization's list opens nothing.
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
        for (nth, owner) in clients.iter().enumerate() {
            let (_, next) = page(owner, path, None).await;
            let path = format!("{path}&cursor={}", next.unwrap());
            for (other, client) in clients.iter().enumerate() {
                let answer = client.get(&path).await;
                if other == nth {
                    expect_ok(answer, 200);
                } else {
                    expect_error(&answer, 400, "INVALID_CURSOR");
                }
            }
        }
    }
}

/// No filter of a list reaches what the list itself doesn't show.
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

/// A time is found as a place in the list, but what it finds is told by each row's own time: here the clock
/// was three hours ahead for a while.
#[tokio::test]
async fn filters_by_time_find_all_even_when_the_clock_was_set_back() {
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
    assert_eq!((all.as_array().unwrap().len(), times.len()), (8, 4), "each hour came twice");
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
