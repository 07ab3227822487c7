//! Invariants 7 and 8 for the keys of an organization: together they are admitted exactly up to the
//! organization's limit, however many there are, and a refused call costs no bucket a token.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sfv::{List, ListEntry, Parser};

use crate::support::{Answer, Client, NOW, Server};

const CLASSES: [Class; 2] = [Class::Admin, Class::Batch];

#[derive(Clone, Copy)]
enum Class {
    Admin,
    Batch,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Batch => "batch",
        }
    }

    fn organization_policy(self) -> String {
        format!("{}-organization", self.name())
    }

    /// Sets the limit of this class for single keys, and the factor. The other class has no limit.
    async fn configure(self, server: &Server, per_minute: u32, factor: u32) {
        let mut limits = json!({"admin_per_minute": 0, "batch_per_minute": 0, "organization_factor": factor});
        limits[format!("{}_per_minute", self.name())] = per_minute.into();
        let answer = server.configure(json!({ "rate_limits": limits })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Makes a call of this class. An admitted batch has no operations, so it is refused after it was charged.
    async fn call(self, client: &Client) -> Answer {
        match self {
            Self::Admin => client.get("/whoami").await,
            Self::Batch => client.post("/batch", json!({})).await,
        }
    }

    async fn is_admitted(self, client: &Client) -> bool {
        let answer = self.call(client).await;
        match (self, answer.status) {
            (_, 429) => assert_eq!(answer.code(), "RATE_LIMITED"),
            (Self::Admin, status) => assert_eq!(status, 200, "{answer:?}"),
            (Self::Batch, status) => assert_eq!(status, 400, "{answer:?}"),
        }
        answer.status != 429
    }

    /// Calls until a call is refused. Returns the number of admitted calls.
    async fn exhaust(self, client: &Client) -> u32 {
        let mut admitted = 0;
        while self.is_admitted(client).await {
            admitted += 1;
        }
        admitted
    }
}

/// The items of a header by their names, with their parameters. Fails if it is no list of strings as defined
/// by RFC 9651.
fn items(answer: &Answer, header: &str) -> Vec<(String, BTreeMap<String, i64>)> {
    let field = answer.header(header).unwrap_or_else(|| panic!("no {header}: {answer:?}"));
    let list: List = Parser::new(field).parse().unwrap_or_else(|error| panic!("{field}: {error}"));
    let read = |entry: ListEntry| {
        let ListEntry::Item(item) = entry else { panic!("a list inside of {field}") };
        let name = item.bare_item.as_string().unwrap_or_else(|| panic!("no string: {field}")).as_str();
        let number = |value: &sfv::BareItem| i64::from(value.as_integer().expect("an integer"));
        let parameters = item.params.iter().map(|(name, value)| (name.as_str().to_owned(), number(value)));
        (name.to_owned(), parameters.collect())
    };
    list.into_iter().map(read).collect()
}

/// The tokens left of each policy.
fn remaining(answer: &Answer) -> BTreeMap<String, i64> {
    items(answer, "ratelimit").into_iter().map(|(name, parameters)| (name, parameters["r"])).collect()
}

fn policy(answer: &Answer) -> String {
    answer.header("ratelimit-policy").unwrap_or_default().to_owned()
}

fn message(answer: &Answer) -> &str {
    answer.json["error"]["message"].as_str().unwrap_or_default()
}

/// A server without limits that has the organizations `org_1` and `org_2`.
async fn server_with_organizations() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    server.organization("org_2").await;
    server
}

async fn keys_of(server: &Server, organization: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(server.key(Some(organization), &["admin:keys"]).await.0);
    }
    clients
}

/// 24 keys could make 24 times the calls of one key, and race for the five times that their organization has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_racing_keys_of_an_organization_are_admitted_exactly_up_to_its_limit() {
    const PER_KEY: u32 = 20;
    const FACTOR: u32 = 5;
    for class in CLASSES {
        let server = server_with_organizations().await;
        let clients = keys_of(&server, "org_1", 24).await;
        class.configure(&server, PER_KEY, FACTOR).await;
        for refilled in [PER_KEY * FACTOR, 1, 7] {
            let callers: Vec<_> = clients
                .iter()
                .cloned()
                .map(|client| tokio::spawn(async move { class.exhaust(&client).await }))
                .collect();
            let mut admitted = 0;
            for caller in callers {
                let of_key = caller.await.unwrap();
                assert!(of_key <= PER_KEY, "{}: {of_key}", class.name());
                admitted += of_key;
            }
            assert_eq!(admitted, refilled, "{}", class.name());
            // The next round has the 1, then the 7 tokens that the organization gets back: one in 600 ms.
            let next = if refilled == 1 { 7 } else { 1 };
            server.advance(Duration::from_millis(600) * next);
        }
    }
}

