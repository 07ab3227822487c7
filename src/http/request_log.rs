//! The log lines of requests.

use std::net::IpAddr;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, StatusCode};

use super::conn::request_head::RequestHead;
use crate::app::App;
use crate::domain::redaction::Redactor;
use crate::error::Code;

/// The routes that load balancers and service managers request all the time, which would fill the log.
const PROBE_ROUTES: [&str; 2] = ["/healthz", "/readyz"];

/// What stands for an absent value.
const ABSENT: &str = "-";

/// What is logged about a request of the control plane. Strings from the client are logged without secrets and
/// truncated.
pub(super) struct RequestLog<'a> {
    pub(super) app: &'a App,
    pub(super) head: &'a RequestHead,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) request_id: &'a str,
    pub(super) redactor: &'a Redactor,
    /// The monotonic time at which the request arrived.
    pub(super) arrived_at: Duration,
    pub(super) route: &'static str,
    /// The API key of an authenticated caller.
    pub(super) key_id: Option<&'a str>,
}

impl RequestLog<'_> {
    /// Logs a response, and the cause of a server error.
    pub(super) fn write(&self, status: u16, code: Option<Code>, cause: Option<&str>) {
        let Self { app, head, redactor, route, request_id, .. } = self;
        // Anyone can repeat requests without a valid key, and the owner of a key can repeat requests over the
        // rate limit, so these requests must not fill the log.
        let is_repeatable = self.key_id.is_none() || code == Some(Code::RateLimited);
        let is_server_error = code.is_some_and(Code::is_server_error);
        let code = code.map_or(ABSENT, Code::name);
        if let Some(cause) = cause.map(|cause| redactor.redact(cause)) {
            let cause = &*cause;
            tracing::error!(request_id, cause, "request failed");
        }
        let latency_us = whole_micros(app.clock.monotonic().saturating_sub(self.arrived_at));
        if PROBE_ROUTES.contains(route) {
            tracing::debug!(
                request_id,
                route,
                status,
                code,
                latency_us,
                ip = address(self.client_ip),
                "request"
            );
            return;
        }
        if is_repeatable
            && !is_server_error
            && !app.traffic.repeated_requests.count_request(app.clock.now(), code)
        {
            return;
        }
        tracing::info!(
            request_id,
            method = %head.method,
            route,
            path = self.path(),
            status,
            code,
            latency_us,
            ip = address(self.client_ip),
            user_agent = user_agent(&head.headers, redactor),
            key = self.key_id.unwrap_or(ABSENT),
            traceparent = valid_traceparent(&head.headers, redactor).unwrap_or(ABSENT),
            "request"
        );
    }

    /// The path without its secrets. Of a caller without a valid key, the route: in its path, a secret that this
    /// program didn't generate couldn't be recognized.
    fn path(&self) -> String {
        match self.key_id {
            Some(_) => self.redactor.logged_text(self.head.uri.path()),
            None => self.route.to_owned(),
        }
    }
}

/// Logs a request to an unknown path, or with an unsupported method. Anyone can send such requests, and nothing is
/// known about what their paths hold.
pub(super) fn log_unmatched(
    head: &RequestHead,
    client_ip: Option<IpAddr>,
    request_id: &str,
    redactor: &Redactor,
    status: StatusCode,
) {
    tracing::debug!(
        request_id,
        status = status.as_u16(),
        ip = address(client_ip),
        user_agent = user_agent(&head.headers, redactor),
        "no route matched"
    );
}

/// A duration in microseconds.
pub(super) fn whole_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The client's address as it is logged.
pub(super) fn address(client_ip: Option<IpAddr>) -> String {
    client_ip.map_or_else(|| ABSENT.to_owned(), |ip| ip.to_string())
}

/// The `User-Agent` header as it is logged.
pub(super) fn user_agent(headers: &HeaderMap, redactor: &Redactor) -> String {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.map_or_else(|| ABSENT.to_owned(), |agent| redactor.logged_text(agent))
}

/// The `traceparent` header of W3C Trace Context (§3.2). `None` for a malformed header, so that a client
/// can't write arbitrary text to the log.
fn valid_traceparent<'a>(headers: &'a HeaderMap, redactor: &Redactor) -> Option<&'a str> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts: Vec<_> = value.split('-').collect();
    let is_valid = matches!(parts.as_slice(), [version, trace, parent, flags]
        if hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2));
    (is_valid && !redactor.contains_secret(value)).then_some(value)
}
