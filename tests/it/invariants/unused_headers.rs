//! Invariant 2: no header keeps a change out of the audit log.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::Server;

/// A credential in a header that authenticates nobody is cut out of what the client sent, but hides nothing that the
/// server knows. Otherwise a key could keep its changes out of the audit log of its organization.
#[tokio::test]
async fn i2_a_credential_that_is_not_used_hides_no_change() {
    let server = Server::start().await;
    server.organization("org_hidden").await;
    let (key, _) = server.key(Some("org_hidden"), &["*"]).await;
    let path = "/organizations/org_hidden";
    for (name, hidden) in [("First name", "org_hidden"), ("Second name", "First name")] {
        let request = key.request(Method::PATCH, path).header("x-api-key", hidden);
        assert_eq!(key.send(request.json(&json!({"name": name}))).await.status, 200);
    }
    let refused = key.request(Method::DELETE, path).header("x-api-key", "org_hidden");
    assert_eq!(key.send(refused).await.code(), "PLATFORM_KEY_REQUIRED");
    server.advance(Duration::from_secs(60));
    tollhouse::service::housekeeping::write_aggregated_events(&server.app, false).await.unwrap();

    let listed = key.get("/audit-logs?target_id=org_hidden&access=write&order=asc").await;
    let events = listed.data().as_array().unwrap();
    let change = |event: usize, side: &str| &events[event]["changes"][0][side];
    assert_eq!(events.len(), 4, "{listed:?}");
    assert_eq!((change(1, "to"), change(2, "from")), (&json!("First name"), &json!("First name")));
    assert_eq!(events[3]["code"], "PLATFORM_KEY_REQUIRED");
}
