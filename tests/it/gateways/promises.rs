//! What the guide promises, whatever the gateway.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::around::{HELLO, Seen};
use super::{FAILURES, World};
use crate::support::{Answer, Client, Raw, http_from};

const IDENTITY: [&str; 6] = [
    "x-auth-key-id",
    "x-auth-organization-id",
    "x-auth-user-id",
    "x-auth-plan",
    "x-auth-scopes",
    "x-auth-status",
];

/// Runs all of them; the last ones leave a world in which nobody passes.
pub(super) async fn all(mut world: World) {
    world.server.organization("org_1").await;
    world.server.user("user_1").await;
    let member = json!({"user_id": "user_1", "role": "member"});
    assert_eq!(world.server.admin().post("/organizations/org_1/members", member).await.status, 201);

    the_application_hears_whose_key_it_is(&world).await;
    nobody_forges_an_identity(&world).await;
    the_body_reaches_the_application_alone(&world).await;
    connections_to_tollhouse_are_kept(&world).await;
    the_application_may_refuse_too(&world).await;
    keys_that_are_not_good_are_refused(&world).await;
    a_spent_key_is_refused(&world).await;
    a_revoked_key_is_refused_at_once(&world).await;
    an_address_is_not_forged(&world).await;
    guesses_are_limited(&world).await;
    nobody_passes_while_tollhouse_is_away(&mut world).await;
}

/// Keys of all kinds, and what the application hears of them: the values of [`IDENTITY`].
async fn good_keys(world: &World) -> Vec<(String, [String; 6])> {
    let scopes = json!(["workflows:read", "transactions:write"]);
    let mut keys = Vec::new();
    for (owner, heard) in [
        (json!({"organization_id": "org_1", "user_id": "user_1"}), ["org_1", "user_1", "standard"]),
        (json!({"organization_id": "org_1"}), ["org_1", "-", "standard"]),
        (json!({}), ["-", "-", "-"]),
    ] {
        let mut body = owner;
        body["name"] = json!("good");
        body["scopes"] = scopes.clone();
        let (_, key) = world.server.key_with(body).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let [organization, user, plan] = heard.map(str::to_owned);
        let scopes = "workflows:read transactions:write".to_owned();
        let heard = [text(&key["id"]), organization, user, plan, scopes, "VALID".to_owned()];
        keys.push((text(&key["key"]), heard));
    }
    keys
}

/// What the application can take for an identity, by whichever spelling: CGI knows no other letters.
fn identity(seen: &Seen) -> Vec<(String, String)> {
    let spelled = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let mut found: Vec<_> = seen
        .headers
        .iter()
        .map(|(name, value)| (spelled(name.as_str()), value.to_str().unwrap().to_owned()))
        .filter(|(name, _)| name.starts_with("x-auth"))
        .collect();
    found.sort();
    found
}

/// One request, with this identity and without the key.
#[track_caller]
fn assert_identified(seen: &[Seen], heard: &[String; 6]) {
    let [seen] = seen else { panic!("{} requests reached the application", seen.len()) };
    let mut expected: Vec<_> = IDENTITY.map(str::to_owned).into_iter().zip(heard.clone()).collect();
    expected.sort();
    assert_eq!(identity(seen), expected);
    for name in ["authorization", "x-api-key"] {
        assert_eq!(seen.headers.get(name), None, "{name} reached the application");
    }
}

/// It was refused with this status, and the application has not heard of it.
#[track_caller]
fn assert_refused((answer, seen): &(Answer, Vec<Seen>), status: u16, why: &str) {
    assert_eq!(answer.status, status, "{why}: {answer:?}");
    assert_eq!(seen.len(), 0, "{why}: it reached the application");
    assert_ne!(answer.text, HELLO, "{why}");
    let has = |name| answer.header(name).is_some_and(|value| !value.is_empty());
    assert_eq!(has("www-authenticate"), status == 401, "{why}: {answer:?}");
    assert_eq!(has("retry-after"), status == 429, "{why}: {answer:?}");
}

async fn the_application_hears_whose_key_it_is(world: &World) {
    for (key, heard) in good_keys(world).await {
        let plain = || world.request(Method::GET, "/things");
        for request in [plain().bearer_auth(&key), plain().header("x-api-key", &key)] {
            let (answer, seen) = world.send(request).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, HELLO));
            assert_identified(&seen, &heard);
        }
    }
}

