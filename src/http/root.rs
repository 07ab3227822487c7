//! `GET /`: the addresses of the server's pages and probes, as a page for browsers and as JSON for programs.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, VARY};
use serde::Serialize;

use super::call::{self, Call};
use super::pages;
use super::reply::{self, Reply};
use crate::domain::sha256::sha256;
use crate::error::{Error, Result};

const PAGE_TEMPLATE: &str = include_str!("root/page.html");
const STYLE_SHEET: &str = include_str!("root/page.css");

/// Relative URLs, so that they also work behind a proxy that adds a path prefix.
const ADDRESSES: Addresses = Addresses {
    console: "console/",
    docs: "docs/",
    openapi: "openapi.json",
    health: "healthz",
    ready: "readyz",
};

/// Paths of the server's pages and probes, relative to the URL of this response.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Addresses {
    /// Path of the console.
    #[schema(value_type = String, example = "console/")]
    console: &'static str,
    /// Path of the API reference.
    #[schema(value_type = String, example = "docs/")]
    docs: &'static str,
    /// Path of the OpenAPI document.
    #[schema(value_type = String, example = "openapi.json")]
    openapi: &'static str,
    /// Path of the health check, which returns 200 while the process is running.
    #[schema(value_type = String, example = "healthz")]
    health: &'static str,
    /// Path of the readiness check, which returns 200 while the server can take requests.
    #[schema(value_type = String, example = "readyz")]
    ready: &'static str,
}

/// List addresses
///
/// Where this server has its console, API reference, OpenAPI document, health check and readiness check.
/// Browsers get a page with links.
#[utoipa::path(
    get, path = "/", tag = "Server", operation_id = "getAddresses",
    responses(
        (
            status = 200, description = "The addresses, relative to this one.",
            content((Addresses = "application/json"), (String = "text/html")),
        ),
        (status = 400, description = "`INVALID_REQUEST`: the `Accept` header can't be read."),
    ),
)]
pub(crate) async fn list_addresses(call: Call) -> Result<Reply> {
    if !prefers_html(&call::readable_header_lines(&call.negotiation, &ACCEPT)?) {
        return Reply::ok(&ADDRESSES);
    }
    let (page, policy) = PAGE_WITH_POLICY.as_ref().map_err(Clone::clone)?;
    let mut response = reply::response_from_bytes(page.as_str().into());
    let headers = response.headers_mut();
    headers.extend(pages::COMMON_HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    Ok(Reply::Raw(Box::new(response)))
}

/// The page and its Content-Security-Policy, which allows the page's own style sheet by its hash.
static PAGE_WITH_POLICY: LazyLock<Result<(String, HeaderValue)>> = LazyLock::new(|| {
    let icon = pages::icon().ok_or_else(|| Error::internal("no icon"))?.path.trim_start_matches('/');
    let Addresses { console, docs, openapi, health, ready } = ADDRESSES;
    let page = [
        ("{icon}", icon),
        ("{console}", console),
        ("{docs}", docs),
        ("{openapi}", openapi),
        ("{health}", health),
        ("{ready}", ready),
        ("{style}", STYLE_SHEET),
    ]
    .into_iter()
    .fold(PAGE_TEMPLATE.to_owned(), |page, (name, value)| page.replace(name, value));
    let style = STANDARD.encode(sha256(STYLE_SHEET.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    Ok((page, HeaderValue::from_str(&policy).map_err(Error::internal)?))
});

/// True if `Accept` names `text/html` or `text/*` with at least the quality of JSON (RFC 9110 §12.5.1).
/// Browsers name HTML; a program that accepts anything (`*/*`) gets JSON.
fn prefers_html(accept: &[&str]) -> bool {
    let (precision, html) = accept_quality(accept, "text", "html");
    let (_, json) = accept_quality(accept, "application", "json");
    precision > 1 && html > 0.0 && html >= json
}

/// The precision and quality of the most precise media range in `Accept` that covers a media type. The
/// precision is 3 for the type itself, 2 for `class/*`, 1 for `*/*`, and 0 if no range covers the type.
fn accept_quality(accept: &[&str], class: &str, kind: &str) -> (u8, f32) {
    let mut best = (0, 0.0);
    for range in accept.iter().flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let Some((named_class, named_kind)) = parts.next().and_then(|name| name.split_once('/')) else {
            continue;
        };
        let precision = match (named_class, named_kind) {
            ("*", "*") => 1,
            (one, "*") if one.eq_ignore_ascii_case(class) => 2,
            (one, other) if one.eq_ignore_ascii_case(class) && other.eq_ignore_ascii_case(kind) => 3,
            _ => continue,
        };
        let given = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let quality = given.map_or(Ok(1.0), str::parse::<f32>).unwrap_or(0.0);
        if precision > best.0 {
            best = (precision, quality);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_html(lines: &[&'static str]) -> bool {
        prefers_html(lines)
    }

    #[test]
    fn browsers_get_the_page_and_programs_get_json() {
        for lines in [
            &["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"][..],
            &["text/html"],
            &["TEXT/HTML ; charset=utf-8 ; Q=0.5"],
            &["text/*"],
            &["text/html, application/json"],
            &["application/json;q=0.4", "text/html;q=0.5"],
            &["application/json;q=0, text/html;q=0.1, */*"],
        ] {
            assert!(is_html(lines), "{lines:?}");
        }
        for lines in [
            &[][..],
            &[""],
            &["*/*"],
            &["application/json, text/plain, */*"],
            &["application/json, text/html;q=0.9"],
            &["text/html;q=0.5, */*"],
            &["text/html;q=0"],
            &["text/*, text/html;q=0"],
            &["text/html;q=much"],
            &["text/html;q=nan"],
            &["text/htmlx", "html", ";", "/", ",,"],
            &["image/png"],
        ] {
            assert!(!is_html(lines), "{lines:?}");
        }
    }
}
