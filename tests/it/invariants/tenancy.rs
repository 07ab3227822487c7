//! Invariant 5: organizations are isolated. Everything that belongs to the other organization contains `bravo`.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::routes::{AuthRequirement, ROUTES};
use tollhouse::service::housekeeping;

use super::behind_a_proxy;
use crate::support::{ADMIN_KEY, Answer, Client, Server};

/// The identifying details of a call other than its key.
#[derive(Clone, Copy)]
struct Origin {
    ip: &'static str,
    agent: &'static str,
    request_id: &'static str,
}

const ALPHA: Origin = Origin { ip: "192.0.2.1", agent: "alpha agent", request_id: "alpha-request" };
const BRAVO: Origin = Origin { ip: "198.51.100.66", agent: "bravo agent", request_id: "bravo-request" };
const PLATFORM: Origin = Origin { ip: "203.0.113.99", agent: "operators agent", request_id: "platform" };

/// A step that changes the other organization.
#[derive(Clone, Copy, Debug)]
enum Step {
    AddUser,
    AddKey,
    RenameOrganization,
    RotateKey,
    RevokeKey,
    RemoveSharedMember,
    SuspendUserAsPlatform,
    DeleteUserAsPlatform,
    SuspendAsPlatform,
    RefusedCall,
}

#[derive(Clone, Debug)]
struct Script {
    alpha_users: usize,
    bravo_users: usize,
    shared_users: usize,
    alpha_keys: usize,
    steps: Vec<Step>,
}

fn script() -> impl Strategy<Value = Script> {
    use Step::*;
    let steps = [
        AddUser,
        AddKey,
        RenameOrganization,
        RotateKey,
        RevokeKey,
        RemoveSharedMember,
        SuspendUserAsPlatform,
        DeleteUserAsPlatform,
        SuspendAsPlatform,
        RefusedCall,
    ];
    let steps = proptest::collection::vec(proptest::sample::select(steps.to_vec()), 5..15);
    (0..4_usize, 1..4_usize, 0..3_usize, 0..4_usize, steps).prop_map(
        |(alpha_users, bravo_users, shared_users, alpha_keys, steps)| Script {
            alpha_users,
            bravo_users,
            shared_users,
            alpha_keys,
            steps,
        },
    )
}

/// A server with two organizations after a script has run.
struct Fixture {
    server: Server,
    alpha: Client,
    bravo: Client,
    alpha_users: BTreeSet<String>,
    alpha_keys: BTreeSet<String>,
    bravo_users: Vec<String>,
    bravo_keys: Vec<String>,
    /// Random strings of the other organization, which don't contain `bravo`.
    forbidden: BTreeSet<String>,
}

impl Fixture {
    async fn new(script: &Script) -> Self {
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
        let mut fixture = Self {
            alpha,
            bravo,
            alpha_users: BTreeSet::new(),
            alpha_keys,
            bravo_users: Vec::new(),
            bravo_keys: vec!["key_bravo-main".to_owned()],
            forbidden: BTreeSet::from([secret, start]),
            server,
        };
        for index in 0..script.alpha_users {
            fixture.add_user(&format!("alpha{index}"), &["org_alpha"]).await;
        }
        for index in 0..script.bravo_users {
            fixture.add_user(&format!("bravo{index}"), &["org_bravo"]).await;
        }
        for index in 0..script.shared_users {
            fixture.add_user(&format!("shared{index}"), &["org_alpha", "org_bravo"]).await;
        }
        for index in 0..script.alpha_keys {
            let body = json!({"name": format!("alpha {index}"), "scopes": ["workflows:read"]});
            let answer = fixture.call(ALPHA, &fixture.alpha, Method::POST, "/api-keys", Some(body)).await;
            fixture.alpha_keys.insert(answer.data()["id"].as_str().unwrap().to_owned());
        }
        for (index, step) in script.steps.iter().enumerate() {
            fixture.run_step(index, *step).await;
        }
        housekeeping::write_aggregated_events(&fixture.server.app, true).await.unwrap();
        let admin = fixture.server.admin();
        let path = "/audit-logs?limit=100&org_id=org_bravo";
        let events = fixture.call(PLATFORM, &admin, Method::GET, path, None).await;
        let rows = events.data().as_array().unwrap().iter();
        let ids = rows.map(|event| event["id"].as_str().unwrap().to_owned());
        fixture.forbidden.extend(ids);
        fixture
    }

    async fn call(
        &self,
        origin: Origin,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let request = client
            .request(method, path)
            .header("x-forwarded-for", origin.ip)
            .header("user-agent", origin.agent)
            .header("x-request-id", origin.request_id);
        client.send(if let Some(body) = body { request.json(&body) } else { request }).await
    }

