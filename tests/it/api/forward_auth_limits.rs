//! `/v1/forward-auth`: what a request costs, and the headers that tell the limits of its key.

use reqwest::Method;
use serde_json::json;
use sfv::{List, ListEntry, Parser};

use super::expect_ok;
use super::forward_auth::{PATH, call, expect_denied, key, start_server, start_server_with, trust_loopback};
use crate::support::{Answer, NOW, Server};

/// Declares the meter `tokens`.
async fn with_tokens(server: Server) -> Server {
    expect_ok(server.configure(json!({"meters": ["requests", "tokens"]})).await, 200);
    server
}

/// The names of the limits that a header lists, which must be a list of strings as defined by RFC 9651.
fn names(answer: &Answer, header: &str) -> Vec<String> {
    let field = answer.header(header).unwrap_or_else(|| panic!("no {header}: {answer:?}"));
    let list: List = Parser::new(field).parse().unwrap_or_else(|error| panic!("{field}: {error}"));
    let name = |entry: ListEntry| match entry {
        ListEntry::Item(item) => item.bare_item.as_string().expect("a string").as_str().to_owned(),
        ListEntry::InnerList(_) => panic!("a list inside of {field}"),
    };
    list.into_iter().map(name).collect()
}

/// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
fn common(answer: &Answer) -> [Option<&str>; 3] {
    ["limit", "remaining", "reset"].map(|name| answer.header(&format!("x-ratelimit-{name}")))
}

#[tokio::test]
async fn headers_list_every_limit_and_common_ones_the_scarcest() {
    let server = with_tokens(start_server().await).await;
    let tokens = |limit: u32, period: &str| json!({"meter": "tokens", "limit": limit, "period": period});
    let limits = json!([{"limit": 100, "window_seconds": 60}, tokens(1000, "month")]);
    let client = key(&server, json!({ "limits": limits })).await;
    let shared = json!([{"limit": 10, "window_seconds": 60}, tokens(500, "total")]);
    expect_ok(server.admin().patch("/organizations/org_1", json!({ "limits": shared })).await, 200);

    let policy = "\"key-requests-60s\";q=100;w=60, \"key-tokens-month\";q=1000, \
                  \"organization-requests-60s\";q=10;w=60, \"organization-tokens-total\";q=500";
    // 2026-11-23T07:08:09Z: the month ends in 665511 seconds. A total is never reset.
    let state = "\"key-requests-60s\";r=98;t=1, \"key-tokens-month\";r=900;t=665511, \
                 \"organization-requests-60s\";r=8;t=6, \"organization-tokens-total\";r=400";
    let reset = (NOW / 1000 + 12).to_string();
    let reset = Some(reset.as_str());
    for (query, status, code, shown, retry_after) in [
        ("?cost=2&cost=tokens:100", 200, "VALID", [Some("10"), Some("8"), reset], None),
        ("?cost=9", 429, "RATE_LIMITED", [Some("10"), Some("8"), reset], Some("6")),
        // Waiting helps neither a cost above the limit nor when prepaid units are spent.
        ("?cost=11", 429, "RATE_LIMITED", [Some("10"), Some("8"), reset], None),
        ("?cost=tokens:401", 429, "QUOTA_EXCEEDED", [Some("500"), Some("400"), None], None),
        ("?cost=tokens:401&limit_status=403", 403, "QUOTA_EXCEEDED", [Some("500"), Some("400"), None], None),
        ("?scope=workflows:write", 403, "INSUFFICIENT_SCOPE", [Some("10"), Some("8"), reset], None),
    ] {
        let answer = call(&client, &format!("{PATH}{query}")).await;
        match status {
            200 => {
                assert_eq!((answer.status, answer.header("x-auth-status")), (200, Some(code)), "{answer:?}")
            }
            status => expect_denied(&answer, status, code),
        }
        assert_eq!(answer.header("ratelimit-policy"), Some(policy), "{query}");
        assert_eq!(answer.header("ratelimit"), Some(state), "{query}: a denial charges nothing");
        assert_eq!(common(&answer), shown, "{query}");
        assert_eq!(answer.header("retry-after"), retry_after, "{query}");
        let expected = [
            "key-requests-60s",
            "key-tokens-month",
            "organization-requests-60s",
            "organization-tokens-total",
        ];
        assert_eq!(names(&answer, "ratelimit-policy"), expected);
        assert_eq!(names(&answer, "ratelimit"), expected);
    }

    let free = key(&server, json!({"organization_id": null, "limits": []})).await;
    let answer = call(&free, PATH).await;
    assert_eq!((answer.status, common(&answer)), (200, [None; 3]));
    assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (None, None));
}

