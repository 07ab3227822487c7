//! Invariant 5: tenants don't meet. All that belongs to the other organization has `bravo` in it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::routes::{AuthRequirement, ROUTES};
use tollhouse::service::housekeeping;

use super::behind_a_proxy;
use crate::support::{ADMIN_KEY, Answer, Client, Server};

/// What calls say of themselves, beside their key.
#[derive(Clone, Copy)]
struct From {
    ip: &'static str,
    agent: &'static str,
    request_id: &'static str,
}

const ALPHA: From = From { ip: "192.0.2.1", agent: "alpha agent", request_id: "alpha-request" };
const BRAVO: From = From { ip: "198.51.100.66", agent: "bravo agent", request_id: "bravo-request" };
const PLATFORM: From = From { ip: "203.0.113.99", agent: "operators agent", request_id: "platform" };

/// Something that happens to the other organization.
#[derive(Clone, Copy, Debug)]
enum Deed {
    AddUser,
    AddKey,
    RenameOrganization,
    RotateKey,
    RevokeKey,
    RemoveSharedMember,
    SuspendUserAsPlatform,
    DeleteUserAsPlatform,
    SuspendAsPlatform,
    BeRefused,
}

#[derive(Clone, Debug)]
struct Shape {
    alpha_users: usize,
    bravo_users: usize,
    shared_users: usize,
    alpha_keys: usize,
    deeds: Vec<Deed>,
}

fn shape() -> impl Strategy<Value = Shape> {
    use Deed::*;
    let deeds = [
        AddUser,
        AddKey,
        RenameOrganization,
        RotateKey,
        RevokeKey,
        RemoveSharedMember,
        SuspendUserAsPlatform,
        DeleteUserAsPlatform,
        SuspendAsPlatform,
        BeRefused,
    ];
    let deeds = proptest::collection::vec(proptest::sample::select(deeds.to_vec()), 5..15);
    (0..4_usize, 1..4_usize, 0..3_usize, 0..4_usize, deeds).prop_map(
        |(alpha_users, bravo_users, shared_users, alpha_keys, deeds)| Shape {
            alpha_users,
            bravo_users,
            shared_users,
            alpha_keys,
            deeds,
        },
    )
}

struct World {
    server: Server,
    alpha: Client,
    bravo: Client,
    alpha_users: BTreeSet<String>,
    alpha_keys: BTreeSet<String>,
    bravo_users: Vec<String>,
    bravo_keys: Vec<String>,
    /// Beside `bravo`: what was made by chance.
    forbidden: BTreeSet<String>,
}

impl World {
    async fn new(shape: &Shape) -> Self {
        let server = behind_a_proxy().await;
        for (id, name) in [("org_alpha", "Alpha"), ("org_bravo", "Bravo")] {
            let body = json!({"id": id, "name": name, "email": format!("office@{id}.example")});
            assert_eq!(server.admin().post("/organizations", body).await.status, 201);
        }
        let (alpha, key) = server.key(Some("org_alpha"), &["*"]).await;
        let alpha_keys = BTreeSet::from([key["id"].as_str().unwrap().to_owned()]);
        let bravo_key =
            json!({"id": "key_bravo-main", "organization_id": "org_bravo", "name": "Bravo", "scopes": ["*"]});
        let (bravo, key) = server.key_with(bravo_key).await;
        let secret = key["key"].as_str().unwrap().to_owned();
        let start = key["start"].as_str().unwrap().to_owned();
        let mut world = Self {
            alpha,
            bravo,
            alpha_users: BTreeSet::new(),
            alpha_keys,
            bravo_users: Vec::new(),
            bravo_keys: vec!["key_bravo-main".to_owned()],
            forbidden: BTreeSet::from([secret, start]),
            server,
        };
        for nth in 0..shape.alpha_users {
            world.user(&format!("alpha{nth}"), &["org_alpha"]).await;
        }
        for nth in 0..shape.bravo_users {
            world.user(&format!("bravo{nth}"), &["org_bravo"]).await;
        }
        for nth in 0..shape.shared_users {
            world.user(&format!("shared{nth}"), &["org_alpha", "org_bravo"]).await;
        }
        for nth in 0..shape.alpha_keys {
            let body = json!({"name": format!("alpha {nth}"), "scopes": ["workflows:read"]});
            let answer = world.call(ALPHA, &world.alpha, Method::POST, "/api-keys", Some(body)).await;
            world.alpha_keys.insert(answer.data()["id"].as_str().unwrap().to_owned());
        }
        for (nth, deed) in shape.deeds.iter().enumerate() {
            world.happen(nth, *deed).await;
        }
        housekeeping::write_refusals(&world.server.app, true).await.unwrap();
        let (admin, path) = (world.server.admin(), "/audit-logs?limit=100&org_id=org_bravo");
        let events = world.call(PLATFORM, &admin, Method::GET, path, None).await;
        let rows = events.data().as_array().unwrap().iter();
        let ids = rows.map(|event| event["id"].as_str().unwrap().to_owned());
        world.forbidden.extend(ids);
        world
    }

