//! `GET /`: the addresses of the server's pages and probes, as a page for browsers and as JSON for programs.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, VARY};
use serde::Serialize;

use super::call::{self, Call};
use super::content_negotiation::prefers_html;
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
