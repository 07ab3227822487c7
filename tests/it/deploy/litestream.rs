//! Replication with the real Litestream, configured as `docs/operate/litestream.md` says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{printed, stdout};
use crate::support::{ADMIN_KEY, Binary, Client, DEADLINE, guide};

const PAGE: &str = "operate/litestream.md";

/// A machine with a disk that can be lost, and a replica elsewhere.
struct Machine {
    temp: TempDir,
}

/// A running Litestream; dropping it kills the process, like a loss of power.
struct Litestream(Child);

impl Drop for Litestream {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Litestream's program, with the arguments of one of its commands.
fn litestream(args: &[&str]) -> Command {
    let mut command = Command::new(guide::root().join("target/python/bin/litestream"));
    command.args(args);
    command
}

impl Machine {
    fn new() -> Self {
        let machine = Self { temp: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.replica()).unwrap();
        let config = fs::read_to_string(guide::root().join("deploy/litestream/litestream.yml")).unwrap();
        fs::write(machine.path("litestream.yml"), machine.with_paths(&config)).unwrap();
        let block = guide::block(PAGE, "tollhouse.toml");
        let dir = format!("[database]\ndir = {:?}\n", machine.disk());
        fs::write(machine.path("tollhouse.toml"), block.replace("[database]\n", &dir)).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The directory of the database.
    fn disk(&self) -> PathBuf {
        self.path("disk")
    }

    fn replica(&self) -> PathBuf {
        self.path("replica")
    }

    /// A text with the paths of this machine instead of those of an installation.
    fn with_paths(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in [
            ("/var/lib/tollhouse", self.disk()),
            ("/mnt/replica", self.replica()),
            ("/run/litestream", self.temp.path().to_owned()),
            ("/etc/litestream.yml", self.path("litestream.yml")),
        ] {
            text = text.replace(from, to.to_str().unwrap());
        }
        text
    }

    /// Starts Litestream, then the server.
    fn start(&self) -> (Litestream, Binary) {
        let log = fs::File::create(self.path("litestream.log")).unwrap();
        let mut replicate = litestream(&["replicate", "-config"]);
        replicate.arg(self.path("litestream.yml")).stdin(Stdio::null());
        let child = replicate.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("litestream: {error}; scripts/test fetches it"));
        let mut serve = Binary::command(&["serve", "--listen", "127.0.0.1:0", "--config"]);
        serve.arg(self.path("tollhouse.toml")).env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        (Litestream(child), Binary::start(serve))
    }

    /// Waits until everything that is stored is in the replica.
    fn wait_until_replicated(&self) {
        let socket = self.path("litestream.sock");
        let database = self.disk().join("tollhouse.db");
        let args = ["sync", "-wait", "-socket", socket.to_str().unwrap(), database.to_str().unwrap()];
        let start = Instant::now();
        loop {
            let output = litestream(&args).output().unwrap();
            if output.status.success() {
                return;
            }
            // Litestream may not have noticed the new database yet.
            let log = fs::read_to_string(self.path("litestream.log")).unwrap();
            assert!(start.elapsed() < DEADLINE, "not replicated: {}\n{log}", printed(&output));
        }
    }

    /// Runs `tollhouse` with the configuration of the machine.
    fn run(&self, args: &[&str]) -> Output {
        Binary::command(args).arg("--config").arg(self.path("tollhouse.toml")).output().unwrap()
    }

    /// The head of the audit log, as an anchor.
    fn audit_head(&self) -> String {
        let output = self.run(&["audit", "verify"]);
        let text = stdout(&output);
        assert!(output.status.success(), "{}", printed(&output));
        text.trim().rsplit_once(' ').unwrap().1.to_owned()
    }

    /// Loses the disk, and restores the replica with the commands of the page, in the order of the page.
    fn lose_the_disk_and_restore(&self, processes: (Litestream, Binary)) {
        let (litestream, mut server) = processes;
        server.kill();
        drop(litestream);
        fs::remove_dir_all(self.disk()).unwrap();
        let script = self.with_paths(&guide::block(PAGE, "restore.sh")).replace("sudo -u tollhouse ", "");
        let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).parent().unwrap().to_owned();
        let path = format!(
            "{}:{}:{}",
            program.display(),
            guide::root().join("target/python/bin").display(),
            std::env::var("PATH").unwrap()
        );
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &script]).env("PATH", path).current_dir(self.temp.path());
        let output = shell.env("TOLLHOUSE_CONFIG", self.path("tollhouse.toml")).output().unwrap();
        let text = printed(&output);
        assert!(output.status.success() && text.contains("valid: "), "{text}");
        let mode = self.disk().join("tollhouse.db").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only the service may read it");
    }
}

/// Creates a key; returns its ID and its secret.
async fn create_key(admin: &Client, name: &str) -> (String, String) {
    let answer = admin.post("/api-keys", json!({"name": name, "scopes": ["workflows:read"]})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let text = |field: &str| answer.data()[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

/// The result code of a verification.
async fn verify(admin: &Client, key: &str) -> String {
    let request = admin.request_at_root(Method::POST, "/v1/keys/verify").json(&json!({"key": key}));
    admin.send(request).await.data()["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn i3_what_was_revoked_stays_revoked_after_the_loss_of_a_replicated_disk() {
    let machine = Machine::new();
    let processes = machine.start();
    let admin = processes.1.admin();
    let (first_id, first) = create_key(&admin, "first").await;
    let (second_id, second) = create_key(&admin, "second").await;
    assert_eq!(verify(&admin, &first).await, "VALID");
    machine.wait_until_replicated();
    // Many changes after the snapshot, the revocation the last of them.
    for index in 0..50 {
        create_key(&admin, &format!("other {index}")).await;
    }
    assert_eq!(admin.delete(&format!("/api-keys/{first_id}")).await.status, 200);
    let head = machine.audit_head();
    machine.wait_until_replicated();
    machine.lose_the_disk_and_restore(processes);
    let anchored = machine.run(&["audit", "verify", "--anchor", &head]);
    assert!(anchored.status.success(), "{}", printed(&anchored));

    // The same replica continues, and is restored from once more.
    let processes = machine.start();
    let admin = processes.1.admin();
    assert_eq!(verify(&admin, &first).await, "REVOKED");
    assert_eq!(verify(&admin, &second).await, "VALID");
    assert_eq!(admin.delete(&format!("/api-keys/{second_id}")).await.status, 200);
    let (_, third) = create_key(&admin, "third").await;
    machine.wait_until_replicated();
    machine.lose_the_disk_and_restore(processes);
    let (_litestream, server) = machine.start();
    let admin = server.admin();
    for (key, code) in [(&first, "REVOKED"), (&second, "REVOKED"), (&third, "VALID")] {
        assert_eq!(verify(&admin, key).await, code);
    }
}

/// Otherwise Litestream could miss changes: only it moves the log into the database file.
#[tokio::test]
async fn i1_a_stopped_server_leaves_the_write_ahead_log_to_litestream() {
    let machine = Machine::new();
    let (litestream, mut server) = machine.start();
    create_key(&server.admin(), "first").await;
    machine.wait_until_replicated();
    assert_eq!(server.terminate(), Some(0));
    assert!(machine.disk().join("tollhouse.db-wal").metadata().unwrap().len() > 0);
    let checked = machine.run(&["check"]);
    assert!(checked.status.success(), "{}", printed(&checked));
    drop(litestream);
    assert!(machine.disk().join("tollhouse.db-wal").metadata().unwrap().len() > 0);
}
