//! The image of `deploy/docker`, built and run with Buildah.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_settings_are_known, printed, stdout};
use crate::support::{Binary, free_address, guide};

/// The user of the image.
const USER: &str = "65532:65532";

/// Buildah with a storage of its own.
struct Buildah(TempDir);

impl Buildah {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        let storage = |name: &str| self.0.path().join(name);
        command.arg("--root").arg(storage("root")).arg("--runroot").arg(storage("run"));
        command.arg("--storage-driver=vfs").args(args);
        command.env("BUILDAH_ISOLATION", "chroot").stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; returns what it printed on standard output.
    #[track_caller]
    fn succeed(&self, args: &[&str]) -> String {
        let output = self.command(args).output();
        let output = output.unwrap_or_else(|error| panic!("buildah: {error}; scripts/test installs it"));
        assert!(output.status.success(), "{args:?}: {}", printed(&output));
        stdout(&output).trim().to_owned()
    }

    /// Builds the image; returns its configuration.
    fn build(&self) -> Value {
        let context = self.0.path().join("context");
        fs::create_dir(&context).unwrap();
        let copied =
            Command::new("cp").arg("-r").arg(guide::root().join("deploy/docker/.")).arg(&context).output();
        assert!(copied.unwrap().status.success());
        let strip = Command::new("strip")
            .arg("-o")
            .arg(context.join("tollhouse"))
            .arg(env!("CARGO_BIN_EXE_tollhouse"))
            .output()
            .unwrap();
        assert!(strip.status.success(), "{}", printed(&strip));
        // The format of Docker has health checks, that of OCI has not.
        self.succeed(&["build", "--format=docker", "--tag=tollhouse", context.to_str().unwrap()]);
        let inspected = self.succeed(&["inspect", "--type=image", "tollhouse"]);
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        inspected["Docker"]["config"].clone()
    }
}

/// The libraries with which the tests' program is linked. A release is linked statically.
fn libraries() -> Vec<String> {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_tollhouse")).output().unwrap();
    let text = stdout(&output);
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(str::to_owned).collect()
}

/// The process that serves this address.
fn process_of(address: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let serves = |process: &PathBuf| {
        let command_line = fs::read(process.join("cmdline")).unwrap_or_default();
        let command_line = String::from_utf8_lossy(&command_line).into_owned();
        command_line.starts_with("/usr/bin/tollhouse\0") && command_line.contains(address)
    };
    processes.filter(serves).map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).next()
}

#[tokio::test]
async fn the_image_serves_without_privileges_and_reports_its_health() {
    let buildah = Buildah::new();
    let config = buildah.build();
    assert_eq!(config["User"], USER);
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/tollhouse"]));
    assert_eq!(config["Cmd"], json!(["serve"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/usr/bin/tollhouse", "health"]));
    assert_eq!(config["ExposedPorts"], json!({"8080/tcp": {}}));
    assert_eq!(config["Volumes"], json!({"/var/lib/tollhouse": {}}));
    let variables = config["Env"].as_array().unwrap().iter().map(|one| one.as_str().unwrap());
    let variables = variables.filter_map(|one| one.split_once('=')).filter(|(name, _)| *name != "PATH");
    let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert!(variables.contains(&("TOLLHOUSE_HTTP__LISTEN".to_owned(), ":8080".to_owned())), "{variables:?}");
    assert_settings_are_known(&variables);

    let container = buildah.succeed(&["from", "tollhouse"]);
    let root = PathBuf::from(buildah.succeed(&["mount", &container]));
    let owner = root.join("var/lib/tollhouse").metadata().unwrap();
    assert_eq!(format!("{}:{}", owner.uid(), owner.gid()), USER);
    for library in libraries() {
        buildah.succeed(&["copy", &container, &library, &library]);
    }
    // Buildah doesn't run the entry point, but a command, with the image's user, directory and variables.
    let address = free_address().to_string();
    let serve = ["run", &container, "--", "/usr/bin/tollhouse", "serve", "--listen", &address];
    let mut server = Binary::start({
        let mut command = buildah.command(&serve);
        command.env_remove("TOLLHOUSE_ADMIN_KEY");
        command
    });
    let process = process_of(&address).expect("the server's process");
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    assert!(status.contains("Uid:\t65532\t65532\t65532\t65532"), "{status}");
    let health = ["run", &container, "--", "/usr/bin/tollhouse", "health", "--listen", &address];
    assert_eq!(buildah.succeed(&health), "ready");
    let key = fs::read_to_string(format!("/proc/{process}/root/var/lib/tollhouse/admin.key")).unwrap();
    assert_eq!(server.client(key.trim()).get("/whoami").await.status, 200);
    let stopped = Command::new("kill").arg(&process).status().unwrap();
    assert!(stopped.success());
    assert_eq!(server.wait(), Some(0));
}

/// `docker build` copies only the files that `.dockerignore` names.
#[test]
fn the_build_context_has_every_target_of_the_manifest() {
    let context = tempfile::tempdir().unwrap();
    let ignored = include_str!("../../../deploy/docker/build.Dockerfile.dockerignore");
    let mut listing = Command::new("git");
    listing.current_dir(guide::root()).args(["ls-files", "--"]);
    let listed = listing.args(ignored.lines().filter_map(|line| line.strip_prefix('!'))).output().unwrap();
    assert!(listed.status.success(), "{}", printed(&listed));
    for file in stdout(&listed).lines() {
        let copy = context.path().join(file);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(guide::root().join(file), copy).unwrap();
    }
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version=1"]).current_dir(context.path());
    let metadata = metadata.output().unwrap();
    assert!(metadata.status.success(), "{}", printed(&metadata));
}
