//! The headers that protect browsers: on all answers but those of the data plane.

use reqwest::Method;
use tollhouse::http::routes::{Dispatch, ROUTES};

use crate::support::Server;

#[tokio::test]
async fn browsers_guess_no_media_type_outside_the_data_plane() {
    let server = Server::start().await;
    let admin = server.admin();
    for route in ROUTES {
        let path = route.path.replace("{*path}", "none").replace("{id}", "none").replace("{user_id}", "none");
        let method = Method::from_bytes(route.method.as_bytes()).unwrap_or(Method::GET);
        let answer = admin.send(admin.request_at_root(method, &path)).await;
        let expected = match route.dispatch {
            Dispatch::DataPlane(_) => None,
            _ => Some("nosniff"),
        };
        assert_eq!(answer.header("x-content-type-options"), expected, "{} {path}", route.method);
        // Only over TLS: see `tls::hosts`.
        assert_eq!(answer.header("strict-transport-security"), None, "{path}");
    }
    for (client, path, status) in [
        (&admin, "/nowhere", 404),
        (&server.anonymous(), "/admin/v1/whoami", 401),
        (&admin, "/admin/v1/users?limit=0", 400),
    ] {
        let answer = client.send(client.request_at_root(Method::GET, path)).await;
        assert_eq!(
            (answer.status, answer.header("x-content-type-options")),
            (status, Some("nosniff")),
            "{path}"
        );
    }
}
