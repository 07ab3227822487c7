//! The limit on open files: raised at the start, and when it is reached, connections are refused at once.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use procfs::process::{LimitValue, Process};

use crate::support::{ADMIN_KEY, Binary, Raw, head, until};

/// Starts the server after a `ulimit` command.
fn serve_after(ulimit: &str, dir: &Path, variables: &[(&str, &str)]) -> Binary {
    let mut command = Command::new("sh");
    let script = format!("{ulimit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tollhouse"), "--listen", "127.0.0.1:0", "--data"]);
    command.arg(dir).env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).envs(variables.iter().copied());
    command.env_remove("TOLLHOUSE_CONFIG");
    Binary::start(command)
}

fn process(server: &Binary) -> Process {
    Process::new(server.id().try_into().unwrap()).unwrap()
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_limit() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve_after("ulimit -Sn 200", dir.path(), &[]);
    let limit = process(&server).limits().unwrap().max_open_files;
    let number = |limit: LimitValue| match limit {
        LimitValue::Unlimited => u64::MAX,
        LimitValue::Value(limit) => limit,
    };
    assert!(number(limit.hard_limit) > 200);
    assert_eq!(number(limit.soft_limit), number(limit.hard_limit));
}

#[test]
fn a_hard_limit_that_is_too_low_is_warned_about() {
    for (max_connections, is_warned) in [("500", true), ("50", false)] {
        let dir = tempfile::tempdir().unwrap();
        let variables = [("TOLLHOUSE_HTTP__MAX_CONNECTIONS", max_connections)];
        let server = serve_after("ulimit -n 400", dir.path(), &variables);
        let warnings: Vec<_> =
            server.start.iter().filter(|line| line.contains("limit on open files")).collect();
        assert_eq!(warnings.len(), usize::from(is_warned), "{:?}", server.start);
        for warning in warnings {
            let json: serde_json::Value = serde_json::from_str(warning).unwrap();
            assert_eq!((&json["limit"], &json["max_connections"]), (&400.into(), &500.into()), "{warning}");
            assert!(json["needed"].as_u64().unwrap() > 500, "{warning}");
        }
    }
}

/// A connection beyond the limit is closed at once, and the log has one line about all of them. Open connections and,
/// when they end, new ones are served.
#[tokio::test]
async fn i10_a_process_without_file_descriptors_refuses_connections() {
    const LIMIT: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    // No connection ends during the test.
    let variables = [("TOLLHOUSE_HTTP__HEADER_TIMEOUT", "60s")];
    let server = serve_after(&format!("ulimit -n {LIMIT}"), dir.path(), &variables);
    let started_at = tokio::time::Instant::now();
    let mut open = Vec::new();
    let mut refused = 0;
    while refused < 200 {
        let mut raw = Raw::connect(&server.url).await;
        raw.send(&head("GET /healthz", &[])).await;
        match raw.answer().await {
            Some(answer) => {
                assert_eq!(answer.status, 200);
                open.push(raw);
            }
            None => refused += 1,
        }
    }
    assert!((20..LIMIT).contains(&open.len()), "{} connections were served", open.len());
    // A refusal that waits for the delay after a failed accept (200 ms) would take 40 s.
    assert!(started_at.elapsed() < Duration::from_secs(20), "{:?}", started_at.elapsed());
    for raw in &mut open {
        raw.send(&head("GET /v1/forward-auth", &[])).await;
        assert_eq!(raw.answer().await.unwrap().status, 200);
    }
    drop(open);
    let served = async {
        loop {
            let mut raw = Raw::connect(&server.url).await;
            raw.send(&head("GET /admin/v1/whoami", &[])).await;
            if raw.answer().await.is_some_and(|answer| answer.status == 200) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), served).await.expect("no connection is served");
    until("the log has the refusal", || server.line_with("connection refused").contains("open_files")).await;
    let repeated = server.log.try_iter().filter(|line| line.contains("connection refused")).count();
    assert_eq!(repeated, 0);
}
