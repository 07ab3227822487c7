//! The console, the reference and the documentation: how they are served, `serve --dev`, and both in a browser.

pub(crate) mod browser;
pub(crate) mod dev;
mod guide;
mod root;

use std::collections::BTreeSet;
use std::io::Read;

use flate2::read::GzDecoder;
use reqwest::Method;
use reqwest::header::{ACCEPT_ENCODING, IF_NONE_MATCH};
use tollhouse::http::pages::FILES;

use crate::support::{Answer, Client, Server};

const PAGES: [&str; 2] = ["/console/", "/docs/"];

/// True for the files that a page loads, whose paths have a version, a number of 16 digits.
fn has_version(path: &str) -> bool {
    let version = path.split('/').nth(2).unwrap_or_default();
    version.len() == 16 && version.bytes().all(|byte| byte.is_ascii_hexdigit())
}

async fn get(
    client: &Client,
    path: &str,
    headers: &[(reqwest::header::HeaderName, &str)],
) -> (Answer, Vec<u8>) {
    let request = client.request_at_root(Method::GET, path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(name, *value));
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let bytes = response.bytes().await.unwrap().to_vec();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (Answer { status, headers, text, json: serde_json::Value::Null }, bytes)
}

#[tokio::test]
async fn files_are_served_compressed_or_plain_and_revalidated() {
    let server = Server::start().await;
    let client = server.anonymous();
    for file in FILES {
        let (plain, content) = get(&client, file.path, &[]).await;
        assert_eq!((plain.status, content.len()), (200, file.length), "{}", file.path);
        assert_eq!(plain.header("content-encoding"), None);
        assert_eq!(plain.header("vary"), Some("accept-encoding"));

        let gzip = [(ACCEPT_ENCODING, "br, GZIP;q=0.5")];
        let (zipped, compressed) = get(&client, file.path, &gzip).await;
        assert_eq!(zipped.header("content-encoding"), Some("gzip"), "{}", file.path);
        let mut unzipped = Vec::new();
        GzDecoder::new(compressed.as_slice()).read_to_end(&mut unzipped).unwrap();
        assert!(unzipped == content, "{}", file.path);
        for refused in ["gzip;q=0", "identity", "br", "*;q=0, gzip;q=0.0"] {
            let (answer, _) = get(&client, file.path, &[(ACCEPT_ENCODING, refused)]).await;
            assert_eq!(answer.header("content-encoding"), None, "{refused}");
        }

        // Each encoding has its own ETag; a request that names it gets no body.
        let tag = plain.header("etag").unwrap();
        let tag_zipped = zipped.header("etag").unwrap();
        assert_ne!(tag, tag_zipped);
        for known in [tag.to_owned(), format!("\"other\", W/{tag}"), "*".to_owned()] {
            let (answer, bytes) = get(&client, file.path, &[(IF_NONE_MATCH, &known)]).await;
            assert_eq!((answer.status, bytes.len(), answer.header("etag")), (304, 0, Some(tag)), "{known}");
        }
        let (answer, _) = get(&client, file.path, &[(IF_NONE_MATCH, tag_zipped)]).await;
        assert_eq!(answer.status, 200);

        let head = client.send(client.request_at_root(Method::HEAD, file.path)).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
        assert_eq!(head.header("content-length"), Some(file.length.to_string().as_str()));
    }
}

#[tokio::test]
async fn pages_are_revalidated_and_their_files_are_immutable() {
    let server = Server::start().await;
    let client = server.anonymous();
    for file in FILES {
        let (answer, _) = get(&client, file.path, &[]).await;
        let expected =
            if has_version(file.path) { "public, max-age=31536000, immutable" } else { "no-cache" };
        assert_eq!(answer.header("cache-control"), Some(expected), "{}", file.path);
    }
    for page in PAGES {
        let (answer, _) = get(&client, page, &[]).await;
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        // The files that it loads exist, under a version that depends on their content.
        let paths =
            answer.text.split('"').filter(|name| name.contains('/') && !name.contains([' ', '<', ':']));
        let own: Vec<_> = paths
            .filter(|name| !name.starts_with("..") && *name != "./" && !name.contains("svg+xml"))
            .collect();
        assert!(own.len() >= 4, "{own:?}");
        for name in own {
            assert!(FILES.iter().any(|file| file.path == format!("{page}{name}")), "{name}");
        }
        let (unknown, _) = get(&client, &format!("{page}0000000000000000/main.js"), &[]).await;
        assert_eq!((unknown.status, unknown.header("cache-control")), (404, Some("no-store")));
    }
}