#[tokio::test]
async fn i8_a_call_that_the_organizations_limit_refuses_costs_its_key_no_token() {
    for class in CLASSES {
        let server = server_with_organizations().await;
        let clients = keys_of(&server, "org_1", 3).await;
        class.configure(&server, 10, 2).await;
        let (key_policy, organization_policy) = (class.name(), class.organization_policy());
        // A call that the key's limit refuses costs the organization nothing.
        assert_eq!(class.exhaust(&clients[0]).await, 10);
        let refused = class.call(&clients[0]).await;
        assert!(message(&refused).starts_with("Too many requests with this key;"), "{refused:?}");
        assert_eq!(refused.header("x-ratelimit-limit"), Some("10"), "the limit that refused");
        assert_eq!(remaining(&refused), [(key_policy.into(), 0), (organization_policy.clone(), 10)].into());
        // A call that the organization's limit refuses costs the key nothing.
        for _ in 0..4 {
            assert!(class.is_admitted(&clients[1]).await);
        }
        assert_eq!(class.exhaust(&clients[2]).await, 6);
        for _ in 0..3 {
            let refused = class.call(&clients[1]).await;
            let expected = "Too many requests with the keys of this organization; try again in 3 s.";
            assert_eq!((refused.status, message(&refused)), (429, expected), "{refused:?}");
            assert_eq!(refused.header("x-ratelimit-limit"), Some("20"), "the limit that refused");
            assert_eq!(refused.header("retry-after"), Some("3"));
            let left = [(key_policy.into(), 6), (organization_policy.clone(), 0)];
            assert_eq!(remaining(&refused), left.into());
        }
        server.advance(Duration::from_secs(3) - Duration::from_nanos(1));
        assert!(!class.is_admitted(&clients[1]).await, "before Retry-After");
        server.advance(Duration::from_nanos(1));
        assert!(class.is_admitted(&clients[1]).await, "after Retry-After");
    }
}

#[tokio::test]
async fn i5_platform_keys_and_other_organizations_are_unaffected() {
    for class in CLASSES {
        let server = server_with_organizations().await;
        let clients = keys_of(&server, "org_1", 3).await;
        let other = keys_of(&server, "org_2", 1).await.remove(0);
        let (platform, _) = server.key(None, &["admin:keys"]).await;
        class.configure(&server, 10, 2).await;
        let mut admitted = 0;
        for client in &clients {
            admitted += class.exhaust(client).await;
        }
        assert_eq!(admitted, 20);
        let answer = class.call(&other).await;
        let left = [(class.name().into(), 9), (class.organization_policy(), 19)];
        assert_eq!(remaining(&answer), left.into(), "{answer:?}");
        // A platform key has no limit but its own.
        let answer = class.call(&platform).await;
        assert_eq!(remaining(&answer), [(class.name().into(), 9)].into(), "{answer:?}");
        assert_eq!(class.exhaust(&platform).await, 9);
    }
}

#[tokio::test]
async fn a_changed_factor_applies_to_the_next_call_and_0_turns_the_limit_off() {
    for class in CLASSES {
        let server = server_with_organizations().await;
        let clients = keys_of(&server, "org_1", 4).await;
        class.configure(&server, 10, 1).await;
        assert_eq!(class.exhaust(&clients[0]).await, 10);
        assert_eq!(class.exhaust(&clients[1]).await, 0, "the first key has used all of them");
        class.configure(&server, 10, 2).await;
        assert_eq!(class.exhaust(&clients[1]).await, 10, "spent tokens stay spent");
        assert_eq!(class.exhaust(&clients[2]).await, 0);
        class.configure(&server, 10, 0).await;
        let answer = class.call(&clients[2]).await;
        assert_eq!(policy(&answer), format!("\"{}\";q=10;w=60", class.name()));
        assert_eq!(class.exhaust(&clients[2]).await, 9, "only its own limit is left");
        // What was used without the limit doesn't count against it later.
        class.configure(&server, 10, 3).await;
        assert_eq!(class.exhaust(&clients[3]).await, 10);
        class.configure(&server, 0, 3).await;
        let answer = class.call(&clients[3]).await;
        assert_eq!((answer.header("ratelimit"), answer.status == 429), (None, false));
    }
}

