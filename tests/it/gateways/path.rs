//! The pages behind nginx, which serves Tollhouse below a path, in Chromium.

use std::time::Duration;

use reqwest::redirect::Policy;

use super::around::Application;
use super::gateway::{Gateway, NGINX_PATH};
use crate::pages::{browser, dev};

/// The visitor of the scripts watches each request: one that leaves the path is a fault, and so is one that reaches the
/// application with a key that was pasted into a page of Tollhouse.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_stay_below_the_path_under_which_they_are_served() {
    let server = dev::serve();
    let application = Application::start().await;
    let tollhouse = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut gateway = Gateway::start(&NGINX_PATH, tollhouse, application.address);
    let url = format!("{}/tollhouse", gateway.url);
    let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    let waiting = async {
        loop {
            gateway.assert_runs();
            let answer = http.get(format!("{url}/healthz")).send().await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(waited.is_ok(), "it never answered: {}", gateway.log());

    // The host's other paths are the application's: what strays there would be seen.
    assert_eq!(http.get(format!("{}/console/", gateway.url)).send().await.unwrap().status(), 200);
    assert_eq!(application.take().len(), 1);
    // Without its slash a directory is found below the path as well.
    let moved = http.get(format!("{url}/docs")).send().await.unwrap();
    let place = moved.url().join(moved.headers()["location"].to_str().unwrap()).unwrap();
    assert_eq!((moved.status().as_u16(), place.as_str()), (308, format!("{url}/docs/").as_str()));

    let visited = tokio::task::spawn_blocking(move || {
        browser::run(&[("root.mjs", 3), ("reference.mjs", 3)], &url);
    });
    visited.await.unwrap();
    // Where it is given JSON, Chromium looks for an icon at the root of the host.
    let seen = application.take().into_iter().map(|seen| seen.uri);
    let strayed: Vec<_> = seen.filter(|uri| uri != "/favicon.ico").collect();
    assert!(strayed.is_empty(), "{strayed:?}");
}
