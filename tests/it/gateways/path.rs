//! The pages behind an nginx that serves Tollhouse below a path, opened in Chromium.

use reqwest::redirect::Policy;

use super::gateway::{Gateway, NGINX_PATH};
use super::peers::Application;
use crate::pages::{browser, dev};

/// The browser scripts watch every request. A request outside of the path is an error: it reaches the application,
/// possibly with a key that was pasted into a Tollhouse page.
#[tokio::test(flavor = "multi_thread")]
async fn pages_send_requests_only_below_their_path() {
    let server = dev::serve();
    let application = Application::start().await;
    let tollhouse = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut gateway = Gateway::start(&NGINX_PATH, tollhouse, application.address);
    let url = format!("{}/tollhouse", gateway.url);
    let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    gateway.wait_until_healthy("/tollhouse/healthz").await;

    // The host's other paths reach the application, so stray requests are detected.
    assert_eq!(http.get(format!("{}/console/", gateway.url)).send().await.unwrap().status(), 200);
    assert_eq!(application.take_requests().len(), 1);
    // A directory without its trailing slash is redirected below the path as well.
    let redirect = http.get(format!("{url}/docs")).send().await.unwrap();
    let location = redirect.url().join(redirect.headers()["location"].to_str().unwrap()).unwrap();
    assert_eq!((redirect.status().as_u16(), location.as_str()), (308, format!("{url}/docs/").as_str()));

    let browsing = tokio::task::spawn_blocking(move || {
        browser::run(&[("root.mjs", 3), ("reference.mjs", 6)], &url);
    });
    browsing.await.unwrap();
    // For a JSON answer, Chromium requests an icon from the root of the host.
    let uris = application.take_requests().into_iter().map(|request| request.uri);
    let stray: Vec<_> = uris.filter(|uri| uri != "/favicon.ico").collect();
    assert!(stray.is_empty(), "{stray:?}");
}
