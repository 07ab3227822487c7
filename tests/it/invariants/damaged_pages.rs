//! Damaged pages of the database: the readiness check reports them, and access can be taken away.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tempfile::TempDir;
use tollhouse::clock::Clock;
use tollhouse::config::Config;
use tollhouse::domain::time::Timestamp;
use tollhouse::service::{lifecycle, operator_keys};
use tollhouse::verify::secret::Secret;

use super::full_disk::{readiness, verify};
use crate::support::{ADMIN_KEY, Answer, Binary, Client, NOW, Server};

const PAGE_BYTES: usize = 4096;

/// An index that every change writes, and no verification reads.
const INDEX_OF_CHANGES: &str = "audit_events_action";

/// The database of a stopped server, and the secrets of its keys.
pub(super) struct Stored {
    dir: TempDir,
    pub(super) verifier: String,
    /// A key of `org_1` that manages its keys.
    pub(super) manager: String,
    /// The previous secrets of the keys `key_0`, `key_1` …, in their grace period.
    pub(super) keys: Vec<String>,
}

/// Stores keys of `org_1`. Its member `user_1` owns the first ten.
pub(super) async fn store_keys() -> Stored {
    let server = Server::start().await;
    let admin = server.admin();
    for organization in ["org_1", "org_2"] {
        server.organization(organization).await;
    }
    for (user, role) in [("user_0", "owner"), ("user_1", "member")] {
        server.user(user).await;
        let member = json!({"user_id": user, "role": role});
        assert_eq!(admin.post("/organizations/org_1/members", member).await.status, 201);
    }
    let mut keys = Vec::new();
    for index in 0..80 {
        let owner = if index < 10 { json!("user_1") } else { Value::Null };
        let body = json!({"id": format!("key_{index}"), "organization_id": "org_1", "user_id": owner, "name": "n",
            "scopes": ["workflows:read", "workflows:write"]});
        keys.push(server.key_with(body).await.0.key.unwrap());
        assert_eq!(admin.post(&format!("/api-keys/key_{index}/rotate"), json!({})).await.status, 200);
    }
    let verifier = server.key(None, &["keys:verify"]).await.0.key.unwrap();
    let manager = server.key(Some("org_1"), &["admin:keys"]).await.0.key.unwrap();
    Stored { dir: server.stop().await, verifier, manager, keys }
}

impl Stored {
    fn database(&self) -> PathBuf {
        database_in(self.dir.path())
    }

    /// A copy of the data directory in which this page is overwritten with zeros.
    pub(super) fn damaged_copy(&self, page: u32) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::copy(self.database(), database_in(dir.path())).unwrap();
        write_page(dir.path(), page, &[0; PAGE_BYTES]);
        dir
    }

    fn page(&self, page: u32) -> Vec<u8> {
        fs::read(self.database()).unwrap()[(page as usize - 1) * PAGE_BYTES..][..PAGE_BYTES].to_vec()
    }

    /// The pages of each table and index, its root first.
    pub(super) fn trees(&self) -> Vec<(String, Vec<u32>)> {
        let conn = Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut statement = conn
            .prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0 ORDER BY name")
            .unwrap();
        let roots = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        roots.map(Result::unwrap).map(|(name, root)| (name, self.pages_below(root))).collect()
    }

    /// The page and all pages below it in its B-tree.
    fn pages_below(&self, page: u32) -> Vec<u32> {
        let content = self.page(page);
        let number = |at: usize| u32::from_be_bytes(content[at..at + 4].try_into().unwrap());
        let short = |at: usize| usize::from(u16::from_be_bytes([content[at], content[at + 1]]));
        let mut pages = vec![page];
        // Pages of the types 2 and 5 have children.
        if matches!(content[0], 2 | 5) {
            let cells = (0..short(3)).map(|index| number(short(12 + 2 * index)));
            pages.extend(cells.chain([number(8)]).flat_map(|child| self.pages_below(child)));
        }
        pages
    }

    pub(super) fn root_of(&self, tree: &str) -> u32 {
        self.trees().into_iter().find(|(name, _)| name == tree).unwrap().1[0]
    }
}

fn database_in(dir: &Path) -> PathBuf {
    dir.join("data/tollhouse.db")
}

fn write_page(dir: &Path, page: u32, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(database_in(dir)).unwrap();
    file.write_all_at(bytes, u64::from(page - 1) * PAGE_BYTES as u64).unwrap();
}

/// Starts a server on a damaged database; `None` if it refuses to start.
pub(super) async fn start(dir: TempDir) -> Option<Server> {
    let mut config = Config::load_defaults().unwrap();
    config.database.dir = dir.path().join("data");
    let app = lifecycle::open(config, Clock::manual(Timestamp::from_millis(NOW))).await.ok()?;
    let started = operator_keys::create_first_key(&app, Secret::from_plain_text(ADMIN_KEY.to_owned())).await;
    lifecycle::close(&app).await.ok();
    started.ok()?;
    Some(Server::start_in(dir, |config| config.rate_limits.admin_per_minute = 0).await)
}

