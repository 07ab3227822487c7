//! Restores: withdrawals made after the backup are reapplied, and at every moment the database is complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_refused, code, data, result, run, stderr};
use crate::support::{Answer, Binary, Client};

/// A stopped server's data directory, and a backup of an earlier state.
struct BackupFixture {
    _temp: TempDir,
    dir: PathBuf,
    backup: PathBuf,
    /// Secrets by the names of their keys.
    secrets: Vec<(&'static str, String)>,
}

async fn create_key(admin: &Client, id: &str, fields: Value) -> String {
    let mut body = json!({"id": format!("key_{id}"), "organization_id": "org_1", "name": id,
        "scopes": ["workflows:*"]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    data(admin.post("/api-keys", body).await)["key"].as_str().unwrap().to_owned()
}

/// Creates organizations, users and keys, makes a backup, and then applies `changes`.
async fn backup_fixture<F: Future<Output = ()>>(changes: impl FnOnce(Client) -> F) -> BackupFixture {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let backup = temp.path().join("backup.db");
    let mut server = Binary::serve(&dir);
    let admin = server.admin();
    for id in ["org_1", "org_suspended", "org_deleted", "org_large"] {
        let plan = if id == "org_large" { "enterprise" } else { "standard" };
        let body = json!({"id": id, "name": id, "email": "o@example.com", "plan": plan});
        data(admin.post("/organizations", body).await);
    }
    for id in ["user_1", "user_suspended", "user_deleted", "user_removed", "user_lesser"] {
        let body = json!({"id": id, "name": id, "email": format!("{id}@example.com")});
        data(admin.post("/users", body).await);
        let role = json!({"user_id": id, "role": "owner"});
        data(admin.post("/organizations/org_1/members", role).await);
    }
    let mut secrets = Vec::new();
    for (id, fields) in [
        ("unchanged", json!({})),
        ("revoked", json!({})),
        ("disabled", json!({})),
        ("shortened", json!({})),
        ("narrowed", json!({})),
        ("bound", json!({})),
        ("limited", json!({"limits": [{"limit": 3, "period": "month"}]})),
        ("rotated", json!({})),
        ("rotated-with-grace", json!({})),
        ("suspended", json!({"organization_id": "org_suspended"})),
        ("deleted", json!({"organization_id": "org_deleted"})),
        ("of-suspended", json!({"user_id": "user_suspended"})),
        ("of-deleted", json!({"user_id": "user_deleted"})),
        ("of-removed", json!({"user_id": "user_removed"})),
    ] {
        secrets.push((id, create_key(&admin, id, fields).await));
    }
    result(&dir, &["backup", backup.to_str().unwrap()]);
    changes(admin).await;
    assert_eq!(server.terminate(), Some(0));
    BackupFixture { _temp: temp, dir, backup, secrets }
}

impl BackupFixture {
    fn restore(&self, args: &[&str]) -> Value {
        result(&self.dir, &[&["restore", self.backup.to_str().unwrap()], args].concat())
    }

    #[track_caller]
    fn assert_refused(&self, args: &[&str], parts: &[&str]) {
        // Everything after the header, whose journal mode may change.
        let content = || fs::read(self.dir.join("tollhouse.db")).ok().map(|bytes| bytes[100..].to_vec());
        let before = content();
        assert_refused(&self.dir, &[&["restore", self.backup.to_str().unwrap()], args].concat(), parts);
        assert!(content() == before, "the database was changed");
        assert!(!self.dir.join(".restoring").exists());
    }

    /// The verification code of each key.
    async fn codes(&self, admin: &Client) -> Vec<(&'static str, String)> {
        let mut codes = Vec::new();
        for (id, secret) in &self.secrets {
            codes.push((*id, code(admin, secret).await));
        }
        codes
    }
}

fn assert_success(answer: Answer) {
    data(answer);
}

async fn withdraw(admin: Client) {
    let path = |id: &str| format!("/api-keys/key_{id}");
    assert_success(admin.post(&format!("{}/revoke", path("revoked")), json!({"reason": "leaked"})).await);
    assert_success(admin.patch(&path("disabled"), json!({"status": "disabled"})).await);
    assert_success(admin.patch(&path("shortened"), json!({"expires_at": "2999-01-01T00:00:00Z"})).await);
    assert_success(
        admin.patch(&path("narrowed"), json!({"scopes": ["workflows:read", "transactions:read"]})).await,
    );
    assert_success(admin.patch(&path("bound"), json!({"allowed_ips": ["192.0.2.0/24"]})).await);
    assert_success(
        admin.post(&format!("{}/rotate", path("rotated")), json!({"grace_period_seconds": 0})).await,
    );
    assert_success(admin.post(&format!("{}/rotate", path("rotated-with-grace")), json!({})).await);
    assert_success(admin.patch("/organizations/org_suspended", json!({"status": "suspended"})).await);
    assert_success(admin.delete("/organizations/org_deleted").await);
    assert_success(admin.patch("/users/user_suspended", json!({"status": "suspended"})).await);
    assert_success(admin.delete("/users/user_deleted").await);
    assert_success(admin.delete("/organizations/org_1/members/user_removed").await);
    assert_success(admin.patch("/organizations/org_1/members/user_lesser", json!({"role": "viewer"})).await);
    // Changes that grant more access are not reapplied; the backup's state remains.
    assert_success(admin.patch(&path("unchanged"), json!({"name": "renamed", "scopes": ["*"]})).await);
}

#[tokio::test]
async fn withdrawals_after_the_backup_are_reapplied() {
    let newest_secret = std::cell::RefCell::new(String::new());
    let fixture = backup_fixture(|admin| {
        let newest_secret = &newest_secret;
        async move {
            withdraw(admin.clone()).await;
            let path = "/api-keys/key_rotated-with-grace/rotate";
            let rotated = data(admin.post(path, json!({})).await);
            *newest_secret.borrow_mut() = rotated["key"].as_str().unwrap().to_owned();
        }
    })
    .await;
    // Spend units of a quota after the backup.
    let limited = &fixture.secrets.iter().find(|(id, _)| *id == "limited").unwrap().1;
    let mut server = Binary::serve_with(&fixture.dir, |_| ());
    let admin = server.admin();
    for expected in ["VALID", "VALID", "VALID", "QUOTA_EXCEEDED"] {
        let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
        let answer = admin.send(request.json(&json!({"key": limited}))).await;
        assert_eq!(answer.data()["code"], expected);
    }
    let head = data(admin.get("/audit-logs/verify").await);
    assert_eq!(server.terminate(), Some(0));

    fixture.assert_refused(&[], &["A database already exists", "--force"]);
    let report = fixture.restore(&["--force"]);
    assert_eq!(report["complete"], true, "{report}");
    let reapplied = json!({"organizations": 2, "users": 2, "memberships": 2, "api_keys": 7, "quotas": 1});
    assert_eq!(report["carried"], reapplied, "{report}");
    assert_eq!(report["replaced"], json!(fixture.dir.join("tollhouse.db.before-restore")));
    let replaced: i64 =
        report["replaced_audit_head"].as_str().unwrap().split_once(':').unwrap().0.parse().unwrap();
    assert!(replaced >= head["last_seq"].as_i64().unwrap(), "{report}");

    let server = Binary::serve_with(&fixture.dir, |_| ());
    let admin = server.admin();
    let expected = [
        ("unchanged", "VALID"),
        ("revoked", "REVOKED"),
        ("disabled", "DISABLED"),
        ("shortened", "VALID"),
        ("narrowed", "VALID"),
        ("bound", "IP_NOT_ALLOWED"),
        ("limited", "QUOTA_EXCEEDED"),
        ("rotated", "EXPIRED"),
        ("rotated-with-grace", "EXPIRED"),
        ("suspended", "ORGANIZATION_SUSPENDED"),
        ("deleted", "REVOKED"),
        ("of-suspended", "OWNER_INACTIVE"),
        ("of-deleted", "REVOKED"),
        ("of-removed", "REVOKED"),
    ];
    assert_eq!(fixture.codes(&admin).await, expected.map(|(id, code)| (id, code.to_owned())));
    let newest_secret = newest_secret.take();
    assert_eq!(code(&admin, &newest_secret).await, "VALID", "the newest secret of a rotated key");
    let get = async |id: &str| data(admin.get(&format!("/api-keys/key_{id}")).await);
    assert_eq!(get("revoked").await["revoked_reason"], "leaked");
    assert_eq!(get("narrowed").await["scopes"], json!(["workflows:read"]));
    assert_eq!(get("shortened").await["expires_at"], "2999-01-01T00:00:00.000Z");
    let unchanged = get("unchanged").await;
    assert_eq!((&unchanged["name"], &unchanged["scopes"]), (&json!("unchanged"), &json!(["workflows:*"])));
    assert_eq!(admin.get("/organizations/org_deleted").await.status, 404);
    assert_eq!(admin.get("/users/user_deleted").await.status, 404);
    assert_eq!(admin.get("/organizations/org_1/members/user_removed").await.status, 404);
    let lesser = data(admin.get("/organizations/org_1/members/user_lesser").await);
    assert_eq!(lesser["role"], "viewer");

    let event = data(admin.get("/audit-logs?action=database.restore").await)[0].clone();
    let heads = [&report["replaced_audit_head"], &report["audit_head"]];
    assert_eq!([&event["changes"][0]["from"], &event["changes"][0]["to"]], heads, "{event}");
    for (action, count) in
        [("api_key.restore", 7), ("organization.restore", 2), ("user.restore", 2), ("membership.restore", 2)]
    {
        let events = data(admin.get(&format!("/audit-logs?action={action}")).await);
        assert_eq!(events.as_array().unwrap().len(), count, "{action}");
    }
    assert_eq!(result(&fixture.dir, &["check"])["ok"], true);
    let replaced = fixture.dir.join("tollhouse.db.before-restore");
    assert_eq!(result(&fixture.dir, &["check", replaced.to_str().unwrap()])["ok"], true);
    let files: Vec<_> = fs::read_dir(&fixture.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| !name.to_str().unwrap().contains("journal")), "{files:?}");
}

/// Limits are withdrawals, too: those of both databases apply, the stricter one where both have a limit on a meter for
/// the same time.
#[tokio::test]
async fn stricter_limits_after_the_backup_are_reapplied() {
    let minute = |limit: u64| json!({"meter": "requests", "limit": limit, "window_seconds": 60});
    let month = |limit: u64| json!({"meter": "requests", "limit": limit, "period": "month"});
    let fixture = backup_fixture(|admin| async move {
        let patch = async |path: &str, limits: Value| {
            assert_success(admin.patch(path, json!({ "limits": limits })).await);
        };
        patch("/api-keys/key_unchanged", json!([minute(5)])).await;
        patch("/api-keys/key_limited", json!([month(9), minute(7)])).await;
        patch("/organizations/org_1", json!([minute(50), month(70)])).await;
        let settings = admin.get("/config").await;
        let meters = json!({"meters": ["requests", "tokens"]});
        let request = admin.request(reqwest::Method::PATCH, "/config");
        let request = request.header("if-match", settings.header("etag").unwrap()).json(&meters);
        assert_success(admin.send(request).await);
        let tokens = json!([{"meter": "tokens", "limit": 5, "period": "day"}]);
        patch("/api-keys/key_narrowed", tokens).await;
        assert_success(admin.patch("/organizations/org_large", json!({"plan": "standard"})).await);
    })
    .await;
    let report = fixture.restore(&["--force"]);
    let reapplied = json!({"organizations": 2, "users": 0, "memberships": 0, "api_keys": 2, "quotas": 0});
    assert_eq!(report["carried"], reapplied, "{report}");
    let server = Binary::serve_with(&fixture.dir, |_| ());
    let admin = server.admin();
    let limits = async |path: &str| data(admin.get(path).await)["limits"].clone();
    assert_eq!(limits("/api-keys/key_unchanged").await, json!([minute(5)]));
    assert_eq!(limits("/api-keys/key_limited").await, json!([month(3), minute(7)]));
    assert_eq!(limits("/api-keys/key_bound").await, Value::Null);
    assert_eq!(limits("/api-keys/key_narrowed").await, Value::Null, "the backup doesn't have the meter");
    assert_eq!(limits("/organizations/org_1").await, json!([minute(50), month(70)]));
    assert_eq!(limits("/organizations/org_suspended").await, Value::Null);
    let large = data(admin.get("/organizations/org_large").await);
    assert_eq!((&large["plan"], &large["limits"]), (&json!("standard"), &Value::Null));
    // The limits are in force: the organization's is shared by its keys.
    let secret = |name: &str| &fixture.secrets.iter().find(|(id, _)| *id == name).unwrap().1;
    let verify = async |name: &str, cost: u64| {
        let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
        data(admin.send(request.json(&json!({"key": secret(name), "cost": cost}))).await)["code"].clone()
    };
    assert_eq!(verify("unchanged", 6).await, "RATE_LIMITED");
    assert_eq!(verify("bound", 47).await, "VALID");
    assert_eq!(verify("limited", 4).await, "QUOTA_EXCEEDED");
    assert_eq!(verify("unchanged", 4).await, "RATE_LIMITED");
    assert_eq!(verify("unchanged", 3).await, "VALID");
}

#[tokio::test]
async fn an_unsafe_restore_is_refused() {
    let fixture =
        backup_fixture(|admin| async move { assert_success(admin.delete("/api-keys/key_revoked").await) })
            .await;
    let mut server = Binary::serve_with(&fixture.dir, |_| ());
    let force = &["restore", fixture.backup.to_str().unwrap(), "--force"];
    assert_refused(&fixture.dir, force, &["in use by another", "Stop it first"]);
    assert_eq!(server.terminate(), Some(0));

    // Another process has the database open.
    let live = fixture.dir.join("tollhouse.db");
    let conn = Connection::open(&live).unwrap();
    conn.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
    fixture.assert_refused(&["--force"], &["Another process has the database open"]);
    conn.close().unwrap();

    // The file is no backup.
    let write_file = |text: &[u8]| {
        let file = fixture.dir.join("other");
        fs::write(&file, text).unwrap();
        file
    };
    for (bytes, message) in [(&b"nothing"[..], "not a Tollhouse database"), (b"", "is empty")] {
        assert_refused(
            &fixture.dir,
            &["restore", write_file(bytes).to_str().unwrap(), "--force"],
            &[message],
        );
    }
    assert_refused(&fixture.dir, &["restore", live.to_str().unwrap(), "--force"], &["the database itself"]);
    assert_refused(&fixture.dir, &["restore", "/nowhere.db", "--force"], &["/nowhere.db doesn't exist"]);
    let edited = fixture.dir.join("edited.db");
    fs::copy(&fixture.backup, &edited).unwrap();
    let edit = "UPDATE audit_events SET event = replace(event, 'success', 'failed') WHERE seq = 3";
    Connection::open(&edited).unwrap().execute(edit, []).unwrap();
    assert_refused(
        &fixture.dir,
        &["restore", edited.to_str().unwrap(), "--force"],
        &["failed verification", "event 3"],
    );

    // The replaced database is unrelated, unreadable or missing.
    let parts = ["unknown what was revoked since", "--accept-unrevoked"];
    let mut unrelated = Binary::serve(&fixture.dir.join("unrelated"));
    assert_eq!(unrelated.terminate(), Some(0));
    let original = fs::read(&live).unwrap();
    fs::copy(fixture.dir.join("unrelated/tollhouse.db"), &live).unwrap();
    fixture.assert_refused(&["--force"], &parts);
    let mut damaged = original.clone();
    damaged[4096..12_288].fill(7);
    fs::write(&live, &damaged).unwrap();
    fixture.assert_refused(&["--force"], &parts);
    let report = fixture.restore(&["--force", "--accept-unrevoked"]);
    assert_eq!((&report["complete"], &report["carried"]["api_keys"]), (&json!(false), &json!(0)), "{report}");
    assert!(fs::read(fixture.dir.join("tollhouse.db.before-restore")).unwrap() == damaged);
    fs::remove_file(&live).unwrap();
    fixture.assert_refused(&["--force"], &["no database", "--accept-unrevoked"]);
    fixture.restore(&["--accept-unrevoked"]);
    let server = Binary::serve_with(&fixture.dir, |_| ());
    let expected = fixture.secrets.iter().map(|(id, _)| (*id, "VALID".to_owned())).collect::<Vec<_>>();
    assert_eq!(
        fixture.codes(&server.admin()).await,
        expected,
        "--accept-unrevoked restores the backup's state"
    );
}

/// After a kill at any moment, the database is either the old or the restored one.
#[tokio::test]
async fn a_kill_during_a_restore_leaves_a_complete_database() {
    let fixture =
        backup_fixture(|admin| async move { assert_success(admin.delete("/api-keys/key_revoked").await) })
            .await;
    let live = fixture.dir.join("tollhouse.db");
    let original = fs::read(&live).unwrap();
    let restore = || {
        let mut command =
            Binary::command(&["restore", fixture.backup.to_str().unwrap(), "--force", "--data"]);
        command.arg(&fixture.dir).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let step = std::time::Duration::from_millis(8);
    let mut killed = 0;
    let mut completed = 0;
    for round in 0..24_u32 {
        remove_databases(&fixture.dir);
        fs::write(&live, &original).unwrap();
        let mut child = restore().spawn().unwrap();
        // This sleep waits for nothing. It spreads the kills over the duration of a restore.
        std::thread::sleep(step * round);
        let _ = child.kill();
        match child.wait().unwrap().success() {
            true => completed += 1,
            false => killed += 1,
        }
        assert_eq!(result(&fixture.dir, &["check"])["ok"], true, "round {round}");
        let revoked = Connection::open(&live).unwrap().query_row(
            "SELECT status FROM api_keys WHERE id = 'key_revoked'",
            [],
            |row| row.get::<_, String>(0),
        );
        assert_eq!(revoked.unwrap(), "revoked", "round {round}: revoked in both databases");
    }
    println!("{killed} killed, {completed} completed");
    let after = run(&fixture.dir, &["restore", fixture.backup.to_str().unwrap(), "--force"]);
    assert!(after.status.success(), "files left by a kill must not prevent a restore: {}", stderr(&after));
}

/// Deletes the database and the files that earlier rounds left beside it.
fn remove_databases(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("tollhouse.db") {
            fs::remove_file(path).unwrap();
        }
    }
}
