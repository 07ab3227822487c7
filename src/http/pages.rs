//! `/console/` and `/docs/`: pages that lie in the program. Everybody may load them, for they hold nothing
//! but themselves; what they show they ask for, with the key that is typed in.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use warp::reply::Response as WarpResponse;

use super::pipeline::{add_request_id, request_id};
use super::reply;
use super::server::Head;
use crate::app::App;
use crate::error::{Code, Error, Result};

/// A file of a page, as `build.rs` writes them down.
pub struct File {
    /// Where it is served.
    pub path: &'static str,
    /// Its `Content-Type`.
    kind: &'static str,
    /// Names what is in it.
    tag: &'static str,
    /// A page itself, and not something that it loads from a path with a version.
    is_page: bool,
    /// In bytes.
    pub length: usize,
    /// What is in it, compressed.
    pub gzip: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/pages.rs"));

static BY_PATH: LazyLock<HashMap<&'static str, &'static File>> =
    LazyLock::new(|| FILES.iter().map(|file| (file.path, file)).collect());

/// Nothing from elsewhere, nothing inline, in nobody's frame; and no text becomes markup or code.
const CONSOLE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
);
/// Nearly the same: Swagger UI makes markup of text (it cleans it first), and its style sheet holds its icons.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// What every answer has.
pub(super) const ALWAYS: [(HeaderName, HeaderValue); 4] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Answers with a file.
pub(crate) fn answer(app: &App, head: &Head) -> WarpResponse {
    let (path, now) = (head.uri.path(), app.clock.now());
    let id = request_id(&head.headers, now);
    let mut response = match BY_PATH.get(path) {
        Some(file) => file.answer(&head.headers).unwrap_or_else(|error| reply::write_error(&error, now, &id)),
        None if !path[1..].contains('/') => to_directory(path),
        None => {
            let message = "There is no such file, or no longer; load the page anew.";
            reply::write_error(&Error::new(Code::NotFound, message), now, &id)
        }
    };
    add_request_id(&mut response, &id);
    response
}

/// The page's own files are named from its directory on.
fn to_directory(path: &str) -> WarpResponse {
    let mut response = reply::empty();
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    // Relative, so that it leads to the same place behind a proxy that adds a path in front.
    if let Ok(location) = HeaderValue::from_str(&format!("{}/", &path[1..])) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

impl File {
    fn answer(&self, request_headers: &HeaderMap) -> Result<WarpResponse> {
        let zipped = takes_gzip(request_headers);
        let tag = format!("\"{}{}\"", self.tag, if zipped { "-gzip" } else { "" });
        let known = request_headers.get_all(IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
        let mut known = known.flat_map(|tags| tags.split(',')).map(str::trim);
        let is_known = known.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag);
        let body = match zipped {
            _ if is_known => Bytes::new(),
            true => Bytes::from_static(self.gzip),
            false => self.plain()?,
        };
        let mut response = reply::whole(body);
        let headers = response.headers_mut();
        headers.extend(ALWAYS);
        headers.insert(ETAG, HeaderValue::from_str(&tag).map_err(Error::internal)?);
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(CACHE_CONTROL, if self.is_page { ASK_AGAIN } else { FOR_EVER });
        let policy = if self.path.starts_with("/docs/") { DOCS_POLICY } else { CONSOLE_POLICY };
        headers.insert(CONTENT_SECURITY_POLICY, policy);
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        if zipped {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(response)
    }

    fn plain(&self) -> Result<Bytes> {
        let mut plain = Vec::with_capacity(self.length);
        GzDecoder::new(self.gzip).read_to_end(&mut plain).map_err(Error::internal)?;
        Ok(plain.into())
    }
}

/// Does the client take it (RFC 9110 §12.5.3)? Named with a quality above 0, or covered by a `*`.
fn takes_gzip(request_headers: &HeaderMap) -> bool {
    let mut any = false;
    let lines = request_headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    for coding in lines.flat_map(|line| line.split(',')) {
        let (name, parameter) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = parameter.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        let wanted = quality.is_ok_and(|quality| quality > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => return wanted,
            "*" => any = wanted,
            _ => {}
        }
    }
    any
}