async fn nobody_forges_an_identity(world: &World) {
    let spellings: [fn(&str) -> String; 5] = [
        str::to_owned,
        str::to_uppercase,
        |name| name.replace('-', "_"),
        |name| name.replacen('-', "_", 1),
        |name| name.replacen("auth-", "AUTH_", 1),
    ];
    let host = world.gateway.url.strip_prefix("http://").unwrap();
    for (key, heard) in good_keys(world).await {
        for spell in spellings {
            for hop in ["keep-alive".to_owned(), format!("keep-alive, {}", IDENTITY.join(", "))] {
                let mut head = format!("GET /things HTTP/1.1\r\nHost: {host}\r\nConnection: {hop}\r\n");
                head.push_str(&format!("Authorization: Bearer {key}\r\n"));
                for name in IDENTITY {
                    head.push_str(&format!("{}: forged\r\n", spell(name)));
                }
                head.push_str("\r\n");
                let mut raw = Raw::connect(&world.gateway.url).await;
                raw.send(head.as_bytes()).await;
                let answer = raw.answer().await.unwrap();
                assert_eq!(answer.status, 200, "{head}{answer:?}");
                assert_identified(&world.application.take(), &heard);
            }
        }
    }
}

async fn the_body_reaches_the_application_alone(world: &World) {
    let (key, _) = good_keys(world).await.remove(0);
    let path = "/things/a%2Fb?scope=admin:keys&limit_status=200";
    let body = "nobody-else's-business ".repeat(5000);
    let parts: Vec<Result<String, std::io::Error>> =
        vec![Ok(body[..50_000].into()), Ok(body[50_000..].into())];
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    for sent in [reqwest::Body::from(body.clone()), chunked] {
        let request = world.request(Method::POST, path).bearer_auth(&key).body(sent);
        let (answer, seen) = world.send(request).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, HELLO));
        let [seen] = seen.as_slice() else { panic!("{} requests", seen.len()) };
        assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("POST", path));
        assert!(seen.body == body, "{} bytes of {}", seen.body.len(), body.len());
    }
    let heard = world.wire.heard();
    assert!(heard.contains(&key), "the wire hears nothing");
    assert!(!heard.contains("nobody-else's-business"), "the body went to Tollhouse");
}

async fn connections_to_tollhouse_are_kept(world: &World) {
    let (key, _) = good_keys(world).await.remove(0);
    let before = world.wire.opened();
    for _ in 0..50 {
        assert_eq!(world.send(world.get(&key)).await.0.status, 200);
    }
    let opened = world.wire.opened() - before;
    assert!(opened < 10, "{opened} connections for 50 questions");
}

async fn the_application_may_refuse_too(world: &World) {
    let (key, _) = good_keys(world).await.remove(0);
    let request = world.request(Method::GET, "/forbidden").bearer_auth(key);
    let (answer, seen) = world.send(request).await;
    assert_eq!((answer.status, answer.text.as_str(), seen.len()), (403, HELLO, 1));
}

async fn keys_that_are_not_good_are_refused(world: &World) {
    let (server, admin) = (&world.server, world.server.admin());
    let read = json!(["workflows:read"]);
    let (good, _) = good_keys(world).await.remove(0);
    assert_refused(&world.send(world.request(Method::GET, "/things")).await, 401, "no key");
    assert_refused(&world.send(world.get(&format!("toll_{}", "0".repeat(38)))).await, 401, "malformed");
    let unknown = "an-unknown-key-that-could-have-been-imported";
    assert_refused(&world.send(world.get(unknown)).await, 401, "unknown");
    assert_refused(&world.send(world.get(&good).header("x-api-key", unknown)).await, 401, "two keys");
    // nginx and others don't even ask.
    let (answer, seen) = world.send(world.get(&good).bearer_auth(unknown)).await;
    assert!([400, 401].contains(&answer.status) && seen.is_empty(), "two keys in one place: {answer:?}");

    let disabled = json!({"id": "key_disabled", "name": "n", "scopes": read});
    let disabled = world.key(disabled).await;
    assert_eq!(admin.patch("/api-keys/key_disabled", json!({"status": "disabled"})).await.status, 200);
    assert_refused(&world.send(world.get(&disabled)).await, 401, "disabled");

    let expiring = json!({"name": "n", "scopes": read, "expires_at": "2026-11-23T08:00:00Z"});
    let expiring = world.key(expiring).await;
    assert_eq!(world.send(world.get(&expiring)).await.0.status, 200);
    server.advance(Duration::from_secs(3600));
    assert_refused(&world.send(world.get(&expiring)).await, 401, "expired");

    let narrow = world.key(json!({"name": "n", "scopes": ["workflows:write", "admin:keys"]})).await;
    assert_refused(&world.send(world.get(&narrow)).await, 403, "without the scope");

    server.organization("org_2").await;
    server.user("user_2").await;
    let member = json!({"user_id": "user_2", "role": "member"});
    assert_eq!(admin.post("/organizations/org_2/members", member).await.status, 201);
    let owned = json!({"organization_id": "org_2", "user_id": "user_2", "name": "n", "scopes": read});
    let owned = world.key(owned).await;
    assert_eq!(world.send(world.get(&owned)).await.0.status, 200);
    for (path, why) in [("/users/user_2", "inactive owner"), ("/organizations/org_2", "suspended")] {
        assert_eq!(admin.patch(path, json!({"status": "suspended"})).await.status, 200);
        assert_refused(&world.send(world.get(&owned)).await, 403, why);
        assert_eq!(admin.patch(path, json!({"status": "active"})).await.status, 200);
        assert_eq!(world.send(world.get(&owned)).await.0.status, 200);
    }
}

