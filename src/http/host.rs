//! The host that a request names: in `Host` (RFC 9112 §3.2), or with HTTP/2 in `:authority` (RFC 9113 §8.3.1).

use std::net::Ipv6Addr;

use http::header::{HOST, HeaderMap, HeaderValue, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS};
use http::{Uri, Version};

use super::conn::request_head::RequestHead;
use crate::error::{Error, ErrorDetail, Result};

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// A year, for this host only: its subdomains may belong to other servers.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Checks that the request names one host. A proxy in front of the server may choose another of several hosts than
/// the server does. Allocates nothing unless the request is refused, because it runs for every verification.
///
/// # Errors
/// `INVALID_REQUEST` if `Host` is missing in HTTP/1.1, repeated, malformed, or contradicts `:authority`.
pub(crate) fn validate(head: &RequestHead) -> Result<()> {
    let mut values = head.headers.get_all(HOST).iter();
    let message = match (values.next(), values.next()) {
        (Some(_), Some(_)) => "Send the Host header only once.",
        (Some(host), None) if !is_well_formed(host.as_bytes()) => {
            "The Host header must be a name or an IP address, and optionally a port."
        }
        (Some(host), None) if contradicts_authority(host.as_bytes(), head.version, &head.uri) => {
            "The Host header and :authority must name the same host."
        }
        (None, _) if is_missing(head.version, &head.uri) => "The Host header is missing.",
        _ => return Ok(()),
    };
    Err(Error::invalid_request(vec![ErrorDetail {
        pointer: None,
        parameter: Some("Host".to_owned()),
        code: "INVALID_HEADER".into(),
        message: message.to_owned(),
    }]))
}

/// True if the host has only characters that a host and a port may have (RFC 3986 §3.2.2).
fn is_well_formed(host: &[u8]) -> bool {
    host.iter().all(|byte| match byte {
        b'-' | b'.' | b'_' | b'~' | b'%' | b':' | b'[' | b']' => true,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => true,
        _ => byte.is_ascii_alphanumeric(),
    })
}

/// True if HTTP/2's `:authority` names another host than `Host`. In HTTP/1.1, the authority of a request's target
/// replaces `Host` (RFC 9112 §3.2.2).
fn contradicts_authority(host: &[u8], version: Version, uri: &Uri) -> bool {
    version == Version::HTTP_2
        && uri.authority().is_some_and(|authority| {
            let authority = without_default_port(authority.as_str().as_bytes());
            !authority.eq_ignore_ascii_case(without_default_port(host))
        })
}

/// HTTP/2 is only available over TLS, so 443 is the default port.
fn without_default_port(host: &[u8]) -> &[u8] {
    host.strip_suffix(b":443").unwrap_or(host)
}

/// True if the request must name a host and doesn't. HTTP/1.0 has no such rule.
fn is_missing(version: Version, uri: &Uri) -> bool {
    match version {
        Version::HTTP_11 => true,
        Version::HTTP_2 => uri.authority().is_none(),
        _ => false,
    }
}

/// Adds the headers that protect browsers, to all responses but those of the data plane, whose clients are programs.
/// `Strict-Transport-Security` is added to responses over TLS if the request names the host by a domain name:
/// browsers ignore it for IP addresses, and on localhost it would affect every other local server.
pub(super) fn add_security_headers(headers: &mut HeaderMap, head: &RequestHead) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    if head.is_tls && requested_host(head).is_some_and(is_domain_name) {
        headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
}

/// The host that the request names, without the port.
fn requested_host(head: &RequestHead) -> Option<&str> {
    if let Some(host) = head.uri.host() {
        return Some(host);
    }
    let host = head.headers.get(HOST)?.to_str().ok()?;
    // An IPv6 address has colons, but is in brackets.
    Some(host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name }))
}

/// True if the host is a domain name other than `localhost` and its subdomains.
fn is_domain_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last_label = host.rsplit('.').next().unwrap_or_default();
    // A last label that starts with a digit belongs to an IPv4 address: no top-level domain does.
    let is_ipv4 = last_label.starts_with(|c: char| c.is_ascii_digit());
    let is_ipv6 = host.starts_with('[') || host.parse::<Ipv6Addr>().is_ok();
    !last_label.is_empty() && !is_ipv4 && !is_ipv6 && !last_label.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_domain_names_get_strict_transport_security() {
        for host in
            ["tollhouse", "auth.example.com", "AUTH.EXAMPLE.COM.", "localhost.example.com", "1.2.3.example"]
        {
            assert!(is_domain_name(host), "{host}");
        }
        for host in [
            "",
            ".",
            "localhost",
            "LocalHost",
            "app.localhost",
            "localhost.",
            "127.0.0.1",
            "10.1",
            "[::1]",
            "::1",
        ] {
            assert!(!is_domain_name(host), "{host}");
        }
    }

    #[test]
    fn a_host_has_only_characters_of_names_addresses_and_ports() {
        for host in
            ["", "a", "a:80", "a_b.example", "[::1]:8080", "127.0.0.1", "xn--bcher-kva.example", "a%2db"]
        {
            assert!(is_well_formed(host.as_bytes()), "{host}");
        }
        for host in ["a b", "a/b", "user@a", "a\\b", "a#", "a?", "<a>", "\"a\"", "b\u{fc}cher", "a\tb"] {
            assert!(!is_well_formed(host.as_bytes()), "{host}");
        }
    }
}
