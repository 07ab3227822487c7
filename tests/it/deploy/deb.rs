//! The Debian package: installed, upgraded, removed and purged on a machine with a real systemd, with the commands of
//! `docs/operate/install.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::scratch_machine::ScratchMachine;
use super::{printed, stdout};
use crate::support::guide;

const PAGE: &str = "operate/install.md";

/// The server's URL. The machine has a network of its own, so the port is free.
const URL: &str = "http://127.0.0.1:8080";

/// Builds the package with this revision and copies it to the machine; returns its name there.
fn provide(machine: &ScratchMachine, program: &Path, revision: &str) -> String {
    let directory = program.parent().unwrap();
    let mut build = Command::new(guide::root().join("scripts/deb"));
    build.arg(program).arg(directory).env("REVISION", revision).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    let package = PathBuf::from(stdout(&output).trim());
    let name = package.file_name().unwrap().to_str().unwrap();
    fs::copy(&package, machine.path("/tmp").join(name)).unwrap();
    format!("/tmp/{name}")
}

/// Copies the program without debug information, which would only take time.
fn strip_to(program: &Path) {
    let mut strip = Command::new("strip");
    let stripped = strip.arg("-o").arg(program).arg(env!("CARGO_BIN_EXE_tollhouse")).output().unwrap();
    assert!(stripped.status.success(), "{}", printed(&stripped));
}

/// Runs a block of the page on the machine, as root.
fn run_block(machine: &ScratchMachine, name: &str) -> String {
    machine.succeed(&guide::block(PAGE, name).replace("sudo ", ""))
}

/// What the machine has of this package.
fn status(machine: &ScratchMachine) -> String {
    machine
        .succeed("dpkg-query --show --showformat='${db:Status-Abbrev}' tollhouse || true")
        .trim()
        .to_owned()
}

/// The status of a request with the key in a file of the machine.
fn status_with_key(machine: &ScratchMachine) -> String {
    let request = format!("curl -s -o /dev/null -w '%{{http_code}}' {URL}/admin/v1/whoami");
    machine.succeed(&format!("{request} -H \"Authorization: Bearer $(cat /root/admin.key)\""))
}

