//! An export into an empty file is the same state.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{code, made, refused, result, run, stderr, stdout};
use crate::support::{ADMIN_KEY, Binary};

/// Everything that can be, in every state.
async fn populate(server: &Binary) -> Vec<String> {
    let admin = server.admin();
    let mut secrets = vec![ADMIN_KEY.to_owned()];
    made(admin.post("/scopes", json!({"scope": "invoices:read", "description": "See invoices"})).await);
    for id in ["org_1", "org_2", "org_gone"] {
        let body = json!({"id": id, "name": id, "email": "o@example.com", "plan": "enterprise",
            "metadata": {"a": "b"}});
        made(admin.post("/organizations", body).await);
    }
    for id in ["user_1", "user_2", "user_gone"] {
        let body = json!({"id": id, "name": id, "email": format!("{id}@example.com"), "external_id": "x|1"});
        made(admin.post("/users", body).await);
        for organization in ["org_1", "org_gone"] {
            let members = format!("/organizations/{organization}/members");
            made(admin.post(&members, json!({"user_id": id, "role": "owner"})).await);
        }
    }
    for (id, more) in [
        ("plain", json!({"scopes": ["invoices:*", "workflows:read"]})),
        (
            "limited",
            json!({"rate_limit": {"limit": 5, "window_seconds": 60}, "quota": {"limit": 9, "period": "month"},
            "allowed_ips": ["192.0.2.0/24", "2001:db8::/32"], "expires_at": "2999-01-01T00:00:00Z"}),
        ),
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
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        secrets.push(made(admin.post("/api-keys", body).await)["key"].as_str().unwrap().to_owned());
    }
    for (id, grace) in [("rotated", 604_800), ("rotated-at-once", 0)] {
        let path = format!("/api-keys/key_{id}/rotate");
        let rotated = made(admin.post(&path, json!({"grace_period_seconds": grace})).await);
        secrets.push(rotated["key"].as_str().unwrap().to_owned());
    }
    made(admin.patch("/api-keys/key_disabled", json!({"status": "disabled"})).await);
    made(admin.post("/api-keys/key_revoked/revoke", json!({"reason": "leaked"})).await);
    made(admin.patch("/organizations/org_2", json!({"status": "suspended"})).await);
    made(admin.patch("/users/user_2", json!({"status": "suspended"})).await);
    made(admin.delete("/users/user_gone").await);
    made(admin.delete("/organizations/org_gone").await);
    // The address is free again.
    let heir = json!({"id": "user_heir", "name": "h", "email": "user_gone@example.com"});
    made(admin.post("/users", heir).await);
    secrets
}

/// What each secret is worth, and what the API says of everything.
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
        let mut answer = made(admin.get(path).await);
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
async fn an_export_into_an_empty_file_is_the_same_state() {
    let place = tempfile::tempdir().unwrap();
    let (here, there) = (place.path().join("here"), place.path().join("there"));
    let mut server = Binary::serve(&here);
    let secrets = populate(&server).await;
    let before = state(&server, &secrets).await;
    let in_grace =
        ["VALID", "RATE_LIMITED"].map(|expected| before.0.iter().filter(|code| *code == expected).count());
    assert!(in_grace[0] >= 5, "{:?}", before.0);

    let file = place.path().join("all.ndjson");
    let export = ["export", "--output", file.to_str().unwrap()];
    let exported = run(&here, &export);
    assert!(exported.status.success() && stdout(&exported).is_empty(), "{}", stderr(&exported));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    refused(&here, &export, &["all.ndjson exists"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())));
    assert_eq!(server.terminate(), Some(0));

    let report = result(&there, &["import", file.to_str().unwrap()]);
    assert_eq!((&report["refused"], &report["has_platform_key"]), (&json!(0), &json!(true)), "{report}");
    assert_eq!(result(&there, &["check"])["sound"], true);
    let again = run(&there, &["export"]);
    let lines = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&stdout(&again)), lines(&text), "on standard output, and byte for byte");
    let left: Vec<_> = fs::read_dir(&there).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().contains("part")), "{left:?}");

    let server = Binary::serve_with(&there, |_| ());
    let after = state(&server, &secrets).await;
    assert_eq!(after.0, before.0);
    assert_eq!(json!(after.1), json!(before.1));
    let events = made(server.admin().get("/audit-logs?action=database.export").await);
    assert_eq!(events[0]["actor"]["type"], "cli");
}

#[test]
fn an_export_that_was_cut_off_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let (dir, file) = (place.path().join("data"), place.path().join("all.ndjson"));
    run(&dir, &["import", "/dev/null", "--format", "ndjson"]);
    let text = stdout(&run(&dir, &["export"]));
    let kept: Vec<_> = text.lines().collect();
    for (nth, part) in [&kept[..kept.len() - 1], &[&kept[..2], &kept[3..]].concat()].into_iter().enumerate() {
        fs::write(&file, part.join("\n")).unwrap();
        let output = run(&place.path().join(nth.to_string()), &["import", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("the export is truncated"), "{}", stderr(&output));
    }
    fs::write(&file, text.replace("\"version\":1", "\"version\":2")).unwrap();
    let output = run(&place.path().join("newer"), &["import", file.to_str().unwrap()]);
    assert!(
        stdout(&output).contains("version 2; this version of Tollhouse reads up to 1"),
        "{}",
        stdout(&output)
    );
}
