//! Each configuration of `docs/guides/gateways.md`, run in the real gateway in front of an application that records its
//! requests.

mod compression;
mod gateway;
mod guarantees;
mod kubernetes;
mod path;
mod peers;
mod preflights;

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::{Answer, Binary, Client, Server, guide, http_from};
use gateway::{CADDY, ENVOY, Gateway, GatewayConfig, HAPROXY, NGINX, TRAEFIK};
use peers::{Application, ReceivedRequest, RecordingProxy};

/// The guide's path below `docs/`.
const GUIDE: &str = "guides/gateways.md";

/// Failed attempts allowed per address and minute. Only the check of this limit reaches it.
const MAX_FAILURES: u32 = 20;

/// The client's address; the gateway's address is another one.
const CLIENT: [u8; 4] = [127, 0, 0, 9];

/// Client, gateway, application, Tollhouse, and the recording proxy between the gateway and Tollhouse.
struct Setup {
    server: Server,
    proxy: RecordingProxy,
    application: Application,
    gateway: Gateway,
    http: reqwest::Client,
    /// True if the gateway can add headers of Tollhouse's response to those of the application.
    passes_limits: bool,
}

impl Setup {
    async fn with(config: &GatewayConfig) -> Self {
        let server = Server::with(|config| {
            config.http.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
            config.rate_limits.admin_per_minute = 0;
            config.rate_limits.failed_auth_per_minute = MAX_FAILURES;
        })
        .await;
        let proxy = RecordingProxy::start(server.url.strip_prefix("http://").unwrap().parse().unwrap()).await;
        let application = Application::start().await;
        let gateway = Gateway::start(config, proxy.address, application.address);
        let passes_limits = config.passes_limits;
        let http = http_from(CLIENT);
        let mut setup = Self { server, proxy, application, gateway, http, passes_limits };
        setup.wait_until_ready().await;
        setup
    }

    /// Waits until the gateway admits a valid key.
    async fn wait_until_ready(&mut self) {
        let key = self.key(json!({"name": "ready", "scopes": ["workflows:read"]})).await;
        let waiting = async {
            loop {
                self.gateway.assert_is_running();
                let answer = Client::try_send(self.request(Method::GET, "/").bearer_auth(&key)).await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(waited.is_ok(), "the gateway admitted no request: {}", self.gateway.log());
        self.application.take_requests();
    }

    /// Creates a key; returns its secret.
    async fn key(&self, body: serde_json::Value) -> String {
        let (_, key) = self.server.key_with(body).await;
        key["key"].as_str().unwrap().to_owned()
    }

    /// A request from the client to the gateway.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.gateway.url))
    }

    /// A GET request with this key.
    fn get(&self, key: &str) -> RequestBuilder {
        self.request(Method::GET, "/things").bearer_auth(key)
    }

    /// Sends a request; returns the answer and the requests that reached the application.
    async fn send(&self, request: RequestBuilder) -> (Answer, Vec<ReceivedRequest>) {
        let answer = Client::try_send(request).await.unwrap();
        (answer, self.application.take_requests())
    }
}

#[tokio::test]
async fn nginx_meets_the_guarantees_of_the_guide() {
    guarantees::check_all(Setup::with(&NGINX).await).await;
}

#[tokio::test]
async fn caddy_meets_the_guarantees_of_the_guide() {
    guarantees::check_all(Setup::with(&CADDY).await).await;
}

#[tokio::test]
async fn haproxy_meets_the_guarantees_of_the_guide() {
    guarantees::check_all(Setup::with(&HAPROXY).await).await;
}

#[tokio::test]
async fn traefik_meets_the_guarantees_of_the_guide() {
    guarantees::check_all(Setup::with(&TRAEFIK).await).await;
}

#[tokio::test]
async fn envoy_meets_the_guarantees_of_the_guide() {
    guarantees::check_all(Setup::with(&ENVOY).await).await;
}

/// The labels are another notation of the file that the tests run: each of their settings is in it.
#[test]
fn traefik_labels_have_the_settings_of_the_file() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let file = words(&guide::block(GUIDE, "dynamic.yml"));
    let labels = guide::block(GUIDE, "labels.yml").replace("//tollhouse:8080", "//127.0.0.1:8080");
    let labels: Vec<_> = labels.lines().filter_map(|line| line.trim().strip_prefix("- \"")).collect();
    assert!(labels.len() > 10, "{labels:?}");
    for label in labels {
        let (path, value) = label.trim_end_matches('"').split_once('=').unwrap();
        let path: Vec<_> = path.strip_prefix("traefik.http.").unwrap().split('.').collect();
        if path == ["services", "app", "loadbalancer", "server", "port"] {
            assert!(file.contains(&format!(":{value}\"")), "{label}");
            continue;
        }
        for name in &path {
            assert!(file.to_lowercase().contains(&format!("{}:", name.to_lowercase())), "{label}: {name}");
        }
        // The commas of a rule don't separate values.
        let values = if path.ends_with(&["rule"]) { vec![value] } else { value.split(',').collect() };
        for value in values {
            assert!(file.contains(value), "{label}: {value}");
        }
    }
}

/// Fails if the guide has a block that these tests don't know.
#[test]
fn every_block_of_the_guide_is_known() {
    let configs = [&NGINX, &CADDY, &HAPROXY, &TRAEFIK, &ENVOY];
    let mut run: Vec<&str> = configs.iter().flat_map(|config| config.blocks).copied().collect();
    // The labels are compared with the file.
    run.extend(["tollhouse.toml", "labels.yml"]);
    let blocks = guide::blocks(GUIDE);
    let mut block_names: Vec<&str> = blocks.iter().map(|(name, _)| name.as_str()).collect();
    run.sort_unstable();
    block_names.sort_unstable();
    assert_eq!(block_names, run);
    // `Setup` applies the same settings in code; here the program reads the block itself.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollhouse.toml");
    std::fs::write(&file, guide::block(GUIDE, "tollhouse.toml")).unwrap();
    let checked = Binary::run(&["config", "show", "--config", file.to_str().unwrap()]);
    let stdout = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && stdout.contains("127.0.0.1/32"), "{stdout}{:?}", checked.stderr);
}
