//! IP addresses: parsing the allowlists of keys and the addresses that proxies write, and determining the network
//! that counts as one client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::fields::{Faults, Json};

/// The maximum number of CIDRs in a key's allowlist.
pub(crate) const MAX_ALLOWED_IPS: usize = 100;

/// Parses a key's allowlist: CIDRs without host bits, or single IP addresses.
pub(crate) fn parse_allowlist(json: &Json, faults: &mut Faults) -> Option<Vec<IpNet>> {
    let items = faults.expect_array(json)?;
    if items.is_empty() || items.len() > MAX_ALLOWED_IPS {
        faults.add(
            "INVALID_LENGTH",
            format!("Must have 1 to {MAX_ALLOWED_IPS} CIDRs; use null to allow any address."),
        );
        return None;
    }
    let mut cidrs = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.at_child(&index.to_string(), |faults| {
            let Some(text) = faults.expect_string(item) else { return };
            match parse_cidr(text) {
                Some(cidr) if cidr == cidr.trunc() => {
                    let cidr = unmap_ipv4(cidr);
                    if !cidrs.contains(&cidr) {
                        cidrs.push(cidr);
                    }
                }
                Some(cidr) => {
                    faults.add("INVALID_CIDR", format!("Has host bits set; did you mean {}?", cidr.trunc()));
                }
                None => {
                    faults.add("INVALID_CIDR", "Must be an IP address or a CIDR, such as 203.0.113.0/24.")
                }
            }
        });
    }
    Some(cidrs)
}

/// True if there is no allowlist, or if it contains the client's address. An unknown address is in no allowlist.
pub(crate) fn is_allowed(allowlist: Option<&[IpNet]>, address: Option<IpAddr>) -> bool {
    let is_listed =
        |cidrs: &[IpNet]| address.is_some_and(|address| cidrs.iter().any(|cidr| cidr.contains(&address)));
    allowlist.is_none_or(is_listed)
}

fn parse_cidr(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Converts an IPv4-mapped IPv6 CIDR to IPv4. Client addresses are converted in the same way, so that the two
/// match.
fn unmap_ipv4(cidr: IpNet) -> IpNet {
    match cidr {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(cidr, IpNet::V4),
            None => cidr,
        },
        _ => cidr,
    }
}

/// Returns the network that counts as one client: the address itself for IPv4, the /64 network for IPv6,
/// because one subscriber usually gets a whole /64.
pub(crate) fn client_network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Net::from(v4).into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, 64).trunc().into(),
    }
}

/// Parses an address as proxies write it: IPv6 with or without brackets and zone (`[fe80::1%eth0]`), each with or
/// without a port. The zone is ignored. An IPv4-mapped IPv6 address is converted to IPv4.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    let address = match text.parse() {
        Ok(address) => address,
        Err(_) => parse_decorated_address(text)?,
    };
    Some(address.to_canonical())
}

fn parse_decorated_address(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_valid_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_valid_port.then(|| parse_ipv6_with_zone(address))?;
    }
    match text.split_once(':') {
        Some((address, port)) if is_port(port) => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        _ => parse_ipv6_with_zone(text),
    }
}

fn parse_ipv6_with_zone(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_valid_zone = zone.is_none_or(|zone| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (1..=MAX_ZONE_BYTES).contains(&zone.len()) && zone.bytes().all(is_allowed)
    });
    is_valid_zone.then(|| address.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?
}

/// The longest name of an IPv6 zone. Names of network interfaces are shorter.
const MAX_ZONE_BYTES: usize = 64;

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_address_notations_of_proxies_are_parsed() {
        let cases = [
            ("1.2.3.4", Some("1.2.3.4")),
            ("1.2.3.4:80", Some("1.2.3.4")),
            ("1.2.3.4:65535", Some("1.2.3.4")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("::FFFF:102:304", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]", Some("1.2.3.4")),
            ("[::ffff:1.2.3.4]:80", Some("1.2.3.4")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("fe80::1%2", Some("fe80::1")),
            ("[fe80::1%eth0.1]", Some("fe80::1")),
            ("[fe80::1%25eth0]:443", Some("fe80::1")),
            ("", None),
            (":", None),
            (":80", None),
            ("1.2.3.4:", None),
            ("1.2.3.4:+80", None),
            ("1.2.3.4:65536", None),
            ("1.2.3.4%eth0", None),
            ("1.2.3", None),
            ("01.2.3.4", None),
            ("[1.2.3.4]", None),
            ("[1.2.3.4]:80", None),
            ("[::1", None),
            ("::1]", None),
            ("[[::1]]", None),
            ("[::1]:", None),
            ("[::1]80", None),
            ("[::1]:65536", None),
            ("fe80::1%", None),
            ("fe80::1%eth 0", None),
            ("fe80::1%eth0%eth1", None),
            ("[fe80::1]%eth0", None),
            (" 1.2.3.4", None),
            ("1.2.3.4 5.6.7.8", None),
            ("\"1.2.3.4\"", None),
            ("10.0.0.0/8", None),
            ("example.org", None),
            ("example.org:80", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(parse_address(text), expected, "{text}");
        }
        assert_eq!(parse_address(&format!("fe80::1%{}", "a".repeat(MAX_ZONE_BYTES + 1))), None);
    }
}
