//! Importing an export into an empty database restores the same state.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{assert_refused, code, data, result, run, stderr, stdout};
use crate::support::{ADMIN_KEY, Binary, Client};

/// Sets the meters that limits can be on.
async fn set_meters(admin: &Client, meters: Value) {
    let request = admin.request(reqwest::Method::PATCH, "/config").header("if-match", "*");
    data(admin.send(request.json(&json!({ "meters": meters }))).await);
}

/// Creates resources of every kind in every state; returns all secrets.
pub(super) async fn populate(server: &Binary) -> Vec<String> {
    let admin = server.admin();
    let mut secrets = vec![ADMIN_KEY.to_owned()];
    data(admin.post("/scopes", json!({"scope": "invoices:read", "description": "See invoices"})).await);
    set_meters(&admin, json!(["requests", "tokens"])).await;
    let tokens = json!({"meter": "tokens", "limit": 1_000_000, "period": "week"});
    for (id, limits) in [("org_1", json!([tokens])), ("org_2", json!([])), ("org_gone", Value::Null)] {
        let body = json!({"id": id, "name": id, "email": "o@example.com", "plan": "enterprise",
            "limits": limits, "metadata": {"a": "b"}});
        data(admin.post("/organizations", body).await);
    }
    for id in ["user_1", "user_2", "user_gone"] {
        let body = json!({"id": id, "name": id, "email": format!("{id}@example.com"), "external_id": "x|1"});
        data(admin.post("/users", body).await);
        for organization in ["org_1", "org_gone"] {
            let members = format!("/organizations/{organization}/members");
            data(admin.post(&members, json!({"user_id": id, "role": "owner"})).await);
        }
    }
    for (id, fields) in [
        ("plain", json!({"scopes": ["invoices:*", "workflows:read"]})),
        (
            "limited",
            json!({"limits": [{"limit": 5, "window_seconds": 60}, {"limit": 9, "period": "total"}, tokens],
            "allowed_ips": ["192.0.2.0/24", "2001:db8::/32"], "expires_at": "2999-01-01T00:00:00Z"}),
        ),
        ("unlimited", json!({"limits": []})),
        ("renewing", json!({"self_rotation": true})),
        ("rotated", json!({})),
        ("rotated-at-once", json!({})),
        ("disabled", json!({})),
        ("revoked", json!({"metadata": {"c": "d"}})),
        ("owned", json!({"user_id": "user_1"})),
        ("owner-gone", json!({"user_id": "user_gone"})),
        ("gone", json!({"organization_id": "org_gone", "user_id": "user_1"})),
    ] {
        let mut body =
            json!({"id": format!("key_{id}"), "organization_id": "org_1", "name": id, "scopes": []});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        secrets.push(data(admin.post("/api-keys", body).await)["key"].as_str().unwrap().to_owned());
    }
    for (id, grace) in [("rotated", 604_800), ("rotated-at-once", 0)] {
        let path = format!("/api-keys/key_{id}/rotate");
        let rotated = data(admin.post(&path, json!({"grace_period_seconds": grace})).await);
        secrets.push(rotated["key"].as_str().unwrap().to_owned());
    }
    data(admin.patch("/api-keys/key_disabled", json!({"status": "disabled"})).await);
    data(admin.post("/api-keys/key_revoked/revoke", json!({"reason": "leaked"})).await);
    data(admin.patch("/organizations/org_2", json!({"status": "suspended"})).await);
    data(admin.patch("/users/user_2", json!({"status": "suspended"})).await);
    data(admin.delete("/users/user_gone").await);
    data(admin.delete("/organizations/org_gone").await);
    // The deleted user's email address is free again.
    let successor = json!({"id": "user_heir", "name": "h", "email": "user_gone@example.com"});
    data(admin.post("/users", successor).await);
    secrets
}

/// The verification code of each secret, and the API's representation of every resource.
async fn state(server: &Binary, secrets: &[String]) -> (Vec<String>, Vec<Value>) {
    let admin = server.admin();
    let mut codes = Vec::new();
    for secret in secrets {
        codes.push(code(&admin, secret).await);
    }
    let mut answers = Vec::new();
    for path in [
        "/organizations",
        "/users",
        "/organizations/org_1/members",
        "/api-keys?limit=100",
        "/analytics/overview",
    ] {
        let mut answer = data(admin.get(path).await);
        if path.ends_with("overview") {
            answer = ["organizations", "users", "api_keys"].map(|name| answer[name].clone()).into();
        }
        for key in answer.as_array_mut().unwrap().iter_mut().filter_map(Value::as_object_mut) {
            key.remove("last_used_at");
        }
        answers.push(answer);
    }
    (codes, answers)
}

#[tokio::test]
async fn importing_an_export_into_an_empty_database_restores_the_same_state() {
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    let target = temp.path().join("target");
    let mut server = Binary::serve(&source);
    let secrets = populate(&server).await;
    let before = state(&server, &secrets).await;
    let in_grace =
        ["VALID", "RATE_LIMITED"].map(|expected| before.0.iter().filter(|code| *code == expected).count());
    assert!(in_grace[0] >= 5, "{:?}", before.0);

    let file = temp.path().join("all.ndjson");
    let export = ["export", "--output", file.to_str().unwrap()];
    let exported = run(&source, &export);
    assert!(exported.status.success() && stdout(&exported).is_empty(), "{}", stderr(&exported));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_refused(&source, &export, &["all.ndjson already exists"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())));
    assert_eq!(server.terminate(), Some(0));

    let report = result(&target, &["import", file.to_str().unwrap()]);
    assert_eq!((&report["refused"], &report["has_platform_key"]), (&json!(0), &json!(true)), "{report}");
    assert_eq!(result(&target, &["check"])["ok"], true);
    let again = run(&target, &["export"]);
    let lines = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&stdout(&again)), lines(&text), "the second export equals the first, byte for byte");
    let files: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| !name.to_str().unwrap().contains("part")), "{files:?}");

    let server = Binary::serve_with(&target, |_| ());
    let after = state(&server, &secrets).await;
    assert_eq!(after.0, before.0);
    assert_eq!(json!(after.1), json!(before.1));
    let events = data(server.admin().get("/audit-logs?action=database.export").await);
    assert_eq!(events[0]["actor"]["type"], "cli");
}

#[test]
fn a_truncated_export_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("all.ndjson");
    run(&dir, &["import", "/dev/null", "--format", "ndjson"]);
    let text = stdout(&run(&dir, &["export"]));
    let lines: Vec<_> = text.lines().collect();
    for (index, part) in
        [&lines[..lines.len() - 1], &[&lines[..2], &lines[3..]].concat()].into_iter().enumerate()
    {
        fs::write(&file, part.join("\n")).unwrap();
        let output = run(&temp.path().join(index.to_string()), &["import", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("the export is truncated"), "{}", stderr(&output));
    }
    fs::write(&file, text.replace("\"version\":1", "\"version\":2")).unwrap();
    let output = run(&temp.path().join("newer"), &["import", file.to_str().unwrap()]);
    assert!(
        stdout(&output).contains("version 2; this version of Tollhouse reads up to 1"),
        "{}",
        stdout(&output)
    );
}
