//! Files of the database that are moved, removed or replaced under the running server.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Answer, Binary, Client, DEADLINE};

/// A running server with a revoked key, and a backup from before the revocation.
struct Deployment {
    temp: tempfile::TempDir,
    server: Binary,
    revoked_key: String,
}

impl Deployment {
    async fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let server = serve(&temp.path().join("data"));
        let admin = server.admin();
        let created = admin.post("/api-keys", json!({"name": "n", "scopes": []})).await;
        let revoked_key = created.data()["key"].as_str().unwrap().to_owned();
        let deployment = Self { temp, server, revoked_key };
        let older = deployment.older_copy();
        let dir = deployment.dir();
        let backup = Binary::run(&["backup", older.to_str().unwrap(), "--data", dir.to_str().unwrap()]);
        assert!(backup.status.success(), "{backup:?}");
        let path = format!("/api-keys/{}/revoke", created.data()["id"].as_str().unwrap());
        assert_eq!(admin.post(&path, json!({})).await.status, 200);
        assert_eq!(create(&admin, "acknowledged").await.status, 201);
        assert_eq!(verify(&admin, &deployment.revoked_key).await.data()["code"], "REVOKED");
        deployment
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    fn older_copy(&self) -> PathBuf {
        self.temp.path().join("older.db")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Fails unless the server refuses all work and says why.
    async fn assert_refuses(&self, reason: &str) {
        let admin = self.server.admin();
        // The watch compares each second, so verifications stop within about a second.
        until_status(503, || verify(&admin, &self.revoked_key)).await;
        let refused = create(&admin, "refused").await;
        assert_eq!((refused.status, refused.code()), (503, "UNAVAILABLE"), "{refused:?}");
        assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
        let read = admin.get("/organizations").await;
        assert_eq!(read.status, 503, "a read can't be recorded: {read:?}");
        let ready = admin.send(admin.request_at_root(Method::GET, "/readyz")).await;
        assert_eq!(ready.status, 503);
        assert!(ready.json["error"]["message"].as_str().unwrap().contains(reason), "{ready:?}");
        assert!(!ready.text.contains(self.temp.path().to_str().unwrap()), "no path for anyone: {ready:?}");
        let line = self.server.line_with("database files changed under the running server");
        assert!(line.contains(reason) && line.contains(self.dir().to_str().unwrap()), "{line}");
    }
}

fn serve(dir: &Path) -> Binary {
    Binary::serve_with(dir, |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
    })
}

async fn create(admin: &Client, id: &str) -> Answer {
    let id = format!("org_{id}");
    admin.post("/organizations", json!({"id": id, "name": id, "email": format!("{id}@example.com")})).await
}

async fn verify(admin: &Client, key: &str) -> Answer {
    let request = admin.request_at_root(Method::POST, "/v1/keys/verify");
    admin.send(request.json(&json!({"key": key, "dry_run": true}))).await
}

/// Repeats a request until it has this status.
async fn until_status<F: Future<Output = Answer>>(status: u16, mut send: impl FnMut() -> F) {
    let repeated = async { while send().await.status != status {} };
    assert!(tokio::time::timeout(DEADLINE, repeated).await.is_ok(), "the status never was {status}");
}

async fn organizations(admin: &Client) -> Vec<Value> {
    let listed = admin.get("/organizations?order=asc").await;
    assert_eq!(listed.status, 200, "{listed:?}");
    listed.data().as_array().unwrap().iter().map(|organization| organization["id"].clone()).collect()
}

#[tokio::test]
async fn i15_a_moved_data_directory_stops_the_server_until_it_is_back() {
    let mut deployment = Deployment::start().await;
    let aside = deployment.temp.path().join("aside");
    fs::rename(deployment.dir(), &aside).unwrap();
    // The first change after the move is already refused, not only those after the next look each second.
    let first = create(&deployment.server.admin(), "refused").await;
    assert_eq!(first.status, 503, "{first:?}");
    deployment.assert_refuses("the database file was moved or removed").await;

    // Another directory in its place, with an older copy in which the revoked key is active.
    fs::create_dir(deployment.dir()).unwrap();
    fs::copy(deployment.older_copy(), deployment.file("tollhouse.db")).unwrap();
    let admin = deployment.server.admin();
    let replaced = create(&admin, "refused").await;
    assert!(replaced.text.contains("the database file was replaced by another file"), "{replaced:?}");
    assert_eq!(verify(&admin, &deployment.revoked_key).await.status, 503);

    fs::remove_dir_all(deployment.dir()).unwrap();
    fs::rename(&aside, deployment.dir()).unwrap();
    until_status(201, || create(&admin, "later")).await;
    until_status(200, || verify(&admin, &deployment.revoked_key)).await;
    deployment.server.line_with("database files are in place again");
    assert_eq!(deployment.server.terminate(), Some(0));
    let server = serve(&deployment.dir());
    assert_eq!(organizations(&server.admin()).await, ["org_acknowledged", "org_later"]);
    assert_eq!(verify(&server.admin(), &deployment.revoked_key).await.data()["code"], "REVOKED");
}

#[tokio::test]
async fn i15_a_removed_or_replaced_database_file_is_not_written() {
    for replace in [false, true] {
        let deployment = Deployment::start().await;
        let file = deployment.file("tollhouse.db");
        let reason = if replace {
            fs::rename(deployment.older_copy(), &file).unwrap();
            "the database file was replaced by another file"
        } else {
            fs::remove_file(&file).unwrap();
            "the database file was moved or removed"
        };
        let first = create(&deployment.server.admin(), "refused").await;
        assert_eq!(first.status, 503, "{first:?}");
        deployment.assert_refuses(reason).await;
    }
}

/// What was acknowledged before is only in the WAL. It must survive even a kill.
#[tokio::test]
async fn i15_a_removed_wal_is_moved_into_the_database_file() {
    let mut deployment = Deployment::start().await;
    fs::remove_file(deployment.file("tollhouse.db-wal")).unwrap();
    let first = create(&deployment.server.admin(), "refused").await;
    assert_eq!(first.status, 503, "{first:?}");
    deployment.assert_refuses("the WAL was moved or removed").await;
    deployment.server.line_with("moved the changes of the removed WAL into the database file");
    deployment.server.kill();
    let server = serve(&deployment.dir());
    assert_eq!(organizations(&server.admin()).await, ["org_acknowledged"]);
    assert_eq!(verify(&server.admin(), &deployment.revoked_key).await.data()["code"], "REVOKED");
}

#[tokio::test]
async fn i15_a_removed_lock_file_admits_no_second_server() {
    let deployment = Deployment::start().await;
    fs::remove_file(deployment.file("tollhouse.lock")).unwrap();
    let dir = deployment.dir();
    let second = Binary::run(&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(message.contains("is in use by another Tollhouse process"), "{message}");
    deployment.assert_refuses("the lock file was").await;
}
