//! A machine on which packages can be installed and services run: the files of this one, with changes that are kept in
//! memory, and a real systemd.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use tokio::time::Instant;

use super::{printed, stdout};
use crate::support::DEADLINE;

pub(super) struct ScratchMachine {
    /// `unshare`, which ends init when it is killed.
    child: Child,
    /// The process ID of init.
    init: String,
    dir: TempDir,
}

/// Prints to standard error directly, because captured output of a passing test is not shown.
fn report(text: &str) {
    std::io::stderr().write_all(format!("\n{text}\n\n").as_bytes()).unwrap();
}

impl ScratchMachine {
    /// Boots the machine; `None` without the privileges to create namespaces, as without root.
    pub(super) fn boot() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("machine");
        fs::create_dir(&root).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/deploy/scratch_machine.sh");
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "bash", script])
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let Ok(child) = child else {
            report("SKIPPED: no unshare");
            return None;
        };
        let mut machine = Self { child, init: String::new(), dir };
        let start = Instant::now();
        loop {
            if machine.child.try_wait().unwrap().is_some() {
                // Without the privileges to create namespaces, the script wasn't even started.
                let has_begun = root.with_extension("init").exists();
                assert!(!has_begun, "the machine didn't boot: {}", machine.log());
                report(&format!("SKIPPED, because no machine can be booted: {}", machine.log()));
                return None;
            }
            machine.init =
                fs::read_to_string(root.with_extension("init")).unwrap_or_default().trim().to_owned();
            if !machine.init.is_empty() && machine.run("systemctl is-system-running").status.success() {
                return Some(machine);
            }
            assert!(start.elapsed() < DEADLINE, "the machine didn't boot: {}", machine.log());
        }
    }

    /// What the machine printed.
    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Runs a script on the machine, in /tmp.
    pub(super) fn run(&self, script: &str) -> Output {
        let script = &format!("cd /tmp\n{script}");
        let mut nsenter = Command::new("nsenter");
        nsenter.args([
            "--target", &self.init, "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root",
        ]);
        nsenter.args(["--wd", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-euc", script]);
        nsenter.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a script that must succeed; returns what it printed on standard output.
    #[track_caller]
    pub(super) fn succeed(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}:\n{}\n{}", printed(&output), self.journal());
        stdout(&output).trim().to_owned()
    }

    /// Waits until a script succeeds.
    #[track_caller]
    pub(super) fn wait_for(&self, script: &str) {
        let start = Instant::now();
        loop {
            let output = self.run(script);
            if output.status.success() {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{script}:\n{}\n{}", printed(&output), self.journal());
        }
    }

    /// The log of the service.
    fn journal(&self) -> String {
        stdout(&self.run("journalctl --unit=tollhouse --no-pager --output=cat | tail -n 30"))
    }

    /// The path of a file of the machine on the host.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(&self.init).join("root").join(file.trim_start_matches('/'))
    }
}

impl Drop for ScratchMachine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The processes end with init; their cgroups stay until they are removed.
        let script = "mount -t cgroup2 cgroup2 \"$0\" && cd \"$0\" && for _ in {1..1000}; do
                      find \"tollhouse-test-$1\" -depth -type d -exec rmdir {} + 2>/dev/null && break; done";
        let mut remove = Command::new("unshare");
        remove.args(["--mount", "bash", "-c", script]).arg(self.dir.path()).arg(&self.init);
        let _ = remove.output();
    }
}
