//! The address of a listener, in the forms in which it can be given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Serialize, Serializer};

/// The addresses to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// One address. The unspecified IPv6 address includes all IPv4 addresses.
    Address(SocketAddr),
    /// This port of both loopback addresses, 127.0.0.1 and ::1.
    Localhost(u16),
}

impl ListenAddress {
    /// The forms that [`parse`](Self::parse) accepts, for messages.
    pub(crate) const EXPECTED: &str = r#"a port ("8080", from this machine only), ":8080" (all addresses), "localhost:8080", or an address and a port, such as "127.0.0.1:8080" or "[::]:8080""#;

    /// Parses a port on the loopback address (`8080`), on all addresses (`:8080`), on both loopback addresses
    /// (`localhost:8080`), or an IP address with a port.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(port) = parse_port(text) {
            return Some(Self::Address((Ipv4Addr::LOCALHOST, port).into()));
        }
        match text.rsplit_once(':') {
            Some(("", port)) => {
                parse_port(port).map(|port| Self::Address((Ipv6Addr::UNSPECIFIED, port).into()))
            }
            Some((name, port)) if name.eq_ignore_ascii_case("localhost") => {
                parse_port(port).map(Self::Localhost)
            }
            _ => text.parse().ok().map(Self::Address),
        }
    }

    /// The port; 0 picks a free one.
    pub fn port(self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Localhost(port) => port,
        }
    }

    /// True if only this machine can connect.
    pub(crate) fn is_loopback(self) -> bool {
        match self {
            Self::Address(address) => address.ip().to_canonical().is_loopback(),
            Self::Localhost(_) => true,
        }
    }

    /// An address at which this machine reaches the listener.
    pub(crate) fn local_address(self) -> SocketAddr {
        match self {
            Self::Address(address) => reachable_address(address),
            Self::Localhost(port) => (Ipv4Addr::LOCALHOST, port).into(),
        }
    }
}

/// Returns an address at which this machine reaches a listener: the loopback address if it is bound to the
/// unspecified address (`0.0.0.0`), which browsers reject.
pub(crate) fn reachable_address(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// Parses a port of decimal digits only: the standard library also accepts a sign.
fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Localhost(port) => write!(f, "localhost:{port}"),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_parsed_and_printed_so_that_they_parse_again() {
        for (given, printed, is_loopback) in [
            ("8080", "127.0.0.1:8080", true),
            ("0", "127.0.0.1:0", true),
            (":8080", "[::]:8080", false),
            ("localhost:8080", "localhost:8080", true),
            ("LocalHost:1", "localhost:1", true),
            ("[::]:8080", "[::]:8080", false),
            ("[::1]:8080", "[::1]:8080", true),
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "0.0.0.0:8080", false),
        ] {
            let parsed = ListenAddress::parse(given).unwrap();
            assert_eq!(
                (parsed.to_string().as_str(), parsed.is_loopback()),
                (printed, is_loopback),
                "{given}"
            );
            assert_eq!(ListenAddress::parse(printed), Some(parsed));
        }
        for wrong in [
            "",
            ":",
            "65536",
            "+80",
            "127.0.0.1",
            "localhost",
            "localhost:",
            "example.com:80",
            "::1",
            "::8080x",
        ] {
            assert_eq!(ListenAddress::parse(wrong), None, "{wrong}");
        }
    }
}
