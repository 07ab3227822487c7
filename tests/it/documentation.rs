//! What the documentation shows works as it stands there.

use std::io::ErrorKind;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Binary};

/// Runs a script of `tests/node/` against a server; what it prints, one JSON value a line.
fn run(script: &str, url: &str) -> Vec<Value> {
    let path = format!("{}/tests/node/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new("node");
    let output = match node.arg(path).env("TOLLHOUSE_URL", url).env("TOLLHOUSE_KEY", ADMIN_KEY).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("This test needs Node.js 18 or later as `node`; scripts/test installs it.")
        }
        output => output.unwrap(),
    };
    let (said, complaint) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaint}");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The platform's documentation shows these four calls; its users' programs make them with `fetch`.
#[tokio::test]
async fn the_quick_start_in_javascript_works() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    let body = json!({"id": "org_123", "name": "The examples' own", "email": "examples@acme.com"});
    let examples = server.admin().post("/organizations", body).await;
    assert_eq!(examples.status, 201, "{examples:?}");

    let answers = run("quickstart.mjs", &server.url);
    let [organization, key, usage, events] = answers.as_slice() else {
        panic!("four calls are four answers: {answers:#?}")
    };
    for (answer, status) in [(organization, 201), (key, 201), (usage, 200), (events, 200)] {
        assert_eq!(answer["status"], status, "{answer}");
        assert_eq!(answer["body"]["success"], true, "{answer}");
        assert!(answer["body"]["metadata"]["requestId"].as_str().unwrap().starts_with("req_"), "{answer}");
        assert!(answer["body"]["metadata"]["timestamp"].as_str().unwrap().ends_with('Z'), "{answer}");
    }
    let organization = &organization["body"]["data"];
    let wanted = json!({"name": "Acme Corporation", "email": "admin@acme.com", "plan": "enterprise"});
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&organization[field], value, "{organization}");
    }
    assert!(organization["id"].as_str().unwrap().starts_with("org_"), "{organization}");

    let key = &key["body"]["data"];
    assert_eq!(key["organization_id"], "org_123");
    assert_eq!(key["name"], "Production API Key");
    assert_eq!(key["scopes"], json!(["workflows:read", "transactions:write"]));
    let secret = key["key"].as_str().unwrap();
    assert!(secret.starts_with("toll_"), "{key}");
    assert_eq!(server.client(secret).get("/whoami").await.data()["api_key"]["id"], key["id"]);

    let usage = &usage["body"]["data"];
    assert_eq!((&usage["org_id"], &usage["interval"]), (&json!("org_123"), &json!("day")));
    assert_eq!(usage["series"].as_array().unwrap().len(), 31);

    // What the script itself did to the organization is in its log, newest first.
    let events = events["body"]["data"].as_array().unwrap();
    let told: Vec<_> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    let at = told.iter().position(|action| *action == "api_key.create");
    let event = &events[at.unwrap_or_else(|| panic!("{told:?}"))];
    assert_eq!((&event["target"]["id"], &event["outcome"]), (&key["id"], &json!("success")));
    assert_eq!(event["organization_id"], "org_123");
    assert_eq!(told.last(), Some(&"organization.create"));
}
