//! The manifests in `deploy/kubernetes`: valid for Kubernetes, consistent, and true of the program.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{assert_settings_are_known, printed, yaml, yaml_text};
use crate::support::{Binary, assert_same_items, guide};

const DIRECTORY: &str = "deploy/kubernetes";

/// Those of resources that Kubernetes itself defines.
const BUILT_IN: [&str; 4] =
    ["statefulset.yaml", "service.yaml", "networkpolicy.yaml", "examples/ingress-nginx.yaml"];

fn manifest(name: &str) -> Value {
    let mut documents = yaml(&format!("{DIRECTORY}/{name}"));
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

/// Validates a file strictly: unknown fields are errors.
fn validate(file: &Path) -> Output {
    let mut validator = Command::new(guide::root().join("target/python/bin/kubernetes-validate"));
    let output = validator.args(["--kubernetes-version", "1.37.0", "--strict"]).arg(file).output();
    output.unwrap_or_else(|error| panic!("kubernetes-validate: {error}; scripts/test fetches it"))
}

#[test]
fn the_manifests_are_valid_for_kubernetes() {
    let root = guide::root().join(DIRECTORY);
    for name in BUILT_IN {
        let valid = validate(&root.join(name));
        assert!(valid.status.success(), "{name}: {}", printed(&valid));
    }
    let dir = tempfile::tempdir().unwrap();
    let misspelled = dir.path().join("statefulset.yaml");
    let text = fs::read_to_string(root.join("statefulset.yaml")).unwrap();
    fs::write(&misspelled, text.replace("runAsNonRoot:", "runAsNonroot:")).unwrap();
    assert!(!validate(&misspelled).status.success(), "the validator finds no misspelled field");
}

#[test]
fn the_manifests_fit_together() {
    let resources = manifest("kustomization.yaml")["resources"].as_array().unwrap().clone();
    let listed = resources.iter().map(|name| name.as_str().unwrap().to_owned());
    let files = fs::read_dir(guide::root().join(DIRECTORY)).unwrap().map(|entry| entry.unwrap().file_name());
    let files = files.map(|name| name.into_string().unwrap());
    let files = files.filter(|name| name.ends_with(".yaml") && name != "kustomization.yaml");
    assert_same_items("resources of kustomization.yaml", listed, files);

    let set = manifest("statefulset.yaml");
    let service = manifest("service.yaml");
    let policy = manifest("networkpolicy.yaml");
    let monitor = manifest("servicemonitor.yaml");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], labels);
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"]);
    assert_eq!(set["spec"]["serviceName"], service["metadata"]["name"]);
    assert_eq!(set["spec"]["replicas"], 1);

    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let names = |ports: &Value, field: &str| -> Vec<String> {
        ports.as_array().unwrap().iter().map(|port| port[field].as_str().unwrap().to_owned()).collect()
    };
    let ports = names(&container["ports"], "name");
    assert_eq!(ports, ["http", "metrics"]);
    assert_eq!(names(&service["spec"]["ports"], "name"), ports);
    assert_eq!(names(&service["spec"]["ports"], "targetPort"), ports);
    let admitted = policy["spec"]["ingress"].as_array().unwrap().iter();
    let admitted: Vec<_> = admitted.flat_map(|rule| names(&rule["ports"], "port")).collect();
    assert_eq!(admitted, ports);
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], "metrics");
    let volume = &container["volumeMounts"][0]["name"];
    assert_eq!(volume, &set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]);
}

/// Settings, ports, probes and times are those of the program.
#[tokio::test]
async fn the_pod_runs_the_program_as_it_is() {
    let set = manifest("statefulset.yaml");
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let image = container["image"].as_str().unwrap();
    assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{image}");
    let variables = container["env"].as_array().unwrap();
    let value = |variable: &Value| variable["value"].as_str().map(str::to_owned);
    let variables = variables.iter().map(|variable| {
        let name = variable["name"].as_str().unwrap().to_owned();
        (name, value(variable).unwrap_or_else(|| "a-key-from-a-secret-0123456789abcdef".to_owned()))
    });
    let variables: Vec<_> = variables.collect();
    assert_settings_are_known(&variables);
    let metrics = variables.iter().find(|(name, _)| name == "TOLLHOUSE_METRICS__LISTEN").unwrap();
    assert_eq!(metrics.1, format!(":{}", container["ports"][1]["containerPort"]));
    let data = &variables.iter().find(|(name, _)| name == "TOLLHOUSE_DATABASE__DIR").unwrap().1;
    assert!(data.starts_with(container["volumeMounts"][0]["mountPath"].as_str().unwrap()), "{data}");

    // Two drain timeouts of 10 s, and 30 s to close the database.
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= 50);
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let probe = &container[probe];
        assert_eq!(probe["httpGet"]["port"], "http", "{probe}");
        let path = probe["httpGet"]["path"].as_str().unwrap();
        assert_eq!(server.admin().get_at_root(path).await.status, 200, "{path}");
    }
}

/// The examples have the settings of the guide, whose configurations the tests of gateways run.
#[test]
fn the_examples_have_the_settings_of_the_guide() {
    let ingress = manifest("examples/ingress-nginx.yaml");
    let shown = yaml_text(&guide::block("guides/kubernetes.md", "ingress.yaml"));
    assert_eq!(ingress["metadata"]["annotations"], shown[0]["metadata"]["annotations"]);

    let file = yaml_text(
        &guide::block("guides/gateways.md", "dynamic.yml")
            .replace("http://127.0.0.1:8080", "http://tollhouse.default.svc.cluster.local:8080"),
    );
    let http = &file[0]["http"];
    let documents = yaml(&format!("{DIRECTORY}/examples/traefik.yaml"));
    let middlewares = documents.iter().filter(|document| document["kind"] == "Middleware");
    let middlewares =
        middlewares.map(|one| (one["metadata"]["name"].as_str().unwrap().to_owned(), one["spec"].clone()));
    let middlewares: serde_json::Map<String, Value> = middlewares.collect();
    assert_eq!(Value::Object(middlewares), http["middlewares"]);
    let routes = documents.iter().find(|document| document["kind"] == "IngressRoute").unwrap();
    for (route, name) in routes["spec"]["routes"].as_array().unwrap().iter().zip(["api", "preflight"]) {
        let router = &http["routers"][name];
        assert_eq!((&route["match"], &route["priority"]), (&router["rule"], &router["priority"]), "{name}");
        let used = route["middlewares"].as_array().unwrap().iter().map(|one| one["name"].clone());
        assert_eq!(json!(used.collect::<Vec<_>>()), router["middlewares"], "{name}");
    }
}
