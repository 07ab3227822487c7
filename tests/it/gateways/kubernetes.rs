//! The resources of `docs/guides/kubernetes.md`. No cluster runs here: Traefik's settings are compared with the file that
//! the tests run, and what the annotations of ingress-nginx ask for is asked.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::json;

use super::GUIDE as GATEWAYS;
use crate::support::{Binary, Server, assert_same_items, guide};

const GUIDE: &str = "guides/kubernetes.md";

/// Where Tollhouse is in the cluster.
const TOLLHOUSE: &str = "http://tollhouse.default.svc.cluster.local:8080";

#[test]
fn every_block_is_known_and_the_configuration_is_valid() {
    let names: Vec<_> = guide::blocks(GUIDE).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["tollhouse.toml", "ingress.yaml", "traefik.yaml"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollhouse.toml");
    std::fs::write(&file, guide::block(GUIDE, "tollhouse.toml")).unwrap();
    let checked = Binary::run(&["config", "check", "--config", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{checked:?}");
}

/// The value of an annotation of ingress-nginx.
fn annotation(name: &str) -> String {
    let block = guide::block(GUIDE, "ingress.yaml");
    let prefix = format!("nginx.ingress.kubernetes.io/{name}: ");
    let value = block.lines().find_map(|line| line.trim().strip_prefix(&prefix)).expect(name);
    value.trim_matches('"').to_owned()
}

#[tokio::test]
async fn the_address_in_the_annotations_admits_keys_with_the_scope_and_no_others() {
    let url = annotation("auth-url");
    let path = url.strip_prefix(TOLLHOUSE).unwrap();
    let server = Server::start().await;
    let ask = async |key: Option<&str>| {
        let client = server.client(key);
        client.send(client.request_at_root(Method::GET, path)).await
    };
    let secret = async |body| server.key_with(body).await.1["key"].as_str().unwrap().to_owned();
    let limit = json!({"limit": 1, "window_seconds": 86_400});
    let reader = secret(json!({"name": "n", "scopes": ["workflows:read"], "limits": [limit]})).await;
    let writer = secret(json!({"name": "n", "scopes": ["workflows:write"]})).await;

    let admitted = ask(Some(&reader)).await;
    assert_eq!(admitted.status, 200, "{admitted:?}");
    // nginx knows only 401 and 403 as refusals.
    for (key, status) in [(None, 401), (Some(writer.as_str()), 403), (Some(&reader), 403)] {
        assert_eq!(ask(key).await.status, status);
    }
    let names = admitted.headers.keys().map(|name| name.as_str().to_owned());
    let identity = names.filter(|name| name.starts_with("x-auth-"));
    let passed_on = annotation("auth-response-headers").to_lowercase();
    assert_same_items("headers", passed_on.split(',').map(str::to_owned), identity);
}

/// Each setting of the resources is in the file that the tests run, but for what names the resources, and the services.
#[test]
fn traefiks_resources_have_the_settings_of_the_file() {
    let lines = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().map(|line| line.trim().replace(TOLLHOUSE, "http://127.0.0.1:8080"));
        lines.filter(|line| !line.starts_with('#')).collect()
    };
    let file = lines(&guide::block(GATEWAYS, "dynamic.yml"));
    let resources = guide::block(GUIDE, "traefik.yaml");
    for resource in resources.split("---\n") {
        let kind = if resource.contains("\nkind: Middleware\n") { "Middleware" } else { "IngressRoute" };
        assert!(resource.contains(&format!("apiVersion: traefik.io/v1alpha1\nkind: {kind}\n")), "{resource}");
        let (metadata, spec) = resource.split_once("\nspec:\n").unwrap();
        if kind == "Middleware" {
            let (_, name) = metadata.split_once("name: ").unwrap();
            assert!(file.contains(&format!("{name}:")), "{name}");
            for line in lines(spec) {
                assert!(file.contains(&line), "{line}");
            }
        }
    }
    // The rules, and which middlewares apply to them in which order.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let routes = words(resources.split("kind: IngressRoute").nth(1).unwrap());
    let file = words(&guide::block(GATEWAYS, "dynamic.yml"));
    let rules: Vec<_> =
        file.split(" rule: ").skip(1).map(|rest| rest.split(" middlewares: ").next().unwrap()).collect();
    assert_eq!(rules.len(), 2, "{file}");
    for rule in rules {
        assert!(routes.contains(&format!("match: {}", rule.trim_matches('"'))), "{rule}");
    }
    for (middlewares, names) in [
        ("[tollhouse, without-key]", "middlewares: - name: tollhouse - name: without-key"),
        ("[without-identity, without-key]", "middlewares: - name: without-identity - name: without-key"),
    ] {
        assert!(file.contains(middlewares) && routes.contains(names), "{middlewares}");
    }
}