    async fn add_user(&mut self, name: &str, organizations: &[&str]) {
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

    /// Runs a step. A step that the API refuses is fine: its event must not leak either.
    async fn run_step(&mut self, index: usize, step: Step) {
        let admin = self.server.admin();
        let bravo = self.bravo.clone();
        let any_user = self.bravo_users[index % self.bravo_users.len()].clone();
        let unshared_user = self.bravo_users.iter().find(|id| id.contains("bravo")).unwrap().clone();
        let any_key = self.bravo_keys[index % self.bravo_keys.len()].clone();
        let (origin, client, method, path, body) = match step {
            Step::AddUser => {
                let body =
                    json!({"name": format!("Bravo {index}"), "email": format!("bravo-{index}@example.com")});
                (BRAVO, &bravo, Method::POST, "/users".to_owned(), Some(body))
            }
            Step::AddKey => {
                let id = format!("key_bravo-{index}");
                self.bravo_keys.push(id.clone());
                let body = json!({"id": id, "organization_id": "org_bravo", "user_id": any_user,
                    "name": format!("Bravo {index}"), "scopes": ["admin:users", "workflows:*"]});
                (PLATFORM, &admin, Method::POST, "/api-keys".to_owned(), Some(body))
            }
            Step::RenameOrganization => {
                let body = json!({"name": format!("Bravo {index}"), "metadata": {"bravo": "bravo"}});
                (BRAVO, &bravo, Method::PATCH, "/organizations/org_bravo".to_owned(), Some(body))
            }
            Step::RotateKey => (BRAVO, &bravo, Method::POST, format!("/api-keys/{any_key}/rotate"), None),
            Step::RevokeKey if any_key != "key_bravo-main" => {
                let body = json!({"reason": "bravo knows"});
                (BRAVO, &bravo, Method::POST, format!("/api-keys/{any_key}/revoke"), Some(body))
            }
            Step::RemoveSharedMember => {
                (BRAVO, &bravo, Method::DELETE, format!("/organizations/org_bravo/members/{any_user}"), None)
            }
            Step::SuspendUserAsPlatform => {
                let body = json!({"status": "suspended"});
                (PLATFORM, &admin, Method::PATCH, format!("/users/{unshared_user}"), Some(body))
            }
            Step::DeleteUserAsPlatform => {
                (PLATFORM, &admin, Method::DELETE, format!("/users/{unshared_user}"), None)
            }
            Step::SuspendAsPlatform => {
                let body = json!({"status": if index.is_multiple_of(2) { "suspended" } else { "active" }});
                (PLATFORM, &admin, Method::PATCH, "/organizations/org_bravo".to_owned(), Some(body))
            }
            Step::RevokeKey | Step::RefusedCall => {
                (BRAVO, &bravo, Method::POST, "/organizations".to_owned(), Some(json!({"name": "bravo"})))
            }
        };
        let answer = self.call(origin, client, method, &path, body).await;
        for field in ["key", "start", "id"] {
            // Users created with the organization's key get random ids.
            let value = answer.data()[field].as_str().filter(|value| !value.contains("shared"));
            self.forbidden.extend(value.map(str::to_owned));
        }
    }

    /// Sends a GET as `alpha` and asserts that the answer reveals nothing of the other organization.
    async fn get_checked(&self, path: &str) -> Answer {
        let answer = self.call(ALPHA, &self.alpha, Method::GET, path, None).await;
        self.assert_clean(path, &answer.text);
        for (name, value) in &answer.headers {
            self.assert_clean(path, &format!("{name}: {value:?}"));
        }
        answer
    }

    /// Asserts that the path is not found in a batch either.
    async fn assert_not_found_in_batch(&self, path: &str) {
        let operations = json!([{"method": "GET", "path": path}, {"method": "DELETE", "path": path}]);
        let batch = json!({"atomic": false, "operations": operations});
        let answer = self.call(ALPHA, &self.alpha, Method::POST, "/batch", Some(batch)).await;
        self.assert_clean(path, &answer.text);
        let results = answer.data()["results"].as_array().cloned().unwrap_or_default();
        let is_refused = |result: &Value| [json!(404), json!(405)].contains(&result["status"]);
        assert!(results.iter().all(is_refused) && [200, 400].contains(&answer.status), "{path}: {answer:?}");
    }

    /// Asserts that a text contains nothing of the other organization or the platform.
    fn assert_clean(&self, source: &str, text: &str) {
        let lowercase = text.to_lowercase();
        assert!(!lowercase.contains("bravo") && !text.contains(BRAVO.ip), "{source}: {text}");
        for forbidden in &self.forbidden {
            assert!(!text.contains(forbidden.as_str()), "{source} contains {forbidden}: {text}");
        }
        for platform_text in [PLATFORM.ip, PLATFORM.agent, ADMIN_KEY, "First admin key"] {
            assert!(!text.contains(platform_text), "{source} contains {platform_text}: {text}");
        }
    }

    /// Reads a list to its end in pages of `limit` items; returns the values of the field `id`.
    async fn list_ids(&self, path: &str, limit: usize, order: &str, id: &str) -> Vec<String> {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let answer = self.get_checked(&format!("{path}?limit={limit}&order={order}{cursor}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let rows = answer.data().as_array().unwrap();
            ids.extend(rows.iter().map(|row| row[id].as_str().unwrap().to_owned()));
            match answer.json["metadata"]["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return ids,
            }
            // Reading the audit log appends to it, so an ascending read never ends.
            if path == "/audit-logs" && order == "asc" && ids.len() > 60 {
                return ids;
            }
        }
    }

    /// One id of each kind from the other organization.
    fn ids_of_bravo(&self) -> Vec<String> {
        let event = self.forbidden.iter().find(|text| text.starts_with("evt_"));
        let user = self.bravo_users.iter().find(|id| id.contains("bravo"));
        let ids = [event, user, self.bravo_keys.last(), Some(&"org_bravo".to_owned())];
        ids.into_iter().flatten().cloned().collect()
    }
}

/// Every GET route of the Admin API.
fn get_routes() -> impl Iterator<Item = &'static str> {
    let routes = ROUTES.iter().filter(|route| route.method == "GET" && route.auth != AuthRequirement::Open);
    routes.filter_map(|route| route.path.strip_prefix("/admin/v1"))
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

async fn run(script: &Script) {
    let fixture = Fixture::new(script).await;
    // Lists without a filter contain only the own organization's items.
    for (path, id, expected) in [
        ("/organizations", "id", Some(&BTreeSet::from(["org_alpha".to_owned()]))),
        ("/users", "id", Some(&fixture.alpha_users)),
        ("/organizations/org_alpha/members", "user_id", Some(&fixture.alpha_users)),
        ("/api-keys", "id", Some(&fixture.alpha_keys)),
        ("/audit-logs", "id", None),
    ] {
        for (limit, order) in [(1, "asc"), (2, "desc"), (3, "asc"), (100, "desc")] {
            let ids = fixture.list_ids(path, limit, order, id).await;
            let Some(expected) = expected else { continue };
            assert_eq!(ids.iter().cloned().collect::<BTreeSet<_>>(), *expected, "{path}");
            assert_eq!(ids.len(), expected.len(), "{path}: duplicate ids");
        }
    }
    for shared in fixture.alpha_users.iter().filter(|id| id.contains("shared")) {
        let organizations =
            fixture.list_ids(&format!("/users/{shared}/memberships"), 1, "asc", "organization_id").await;
        assert_eq!(organizations, ["org_alpha"]);
    }
    for format in ["ndjson", "csv"] {
        assert_eq!(fixture.get_checked(&format!("/audit-logs/export?format={format}")).await.status, 200);
    }
    // The other organization's ids find nothing. Filters are tried first, since they are not recorded in the
    // organization's own log.
    let lists = get_routes().filter(|path| !path.contains('{'));
    let ids = fixture.ids_of_bravo();
    for (path, filter) in lists.flat_map(|path| FILTERS.iter().map(move |filter| (path, filter))) {
        for id in &ids {
            let answer = fixture.get_checked(&format!("{path}?{filter}={id}")).await;
            let is_empty = answer.data().as_array().is_none_or(Vec::is_empty);
            assert!(
                is_empty && matches!(answer.status, 200 | 400 | 403 | 404),
                "{path} {filter}: {answer:?}"
            );
        }
    }
    for path in get_routes().filter(|path| path.contains('{')) {
        for id in &ids {
            let foreign_parent = path.replace("{id}", id).replace("{user_id}", "user_alpha0");
            let foreign_child = path.replace("{user_id}", id).replace("{id}", "org_alpha");
            for path in [foreign_parent, foreign_child].iter().filter(|path| path.contains(id)) {
                assert_eq!(fixture.get_checked(path).await.status, 404, "{path}");
                fixture.assert_not_found_in_batch(path).await;
            }
        }
    }
    // Of those requests, the organization's own log contains the requested path and target, and nothing else.
    let log = fixture.call(ALPHA, &fixture.alpha, Method::GET, "/audit-logs?limit=100", None).await;
    for event in log.data().as_array().unwrap() {
        let mut event = event.clone();
        event["context"]["path"] = Value::Null;
        event["target"]["id"] = Value::Null;
        fixture.assert_clean("the log", &event.to_string());
    }
}

#[test]
fn i5_no_answer_reveals_another_organization() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { cases: 8, max_shrink_iters: 10, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(&script(), |script| {
            runtime.block_on(run(&script));
            Ok(())
        })
        .unwrap();
}