#[tokio::test]
async fn the_headers_list_both_limits_as_structured_fields() {
    let server = server_with_organizations().await;
    let client = keys_of(&server, "org_1", 1).await.remove(0);
    let other = keys_of(&server, "org_1", 1).await.remove(0);
    let settings = json!({"admin_per_minute": 60, "batch_per_minute": 30, "organization_factor": 2});
    assert_eq!(server.configure(json!({ "rate_limits": settings })).await.status, 200);
    let now = NOW / 1000;
    let item = |name: &str, parameters: &[(&str, i64)]| {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), *value));
        (name.to_owned(), parameters.collect::<BTreeMap<_, _>>())
    };

    let first = client.get("/whoami").await;
    let policies = "\"admin\";q=60;w=60, \"admin-organization\";q=120;w=60";
    assert_eq!(policy(&first), policies);
    assert_eq!(first.header("ratelimit"), Some("\"admin\";r=59;t=1, \"admin-organization\";r=119;t=1"));
    assert_eq!(
        items(&first, "ratelimit-policy"),
        [item("admin", &[("q", 60), ("w", 60)]), item("admin-organization", &[("q", 120), ("w", 60)])]
    );
    assert_eq!(
        items(&first, "ratelimit"),
        [item("admin", &[("r", 59), ("t", 1)]), item("admin-organization", &[("r", 119), ("t", 1)])]
    );
    // Neither refused, so these show the one with less left.
    let common = |answer: &Answer| {
        ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"]
            .map(|name| answer.header(name).unwrap().parse::<i64>().unwrap())
    };
    assert_eq!(common(&first), [60, 59, now + 1]);
    let data = first.data();
    assert_eq!(data["rate_limit"], json!({"limit": 60, "remaining": 59, "reset": now + 1}));
    assert_eq!(data["organization_rate_limit"], json!({"limit": 120, "remaining": 119, "reset": now + 1}));

    for _ in 0..59 {
        assert_eq!(client.get("/whoami").await.status, 200);
    }
    // The organization has 60 left, and so has the other key.
    for left in (20..60).rev() {
        let answer = other.get("/whoami").await;
        assert_eq!(remaining(&answer), [("admin".into(), left), ("admin-organization".into(), left)].into());
        assert_eq!(common(&answer)[..2], [60, left], "the key's limit, if as many are left of both");
    }
    let third = keys_of(&server, "org_1", 1).await.remove(0);
    let answer = third.get("/whoami").await;
    assert_eq!(remaining(&answer), [("admin".into(), 59), ("admin-organization".into(), 19)].into());
    assert_eq!(common(&answer)[..2], [120, 19], "the organization has less left");

    let batch = client.post("/batch", json!({})).await;
    assert_eq!(policy(&batch), "\"batch\";q=30;w=60, \"batch-organization\";q=60;w=60");
    assert_eq!(remaining(&batch), [("batch".into(), 29), ("batch-organization".into(), 59)].into());

    let platform = server.admin().get("/whoami").await;
    assert_eq!(policy(&platform), "\"admin\";q=60;w=60");
    assert_eq!(platform.data()["organization_rate_limit"], Value::Null);
}

/// A call that is refused before the rate limit shows both limits, too, and takes no tokens.
#[tokio::test]
async fn i8_a_call_from_a_refused_address_shows_both_limits_and_costs_nothing() {
    let server = server_with_organizations().await;
    let body = json!({"organization_id": "org_1", "name": "n", "scopes": ["admin:keys"],
        "allowed_ips": ["192.0.2.0/24"]});
    let (client, _) = server.key_with(body).await;
    Class::Admin.configure(&server, 10, 2).await;
    for _ in 0..30 {
        let answer = client.get("/whoami").await;
        assert_eq!(answer.code(), "IP_NOT_ALLOWED");
        assert_eq!(remaining(&answer), [("admin".into(), 10), ("admin-organization".into(), 20)].into());
    }
}
