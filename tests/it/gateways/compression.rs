//! The Admin API behind an nginx that compresses responses and thereby changes their `ETag`.

use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, IF_MATCH};
use serde_json::json;

use super::gateway::{Gateway, NGINX_GZIP};
use crate::support::{Answer, Client, Server};

/// Reads a resource compressed; returns its tag.
async fn compressed_etag(client: &Client, path: &str) -> String {
    let answer = client.send(client.request(Method::GET, path).header(ACCEPT_ENCODING, "gzip")).await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")), "{path}");
    let etag = answer.header("etag").unwrap().to_owned();
    assert!(etag.starts_with("W/"), "nginx no longer makes the tag of a compressed response weak: {etag}");
    etag
}

async fn patch(client: &Client, path: &str, etag: &str, body: serde_json::Value) -> Answer {
    client.send(client.request(Method::PATCH, path).header(IF_MATCH, etag).json(&body)).await
}

#[tokio::test]
async fn a_resource_read_through_a_compressing_proxy_can_be_changed() {
    let server = Server::start().await;
    server.organization("org_1").await;
    let tollhouse = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut gateway = Gateway::start(&NGINX_GZIP, tollhouse, tollhouse);
    gateway.wait_until_healthy("/healthz").await;
    let client = Client::new(&gateway.url, server.admin().key.as_deref());

    for (path, change, other_change) in [
        ("/organizations/org_1", json!({"name": "first"}), json!({"name": "second"})),
        (
            "/config",
            json!({"rate_limits": {"batch_per_minute": 7}}),
            json!({"rate_limits": {"batch_per_minute": 8}}),
        ),
    ] {
        let etag = compressed_etag(&client, path).await;
        assert_eq!(patch(&client, path, &etag, change).await.status, 200, "{path}");
        let stale = patch(&client, path, &etag, other_change.clone()).await;
        assert_eq!((stale.status, stale.code()), (412, "PRECONDITION_FAILED"), "{path}");

        let etag = compressed_etag(&client, path).await;
        let operation = json!({"method": "PATCH", "path": path, "body": other_change, "if_match": etag});
        if path == "/config" {
            assert_eq!(patch(&client, path, &etag, other_change).await.status, 200);
        } else {
            let batch = client.post("/batch", json!({"operations": [operation]})).await;
            assert_eq!(batch.status, 200, "{batch:?}");
        }
    }
}