#[tokio::test]
async fn the_query_and_the_path_say_what_a_request_costs() {
    let server = with_tokens(start_server().await).await;
    let limits =
        json!([{"limit": 1000, "period": "total"}, {"meter": "tokens", "limit": 1000, "period": "total"}]);
    let client =
        key(&server, json!({"limits": limits, "scopes": ["workflows:read", "transactions:read"]})).await;
    let mut spent = [0, 0];
    for (path, costs) in [
        ("", [1, 0]),
        ("?cost=0", [0, 0]),
        ("?cost=2", [2, 0]),
        ("?cost=requests:3", [3, 0]),
        ("?cost=2&cost=requests:2", [2, 0]),
        ("?cost=tokens:5", [1, 5]),
        ("?cost=tokens%3A5&cost=4&scope=workflows:read", [4, 5]),
        ("?cost=requests:0&cost=tokens:0", [0, 0]),
        ("/-/", [1, 0]),
        ("/-/orders?cost=7", [1, 0]),
        ("/-/cost=0/orders", [1, 0]),
        ("/cost=7", [7, 0]),
        ("/cost=0,tokens:3/orders?cost=9", [0, 3]),
        ("/cost%3D0%2Ctokens%3A3/orders", [0, 3]),
        ("/cost=2;scope=workflows:read/orders", [2, 0]),
        ("/scope=workflows:read,transactions:read;cost=tokens:8/orders", [1, 8]),
        ("/scope=workflows:read;cost=2;cost=tokens:1/orders/scope=workflows:write", [2, 1]),
        ("/scope=workflows:read/cost=9", [1, 0]),
    ] {
        let answer = call(&client, &format!("{PATH}{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        spent = [spent[0] + costs[0], spent[1] + costs[1]];
        let left = format!(
            "\"key-requests-total\";r={}, \"key-tokens-total\";r={}",
            1000 - spent[0],
            1000 - spent[1]
        );
        assert!(answer.header("ratelimit").unwrap().starts_with(&left), "{path}: {answer:?}");
    }
}

/// Fails closed: whatever the proxy's configuration gets wrong refuses all keys, and charges none.
#[tokio::test]
async fn an_invalid_cost_or_an_unknown_meter_denies_all_requests() {
    let server = with_tokens(start_server().await).await;
    let client = key(&server, json!({"limits": [{"limit": 1000, "period": "total"}]})).await;
    for path in [
        "?cost=",
        "?cost",
        "?cost=-1",
        "?cost=%2B1",
        "?cost=1.5",
        "?cost=%201",
        "?cost=1000000001",
        "?cost=99999999999999999999",
        "?cost=tokens",
        "?cost=tokens:",
        "?cost=tokens:-1",
        "?cost=tokens:1:2",
        "?cost=:1",
        "?cost=Tokens:1",
        "?cost=bytes:1",
        "?cost=bytes:0",
        "?cost=1,tokens:1",
        // Given twice.
        "?cost=1&cost=2",
        "?cost=1&cost=requests:2",
        "?cost=tokens:1&cost=tokens:1",
        "?costs=1",
        "/cost=/orders",
        "/cost=bytes:1/orders",
        "/cost=tokens:1,tokens:2/orders",
        "/cost=1;scopes=workflows:read/orders",
        "/cost=1;/orders",
        "/scope=workflows:read;costs=1/orders",
        "/scope=workflows:read;limit_status=403/orders",
    ] {
        for client in [&client, &server.admin()] {
            expect_denied(&call(client, &format!("{PATH}{path}")).await, 403, "INSUFFICIENT_SCOPE");
        }
    }
    let answer = call(&client, PATH).await;
    assert_eq!(answer.header("ratelimit").unwrap().split(',').next(), Some("\"key-requests-total\";r=999"));
}

#[tokio::test]
async fn at_most_8_costs_are_allowed_and_messages_say_what_is_wrong() {
    let server = start_server().await;
    let meters: Vec<_> = (1..=8).map(|index| format!("m{index}")).collect();
    let all: Vec<_> = ["requests".to_owned()].into_iter().chain(meters.clone()).collect();
    expect_ok(server.configure(json!({ "meters": all })).await, 200);
    let client = key(&server, json!({})).await;
    let costs: String = meters.iter().map(|meter| format!("&cost={meter}:1")).collect();
    for (query, message) in [
        (format!("?limit_status=429{costs}"), None),
        (format!("?cost=1{costs}"), Some("At most 8 costs are allowed.")),
        (format!("?limit_status=429{costs}&cost=1"), Some("At most 8 costs are allowed.")),
        ("?cost=m1:1&cost=m1:2".to_owned(), Some("A meter can have only one cost.")),
        ("?cost=1000000001".to_owned(), Some("The maximum is 1,000,000,000.")),
        ("?cost=99999999999999999999".to_owned(), Some("The maximum is 1,000,000,000.")),
        ("?cost=m1".to_owned(), Some("A cost must be a number, or meter:number.")),
    ] {
        let answer = call(&client, &format!("{PATH}{query}")).await;
        match message {
            None => assert_eq!(answer.status, 200, "{query}: {answer:?}"),
            Some(message) => {
                expect_denied(&answer, 403, "INSUFFICIENT_SCOPE");
                assert!(answer.text.contains(message), "{query}: {}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn a_request_with_an_unknown_meter_counts_as_a_failed_attempt() {
    let server = start_server_with(|config| {
        trust_loopback(config);
        config.rate_limits.failed_auth_per_minute = 2;
    })
    .await;
    let admin = server.admin();
    let from = async |address: &str, query: &str| {
        let request = admin.request_at_root(Method::GET, &format!("{PATH}{query}"));
        admin.send(request.header("x-forwarded-for", address)).await
    };
    for query in ["?cost=tokens:1", "?cost=x"] {
        expect_denied(&from("192.0.2.1", query).await, 403, "INSUFFICIENT_SCOPE");
    }
    expect_denied(&from("192.0.2.1", "?cost=tokens:1").await, 429, "RATE_LIMITED");
    assert_eq!(from("192.0.2.1", "?cost=1").await.status, 200, "a valid key is not refused");
    expect_denied(&from("192.0.2.2", "?cost=tokens:1").await, 403, "INSUFFICIENT_SCOPE");
}