    async fn call(
        &self,
        from: From,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let request = client
            .request(method, path)
            .header("x-forwarded-for", from.ip)
            .header("user-agent", from.agent)
            .header("x-request-id", from.request_id);
        client.send(if let Some(body) = body { request.json(&body) } else { request }).await
    }

    async fn user(&mut self, name: &str, organizations: &[&str]) {
        let id = format!("user_{name}");
        let body = json!({"id": id, "name": format!("{name} Example"), "email": format!("{name}@example.com"),
            "external_id": format!("ext-{name}"), "metadata": {"of": name}});
        let admin = self.server.admin();
        assert_eq!(self.call(PLATFORM, &admin, Method::POST, "/users", Some(body)).await.status, 201);
        for organization in organizations {
            let path = format!("/organizations/{organization}/members");
            let body = json!({"user_id": id, "role": "admin"});
            assert_eq!(self.call(PLATFORM, &admin, Method::POST, &path, Some(body)).await.status, 201);
            match *organization {
                "org_alpha" => self.alpha_users.extend([id.clone()]),
                _ => self.bravo_users.push(id.clone()),
            }
        }
    }

    /// Something happens to the other organization. What is refused there is as good.
    async fn happen(&mut self, nth: usize, deed: Deed) {
        let (admin, bravo) = (self.server.admin(), self.bravo.clone());
        let any_user = self.bravo_users[nth % self.bravo_users.len()].clone();
        let own_user = self.bravo_users.iter().find(|id| id.contains("bravo")).unwrap().clone();
        let any_key = self.bravo_keys[nth % self.bravo_keys.len()].clone();
        let (from, client, method, path, body) = match deed {
            Deed::AddUser => {
                let body =
                    json!({"name": format!("Bravo {nth}"), "email": format!("bravo-{nth}@example.com")});
                (BRAVO, &bravo, Method::POST, "/users".to_owned(), Some(body))
            }
            Deed::AddKey => {
                let id = format!("key_bravo-{nth}");
                self.bravo_keys.push(id.clone());
                let body = json!({"id": id, "organization_id": "org_bravo", "user_id": any_user,
                    "name": format!("Bravo {nth}"), "scopes": ["admin:users", "workflows:*"]});
                (PLATFORM, &admin, Method::POST, "/api-keys".to_owned(), Some(body))
            }
            Deed::RenameOrganization => {
                let body = json!({"name": format!("Bravo {nth}"), "metadata": {"bravo": "bravo"}});
                (BRAVO, &bravo, Method::PATCH, "/organizations/org_bravo".to_owned(), Some(body))
            }
            Deed::RotateKey => (BRAVO, &bravo, Method::POST, format!("/api-keys/{any_key}/rotate"), None),
            Deed::RevokeKey if any_key != "key_bravo-main" => {
                let body = json!({"reason": "bravo knows"});
                (BRAVO, &bravo, Method::POST, format!("/api-keys/{any_key}/revoke"), Some(body))
            }
            Deed::RemoveSharedMember => {
                (BRAVO, &bravo, Method::DELETE, format!("/organizations/org_bravo/members/{any_user}"), None)
            }
            Deed::SuspendUserAsPlatform => {
                let body = json!({"status": "suspended"});
                (PLATFORM, &admin, Method::PATCH, format!("/users/{own_user}"), Some(body))
            }
            Deed::DeleteUserAsPlatform => {
                (PLATFORM, &admin, Method::DELETE, format!("/users/{own_user}"), None)
            }
            Deed::SuspendAsPlatform => {
                let body = json!({"status": if nth.is_multiple_of(2) { "suspended" } else { "active" }});
                (PLATFORM, &admin, Method::PATCH, "/organizations/org_bravo".to_owned(), Some(body))
            }
            Deed::RevokeKey | Deed::BeRefused => {
                (BRAVO, &bravo, Method::POST, "/organizations".to_owned(), Some(json!({"name": "bravo"})))
            }
        };
        let answer = self.call(from, client, method, &path, body).await;
        for made in ["key", "start", "id"] {
            // A user's own id was made by chance when the organization's key created it.
            let made = answer.data()[made].as_str().filter(|made| !made.contains("shared"));
            self.forbidden.extend(made.map(str::to_owned));
        }
    }

