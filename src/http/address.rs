//! The client's address behind trusted proxies, and the form in which rate limits count it.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

pub(crate) use crate::domain::cidr::client_network;
use crate::domain::cidr::parse_address;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address, or `None` if it is unknown.
///
/// If the peer isn't in `trusted`, the peer is the client. Otherwise the peer's `X-Forwarded-For` lines are
/// joined in order and walked from the right past trusted hops: the first untrusted hop is the client, or
/// the leftmost hop if all are trusted. Hops to the left of the client were sent by the client and are
/// ignored, because it can forge them. If a hop on the way is malformed, or a trusted peer sends no hop, the
/// address is unknown.
/// IPv4-mapped IPv6 addresses are treated as IPv4.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |address| is_trusted_proxy(address, trusted);
    let peer = peer.to_canonical();
    if !is_trusted(peer) {
        return Some(peer);
    }
    // Header values are split as bytes, so that an invalid byte in the hops that the client sent doesn't
    // invalidate the hops that the proxies added.
    let lines: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(|line| line.as_bytes()).collect();
    let mut client = None;
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')) {
        let address = parse_hop(hop)?;
        client = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// True if the address is in one of the trusted networks.
pub(crate) fn is_trusted_proxy(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|range| range_contains(range, address))
}

/// True if the range contains the canonical `address`. A range of IPv4-mapped IPv6 addresses
/// (`::ffff:10.0.0.0/104`) counts as the IPv4 range; a wider IPv6 range (`::/0`) contains no IPv4 address.
fn range_contains(range: &IpNet, address: IpAddr) -> bool {
    match (range, address) {
        (IpNet::V6(range), IpAddr::V4(v4)) => {
            range.prefix_len() >= 96 && range.contains(&v4.to_ipv6_mapped())
        }
        _ => range.contains(&address),
    }
}

fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    parse_address(std::str::from_utf8(hop.trim_ascii()).ok()?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn parse_ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn parse_cidrs(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn forwarded_for_headers(lines: &[&[u8]]) -> HeaderMap {
        lines
            .iter()
            .map(|line| {
                (http::HeaderName::from_static(FORWARDED_FOR), HeaderValue::from_bytes(line).unwrap())
            })
            .collect()
    }

    const PROXIES: &[&str] = &["10.0.0.0/8", "fd00::/8"];

    #[test]
    fn client_address_walks_from_the_right_past_trusted_hops() {
        let cases: &[(&str, &[&str], Option<&str>)] = &[
            // An untrusted peer is the client, regardless of `X-Forwarded-For`.
            ("203.0.113.9", &["192.0.2.1"], Some("203.0.113.9")),
            ("203.0.113.9", &["nonsense"], Some("203.0.113.9")),
            ("::ffff:203.0.113.9", &[], Some("203.0.113.9")),
            ("2001:db8::9", &[], Some("2001:db8::9")),
            // A trusted peer must send `X-Forwarded-For`.
            ("10.0.0.1", &[], None),
            ("10.0.0.1", &[""], None),
            ("10.0.0.1", &["192.0.2.1"], Some("192.0.2.1")),
            ("::ffff:10.0.0.1", &["192.0.2.1"], Some("192.0.2.1")),
            ("fd00::1", &["2001:db8::1"], Some("2001:db8::1")),
            // Hops to the left of the client are ignored, because the client can forge them.
            ("10.0.0.1", &["127.0.0.1, 192.0.2.1"], Some("192.0.2.1")),
            ("10.0.0.1", &["127.0.0.1, 192.0.2.1, 10.0.0.2,10.0.0.3"], Some("192.0.2.1")),
            ("10.0.0.1", &["127.0.0.1, 192.0.2.1 ,\t::ffff:10.0.0.2"], Some("192.0.2.1")),
            ("10.0.0.1", &["junk, 192.0.2.1"], Some("192.0.2.1")),
            // Proxies add ports, brackets and zones.
            ("10.0.0.1", &["127.0.0.1, 192.0.2.1:4711, [::ffff:10.0.0.2]:80"], Some("192.0.2.1")),
            ("10.0.0.1", &["[2001:db8::1]:443, 10.0.0.2:80"], Some("2001:db8::1")),
            ("fd00::1", &["fe80::1%eth0, [fd00::2]"], Some("fe80::1")),
            // Several `X-Forwarded-For` lines form one list of hops.
            ("10.0.0.1", &["127.0.0.1", "192.0.2.1", "10.0.0.2"], Some("192.0.2.1")),
            ("10.0.0.1", &["192.0.2.1, 10.0.0.2", "10.0.0.3"], Some("192.0.2.1")),
            // All hops are trusted: the leftmost is the client.
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            ("10.0.0.1", &["10.0.0.4", "fd00::3, 10.0.0.2"], Some("10.0.0.4")),
            // A malformed hop to the right of the client makes the address unknown.
            ("10.0.0.1", &["192.0.2.1, 10.0.0.2, "], None),
            ("10.0.0.1", &["192.0.2.1", ""], None),
            ("10.0.0.1", &["192.0.2.1,,10.0.0.2"], None),
            ("10.0.0.1", &["192.0.2.1, unknown"], None),
            ("10.0.0.1", &["192.0.2.1, _hidden, 10.0.0.2"], None),
            ("10.0.0.1", &["junk, 10.0.0.2"], None),
        ];
        for (peer, lines, expected) in cases {
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            let client =
                client_address(parse_ip(peer), &forwarded_for_headers(&lines), &parse_cidrs(PROXIES));
            assert_eq!(client, expected.map(parse_ip), "{peer} {lines:?}");
        }
    }

    #[test]
    fn an_invalid_byte_in_x_forwarded_for_invalidates_only_its_own_hop() {
        let trusted = parse_cidrs(PROXIES);
        assert_eq!(
            client_address(parse_ip("10.0.0.1"), &forwarded_for_headers(&[b"\xff, 192.0.2.1"]), &trusted),
            Some(parse_ip("192.0.2.1"))
        );
        assert_eq!(
            client_address(parse_ip("10.0.0.1"), &forwarded_for_headers(&[b"192.0.2.1, \xff"]), &trusted),
            None
        );
    }

    #[test]
    fn trusted_ranges_treat_ipv4_mapped_addresses_as_ipv4() {
        let cases = [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("::ffff:10.1.2.3", "10.0.0.0/8", true),
            ("10.1.2.3", "::ffff:10.0.0.0/104", true),
            ("11.1.2.3", "::ffff:10.0.0.0/104", false),
            ("::ffff:10.1.2.3", "::ffff:10.1.2.3/128", true),
            ("10.1.2.3", "::/0", false),
            ("::ffff:10.1.2.3", "::/0", false),
            ("2001:db8::1", "::/0", true),
            ("2001:db8::1", "0.0.0.0/0", false),
            ("10.1.2.4", "10.1.2.3/32", false),
        ];
        for (address, range, expected) in cases {
            let [range] = parse_cidrs(&[range])[..] else { panic!() };
            assert_eq!(
                range_contains(&range, parse_ip(address).to_canonical()),
                expected,
                "{address} in {range}"
            );
        }
    }

    #[test]
    fn rate_limits_count_ipv6_addresses_by_their_64_bit_prefix() {
        let cases = [
            ("1.2.3.4", "1.2.3.4/32"),
            ("::ffff:1.2.3.4", "1.2.3.4/32"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ];
        for (address, expected) in cases {
            assert_eq!(client_network(parse_ip(address)).to_string(), expected);
        }
        assert_eq!(client_network(parse_ip("2001:db8::1")), client_network(parse_ip("2001:db8::ffff:1")));
        assert_ne!(client_network(parse_ip("2001:db8::1")), client_network(parse_ip("2001:db8:0:1::1")));
    }

    proptest! {
        #[test]
        fn a_forged_left_part_of_x_forwarded_for_never_changes_the_client(
            forged in proptest::collection::vec("[ -~\u{80}-\u{ff}\t]{0,40}", 0..4),
            joined in any::<bool>(),
            client in any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).to_canonical()),
            hops in proptest::collection::vec(any::<[u8; 3]>(), 0..4),
        ) {
            let trusted = parse_cidrs(PROXIES);
            prop_assume!(!trusted.iter().any(|range| range_contains(range, client)));
            let mut genuine = client.to_string();
            for [a, b, c] in hops {
                genuine.push_str(&format!(", 10.{a}.{b}.{c}"));
            }
            let mut lines = forged;
            if joined {
                let last_forged = lines.pop().unwrap_or_default();
                lines.push(format!("{last_forged},{genuine}"));
            } else {
                lines.push(genuine);
            }
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            prop_assert_eq!(client_address(parse_ip("10.0.0.1"), &forwarded_for_headers(&lines), &trusted), Some(client));
        }
    }
}
