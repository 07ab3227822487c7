//! CIDRs: parsing the allowlists of keys, and determining the network that counts as one client.

use std::net::IpAddr;

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
