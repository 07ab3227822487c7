//! The Compose file of `deploy/compose` is consistent, and the real Caddy runs with its Caddyfile.

use std::fs;
use std::process::{Child, Command, Stdio};

use tokio::time::Instant;

use super::{assert_settings_are_known, yaml};
use crate::support::{ADMIN_KEY, Client, DEADLINE, Server, free_address, guide, http_from};

const COMPOSE: &str = "deploy/compose/compose.yaml";

#[test]
fn the_compose_file_fits_together() {
    let compose = yaml(COMPOSE).remove(0);
    let server = &compose["services"]["tollhouse"];
    let caddy = &compose["services"]["caddy"];
    let environment = server["environment"].as_object().unwrap();
    // Without a value, a variable is taken from the environment of Compose.
    let given =
        environment.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let given: Vec<_> = given.collect();
    assert_settings_are_known(&given);
    assert!(environment["TOLLHOUSE_ADMIN_KEY"].is_null());

    let address = &caddy["networks"]["proxy"]["ipv4_address"];
    assert_eq!(&environment["TOLLHOUSE_HTTP__TRUSTED_PROXIES"], address);
    let subnet: ipnet::Ipv4Net =
        compose["networks"]["proxy"]["ipam"]["config"][0]["subnet"].as_str().unwrap().parse().unwrap();
    assert!(subnet.contains(&address.as_str().unwrap().parse::<std::net::Ipv4Addr>().unwrap()));
    for service in [server, caddy] {
        for volume in service["volumes"].as_array().unwrap() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let is_named = compose["volumes"].as_object().unwrap().contains_key(source);
            assert!(is_named || guide::root().join("deploy/compose").join(source).exists(), "{source}");
        }
    }
    let context = guide::root().join("deploy/compose").join(server["build"].as_str().unwrap());
    assert!(context.join("Dockerfile").exists());
    let image = fs::read_to_string(context.join("Dockerfile")).unwrap();
    let data = server["volumes"][0].as_str().unwrap().split_once(':').unwrap().1;
    assert!(image.contains(&format!("VOLUME {data}\n")), "{data}");
}

/// A running Caddy; dropping it kills the process.
struct Caddy(Child);

impl Drop for Caddy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn caddy_forwards_to_the_server_with_the_address_of_the_client() {
    let server = Server::with(|config| {
        config.http.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(guide::root().join("deploy/compose/Caddyfile")).unwrap();
    assert!(text.contains(" tollhouse:8080\n"), "{text}");
    let address = server.url.strip_prefix("http://").unwrap();
    fs::write(dir.path().join("Caddyfile"), text.replace("tollhouse:8080", address)).unwrap();
    fs::write(dir.path().join("wrapper"), "{\n\tadmin off\n}\nimport Caddyfile\n").unwrap();
    let domain = format!("http://{}", free_address());
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let caddy = Command::new(guide::root().join("target/debian/usr/bin/caddy"))
        .args(["run", "--adapter", "caddyfile", "--config", "wrapper"])
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .env_remove("XDG_CONFIG_HOME")
        .env("DOMAIN", &domain)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let _caddy = Caddy(caddy.unwrap_or_else(|error| panic!("caddy: {error}; scripts/test fetches it")));
    let http = http_from([127, 0, 0, 9]);
    let request = || http.get(format!("{domain}/admin/v1/organizations")).bearer_auth(ADMIN_KEY);
    let start = Instant::now();
    while Client::try_send(request()).await.is_err() {
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(start.elapsed() < DEADLINE, "Caddy didn't start: {log}");
        tokio::task::yield_now().await;
    }
    let answer = Client::try_send(request()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let events = server.admin().get("/audit-logs?action=organization.list").await;
    assert_eq!(events.data()[0]["context"]["ip"], "127.0.0.9", "{events:?}");
}
