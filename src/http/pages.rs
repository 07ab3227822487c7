//! `/console/` and `/docs/`: pages embedded in the binary. They are public, because they contain no
//! data; they load what they show through the API, with the key that the user enters. The pages of the documentation
//! are below `/docs/`, such as `/docs/quickstart`.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::StatusCode;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, VARY,
};
use warp::reply::Response as WarpResponse;

use super::call;
use super::conn::request_head::RequestHead;
use super::content_negotiation::{accepts_gzip, prefers_html};
use super::reply;
use super::request_id::{add_request_id, received_or_new_request_id};
use crate::app::App;
use crate::error::{Code, Error, Result};

/// An embedded file of the console, the API reference or the documentation. `build.rs` generates the list of these files.
pub struct File {
    /// The URL path of this file.
    pub path: &'static str,
    /// The value of the file's `Content-Type` header.
    kind: &'static str,
    /// Hash of the file's content, for the `ETag`.
    tag: &'static str,
    /// True for the HTML page itself, false for its assets, which have a version in their path.
    is_page: bool,
    /// Uncompressed size of the file, in bytes.
    pub length: usize,
    /// The file's content, compressed with gzip.
    pub gzip: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/pages.rs"));

static FILES_BY_PATH: LazyLock<HashMap<&'static str, &'static File>> =
    LazyLock::new(|| FILES.iter().map(|file| (file.path, file)).collect());

/// The pages' Content-Security-Policy. Permits no external resources, no inline scripts or styles and no
/// framing, and enforces Trusted Types, so that no string becomes markup or code.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
);

/// Where browsers look for an icon if a response, such as JSON, names none.
pub(super) const FAVICON_PATH: &str = "/favicon.ico";

/// Where the pages of the documentation are.
const DOCUMENTATION: &str = "/docs/";

/// The most directories of a path for which the page that says "not found" is made: its links have `../` for each.
const MAX_DIRECTORIES: usize = 8;

const CACHE_IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const CACHE_REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// Security headers of every page and its assets, beside those of all responses.
pub(super) const COMMON_HEADERS: [(HeaderName, HeaderValue); 3] = [
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Serves a page or one of its assets.
pub(crate) fn answer(app: &App, head: &RequestHead) -> WarpResponse {
    let path = head.uri.path();
    let now = app.clock.now();
    let id = received_or_new_request_id(&head.headers, now);
    let file = if path == FAVICON_PATH { icon() } else { FILES_BY_PATH.get(path).copied() };
    let mut response = match file {
        Some(file) => {
            file.answer(path, &head.headers).unwrap_or_else(|error| reply::write_error(&error, now, &id))
        }
        None if !path[1..].contains('/') => redirect_to_directory(path),
        None if is_page_with_slash(path) => redirect_to_page(path),
        None => not_found_page(path, &head.headers).unwrap_or_else(|| {
            let message = "This file doesn't exist, or not anymore; reload the page.";
            reply::write_error(&Error::new(Code::NotFound, message), now, &id)
        }),
    };
    add_request_id(&mut response, &id);
    response
}

/// The icon of the API reference, which the front page uses too.
pub(super) fn icon() -> Option<&'static File> {
    FILES.iter().find(|file| file.path.starts_with("/docs/") && file.path.ends_with("/icon.svg"))
}

/// True for `/docs/quickstart/`, which is the page `/docs/quickstart`.
fn is_page_with_slash(path: &str) -> bool {
    let page = path.strip_suffix('/').filter(|path| !path.ends_with('/'));
    page.and_then(|path| FILES_BY_PATH.get(path)).is_some_and(|file| file.is_page)
}

/// Redirects `/docs/quickstart/` to `/docs/quickstart`.
fn redirect_to_page(path: &str) -> WarpResponse {
    let name = path.rsplit('/').nth(1).unwrap_or_default();
    redirect(&format!("../{name}"))
}

/// For browsers, the page that says that the documentation has no such page, with links to the others.
fn not_found_page(path: &str, request_headers: &HeaderMap) -> Option<WarpResponse> {
    let directories = path.strip_prefix(DOCUMENTATION)?.matches('/').count();
    let accept = call::readable_header_lines(request_headers, &ACCEPT).ok()?;
    if directories > MAX_DIRECTORIES || !prefers_html(&accept) {
        return None;
    }
    let root = if directories == 0 { "./".to_owned() } else { "../".repeat(directories) };
    let mut response = reply::response_from_bytes(NOT_FOUND_PAGE.replace("{root}", &root).into());
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.extend(COMMON_HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    Some(response)
}

/// Redirects `/console` to `/console/`, because pages reference their files relative to their directory.
fn redirect_to_directory(path: &str) -> WarpResponse {
    redirect(&format!("{}/", &path[1..]))
}

/// The location is relative, so that the redirect also works behind a proxy that adds a path prefix.
fn redirect(location: &str) -> WarpResponse {
    let mut response = reply::empty_response();
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

impl File {
    fn answer(&self, path: &str, request_headers: &HeaderMap) -> Result<WarpResponse> {
        let gzip = Bytes::from_static(self.gzip);
        let mut response = negotiate(request_headers, self.tag, self.kind, gzip, || self.decompress())?;
        let headers = response.headers_mut();
        headers.extend(COMMON_HEADERS);
        // Only a path with a version always has the same content.
        if !self.is_page && path != FAVICON_PATH {
            headers.insert(CACHE_CONTROL, CACHE_IMMUTABLE);
        }
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        Ok(response)
    }

    fn decompress(&self) -> Result<Bytes> {
        let mut plain = Vec::with_capacity(self.length);
        GzDecoder::new(self.gzip).read_to_end(&mut plain).map_err(Error::internal)?;
        Ok(plain.into())
    }
}

/// The response with content that is the same for everyone: compressed if the client accepts that, and without a body
/// (304) if the client has it already. Each encoding has its own `ETag`, made from `tag`.
///
/// # Errors
/// `INVALID_REQUEST` if a header is unreadable, and the errors of `plain`.
pub(super) fn negotiate(
    request_headers: &HeaderMap,
    tag: &str,
    kind: &'static str,
    gzip: Bytes,
    plain: impl FnOnce() -> Result<Bytes>,
) -> Result<WarpResponse> {
    let use_gzip = accepts_gzip(&call::readable_header_lines(request_headers, &ACCEPT_ENCODING)?);
    let tag = format!("\"{tag}{}\"", if use_gzip { "-gzip" } else { "" });
    let lists = call::readable_header_lines(request_headers, &IF_NONE_MATCH)?;
    let mut tags = lists.iter().flat_map(|list| list.split(',')).map(str::trim);
    let is_unchanged = tags.any(|other| other == "*" || other.strip_prefix("W/").unwrap_or(other) == tag);
    let body = match use_gzip {
        _ if is_unchanged => Bytes::new(),
        true => gzip,
        false => plain()?,
    };
    let mut response = reply::response_from_bytes(body);
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_str(&tag).map_err(Error::internal)?);
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CACHE_CONTROL, CACHE_REVALIDATE);
    if is_unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if use_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