    async fn look(&self, path: &str) -> Answer {
        let answer = self.call(ALPHA, &self.alpha, Method::GET, path, None).await;
        self.assert_clean(path, &answer.text);
        for (name, value) in &answer.headers {
            self.assert_clean(path, &format!("{name}: {value:?}"));
        }
        answer
    }

    /// In a batch, too, it isn't there.
    async fn look_in_a_batch(&self, path: &str) {
        let operations = json!([{"method": "GET", "path": path}, {"method": "DELETE", "path": path}]);
        let batch = json!({"atomic": false, "operations": operations});
        let answer = self.call(ALPHA, &self.alpha, Method::POST, "/batch", Some(batch)).await;
        self.assert_clean(path, &answer.text);
        let results = answer.data()["results"].as_array().cloned().unwrap_or_default();
        let refused = |result: &Value| [json!(404), json!(405)].contains(&result["status"]);
        assert!(results.iter().all(refused) && [200, 400].contains(&answer.status), "{path}: {answer:?}");
    }

    fn assert_clean(&self, what: &str, text: &str) {
        let aggregated = text.to_lowercase();
        assert!(!aggregated.contains("bravo") && !text.contains(BRAVO.ip), "{what}: {text}");
        for forbidden in &self.forbidden {
            assert!(!text.contains(forbidden.as_str()), "{what} tells {forbidden}: {text}");
        }
        for of_platform in [PLATFORM.ip, PLATFORM.agent, ADMIN_KEY, "First admin key"] {
            assert!(!text.contains(of_platform), "{what} tells {of_platform}: {text}");
        }
    }

    /// Walks a list to its end, in pages of this size, and tells the ids.
    async fn walk(&self, path: &str, limit: usize, order: &str, id: &str) -> Vec<String> {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let answer = self.look(&format!("{path}?limit={limit}&order={order}{cursor}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let rows = answer.data().as_array().unwrap();
            ids.extend(rows.iter().map(|row| row[id].as_str().unwrap().to_owned()));
            match answer.json["metadata"]["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return ids,
            }
            // A walk over the log adds to it; newest first that is never seen.
            if path == "/audit-logs" && order == "asc" && ids.len() > 60 {
                return ids;
            }
        }
    }

    /// An id of the other organization of each kind.
    fn ids_of_bravo(&self) -> Vec<String> {
        let event = self.forbidden.iter().find(|text| text.starts_with("evt_"));
        let user = self.bravo_users.iter().find(|id| id.contains("bravo"));
        let ids = [event, user, self.bravo_keys.last(), Some(&"org_bravo".to_owned())];
        ids.into_iter().flatten().cloned().collect()
    }
}

/// Every GET route below the control plane.
fn gets() -> impl Iterator<Item = &'static str> {
    let gets = ROUTES.iter().filter(|route| route.method == "GET" && route.auth != AuthRequirement::Open);
    gets.filter_map(|route| route.path.strip_prefix("/admin/v1"))
}

