//! `GET /`, as a page and as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::ACCEPT;
use reqwest::{Method, Url};
use ring::digest::{SHA256, digest};

use super::get;
use crate::support::{Answer, Client, Server};

/// What Chromium sends.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

async fn page(client: &Client) -> Answer {
    get(client, "/", &[(ACCEPT, BROWSER)]).await.0
}

#[tokio::test]
async fn programs_get_the_addresses_and_each_answers() {
    let server = Server::start().await;
    for client in [server.anonymous(), server.admin()] {
        let answer = client.get_at_root("/").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.json["metadata"]["requestId"].as_str().unwrap().starts_with("req_"), "{answer:?}");
        let addresses = answer.data().as_object().unwrap();
        let names: Vec<_> = addresses.keys().map(String::as_str).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        for name in ["console", "docs", "openapi", "health", "ready"] {
            let address = addresses[name].as_str().unwrap();
            assert!(!address.starts_with('/') && !address.contains(':'), "{name} is not relative: {address}");
            assert_eq!(client.get_at_root(&format!("/{address}")).await.status, 200, "{name}");
        }
    }
}

#[tokio::test]
async fn browsers_get_a_page_with_links_that_lead_there() {
    let server = Server::start().await;
    let client = server.anonymous();
    let page = page(&client).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let addresses = client.get_at_root("/").await;
    let root = Url::parse(&server.url).unwrap();
    let links: Vec<_> =
        page.text.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    for link in &links {
        assert!(!link.starts_with('/') && !link.contains(':'), "{link} is not relative");
        let target = root.join(link).unwrap();
        assert_eq!(client.get_at_root(target.path()).await.status, 200, "{link}");
    }
    for (name, address) in addresses.data().as_object().unwrap() {
        assert!(links.contains(&address.as_str().unwrap()), "{name} is not linked");
    }
    // The icon and the documentation, beside the addresses.
    assert_eq!(links.len(), 7, "{links:?}");
}

#[tokio::test]
async fn the_page_is_locked_down_and_loads_nothing_from_elsewhere() {
    let server = Server::start().await;
    let page = page(&server.anonymous()).await;
    let style = page.text.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let hash = STANDARD.encode(digest(&SHA256, style.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    for (name, value) in [
        ("content-security-policy", policy.as_str()),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-cache"),
        ("vary", "accept"),
    ] {
        assert_eq!(page.header(name), Some(value), "{name}");
    }
    assert!(page.header("x-request-id").is_some());
    for banned in ["<script", "style=\"", "src=", "@import", "url(", "http"] {
        assert!(!page.text.contains(banned), "{banned}");
    }
    assert!(page.text.len() < 4096, "{}", page.text.len());
}

#[tokio::test]
async fn head_answers_too_and_other_methods_do_not() {
    let server = Server::start().await;
    let client = server.anonymous();
    for accept in ["*/*", BROWSER] {
        let (get, _) = get(&client, "/", &[(ACCEPT, accept)]).await;
        let head = client.send(client.request_at_root(Method::HEAD, "/").header(ACCEPT, accept)).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
        assert_eq!(head.header("content-type"), get.header("content-type"));
        assert_eq!(head.header("content-length"), Some(get.text.len().to_string().as_str()));
    }
    let refused = client.send(client.request_at_root(Method::POST, "/").body("x")).await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    // Nobody's looks at it are in the log.
    let actions = server.admin().get("/audit-logs?limit=100").await;
    assert!(!actions.text.contains("root.read"), "{}", actions.text);
}

/// Browsers request this path for responses that name no icon, such as JSON.
#[tokio::test]
async fn the_favicon_is_the_icon_of_the_pages() {
    let server = Server::start().await;
    let client = server.anonymous();
    let answer = client.get_at_root("/favicon.ico").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/svg+xml")), "{answer:?}");
    // Unlike the icon's other path, this one has no version, so a new version must be found.
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    let page = page(&client).await.text;
    let (_, path) = page.split_once("<link rel=\"icon\" href=\"").unwrap();
    let path = format!("/{}", path.split('"').next().unwrap());
    assert_eq!(client.get_at_root(&path).await.text, answer.text);
}
