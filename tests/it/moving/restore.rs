//! Restores: what was taken away since stays taken, and at each moment there is a whole database.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{code, made, refused, result, run, stderr};
use crate::support::{Answer, Binary, Client};

/// A backup of a server that has gone on since.
struct Past {
    _place: TempDir,
    dir: PathBuf,
    backup: PathBuf,
    /// Secrets by the names of their keys.
    secrets: Vec<(&'static str, String)>,
}

async fn key(admin: &Client, id: &str, more: Value) -> String {
    let mut body = json!({"id": format!("key_{id}"), "organization_id": "org_1", "name": id,
        "scopes": ["workflows:*"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    made(admin.post("/api-keys", body).await)["key"].as_str().unwrap().to_owned()
}

/// Organizations, users and keys as they are in the backup, and what `since` did to them afterwards.
async fn past<F: Future<Output = ()>>(since: impl FnOnce(Client) -> F) -> Past {
    let place = tempfile::tempdir().unwrap();
    let (dir, backup) = (place.path().join("data"), place.path().join("backup.db"));
    let mut server = Binary::serve(&dir);
    let admin = server.admin();
    for id in ["org_1", "org_suspended", "org_deleted"] {
        made(admin.post("/organizations", json!({"id": id, "name": id, "email": "o@example.com"})).await);
    }
    for id in ["user_1", "user_suspended", "user_deleted", "user_removed", "user_lesser"] {
        let body = json!({"id": id, "name": id, "email": format!("{id}@example.com")});
        made(admin.post("/users", body).await);
        let role = json!({"user_id": id, "role": "owner"});
        made(admin.post("/organizations/org_1/members", role).await);
    }
    let mut secrets = Vec::new();
    for (id, more) in [
        ("kept", json!({})),
        ("revoked", json!({})),
        ("disabled", json!({})),
        ("shortened", json!({})),
        ("narrowed", json!({})),
        ("bound", json!({})),
        ("limited", json!({"quota": {"limit": 3, "period": "month"}})),
        ("rotated", json!({})),
        ("rotated-with-grace", json!({})),
        ("suspended", json!({"organization_id": "org_suspended"})),
        ("deleted", json!({"organization_id": "org_deleted"})),
        ("of-suspended", json!({"user_id": "user_suspended"})),
        ("of-deleted", json!({"user_id": "user_deleted"})),
        ("of-removed", json!({"user_id": "user_removed"})),
    ] {
        secrets.push((id, key(&admin, id, more).await));
    }
    result(&dir, &["backup", backup.to_str().unwrap()]);
    since(admin).await;
    assert_eq!(server.terminate(), Some(0));
    Past { _place: place, dir, backup, secrets }
}

impl Past {
    fn restore(&self, more: &[&str]) -> Value {
        result(&self.dir, &[&["restore", self.backup.to_str().unwrap()], more].concat())
    }

    #[track_caller]
    fn refused(&self, more: &[&str], parts: &[&str]) {
        // All but the header, which says how the file is journalled.
        let content = || fs::read(self.dir.join("tollhouse.db")).ok().map(|bytes| bytes[100..].to_vec());
        let before = content();
        refused(&self.dir, &[&["restore", self.backup.to_str().unwrap()], more].concat(), parts);
        assert!(content() == before, "it was left as it was");
        assert!(!self.dir.join(".restoring").exists());
    }

    /// What each key is worth.
    async fn codes(&self, admin: &Client) -> Vec<(&'static str, String)> {
        let mut codes = Vec::new();
        for (id, secret) in &self.secrets {
            codes.push((*id, code(admin, secret).await));
        }
        codes
    }
}

fn ok(answer: Answer) {
    made(answer);
}

async fn withdraw(admin: Client) {
    let path = |id: &str| format!("/api-keys/key_{id}");
    ok(admin.post(&format!("{}/revoke", path("revoked")), json!({"reason": "leaked"})).await);
    ok(admin.patch(&path("disabled"), json!({"status": "disabled"})).await);
    ok(admin.patch(&path("shortened"), json!({"expires_at": "2999-01-01T00:00:00Z"})).await);
    ok(admin.patch(&path("narrowed"), json!({"scopes": ["workflows:read", "transactions:read"]})).await);
    ok(admin.patch(&path("bound"), json!({"allowed_ips": ["192.0.2.0/24"]})).await);
    ok(admin.post(&format!("{}/rotate", path("rotated")), json!({"grace_period_seconds": 0})).await);
    ok(admin.post(&format!("{}/rotate", path("rotated-with-grace")), json!({})).await);
    ok(admin.patch("/organizations/org_suspended", json!({"status": "suspended"})).await);
    ok(admin.delete("/organizations/org_deleted").await);
    ok(admin.patch("/users/user_suspended", json!({"status": "suspended"})).await);
    ok(admin.delete("/users/user_deleted").await);
    ok(admin.delete("/organizations/org_1/members/user_removed").await);
    ok(admin.patch("/organizations/org_1/members/user_lesser", json!({"role": "viewer"})).await);
    // More since is not taken over: it is the backup's state.
    ok(admin.patch(&path("kept"), json!({"name": "renamed", "scopes": ["*"]})).await);
}

#[tokio::test]
async fn what_was_taken_away_since_stays_taken() {
    let mut used = String::new();
    let rotated = std::cell::RefCell::new(String::new());
    let past = past(|admin| {
        let rotated = &rotated;
        async move {
            withdraw(admin.clone()).await;
            let path = "/api-keys/key_rotated-with-grace/rotate";
            let newest = made(admin.post(path, json!({})).await);
            *rotated.borrow_mut() = newest["key"].as_str().unwrap().to_owned();
        }
    })
    .await;
    used.push_str(&past.secrets.iter().find(|(id, _)| *id == "limited").unwrap().1);
    // Units of a quota that were used since.
    let mut server = Binary::serve_with(&past.dir, |_| ());
    let admin = server.admin();
    for expected in ["VALID", "VALID", "VALID", "QUOTA_EXCEEDED"] {
        let request = admin.request_at_root(reqwest::Method::POST, "/v1/keys/verify");
        let answer = admin.send(request.json(&json!({"key": used}))).await;
        assert_eq!(answer.data()["code"], expected);
    }
    let head = made(admin.get("/audit-logs/verify").await);
    assert_eq!(server.terminate(), Some(0));

    past.refused(&[], &["A database already exists", "--force"]);
    let told = past.restore(&["--force"]);
    assert_eq!(told["complete"], true, "{told}");
    let carried = json!({"organizations": 2, "users": 2, "memberships": 2, "api_keys": 7, "quotas": 1});
    assert_eq!(told["carried"], carried, "{told}");
    assert_eq!(told["replaced"], json!(past.dir.join("tollhouse.db.before-restore")));
    let replaced: i64 =
        told["replaced_audit_head"].as_str().unwrap().split_once(':').unwrap().0.parse().unwrap();
    assert!(replaced >= head["last_seq"].as_i64().unwrap(), "{told}");

    let server = Binary::serve_with(&past.dir, |_| ());
    let admin = server.admin();
    let expected = [
        ("kept", "VALID"),
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
    assert_eq!(past.codes(&admin).await, expected.map(|(id, code)| (id, code.to_owned())));
    let newest = rotated.take();
    assert_eq!(code(&admin, &newest).await, "VALID", "the newest secret of a rotated key");
    let get = async |id: &str| made(admin.get(&format!("/api-keys/key_{id}")).await);
    assert_eq!(get("revoked").await["revoked_reason"], "leaked");
    assert_eq!(get("narrowed").await["scopes"], json!(["workflows:read"]));
    assert_eq!(get("shortened").await["expires_at"], "2999-01-01T00:00:00.000Z");
    let kept = get("kept").await;
    assert_eq!((&kept["name"], &kept["scopes"]), (&json!("kept"), &json!(["workflows:*"])));
    assert_eq!(admin.get("/organizations/org_deleted").await.status, 404);
    assert_eq!(admin.get("/users/user_deleted").await.status, 404);
    assert_eq!(admin.get("/organizations/org_1/members/user_removed").await.status, 404);
    let lesser = made(admin.get("/organizations/org_1/members/user_lesser").await);
    assert_eq!(lesser["role"], "viewer");

    let event = made(admin.get("/audit-logs?action=database.restore").await)[0].clone();
    let heads = [&told["replaced_audit_head"], &told["audit_head"]];
    assert_eq!([&event["changes"][0]["from"], &event["changes"][0]["to"]], heads, "{event}");
    for (action, count) in
        [("api_key.restore", 7), ("organization.restore", 2), ("user.restore", 2), ("membership.restore", 2)]
    {
        let events = made(admin.get(&format!("/audit-logs?action={action}")).await);
        assert_eq!(events.as_array().unwrap().len(), count, "{action}");
    }
    assert_eq!(result(&past.dir, &["check"])["sound"], true);
    let replaced = past.dir.join("tollhouse.db.before-restore");
    assert_eq!(result(&past.dir, &["check", replaced.to_str().unwrap()])["sound"], true);
    let left: Vec<_> = fs::read_dir(&past.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().contains("journal")), "{left:?}");
}

#[tokio::test]
async fn a_restore_is_refused_where_it_would_do_harm() {
    let past = past(|admin| async move { ok(admin.delete("/api-keys/key_revoked").await) }).await;
    let mut server = Binary::serve_with(&past.dir, |_| ());
    let force = &["restore", past.backup.to_str().unwrap(), "--force"];
    refused(&past.dir, force, &["in use by another", "Stop it first"]);
    assert_eq!(server.terminate(), Some(0));

    // Somebody else has it open.
    let live = past.dir.join("tollhouse.db");
    let conn = Connection::open(&live).unwrap();
    conn.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
    past.refused(&["--force"], &["Another process has the database open"]);
    conn.close().unwrap();

    // What is no backup.
    let other = |text: &[u8]| {
        let file = past.dir.join("other");
        fs::write(&file, text).unwrap();
        file
    };
    for (bytes, told) in [(&b"nothing"[..], "not a Tollhouse database"), (b"", "is empty")] {
        refused(&past.dir, &["restore", other(bytes).to_str().unwrap(), "--force"], &[told]);
    }
    refused(&past.dir, &["restore", live.to_str().unwrap(), "--force"], &["the database itself"]);
    refused(&past.dir, &["restore", "/nowhere.db", "--force"], &["no file /nowhere.db"]);
    let edited = past.dir.join("edited.db");
    fs::copy(&past.backup, &edited).unwrap();
    let edit = "UPDATE audit_events SET event = replace(event, 'success', 'failed') WHERE seq = 3";
    Connection::open(&edited).unwrap().execute(edit, []).unwrap();
    refused(
        &past.dir,
        &["restore", edited.to_str().unwrap(), "--force"],
        &["failed verification", "event 3"],
    );

    // A database that knows nothing of it, one that can't be read, and none.
    let parts = ["unknown what was revoked since", "--accept-unrevoked"];
    let mut stranger = Binary::serve(&past.dir.join("stranger"));
    assert_eq!(stranger.terminate(), Some(0));
    let own = fs::read(&live).unwrap();
    fs::copy(past.dir.join("stranger/tollhouse.db"), &live).unwrap();
    past.refused(&["--force"], &parts);
    let mut damaged = own.clone();
    damaged[4096..12_288].fill(7);
    fs::write(&live, &damaged).unwrap();
    past.refused(&["--force"], &parts);
    let told = past.restore(&["--force", "--accept-unrevoked"]);
    assert_eq!((&told["complete"], &told["carried"]["api_keys"]), (&json!(false), &json!(0)), "{told}");
    assert!(fs::read(past.dir.join("tollhouse.db.before-restore")).unwrap() == damaged);
    fs::remove_file(&live).unwrap();
    past.refused(&["--force"], &["no database", "--accept-unrevoked"]);
    past.restore(&["--accept-unrevoked"]);
    let server = Binary::serve_with(&past.dir, |_| ());
    let expected = past.secrets.iter().map(|(id, _)| (*id, "VALID".to_owned())).collect::<Vec<_>>();
    assert_eq!(past.codes(&server.admin()).await, expected, "as accepted");
}

/// Killed at any moment, the database is the old one or the new one.
#[tokio::test]
async fn a_kill_at_any_moment_leaves_a_whole_database() {
    let past = past(|admin| async move { ok(admin.delete("/api-keys/key_revoked").await) }).await;
    let live = past.dir.join("tollhouse.db");
    let newer = fs::read(&live).unwrap();
    let restore = || {
        let mut command = Binary::command(&["restore", past.backup.to_str().unwrap(), "--force", "--data"]);
        command.arg(&past.dir).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let began = std::time::Duration::from_millis(1);
    let (mut killed, mut ended) = (0, 0);
    for round in 0..24_u32 {
        clean(&past.dir);
        fs::write(&live, &newer).unwrap();
        let mut child = restore().spawn().unwrap();
        // The moments are spread over the time that a restore takes; where they fall decides nothing.
        std::thread::sleep(began * round * 8);
        let _ = child.kill();
        match child.wait().unwrap().success() {
            true => ended += 1,
            false => killed += 1,
        }
        assert_eq!(result(&past.dir, &["check"])["sound"], true, "round {round}");
        let revoked = Connection::open(&live).unwrap().query_row(
            "SELECT status FROM api_keys WHERE id = 'key_revoked'",
            [],
            |row| row.get::<_, String>(0),
        );
        assert_eq!(revoked.unwrap(), "revoked", "round {round}: in the old one and in the new one");
    }
    println!("{killed} killed, {ended} ended");
    let after = run(&past.dir, &["restore", past.backup.to_str().unwrap(), "--force"]);
    assert!(after.status.success(), "what a kill left is no hindrance: {}", stderr(&after));
}

/// Takes away what earlier rounds left beside the database.
fn clean(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("tollhouse.db") {
            fs::remove_file(path).unwrap();
        }
    }
}
