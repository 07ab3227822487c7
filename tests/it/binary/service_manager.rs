//! Notifications to systemd over a real socket.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{ADMIN_KEY, Binary};

/// The socket on which the service manager listens.
struct Socket(UnixDatagram);

impl Socket {
    fn bind(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(socket)
    }

    fn at(path: &Path) -> Self {
        Self::bind(&SocketAddr::from_pathname(path).unwrap())
    }

    /// The next message.
    fn message(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("no notification");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that begins with this text.
    fn message_with(&self, start: &str) -> String {
        loop {
            let message = self.message();
            if message.starts_with(start) {
                return message;
            }
        }
    }
}

fn serve(dir: &Path, socket: &str, variables: &[(&str, &str)]) -> Binary {
    Binary::serve_with(dir, |command: &mut Command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("NOTIFY_SOCKET", socket);
        command.envs(variables.iter().copied());
    })
}

/// The time of the clock with which systemd compares, in microseconds.
fn monotonic_micros() -> i128 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    (seconds * 1e6) as i128
}

#[test]
fn a_service_manager_is_told_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = Socket::at(&path);
    let mut server = serve(&dir.path().join("data"), path.to_str().unwrap(), &[]);
    assert_eq!(socket.message(), format!("READY=1\nSTATUS=Listening on {}\n", server.url));

    let before = monotonic_micros();
    server.signal("HUP");
    let reloading = socket.message();
    let time: i128 =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end().parse().unwrap();
    // The uptime has hundredths of a second, and includes the time that the machine was suspended.
    assert!(time <= monotonic_micros() + 20_000 && time >= before - 3_600_000_000, "{time}");
    assert_eq!(socket.message(), "READY=1\n");

    server.signal("TERM");
    let stopping = "STOPPING=1\nSTATUS=Stopping: finishing running requests\nEXTEND_TIMEOUT_USEC=50000000\n";
    assert_eq!(socket.message(), stopping);
    assert_eq!(server.wait(), Some(0));
}

/// systemd's own sockets have abstract names on some systems.
#[test]
fn an_abstract_socket_is_notified() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("tollhouse-test-{}", fastrand::u64(..));
    let socket = Socket::bind(&SocketAddr::from_abstract_name(&name).unwrap());
    let _server = serve(dir.path(), &format!("@{name}"), &[]);
    assert!(socket.message().starts_with("READY=1\n"));
}

#[test]
fn a_missing_socket_stops_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let mut server =
        serve(&dir.path().join("data"), missing.to_str().unwrap(), &[("WATCHDOG_USEC", "1000000")]);
    server.line_with("could not notify the service manager");
    assert_eq!(server.terminate(), Some(0));
}

/// Another process that holds the database's lock can't be ended by a restart of the server.
#[test]
fn the_watchdog_is_notified_also_during_a_foreign_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = Socket::at(&path);
    let data = dir.path().join("data");
    let mut server = serve(&data, path.to_str().unwrap(), &[("WATCHDOG_USEC", "1000000")]);
    for _ in 0..3 {
        socket.message_with("WATCHDOG=1");
    }
    let other = rusqlite::Connection::open(data.join("tollhouse.db")).unwrap();
    other.busy_timeout(Duration::from_secs(30)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        assert_eq!(socket.message(), "WATCHDOG=1\n");
    }
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(server.terminate(), Some(0));
}

/// The watchdog of a parent process isn't this server's.
#[test]
fn the_watchdog_of_another_process_is_not_notified() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = Socket::at(&path);
    let variables = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let mut server = serve(&dir.path().join("data"), path.to_str().unwrap(), &variables);
    server.signal("HUP");
    server.line_with("configuration reloaded");
    assert_eq!(server.terminate(), Some(0));
    let mut messages = vec![socket.message()];
    while !messages.last().unwrap().starts_with("STOPPING=1") {
        messages.push(socket.message());
    }
    assert_eq!(messages.len(), 4, "ready, reloading, ready, stopping: {messages:?}");
}
