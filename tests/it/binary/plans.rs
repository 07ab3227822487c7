//! Plans and meters of the configuration are initial values: a new database copies them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{assert_fails, stdout};
use crate::support::{ADMIN_KEY, Binary};

const FILE: &str = "meters = [\"requests\", \"tokens\"]\n\n[plans.gold]\norganization_limits = [\n  { meter = \
                    \"tokens\", limit = 1_000, period = \"month\" },\n]\nmax_keys = 5\n[plans.free]\n";

fn configured<'c>(command: &'c mut Command, file: &Path, variables: &[(&str, &str)]) -> &'c mut Command {
    command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).envs(variables.iter().copied()).arg("--config").arg(file)
}

async fn settings(server: &Binary) -> Value {
    server.admin().get("/config").await.data().clone()
}

#[tokio::test]
async fn a_new_database_gets_the_plans_and_meters_of_the_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("tollhouse.toml");
    fs::write(&file, FILE).unwrap();
    let limits = r#"[{"limit": 5, "window_seconds": 60}]"#;
    let variables = [("TOLLHOUSE_PLANS__GOLD__KEY_LIMITS", limits), ("TOLLHOUSE_PLANS__GOLD__MAX_KEYS", "1")];
    let data = temp.path().join("data");
    let mut server = Binary::serve_with(&data, |command| {
        configured(command, &file, &variables);
    });
    let gold = json!({
        "key_limits": [{"meter": "requests", "limit": 5, "window_seconds": 60}],
        "organization_limits": [{"meter": "tokens", "limit": 1000, "period": "month"}],
        "max_keys": 1, "max_members": 0
    });
    let free = json!({"key_limits": [], "organization_limits": [], "max_keys": 0, "max_members": 0});
    let first = settings(&server).await;
    assert_eq!((&first["plans"]["gold"], &first["plans"]["free"]), (&gold, &free));
    assert_eq!(first["plans"].as_object().unwrap().len(), 4, "{first:#}");
    assert_eq!(first["meters"], json!(["requests", "tokens"]));
    let organization = json!({"id": "org_1", "name": "n", "email": "a@example.com", "plan": "gold"});
    assert_eq!(server.admin().post("/organizations", organization).await.status, 201);
    for (name, status) in [("first", 201), ("second", 409)] {
        let key = json!({"organization_id": "org_1", "name": name, "scopes": []});
        assert_eq!(server.admin().post("/api-keys", key).await.status, status, "{name}");
    }
    assert_eq!(server.terminate(), Some(0));

    // An existing database keeps its own, and the log says so.
    let changed = FILE.replace("1_000", "2_000").replace("free", "silver") + "\n[plans.bronze]\n";
    fs::write(&file, changed).unwrap();
    let server = Binary::serve_with(&data, |command| {
        configured(
            command,
            &file,
            &[("TOLLHOUSE_PLANS__SILVER__MAX_KEYS", "3"), ("TOLLHOUSE_PLANS__SILVER__MAX_MEMBERS", "4")],
        );
    });
    assert_eq!(settings(&server).await, first);
    let warnings = |message: &str, subject: &str| {
        server.start.iter().filter(|line| line.contains(message) && line.contains(subject)).count()
    };
    for setting in ["plans.gold.organization_limits", "plans.gold.max_keys"] {
        assert_eq!(
            warnings("configured initial value ignored", setting),
            1,
            "{setting}: {:#?}",
            server.start
        );
    }
    // A plan that the database lacks is one warning, however many settings it has.
    assert_eq!(warnings("configured plan ignored", "silver"), 1, "{:#?}", server.start);
    assert_eq!(warnings("", "silver"), 1, "{:#?}", server.start);
    assert_eq!(warnings("configured plan ignored", "bronze"), 1, "{:#?}", server.start);
}

#[test]
fn plans_are_shown_with_their_sources_and_faults_with_their_places() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("tollhouse.toml");
    fs::write(&file, FILE).unwrap();
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        configured(&mut Binary::command(args), &file, variables).output().unwrap()
    };
    let shown = stdout(&run(&["config", "show"], &[("TOLLHOUSE_PLANS__GOLD__MAX_KEYS", "1")]));
    let path = file.display();
    for line in [
        format!("meters = [\"requests\", \"tokens\"]  # {path}:1"),
        "[plans.gold]".to_owned(),
        "max_keys = 1  # TOLLHOUSE_PLANS__GOLD__MAX_KEYS".to_owned(),
        format!(
            "organization_limits = [{{ meter = \"tokens\", limit = 1000, period = \"month\" }}]  # {path}:4"
        ),
        "[plans.free]".to_owned(),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n\n{shown}");
    }
    fs::write(&file, FILE.replace("\"tokens\"]", "\"bytes\"]").replace("max_keys = 5", "max_keys = -5"))
        .unwrap();
    let output = run(&["config", "check"], &[("TOLLHOUSE_PLANS__GOLD__KEY_LIMITS", "5 per minute")]);
    let place = file.display();
    let parts = [
        format!(
            "{place}:4: plans.gold.organization_limits: unknown meter tokens: add it to the setting meters"
        ),
        format!("{place}:7: plans.gold.max_keys: found "),
        "TOLLHOUSE_PLANS__GOLD__KEY_LIMITS: plans.gold.key_limits: found ".to_owned(),
    ];
    assert_fails(&output, 1, &parts.each_ref().map(String::as_str));
}