/// A server whose changes all fail, because an index that they write is damaged.
pub(super) async fn start_with_failing_changes(stored: &Stored) -> Server {
    start(stored.damaged_copy(stored.root_of(INDEX_OF_CHANGES))).await.unwrap()
}

pub(super) fn assert_blocked(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"), "{answer:?}");
    assert!(answer.text.contains("is blocked in this process until it restarts"), "{answer:?}");
    assert!(answer.text.contains("repeat the request after the repair"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(
        !answer.text.contains("SQLite") && !answer.text.contains(".db"),
        "the cause is shown: {answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_a_revoked_key_is_never_valid_whichever_page_is_damaged() {
    let stored = store_keys().await;
    let mut blocked = Vec::new();
    for (tree, pages) in stored.trees() {
        for page in pages {
            let Some(server) = start(stored.damaged_copy(page)).await else { continue };
            let admin = server.admin();
            let verifier = server.client(Some(&stored.verifier));
            // A caller that can't be authenticated may not block anything.
            if verify(&admin, &stored.keys[5]).await.is_null() {
                continue;
            }
            let answer = admin.post("/api-keys/key_5/revoke", json!({})).await;
            for client in [&admin, &verifier] {
                let code = verify(client, &stored.keys[5]).await;
                assert!(code == "REVOKED" || code.is_null(), "{tree}, page {page}: {code} after {answer:?}");
            }
            match answer.status {
                200 => {}
                503 => {
                    assert_blocked(&answer);
                    let (_, _, _, reasons) = readiness(&admin, "").await;
                    assert!(
                        reasons.contains(&"DATABASE_DAMAGED".to_owned()),
                        "{tree}, page {page}: {reasons:?}"
                    );
                    assert!(reasons.contains(&"REVOCATIONS_NOT_STORED".to_owned()), "{reasons:?}");
                    blocked.push(tree.clone());
                }
                _ => panic!("{tree}, page {page}: {answer:?}"),
            }
        }
    }
    for expected in ["api_keys_status", "sqlite_autoindex_api_keys_1", "counts", INDEX_OF_CHANGES] {
        assert!(blocked.iter().any(|tree| tree == expected), "{expected} is not in {blocked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_everything_that_takes_access_away_blocks_it_if_it_cannot_be_stored() {
    let stored = store_keys().await;
    let disable = json!({"status": "disabled"});
    let suspend = json!({"status": "suspended"});
    let operations = json!([{"method": "DELETE", "path": "/api-keys/key_5"}]);
    let not_atomic = json!({"atomic": false, "operations": operations});
    for (method, path, body, key, code) in [
        (Method::DELETE, "/api-keys/key_5", Value::Null, 5, "REVOKED"),
        (Method::PATCH, "/api-keys/key_5", disable, 5, "DISABLED"),
        (Method::PATCH, "/api-keys/key_5", json!({"expires_at": "2026-11-23T07:08:10Z"}), 5, "EXPIRED"),
        (Method::PATCH, "/api-keys/key_5", json!({"allowed_ips": ["10.0.0.0/8"]}), 5, "IP_NOT_ALLOWED"),
        (Method::PATCH, "/api-keys/key_5", json!({"scopes": []}), 5, "INSUFFICIENT_SCOPE"),
        (Method::POST, "/api-keys/key_5/expire-previous", Value::Null, 5, "EXPIRED"),
        (Method::PATCH, "/organizations/org_1", suspend.clone(), 50, "ORGANIZATION_SUSPENDED"),
        (Method::DELETE, "/organizations/org_1", Value::Null, 50, "ORGANIZATION_SUSPENDED"),
        (Method::PATCH, "/users/user_1", suspend, 5, "OWNER_INACTIVE"),
        (Method::DELETE, "/users/user_1", Value::Null, 5, "OWNER_INACTIVE"),
        (Method::DELETE, "/organizations/org_1/members/user_1", Value::Null, 5, "OWNER_INACTIVE"),
        (Method::POST, "/batch", json!({"operations": operations}), 5, "REVOKED"),
        (Method::POST, "/batch", not_atomic, 5, "REVOKED"),
    ] {
        let server = start_with_failing_changes(&stored).await;
        let admin = server.admin();
        let verify = async || {
            let body = json!({"key": stored.keys[key], "scopes": ["workflows:read"]});
            let request = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body);
            admin.send(request).await.data()["code"].clone()
        };
        assert_eq!(verify().await, "VALID");
        let mut request = admin.request(method.clone(), path);
        if !body.is_null() {
            request = request.json(&body);
        }
        if method == Method::POST {
            request = request.header("idempotency-key", "1");
        }
        assert_blocked(&admin.send(request).await);
        server.advance(Duration::from_secs(2));
        assert_eq!(verify().await, code, "{method} {path} {body}");
        let (status, verifies, writes, reasons) = readiness(&admin, "").await;
        assert_eq!((status, verifies, writes), (200, true, false), "{reasons:?}");
    }
}

/// With the second tree, the target can't be read, on which the right to change it depends.
#[tokio::test(flavor = "multi_thread")]
async fn i4_a_caller_without_the_right_blocks_nothing() {
    let mut stored = store_keys().await;
    let server = Server::start_in(stored.dir, |config| config.rate_limits.admin_per_minute = 0).await;
    let (foreign, _) = server.key(Some("org_2"), &["admin:keys", "admin:orgs", "admin:users"]).await;
    let (weak, _) = server.key(None, &["admin:orgs"]).await;
    // Not a recovery key, so that the admin key remains the last one.
    let limited = json!({"name": "n", "scopes": ["admin:keys"], "allowed_ips": ["127.0.0.1"]});
    let (limited, _) = server.key_with(limited).await;
    let (own, _) = server.key(Some("org_1"), &["admin:keys"]).await;
    let (strong, strong_key) = server.key(None, &["admin:config"]).await;
    let strong = strong.key.unwrap();
    let strong_path = format!("/api-keys/{}", strong_key["id"].as_str().unwrap());
    let callers = [foreign, weak, limited, own].map(|client| client.key.unwrap());
    stored.dir = server.stop().await;
    for tree in [INDEX_OF_CHANGES, "sqlite_autoindex_api_keys_1"] {
        let server = start(stored.damaged_copy(stored.root_of(tree))).await.unwrap();
        let admin = server.admin();
        let [foreign, weak, limited, own] = callers.each_ref().map(|key| server.client(Some(key)));
        let unknown = server.client(Some("no-such-key-0123456789-0123456789"));
        for (caller, path) in [
            (&foreign, "/api-keys/key_5"),
            (&foreign, "/organizations/org_1"),
            (&foreign, "/organizations/org_1/members/user_1"),
            (&foreign, "/users/user_1"),
            (&weak, "/api-keys/key_5"),
            (&limited, &strong_path),
            (&unknown, "/api-keys/key_5"),
        ] {
            assert!(caller.delete(path).await.status >= 400, "{path}");
        }
        // The first operation fails because of the database, before the scope for the second one is checked.
        let rename = json!({"method": "PATCH", "path": "/organizations/org_2", "body": {"name": "new"}});
        let operations = json!([rename, {"method": "DELETE", "path": "/api-keys/key_5"}]);
        for atomic in [true, false] {
            weak.post("/batch", json!({"atomic": atomic, "operations": operations})).await;
        }
        assert_eq!(verify(&admin, &stored.keys[5]).await, "VALID", "{tree}");
        assert_eq!(verify(&admin, &strong).await, "VALID", "{tree}");
        // The last recovery key can't be revoked.
        assert!(admin.delete(&format!("/api-keys/{}", key_id(&admin).await)).await.status >= 400);
        assert_eq!(verify(&admin, &stored.keys[5]).await, "VALID", "{tree}");

        assert_blocked(&own.delete("/api-keys/key_5").await);
        assert_eq!(verify(&admin, &stored.keys[5]).await, "REVOKED", "{tree}");
        assert_blocked(&admin.delete(&strong_path).await);
        assert_eq!(verify(&admin, &strong).await, "REVOKED", "{tree}");
    }
}

async fn key_id(client: &Client) -> String {
    let whoami = client.get("/whoami").await;
    whoami.data()["api_key"]["id"].as_str().unwrap_or_else(|| panic!("{whoami:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_blocked_caller_changes_nothing_and_a_stored_change_ends_a_block() {
    let mut stored = store_keys().await;
    let server = Server::start_in(stored.dir, |_| ()).await;
    let (manager, manager_key) = server.key(None, &["admin:keys"]).await;
    let manager = manager.key.unwrap();
    stored.dir = server.stop().await;

    let server = start_with_failing_changes(&stored).await;
    let admin = server.admin();
    let manager = server.client(Some(&manager));
    assert_eq!(manager.get("/whoami").await.status, 200);
    let manager_path = format!("/api-keys/{}", manager_key["id"].as_str().unwrap());
    assert_blocked(&admin.delete(&manager_path).await);
    assert_blocked(&admin.patch("/api-keys/key_5", json!({"status": "disabled"})).await);
    assert_blocked(&admin.patch("/api-keys/key_6", json!({"status": "disabled"})).await);
    assert_blocked(&admin.delete("/api-keys/key_7").await);
    assert_blocked(&admin.patch("/organizations/org_1", json!({"status": "suspended"})).await);
    assert_eq!(verify(&admin, &stored.keys[20]).await, "ORGANIZATION_SUSPENDED");
    let refused = manager.patch("/api-keys/key_5", json!({"status": "active"})).await;
    assert_eq!((refused.status, refused.code()), (401, "INVALID_API_KEY"), "{refused:?}");

    // Repaired by another process.
    let root = stored.root_of(INDEX_OF_CHANGES);
    write_page(server.dir.path(), root, &stored.page(root));
    let other = Connection::open(database_in(server.dir.path())).unwrap();
    other
        .execute_batch("INSERT INTO meta VALUES ('repair', '1'); DELETE FROM meta WHERE name = 'repair'")
        .unwrap();
    assert_eq!(verify(&admin, &stored.keys[20]).await, "ORGANIZATION_SUSPENDED", "a repair ends no block");
    assert_eq!(admin.patch("/organizations/org_1", json!({"status": "active"})).await.status, 200);
    assert_eq!(verify(&admin, &stored.keys[20]).await, "VALID");
    assert_eq!(admin.patch("/api-keys/key_5", json!({"name": "renamed"})).await.status, 200);
    assert_eq!(verify(&admin, &stored.keys[5]).await, "DISABLED", "another change of the key ends no block");
    assert_eq!(admin.patch("/api-keys/key_5", json!({"status": "active"})).await.status, 200);
    assert_eq!(verify(&admin, &stored.keys[5]).await, "VALID");
    assert_eq!(manager.patch("/api-keys/key_6", json!({"status": "active"})).await.status, 401);
    assert_eq!(admin.patch("/api-keys/key_6", json!({"status": "disabled"})).await.status, 200);
    assert_eq!(verify(&admin, &stored.keys[6]).await, "DISABLED");
    for path in ["/api-keys/key_7", &manager_path] {
        assert_eq!(admin.delete(path).await.status, 200);
    }
    assert_eq!(verify(&admin, &stored.keys[7]).await, "REVOKED");
    let (_, verifies, _, reasons) = readiness(&admin, "").await;
    assert!(verifies && reasons == ["DATABASE_DAMAGED"], "{reasons:?}");

    // A verified backup clears the damage.
    let data = server.dir.path().join("data");
    let backup = server.dir.path().join("backup.db");
    let output = Binary::run(&["backup", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    server.advance(Duration::from_secs(1));
    assert_eq!(readiness(&admin, "").await.3, [""; 0]);
}

/// The real program: what it logs, and that it is ready again after the repair.
#[tokio::test]
async fn i15_a_damaged_database_is_reported_until_it_is_repaired() {
    let stored = store_keys().await;
    let serve = |dir: &Path| {
        Binary::serve_with(&dir.join("data"), |command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE", "0");
        })
    };
    let dir = stored.damaged_copy(stored.root_of("counts"));
    let server = serve(dir.path());
    let admin = server.admin();
    // The readiness check finds the damage before any request meets it.
    let (status, verifies, writes, reasons) = readiness(&admin, "").await;
    assert_eq!((status, verifies, writes), (200, true, false), "{reasons:?}");
    assert!(reasons.contains(&"DATABASE_UNWRITABLE".to_owned()), "{reasons:?}");
    assert_eq!(readiness(&admin, "?write=true").await.0, 503);
    let line = server.line_with("the database is damaged");
    assert!(line.contains("tollhouse.db") && line.contains("tollhouse restore"), "{line}");
    assert_blocked(&admin.delete("/api-keys/key_5").await);
    server.line_with("could not store changes that take access away");
    assert_eq!(verify(&admin, &stored.keys[5]).await, "REVOKED");
    drop(server);

    let dir = stored.damaged_copy(stored.root_of("api_key_hashes"));
    let server = serve(dir.path());
    let (status, verifies, _, reasons) = readiness(&server.admin(), "").await;
    assert_eq!((status, verifies), (503, false), "{reasons:?}");
    assert!(reasons.contains(&"DATABASE_UNREADABLE".to_owned()), "{reasons:?}");
    drop(server);

    // Restored from a backup, here from the undamaged file.
    fs::copy(stored.database(), database_in(dir.path())).unwrap();
    let server = serve(dir.path());
    let (status, verifies, writes, reasons) = readiness(&server.admin(), "?write=true").await;
    assert_eq!((status, verifies, writes), (200, true, true), "{reasons:?}");
    assert!(!reasons.iter().any(|reason| reason.starts_with("DATABASE")), "{reasons:?}");
    assert_eq!(verify(&server.admin(), &stored.verifier).await, "VALID");
}