async fn a_spent_key_is_refused(world: &World) {
    for (field, limit) in [
        ("rate_limit", json!({"limit": 2, "window_seconds": 60})),
        ("quota", json!({"limit": 2, "period": "day"})),
    ] {
        let key = world.key(json!({"name": "n", "scopes": ["workflows:read"], field: limit})).await;
        for _ in 0..2 {
            assert_eq!(world.send(world.get(&key)).await.0.status, 200, "{field}");
        }
        assert_refused(&world.send(world.get(&key)).await, 429, field);
    }
}

async fn a_revoked_key_is_refused_at_once(world: &World) {
    let admin = world.server.admin();
    for id in ["key_1", "key_2", "key_3"] {
        let key = world.key(json!({"id": id, "name": "n", "scopes": ["workflows:read"]})).await;
        assert_eq!(world.send(world.get(&key)).await.0.status, 200);
        assert_eq!(admin.delete(&format!("/api-keys/{id}")).await.status, 200);
        assert_refused(&world.send(world.get(&key)).await, 401, "revoked");
    }
}

async fn an_address_is_not_forged(world: &World) {
    let key = |allowed| json!({"name": "n", "scopes": ["workflows:read"], "allowed_ips": [allowed]});
    let far = world.key(key("203.0.113.7/32")).await;
    let here = world.key(key("127.0.0.9/32")).await;
    let gateway = world.key(key("127.0.0.1/32")).await;
    let elsewhere = http_from([127, 0, 0, 8]);
    let from_elsewhere = |key| elsewhere.get(format!("{}/things", world.gateway.url)).bearer_auth(key);
    assert_eq!(world.send(world.get(&here)).await.0.status, 200);
    for forged in ["203.0.113.7", "203.0.113.7, 127.0.0.1", "203.0.113.7,", "127.0.0.1, 203.0.113.7"] {
        let request = world.get(&far).header("x-forwarded-for", forged).header("x-real-ip", "203.0.113.7");
        let request = request.header("x-forwarded-for", "203.0.113.7").header("forwarded", "for=203.0.113.7");
        assert_refused(&world.send(request).await, 403, forged);
    }
    for forged in ["127.0.0.9", "127.0.0.9, 127.0.0.1", "127.0.0.1, 127.0.0.9"] {
        let request = from_elsewhere(&here).header("x-forwarded-for", forged);
        assert_refused(&world.send(request).await, 403, forged);
        // And it doesn't stop the right one.
        let request =
            world.get(&here).header("x-forwarded-for", "203.0.113.7").header("x-forwarded-for", "?");
        assert_eq!(world.send(request).await.0.status, 200);
    }
    assert_refused(&world.send(world.get(&gateway)).await, 403, "the gateway's own address");
}

async fn guesses_are_limited(world: &World) {
    let (good, _) = good_keys(world).await.remove(0);
    for guess in 0.. {
        let guessed = world.send(world.get(&format!("toll_guess{guess}"))).await;
        if guessed.0.status == 429 {
            assert_refused(&guessed, 429, "too many guesses");
            break;
        }
        assert_refused(&guessed, 401, "a guess");
        assert!(guess < FAILURES, "guesses are not limited");
    }
    assert_eq!(world.send(world.get(&good)).await.0.status, 200);
    // Others are not to blame.
    let request = http_from([127, 0, 0, 8]).get(&world.gateway.url).bearer_auth("toll_guess");
    let answer = Client::try_send(request).await.unwrap();
    assert_eq!(answer.status, 401);
}

async fn nobody_passes_while_tollhouse_is_away(world: &mut World) {
    let (good, _) = good_keys(world).await.remove(0);
    world.wire.cut().await;
    let (answer, seen) = world.send(world.get(&good)).await;
    assert!((500..=504).contains(&answer.status), "{answer:?}");
    assert_eq!(seen.len(), 0);
}
