//! The documentation agrees with itself and with the program.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use serde_json::{Value, json};
use strum::VariantArray;
use tollhouse::domain::verification::Outcome;
use toml_edit::DocumentMut;

use crate::support::{ADMIN_KEY, Binary, assert_same_items, files_below, guide};

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

/// The targets of all links and pictures in a Markdown text, outside of code.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Odd parts lie between backticks.
        for prose in line.split('`').step_by(2) {
            let targets = prose.split("](").skip(1);
            found.extend(targets.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target));
        }
    }
    found
}

/// The anchors of a Markdown text's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        let Some((marks, heading)) = line.split_once(' ').filter(|_| !in_code) else { continue };
        if marks.is_empty() || !marks.bytes().all(|byte| byte == b'#') {
            continue;
        }
        let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
        let anchor: String = heading.to_lowercase().chars().filter(kept).collect();
        let anchor = anchor.replace(' ', "-");
        let earlier = found.iter().filter(|other| **other == anchor).count();
        found.push(if earlier == 0 { anchor } else { format!("{anchor}-{earlier}") });
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for document in guide::documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            if !anchor.is_empty() {
                let known = anchors(&fs::read_to_string(&target).unwrap());
                assert!(known.iter().any(|one| one == anchor), "{}: {link}: {known:?}", document.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "the links are not where they were");
}

/// The text of all Rust files under a directory.
fn rust_text(directory: &std::path::Path) -> String {
    let mut files = files_below(directory);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Each protection names the tests that try to break it, so that a reader can look whether they do.
#[test]
fn the_tests_named_in_the_security_page_exist() {
    let tests = rust_text(&guide::root().join("tests")) + &rust_text(&guide::root().join("src"));
    let page = fs::read_to_string(guide::root().join("docs/security.md")).unwrap();
    let is_test = |name: &&str| {
        name.split('_').count() > 3
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let named: Vec<_> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named.into_iter().filter(|name| !name.contains("per_minute") && !name.ends_with("_seconds")) {
        assert!(tests.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}

#[test]
fn every_page_is_in_the_index() {
    let directory = guide::root().join("docs");
    let index = fs::read_to_string(directory.join("README.md")).unwrap();
    let listed: BTreeSet<_> = links(&index)
        .into_iter()
        .filter_map(|link| directory.join(link.split('#').next()?).canonicalize().ok())
        .collect();
    for document in guide::documents() {
        if document.starts_with(&directory) && !document.ends_with("docs/README.md") {
            let path = document.canonicalize().unwrap();
            assert!(listed.contains(&path), "docs/README.md doesn't list {}", document.display());
        }
    }
}

/// Each platform setting is in the table of its section, with its initial value. Each plan has its own initial values.
#[test]
fn the_reference_lists_all_platform_settings() {
    let text = fs::read_to_string(guide::root().join("docs/reference/configuration.md")).unwrap();
    let config = fs::read_to_string(guide::root().join("config.toml")).unwrap();
    let config: DocumentMut = config.parse().unwrap();
    for (section, settings) in [
        ("keys", &config["keys"]),
        ("rate_limits", &config["rate_limits"]),
        ("plans", &config["plans"]["standard"]),
        ("retention", &config["retention"]),
    ] {
        let (_, text) = text.split_once(&format!("\n## {section}\n")).unwrap();
        let rows = guide::table(text, "setting");
        let documented: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
        let settings = settings.as_table().unwrap();
        let real: Vec<_> = settings.iter().map(|(name, _)| name.to_owned()).collect();
        assert_same_items(&format!("documented settings of {section}"), &documented, &real);
        assert_eq!(documented, real, "the order differs");
        for (row, (name, value)) in rows.iter().zip(settings.iter()).filter(|_| section != "plans") {
            let initial = match value.to_string().trim() {
                list if list.starts_with('[') => format!("`{list}`"),
                other => other.replace('"', "`").replace('_', ""),
            };
            assert_eq!(row[1], initial, "{section}.{name}");
        }
    }
}

/// Code, location and fields of the error that the reference shows; its messages are for people.
#[tokio::test]
async fn the_reference_shows_an_error_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let server = Binary::serve(place.path());
    let body = json!({"name": "n", "scopes": ["invoice:read"]});
    let real = server.admin().post("/api-keys", body).await.json;
    let shown: Value = serde_json::from_str(&guide::block("reference/api.md", "error")).unwrap();
    for pointer in ["/error/code", "/error/details/0/code", "/error/details/0/pointer", "/success"] {
        assert_eq!(real.pointer(pointer), shown.pointer(pointer), "{pointer}");
    }
    let fields = |answer: &Value, pointer: &str| -> Vec<String> {
        answer.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect()
    };
    for pointer in ["", "/error", "/error/details/0", "/metadata"] {
        assert_eq!(fields(&real, pointer), fields(&shown, pointer), "{pointer}");
    }
}

#[test]
fn verification_codes_are_documented_in_the_order_of_their_checks() {
    let text = fs::read_to_string(guide::root().join("docs/concepts/verification.md")).unwrap();
    let documented: Vec<_> = guide::table(&text, "code").into_iter().map(|row| row[0].clone()).collect();
    let real: Vec<_> = Outcome::VARIANTS.iter().map(|outcome| format!("`{}`", outcome.name())).collect();
    assert_same_items("documented verification codes", &documented, &real);
    assert_eq!(documented, real, "the order differs");
}

/// What `config show` prints, without the sources of the settings.
fn settings_in_effect(config: Option<&str>, prepare: &str, directory: &std::path::Path) -> Vec<String> {
    let check = match config {
        Some(file) => format!("tollhouse config show --config {file}"),
        None => format!("{prepare}\ntollhouse config show"),
    };
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_tollhouse")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", &check]).current_dir(directory).env("PATH", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configuration_file_and_the_variables_mean_the_same() {
    let place = tempfile::tempdir().unwrap();
    for (page, name, shown) in [
        ("operate/configure.md", "tollhouse.toml", "listen = \"0.0.0.0:8080\""),
        ("reference/configuration.md", "plans.toml", "[plans.gold]"),
    ] {
        fs::write(place.path().join(name), guide::block(page, name)).unwrap();
        let from_file = settings_in_effect(Some(name), "", place.path());
        let variables = guide::block(page, "environment");
        let from_variables = settings_in_effect(None, &variables, place.path());
        assert_eq!(from_file, from_variables, "{page}");
        assert!(from_file.iter().any(|line| line == shown), "{from_file:#?}");
    }
}

#[tokio::test]
async fn a_log_line_has_the_fields_of_the_documented_one() {
    let place = tempfile::tempdir().unwrap();
    let server = Binary::serve(place.path());
    assert_eq!(server.admin().get("/organizations").await.status, 200);
    let fields = |line: &str| -> BTreeSet<String> {
        let line: Value = serde_json::from_str(line).unwrap();
        line.as_object().unwrap().keys().cloned().collect()
    };
    let real = server.line_with("\"message\":\"request\"");
    let shown = fields(&guide::block("operate/logs.md", "line"));
    assert_same_items("fields of the documented line", shown, fields(&real));
}
