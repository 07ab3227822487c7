//! The metrics listener: off by default, and bounded.

use std::net::TcpListener;

use reqwest::Method;

use super::{Client, MonitoredServer};
use crate::support::{Binary, Raw};

#[tokio::test]
async fn metrics_are_off_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    assert!(!server.start.iter().any(|line| line.contains("metrics")), "{:?}", server.start);
    assert_eq!(
        server.admin().get_at_root("/metrics").await.status,
        404,
        "the API's listener serves no metrics"
    );
}

#[tokio::test]
async fn the_listener_serves_only_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let server = MonitoredServer::start(dir.path(), &[]);
    for path in ["/", "/healthz", "/metrics/", "/admin/v1/whoami"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    let client = Client::new(&server.url, None);
    let head = client.send(client.request_at_root(Method::HEAD, "/metrics")).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    let post = client.send(client.request_at_root(Method::POST, "/metrics")).await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(
        server.get("/metrics?name[]=x").await.status,
        200,
        "query parameters are allowed, as Prometheus sends them"
    );
}

#[tokio::test]
async fn i10_idle_connections_are_closed_and_surplus_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = MonitoredServer::start(dir.path(), &[("TOLLHOUSE_HTTP__HEADER_TIMEOUT", "300ms")]);
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(Raw::connect(&server.url).await);
    }
    for mut connection in idle {
        assert!(connection.answer().await.is_none());
    }
    let refused = "tollhouse_connections_refused_total{listener=\"metrics\",reason=\"max_connections\"}";
    assert!(server.scrape().await.get(refused) > Some(0.0));
}

#[test]
fn a_port_in_use_is_reported_before_any_file_is_created() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap();
    for listen in [address.to_string(), address.port().to_string()] {
        let mut command = Binary::command(&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
        let output = command.env("TOLLHOUSE_METRICS__LISTEN", listen).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("metrics.listen") && stderr.contains(&address.to_string()), "{stderr}");
        assert!(!dir.join("tollhouse.db").exists());
    }
}