const FILTERS: &[&str] = &[
    "org_id",
    "organization_id",
    "user_id",
    "key_id",
    "actor_id",
    "target_id",
    "q",
    "email",
    "external_id",
    "ip",
];

async fn play(shape: &Shape) {
    let world = World::new(shape).await;
    // Without a word of the other one nothing of it comes.
    for (path, id, expected) in [
        ("/organizations", "id", Some(&BTreeSet::from(["org_alpha".to_owned()]))),
        ("/users", "id", Some(&world.alpha_users)),
        ("/organizations/org_alpha/members", "user_id", Some(&world.alpha_users)),
        ("/api-keys", "id", Some(&world.alpha_keys)),
        ("/audit-logs", "id", None),
    ] {
        for (limit, order) in [(1, "asc"), (2, "desc"), (3, "asc"), (100, "desc")] {
            let ids = world.walk(path, limit, order, id).await;
            let Some(expected) = expected else { continue };
            assert_eq!(ids.iter().cloned().collect::<BTreeSet<_>>(), *expected, "{path}");
            assert_eq!(ids.len(), expected.len(), "{path}: one of them twice");
        }
    }
    for shared in world.alpha_users.iter().filter(|id| id.contains("shared")) {
        let of_user = world.walk(&format!("/users/{shared}/memberships"), 1, "asc", "organization_id").await;
        assert_eq!(of_user, ["org_alpha"]);
    }
    for format in ["ndjson", "csv"] {
        assert_eq!(world.look(&format!("/audit-logs/export?format={format}")).await.status, 200);
    }
    // Asked for by name, it isn't there. The queries come first: they leave no echo in its own log.
    let lists = gets().filter(|path| !path.contains('{'));
    let ids = world.ids_of_bravo();
    for (path, filter) in lists.flat_map(|path| FILTERS.iter().map(move |filter| (path, filter))) {
        for id in &ids {
            let answer = world.look(&format!("{path}?{filter}={id}")).await;
            let nothing = answer.data().as_array().is_none_or(Vec::is_empty);
            assert!(nothing && matches!(answer.status, 200 | 400 | 403 | 404), "{path} {filter}: {answer:?}");
        }
    }
    for path in gets().filter(|path| path.contains('{')) {
        for id in &ids {
            let of_theirs = path.replace("{id}", id).replace("{user_id}", "user_alpha0");
            let in_ours = path.replace("{user_id}", id).replace("{id}", "org_alpha");
            for asked in [of_theirs, in_ours].iter().filter(|asked| asked.contains(id)) {
                assert_eq!(world.look(asked).await.status, 404, "{asked}");
                world.look_in_a_batch(asked).await;
            }
        }
    }
    // Of that, its own log echoes what it asked for, and nothing else.
    let log = world.call(ALPHA, &world.alpha, Method::GET, "/audit-logs?limit=100", None).await;
    for event in log.data().as_array().unwrap() {
        let mut event = event.clone();
        event["context"]["path"] = Value::Null;
        event["target"]["id"] = Value::Null;
        world.assert_clean("the log", &event.to_string());
    }
}

#[test]
fn i5_no_answer_tells_anything_of_another_organization() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { cases: 8, max_shrink_iters: 10, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(&shape(), |shape| {
            runtime.block_on(play(&shape));
            Ok(())
        })
        .unwrap();
}
