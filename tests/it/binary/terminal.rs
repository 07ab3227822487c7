//! The server on a terminal: Ctrl-C and closing the terminal.

use std::path::Path;

use rexpect::process::{Signal, WaitStatus};
use rexpect::session::{PtySession, spawn_command};

use super::run;
use crate::support::{ADMIN_KEY, Binary, Raw, head};

/// Serves on a terminal, with a drain that takes longer than the test may.
fn serve(dir: &Path) -> (PtySession, String) {
    let data = dir.to_str().unwrap();
    let mut command = Binary::command(&["serve", "--listen", "127.0.0.1:0", "--data", data]);
    command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_HTTP__DRAIN_TIMEOUT", "1h");
    command.env("TOLLHOUSE_HTTP__BODY_TIMEOUT", "1h");
    let mut terminal = spawn_command(command, Some(30_000)).unwrap();
    terminal.exp_string("listening on ").unwrap();
    let url = terminal.read_line().unwrap();
    (terminal, url.trim().to_owned())
}

/// A request whose body doesn't come.
async fn unfinished_request(url: &str) -> Raw {
    let headers = ["content-type: application/json", "expect: 100-continue", "content-length: 10"];
    let mut running = Raw::connect(url).await;
    running.send(&head("POST /admin/v1/organizations", &headers)).await;
    assert_eq!(running.answer().await.unwrap().status, 100);
    running
}

#[tokio::test]
async fn a_second_ctrl_c_ends_the_drain_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut terminal, url) = serve(dir.path());
    let _running = unfinished_request(&url).await;
    terminal.send_control('c').unwrap();
    terminal.exp_string("press Ctrl-C again to stop at once").unwrap();
    terminal.send_control('c').unwrap();
    let rest = terminal.exp_eof().unwrap();
    assert!(rest.contains("stopping at once") && rest.contains("stopped"), "{rest}");
    assert!(matches!(terminal.process().wait().unwrap(), WaitStatus::Exited(_, 0)), "{rest}");
    assert!(run(dir.path(), &["check"]).status.success());
}

#[tokio::test]
async fn a_second_sigterm_ends_the_drain_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Binary::serve_with(dir.path(), |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_HTTP__DRAIN_TIMEOUT", "1h");
        command.env("TOLLHOUSE_HTTP__BODY_TIMEOUT", "1h");
    });
    let _running = unfinished_request(&server.url).await;
    server.signal("TERM");
    server.line_with("\"stopping\"");
    server.signal("TERM");
    server.line_with("stopping at once");
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn closing_the_terminal_ends_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let (mut terminal, _) = serve(dir.path());
    terminal.process_mut().signal(Signal::SIGHUP).unwrap();
    let rest = terminal.exp_eof().unwrap();
    assert!(rest.contains("stopped"), "{rest}");
    assert!(matches!(terminal.process().wait().unwrap(), WaitStatus::Exited(_, 0)), "{rest}");
}
