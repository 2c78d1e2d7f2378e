//! `from="…"`: a list of addresses, networks and patterns (`match_host_and_ip` and `addr_match_list` of OpenSSH).

use std::net::IpAddr;

/// Whether a connection from `address` is one that the list permits. A negated entry that matches refuses it whatever else
/// is in the list, and so does an entry that looks like a network and is none.
pub(super) fn matches_from(address: &str, list: &str) -> bool {
    let mut permitted = false;
    for entry in list.split(',') {
        let (negated, pattern) = entry.strip_prefix('!').map_or((false, entry), |rest| (true, rest));
        let hit = match pattern.split_once('/') {
            Some((network, bits)) => match in_network(address, network, bits) {
                Some(hit) => hit,
                None => return false,
            },
            None => glob(pattern.to_ascii_lowercase().as_bytes(), address.to_ascii_lowercase().as_bytes()),
        };
        if hit && negated {
            return false;
        }
        permitted |= hit;
    }
    permitted
}

/// `None` for what is not a network: no address, too long a mask, or bits set behind the mask.
fn in_network(address: &str, network: &str, bits: &str) -> Option<bool> {
    let network: IpAddr = network.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    let width = if network.is_ipv4() { 32 } else { 128 };
    if bits > width {
        return None;
    }
    let as_bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
    if as_bits(network) & !mask != 0 {
        return None;
    }
    let Ok(address) = address.parse::<IpAddr>() else { return Some(false) };
    Some(address.is_ipv4() == network.is_ipv4() && as_bits(address) & mask == as_bits(network))
}

/// `match_pattern`: `*` for any text, `?` for any one byte.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| text.get(skip..).is_some_and(|tail| glob(rest, tail))),
        Some((wanted, rest)) => {
            text.split_first().is_some_and(|(byte, tail)| (*wanted == b'?' || wanted == byte) && glob(rest, tail))
        }
    }
}