fn main_process(machine: &ScratchMachine) -> String {
    machine.succeed("systemctl show --property=MainPID --value tollhouse")
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged() {
    let Some(machine) = ScratchMachine::boot() else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("tollhouse");
    strip_to(&program);
    provide(&machine, &program, "1");

    // Installed: it runs, and the key is where the page says.
    let key = run_block(&machine, "install.sh");
    assert!(key.lines().last().unwrap().starts_with("toll_"), "{key}");
    machine.succeed("cp /var/lib/tollhouse/admin.key /root/admin.key");
    assert_eq!(
        machine.succeed("systemctl is-active tollhouse; systemctl is-enabled tollhouse"),
        "active\nenabled"
    );
    assert_eq!(status_with_key(&machine), "200");
    let modes = machine.succeed(
        "stat -c '%n %a %U:%G' /var/lib/tollhouse /var/lib/tollhouse/tollhouse.db \
                                 /etc/tollhouse/config.toml /usr/bin/tollhouse",
    );
    let expected = "/var/lib/tollhouse 700 tollhouse:tollhouse\n/var/lib/tollhouse/tollhouse.db 600 tollhouse:tollhouse\n\
                    /etc/tollhouse/config.toml 644 root:root\n/usr/bin/tollhouse 755 root:root";
    assert_eq!(modes, expected);
    // Commands find the database by the configuration file.
    machine.succeed("tollhouse config check && tollhouse health && tollhouse admin-key list");
    check_confinement(&machine);
    check_notifications(&machine);

    // Upgraded: the data and a changed configuration stay, and the service was restarted.
    machine.succeed("echo '# changed' >> /etc/tollhouse/config.toml");
    let before = main_process(&machine);
    let second = provide(&machine, &program, "2");
    machine.succeed(&format!("dpkg --install {second}"));
    assert_ne!(main_process(&machine), before);
    machine.succeed(&format!("dpkg-deb --contents {second} | grep -q /man1/tollhouse-admin-key-revoke.1.gz"));
    machine.wait_for("systemctl is-active tollhouse");
    assert_eq!(status_with_key(&machine), "200");
    machine.succeed("grep -q '# changed' /etc/tollhouse/config.toml");

    // Removed: data and configuration stay, also for another installation.
    machine.succeed("dpkg --remove tollhouse");
    assert_eq!(status(&machine), "rc");
    machine.succeed("! systemctl is-active tollhouse && ! [ -e /usr/bin/tollhouse ]");
    machine.succeed("[ -s /var/lib/tollhouse/tollhouse.db ] && [ -s /etc/tollhouse/config.toml ]");
    machine.succeed(&format!("dpkg --install {second}"));
    assert_eq!(status_with_key(&machine), "200");

    // Purged: nothing stays but the user.
    machine.succeed("dpkg --purge tollhouse");
    machine.succeed(
        "for path in /var/lib/tollhouse /etc/tollhouse /usr/share/doc/tollhouse; do ! [ -e $path ]; done",
    );
    machine.succeed("! systemctl is-active tollhouse && getent passwd tollhouse");

    check_documented_changes(&machine, &second);
}

/// The changes of the service that the page shows have their effect.
fn check_documented_changes(machine: &ScratchMachine, package: &str) {
    machine.succeed("mkdir -p /etc/tollhouse /etc/systemd/system/tollhouse.service.d");
    for (name, text) in guide::blocks(PAGE).into_iter().filter(|(name, _)| name.ends_with(".conf")) {
        fs::write(machine.path("/etc/systemd/system/tollhouse.service.d").join(name), text).unwrap();
    }
    machine.succeed("umask 077; head -c 32 /dev/urandom | base64 > /etc/tollhouse/admin.key");
    machine.succeed("cp /etc/tollhouse/admin.key /root/admin.key");
    machine.succeed(&format!("dpkg --install {package}"));
    assert_eq!(status_with_key(machine), "200");
    machine.succeed("! [ -e /var/lib/tollhouse/admin.key ]");
    machine.succeed("sed -i 's/127.0.0.1:8080/127.0.0.1:443/' /etc/tollhouse/config.toml");
    machine.succeed("systemctl restart tollhouse && curl -sf http://127.0.0.1:443/readyz");
    let state = machine.succeed(&format!("cat /proc/{}/status", main_process(machine)));
    assert!(state.contains("CapEff:\t0000000000000400") && state.contains("NoNewPrivs:\t1"), "{state}");
}

/// The service has no privileges, a filter of system calls, and one directory that it can write to.
fn check_confinement(machine: &ScratchMachine) {
    let process = main_process(machine);
    let state = machine.succeed(&format!("cat /proc/{process}/status"));
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(state.contains(line), "{line}: {state}");
    }
    let user = machine.succeed("id -u tollhouse");
    assert!(state.contains(&format!("Uid:\t{user}\t")), "{state}");
    let inside = |script: &str| {
        let enter = "nsenter --mount --setuid $(id -u tollhouse) --setgid $(id -g tollhouse) --target";
        machine.run(&format!("{enter} {process} sh -c '{script}'"))
    };
    let wrote = inside("touch /var/lib/tollhouse/test && rm /var/lib/tollhouse/test");
    assert!(wrote.status.success(), "{}", printed(&wrote));
    for file in ["/usr/test", "/etc/test", "/var/test"] {
        let wrote = inside(&format!("touch {file}"));
        assert!(printed(&wrote).contains("Read-only file system"), "{file}: {}", printed(&wrote));
    }
    // The filter hinders neither the limit on open files nor the priority of threads.
    let limits = machine.succeed(&format!("grep 'Max open files' /proc/{process}/limits"));
    assert!(limits.contains("16384                16384"), "{limits}");
    let priorities = machine.succeed(&format!("ps -L -o ni= -p {process}"));
    assert!(priorities.lines().any(|line| line.trim() == "10"), "{priorities}");
    let log = machine.succeed("journalctl --unit=tollhouse --no-pager --output=cat");
    assert!(!log.contains("\"level\":\"warn\"") && !log.contains("\"level\":\"error\""), "{log}");
}

/// systemd knows the status, a reload and a hang.
fn check_notifications(machine: &ScratchMachine) {
    let status = machine.succeed("systemctl show --property=StatusText --value tollhouse");
    assert_eq!(status, format!("Listening on {URL}"));
    machine.succeed("systemctl reload tollhouse");
    machine
        .wait_for("journalctl --unit=tollhouse --no-pager --output=cat | grep -q 'configuration reloaded'");
    // A server that hangs is restarted. The test's patience is shorter than that of the unit.
    machine.succeed(
        "mkdir -p /etc/systemd/system/tollhouse.service.d
         printf '[Service]\\nWatchdogSec=2s\\n' > /etc/systemd/system/tollhouse.service.d/test.conf
         systemctl daemon-reload && systemctl restart tollhouse",
    );
    let hanging = main_process(machine);
    machine.succeed(&format!("kill -STOP {hanging}"));
    machine.wait_for(&format!(
        "systemctl is-active tollhouse && [ $(systemctl show --property=MainPID --value tollhouse) != {hanging} ]"
    ));
    machine.succeed("rm -r /etc/systemd/system/tollhouse.service.d && systemctl daemon-reload");
    machine.succeed("systemctl restart tollhouse");
}
