//! Each configuration of `docs/guides/gateways.md` in the real gateway, before an application that notes what reaches it.

mod around;
mod gateway;
mod path;
mod promises;

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::{Answer, Binary, Client, Server, guide, http_from};
use around::{Application, Seen, Wire};
use gateway::{CADDY, ENVOY, Gateway, HAPROXY, NGINX, Recipe, TRAEFIK};

/// Below `docs/`.
const GUIDE: &str = "guides/gateways.md";

/// Attempts that may fail from one address. The promises need fewer, but for the one that is about it.
const FAILURES: u32 = 20;

/// The client's address, which is not the gateway's.
const CLIENT: [u8; 4] = [127, 0, 0, 9];

/// Client, gateway, application and Tollhouse, and the wire between the gateway and Tollhouse.
struct World {
    server: Server,
    wire: Wire,
    application: Application,
    gateway: Gateway,
    http: reqwest::Client,
}

impl World {
    async fn with(recipe: &Recipe) -> Self {
        let server = Server::with(|config| {
            config.http.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
            config.rate_limits.admin_per_minute = 0;
            config.rate_limits.failed_auth_per_minute = FAILURES;
        })
        .await;
        let wire = Wire::to(server.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
        let application = Application::start().await;
        let gateway = Gateway::start(recipe, wire.address, application.address);
        let mut world = Self { server, wire, application, gateway, http: http_from(CLIENT) };
        world.ready().await;
        world
    }

    /// Waits until a good key passes.
    async fn ready(&mut self) {
        let key = self.key(json!({"name": "ready", "scopes": ["workflows:read"]})).await;
        let waiting = async {
            loop {
                self.gateway.assert_runs();
                let answer = Client::try_send(self.request(Method::GET, "/").bearer_auth(&key)).await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(waited.is_ok(), "it never let anybody pass: {}", self.gateway.log());
        self.application.take();
    }

    /// The secret of a new key.
    async fn key(&self, body: serde_json::Value) -> String {
        let (_, key) = self.server.key_with(body).await;
        key["key"].as_str().unwrap().to_owned()
    }

    /// The client's request to the gateway.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.gateway.url))
    }

    /// A plain request with this key.
    fn get(&self, key: &str) -> RequestBuilder {
        self.request(Method::GET, "/things").bearer_auth(key)
    }

    /// The answer, and what reached the application meanwhile.
    async fn send(&self, request: RequestBuilder) -> (Answer, Vec<Seen>) {
        let answer = Client::try_send(request).await.unwrap();
        (answer, self.application.take())
    }
}

#[tokio::test]
async fn nginx_keeps_what_the_guide_promises() {
    promises::all(World::with(&NGINX).await).await;
}

#[tokio::test]
async fn caddy_keeps_what_the_guide_promises() {
    promises::all(World::with(&CADDY).await).await;
}

#[tokio::test]
async fn haproxy_keeps_what_the_guide_promises() {
    promises::all(World::with(&HAPROXY).await).await;
}

#[tokio::test]
async fn traefik_keeps_what_the_guide_promises() {
    promises::all(World::with(&TRAEFIK).await).await;
}

#[tokio::test]
async fn envoy_keeps_what_the_guide_promises() {
    promises::all(World::with(&ENVOY).await).await;
}

/// Whoever adds a block to the guide says here who runs it.
#[test]
fn every_block_of_the_guide_is_run() {
    let recipes = [&NGINX, &CADDY, &HAPROXY, &TRAEFIK, &ENVOY];
    let mut run: Vec<&str> = recipes.iter().flat_map(|recipe| recipe.blocks).copied().collect();
    run.push("tollhouse.toml");
    let blocks = guide::blocks(GUIDE);
    let mut found: Vec<&str> = blocks.iter().map(|(name, _)| name.as_str()).collect();
    run.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, run);
    // `World` sets the same in its own way; here it is read as the program reads it.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollhouse.toml");
    std::fs::write(&file, guide::block(GUIDE, "tollhouse.toml")).unwrap();
    let checked = Binary::run(&["config", "check", "--config", file.to_str().unwrap()]);
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && said.contains("127.0.0.1/32"), "{said}{:?}", checked.stderr);
}
