//! The patterns of the option `from` (`ssh_config(5)`, `PATTERNS`, and CIDR networks).

use std::net::IpAddr;

/// The longest pattern that sshd compares with a host name.
const LONGEST_PATTERN: usize = 1022;

/// Whether sshd lets a client at `peer` pass, by a server that looks up no host names (`UseDNS no`, the default): the
/// client's name is then its address.
pub(super) fn from_matches(patterns: &[u8], peer: IpAddr) -> bool {
    let Ok(patterns) = str::from_utf8(patterns) else { return false };
    let peer = peer.to_canonical();
    let name = peer.to_string();
    let mut found = false;
    for entry in patterns.split(',') {
        let (pattern, negated) = entry.strip_prefix('!').map_or((entry, false), |pattern| (pattern, true));
        let hit = match network(pattern) {
            _ if pattern.is_empty() => return false,
            Network::Malformed => return false,
            Network::Of(network, bits) => shares_prefix(peer, network, bits),
            Network::None => {
                pattern.len() <= LONGEST_PATTERN && wildcard(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes())
            }
        };
        if hit && negated {
            return false;
        }
        found |= hit;
    }
    found
}

enum Network {
    None,
    Malformed,
    Of(IpAddr, u8),
}

fn network(pattern: &str) -> Network {
    let (address, bits) = pattern.split_once('/').map_or((pattern, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return Network::None };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => width,
        Some(bits) => match bits.parse::<u8>() {
            Ok(bits) if bits <= width => bits,
            _ => return Network::None,
        },
    };
    // A network with bits behind its mask is an error to sshd, for the whole list.
    if host_bits(address, bits) { Network::Malformed } else { Network::Of(address, bits) }
}

/// The address as a number, left-aligned in 128 bits.
fn aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn host_bits(address: IpAddr, bits: u8) -> bool {
    aligned(address).checked_shl(u32::from(bits)).unwrap_or(0) != 0
}

fn shares_prefix(left: IpAddr, right: IpAddr, bits: u8) -> bool {
    let unshared = 128 - u32::from(bits);
    left.is_ipv4() == right.is_ipv4() && (aligned(left) ^ aligned(right)).checked_shr(unshared).unwrap_or(0) == 0
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters and `?` for one.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on when a mismatch makes the last `*` take one more character.
    let mut retry = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                retry = Some((at, seen));
            }
            Some(wanted) if *wanted == b'?' || Some(wanted) == text.get(seen) => {
                at += 1;
                seen += 1;
            }
            _ => match &mut retry {
                Some((after_star, taken)) => {
                    *taken += 1;
                    (at, seen) = (*after_star, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_ssh_config_5() {
        for (patterns, peer, passes) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.0/8", "127.9.9.9", true),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("127.0.0.1/8", "127.0.0.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("127.*", "127.0.0.1", true),
            ("127.0.0.?", "127.0.0.1", true),
            ("127.0.0.?", "127.0.0.12", false),
            ("*", "::1", true),
            ("*,!127.0.0.1", "127.0.0.1", false),
            ("!127.0.0.1", "127.0.0.2", false),
            ("!127.0.0.1,127.*", "127.0.0.2", true),
            ("host.example.net,10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1,", "10.0.0.1", false),
            ("", "10.0.0.1", false),
        ] {
            assert_eq!(from_matches(patterns.as_bytes(), peer.parse().unwrap()), passes, "{patterns} {peer}");
        }
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let pattern = "*a".repeat(500) + "*b";
        assert!(!wildcard(pattern.as_bytes(), &[b'a'; 2000]));
        assert!(wildcard(pattern.as_bytes(), &[[b'a'; 2000].as_slice(), b"b"].concat()));
    }
}
