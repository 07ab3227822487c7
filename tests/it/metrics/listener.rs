//! The listener of its own: off unless it is wanted, and bounded.

use std::net::TcpListener;

use reqwest::Method;

use super::{Client, Watched};
use crate::support::{Binary, Raw, head};

#[tokio::test]
async fn there_is_none_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    assert!(!server.start.iter().any(|line| line.contains("metrics")), "{:?}", server.start);
    assert_eq!(server.admin().get_at_root("/metrics").await.status, 404, "the API's own listener has none");
}

#[tokio::test]
async fn it_serves_metrics_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::start(dir.path(), &[]);
    for path in ["/", "/healthz", "/metrics/", "/admin/v1/whoami"] {
        assert_eq!(watched.get(path).await.status, 404, "{path}");
    }
    let client = Client::new(&watched.url, None);
    let head = client.send(client.request_at_root(Method::HEAD, "/metrics")).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    let post = client.send(client.request_at_root(Method::POST, "/metrics")).await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(watched.get("/metrics?name[]=x").await.status, 200, "Prometheus may ask with parameters");
}

#[tokio::test]
async fn i10_it_serves_a_few_and_cuts_the_silent() {
    let dir = tempfile::tempdir().unwrap();
    let watched = Watched::start(dir.path(), &[("TOLLHOUSE_HTTP__HEADER_TIMEOUT", "300ms")]);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Raw::connect(&watched.url).await);
    }
    // It waits in line behind them, until each was cut.
    let mut last = Raw::connect(&watched.url).await;
    last.send(&head("GET /metrics", &[])).await;
    assert_eq!(last.answer().await.map(|answer| answer.status), Some(200));
    for mut silent in silent {
        assert!(silent.answer().await.is_none());
    }
}

#[test]
fn a_port_in_use_is_told_and_nothing_is_made() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for given in [address.to_string(), address.port().to_string()] {
        let mut command = Binary::command(&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
        let output = command.env("TOLLHOUSE_METRICS__LISTEN", given).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("metrics.listen") && said.contains(&address.to_string()), "{said}");
        assert!(!dir.join("tollhouse.db").exists());
    }
}
