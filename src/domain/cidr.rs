//! Address ranges: where a key may be used from, and who counts as one caller.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::fields::{Faults, Json};

/// Address ranges that a key may be bound to.
pub(crate) const MAX_ALLOWED_IPS: usize = 100;

/// Reads an allowlist: CIDRs without host bits, or single addresses.
pub(crate) fn allowlist(json: &Json, faults: &mut Faults) -> Option<Vec<IpNet>> {
    let items = faults.array(json)?;
    if items.is_empty() || items.len() > MAX_ALLOWED_IPS {
        faults.add("INVALID_LENGTH", format!("1 to {MAX_ALLOWED_IPS} ranges; null means anywhere."));
        return None;
    }
    let mut cidrs = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        faults.within(&index.to_string(), |faults| {
            let Some(text) = faults.text(item) else { return };
            match parse_range(text) {
                Some(range) if range == range.trunc() => {
                    let range = canonical(range);
                    if !cidrs.contains(&range) {
                        cidrs.push(range);
                    }
                }
                Some(range) => {
                    faults.add(
                        "INVALID_CIDR",
                        format!("Has bits behind its prefix; did you mean {}?", range.trunc()),
                    );
                }
                None => faults.add("INVALID_CIDR", "Must be a CIDR such as 203.0.113.0/24 or an address."),
            }
        });
    }
    Some(cidrs)
}

fn parse_range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// IPv4-mapped IPv6 is IPv4, as client addresses are.
fn canonical(range: IpNet) -> IpNet {
    match range {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(range, IpNet::V4),
            None => range,
        },
        _ => range,
    }
}

/// What counts as one caller by address: an IPv4 address, or the /64 of an IPv6 address,
/// since that is what one subscriber gets.
pub(crate) fn subject(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Net::from(v4).into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, 64).trunc().into(),
    }
}