#[tokio::test]
async fn pages_are_locked_down() {
    let server = Server::start().await;
    let client = server.anonymous();
    for file in FILES {
        let (answer, _) = get(&client, file.path, &[]).await;
        let policy = answer.header("content-security-policy").unwrap();
        let rules: BTreeSet<_> = policy.split(';').map(str::trim).filter(|rule| !rule.is_empty()).collect();
        let expected = [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ];
        assert_eq!(rules, BTreeSet::from(expected), "{}", file.path);
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{}", file.path);
        }
        assert!(answer.header("x-request-id").is_some());
    }
}

/// A first visit to the reference loads its scripts, styles and icon, and the OpenAPI document. The search index is loaded
/// by the first search, and so are the pages of the documentation and their pictures when they are visited.
#[tokio::test]
async fn a_first_visit_to_the_reference_transfers_less_than_200_kb() {
    let server = Server::start().await;
    let (document, bytes) = get(&server.anonymous(), "/openapi.json", &[(ACCEPT_ENCODING, "gzip")]).await;
    assert_eq!(document.header("content-encoding"), Some("gzip"));
    let is_loaded = |path: &str| {
        path == "/docs/"
            || path.starts_with("/docs/")
                && [".js", ".css", "/icon.svg"].iter().any(|ending| path.ends_with(ending))
    };
    let files: usize = FILES.iter().filter(|file| is_loaded(file.path)).map(|file| file.gzip.len()).sum();
    assert!(files + bytes.len() < 200_000, "{files} + {}", bytes.len());
}

#[tokio::test]
async fn a_missing_slash_is_redirected_and_only_reads_are_allowed() {
    let server = Server::start().await;
    let without_redirects =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for page in PAGES {
        let path = page.trim_end_matches('/');
        let answer = without_redirects.get(format!("{}{path}", server.url)).send().await.unwrap();
        assert_eq!(answer.status(), 308);
        assert_eq!(answer.headers()["location"], page[1..]);
        let refused = without_redirects.post(format!("{}{page}", server.url)).body("x").send().await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["allow"]),
            (405, &"GET, HEAD".parse().unwrap())
        );
    }
    // Requests for pages are not audited.
    let actions = server.admin().get("/audit-logs?limit=100").await;
    assert!(!actions.text.contains("page.read"), "{}", actions.text);
}

/// Files have no source map URL and use no unsafe DOM functions or local storage. Libraries come with their licenses.
#[test]
fn embedded_files_are_safe_and_licensed() {
    let names: Vec<_> =
        FILES.iter().map(|file| file.path.splitn(4, '/').nth(3).unwrap_or("index.html")).collect();
    let libraries =
        ["vendor/preact", "vendor/htm", "vendor/uplot", "console/vendor/preact", "console/vendor/htm"];
    for library in libraries {
        assert!(names.contains(&format!("{library}.js").as_str()), "{names:?}");
        assert!(names.contains(&format!("{library}.LICENSE.txt").as_str()), "{library} has no license");
    }
    for file in FILES {
        let mut text = String::new();
        GzDecoder::new(file.gzip).read_to_string(&mut text).unwrap();
        assert!(!text.contains("sourceMappingURL="), "{}", file.path);
        if file.path.contains("/vendor/") {
            continue;
        }
        for banned in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "localStorage", "style=\""]
        {
            let allowed = banned == "localStorage" && file.path.ends_with("LICENSE.txt");
            assert!(allowed || !text.contains(banned), "{}: {banned}", file.path);
        }
    }
}
