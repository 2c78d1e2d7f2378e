//! `from="…"`: a list of addresses, networks and patterns (`match_host_and_ip` and `addr_match_list` of OpenSSH).

use std::net::IpAddr;

/// Whether a connection from `address` is one that the list permits. A negated entry that matches refuses it whatever else
/// is in the list, and so does an empty entry, or a network with a mask that does not fit it.
pub(super) fn matches_from(address: &str, list: &str) -> bool {
    let mut permitted = false;
    for entry in list.split(',') {
        let (negated, pattern) = entry.strip_prefix('!').map_or((false, entry), |rest| (true, rest));
        let hit = match Network::parse(pattern) {
            _ if pattern.is_empty() => return false,
            Ok(network) => network.contains(address),
            Err(NoNetwork::Inconsistent) => return false,
            Err(NoNetwork::Text) => glob(pattern.to_ascii_lowercase().as_bytes(), address.to_ascii_lowercase().as_bytes()),
        };
        if hit && negated {
            return false;
        }
        permitted |= hit;
    }
    permitted
}

struct Network {
    address: IpAddr,
    mask: u128,
}

enum NoNetwork {
    /// Not written as one, so that it is a pattern for the text of the address.
    Text,
    /// A mask that is too long, or bits behind it.
    Inconsistent,
}

/// An address from the left, so that a mask is the same for both families.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Network {
    /// `addr_pton_cidr`.
    fn parse(text: &str) -> Result<Self, NoNetwork> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| NoNetwork::Text)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => width,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse::<u32>().ok().filter(|length| *length <= 128).ok_or(NoNetwork::Text)?
            }
            Some(_) => return Err(NoNetwork::Text),
        };
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        if length > width || bits(address) & !mask != 0 {
            return Err(NoNetwork::Inconsistent);
        }
        Ok(Self { address, mask })
    }

    fn contains(&self, address: &str) -> bool {
        let Ok(address) = address.parse::<IpAddr>() else { return false };
        address.is_ipv4() == self.address.is_ipv4() && bits(address) & self.mask == bits(self.address)
    }
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
