//! The PROXY protocol, versions 1 and 2 (`proxy-protocol.txt` of `HAProxy`): who is behind a load balancer.
//!
//! Read from named load balancers alone, which have to send it; anybody else's would be a lie.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What every header of version 2 begins with.
const SIGNATURE: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
/// The longest header of version 1, with its line end.
const MAX_V1: usize = 107;
/// The most bytes that may follow the fixed part of version 2; addresses take 36 at most that are of use here.
const MAX_V2: usize = 2_048;

/// What a reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read this many bytes more, and no others: what follows the header is TLS.
    Read(usize),
    /// The header is whole: who is behind it; `None` where the load balancer speaks for itself.
    Done(Option<IpAddr>),
}

/// Bytes that are no such header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the load balancer's PROXY header cannot be read")]
pub struct ProxyError;

/// Looks at what was read so far.
///
/// # Errors
/// [`ProxyError`].
pub fn step(read: &[u8]) -> Result<Step, ProxyError> {
    let Some(start) = read.first_chunk::<12>() else { return Ok(Step::Read(12 - read.len())) };
    if *start == SIGNATURE { version_2(read) } else { version_1(read) }
}

fn version_1(read: &[u8]) -> Result<Step, ProxyError> {
    if !read.starts_with(b"PROXY ") || read.len() > MAX_V1 {
        return Err(ProxyError);
    }
    let Some(line) = read.strip_suffix(b"\r\n") else {
        return if read.contains(&b'\n') || read.len() == MAX_V1 { Err(ProxyError) } else { Ok(Step::Read(1)) };
    };
    let line = std::str::from_utf8(line).map_err(|_| ProxyError)?;
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(Step::Done(None)),
        ["PROXY", "TCP4", source, to, source_port, port] => {
            let (source, _): (Ipv4Addr, Ipv4Addr) = (parse(source)?, parse(to)?);
            ports(source_port, port)?;
            Ok(Step::Done(Some(source.into())))
        }
        ["PROXY", "TCP6", source, to, source_port, port] => {
            let (source, _): (Ipv6Addr, Ipv6Addr) = (parse(source)?, parse(to)?);
            ports(source_port, port)?;
            Ok(Step::Done(Some(IpAddr::V6(source).to_canonical())))
        }
        _ => Err(ProxyError),
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, ProxyError> {
    text.parse().map_err(|_| ProxyError)
}

fn ports(source: &str, to: &str) -> Result<(), ProxyError> {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    if is_port(source) && is_port(to) { Ok(()) } else { Err(ProxyError) }
}

fn version_2(read: &[u8]) -> Result<Step, ProxyError> {
    let Some((fixed, rest)) = read.split_first_chunk::<16>() else { return Ok(Step::Read(16 - read.len())) };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_V2 {
        return Err(ProxyError);
    }
    if rest.len() < length {
        return Ok(Step::Read(length - rest.len()));
    }
    if rest.len() > length {
        return Err(ProxyError);
    }
    match (command, family) {
        // LOCAL, such as a health check of its own; and a connection without an address.
        (0x20, _) | (0x21, 0x00) => Ok(Step::Done(None)),
        (0x21, 0x11) => {
            let (source, after) = rest.split_first_chunk::<4>().ok_or(ProxyError)?;
            if after.len() < 8 { Err(ProxyError) } else { Ok(Step::Done(Some(Ipv4Addr::from(*source).into()))) }
        }
        (0x21, 0x21) => {
            let (source, after) = rest.split_first_chunk::<16>().ok_or(ProxyError)?;
            let source = IpAddr::V6(Ipv6Addr::from(*source)).to_canonical();
            if after.len() < 20 { Err(ProxyError) } else { Ok(Step::Done(Some(source))) }
        }
        // Of no stream, or of a later version.
        _ => Err(ProxyError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as the gateway does, and says how many bytes it took.
    fn read(mut bytes: &[u8]) -> Result<(Option<IpAddr>, usize), ProxyError> {
        let (mut taken, all) = (Vec::new(), bytes.len());
        loop {
            match step(&taken)? {
                Step::Done(address) => return Ok((address, all - bytes.len())),
                Step::Read(count) => {
                    let (now, later) = bytes.split_at_checked(count).ok_or(ProxyError)?;
                    taken.extend_from_slice(now);
                    bytes = later;
                }
            }
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    #[test]
    fn version_1_is_read_and_not_a_byte_more() {
        let header = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
        let tls = [&header[..], b"\x16\x03\x01"].concat();
        assert_eq!(read(&tls), Ok((Some("192.0.2.1".parse().unwrap()), header.len())));
        assert_eq!(read(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n").unwrap().0, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(read(b"PROXY UNKNOWN\r\n\x16"), Ok((None, 15)));
        for bad in [
            &b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n"[..],
            b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            b"PROXZ TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(read(bad), Err(ProxyError), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(read(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat()), Err(ProxyError));
    }

    #[test]
    fn version_2_is_read_and_not_a_byte_more() {
        let four = [&[192, 0, 2, 1, 198, 51, 100, 2, 0, 1, 0, 2][..]].concat();
        let header = v2(0x21, 0x11, &four);
        assert_eq!(read(&[&header[..], b"\x16"].concat()), Ok((Some("192.0.2.1".parse().unwrap()), header.len())));
        // Further fields are passed over.
        assert_eq!(read(&v2(0x21, 0x11, &[&four[..], &[3, 0, 1, 9]].concat())).unwrap().0, Some("192.0.2.1".parse().unwrap()));
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        assert_eq!(read(&v2(0x21, 0x21, &six)).unwrap().0, Some("2001:db8::".parse().unwrap()));
        assert_eq!(read(&v2(0x20, 0x00, &[])).unwrap().0, None);
        assert_eq!(read(&v2(0x21, 0x00, &[])).unwrap().0, None);
        for bad in [v2(0x21, 0x11, &four[..11]), v2(0x11, 0x11, &four), v2(0x22, 0x11, &four), v2(0x21, 0x31, &four)] {
            assert_eq!(read(&bad), Err(ProxyError));
        }
        assert_eq!(read(&v2(0x21, 0x11, &[0; 4_000])), Err(ProxyError));
        assert_eq!(read(&header[..20]), Err(ProxyError));
    }

    use proptest::collection::vec;
    use proptest::prelude::*;

    /// What a load balancer writes, and whom it speaks of.
    fn written() -> impl Strategy<Value = (Vec<u8>, Option<IpAddr>)> {
        let v1 = |family: &str, from: IpAddr, to: IpAddr, ports: (u16, u16)| {
            format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        };
        let binary = |command: u8, family: u8, from: &[u8], to: &[u8], ports: (u16, u16), more: &[u8]| {
            v2(command, family, &[from, to, &ports.0.to_be_bytes(), &ports.1.to_be_bytes(), more].concat())
        };
        let parts = (
            any::<[u8; 4]>(),
            any::<[u8; 4]>(),
            any::<[u8; 16]>(),
            any::<[u8; 16]>(),
            any::<(u16, u16)>(),
            vec(any::<u8>(), 0..64),
        );
        (parts, 0..7_u8).prop_map(move |((four, to_four, six, to_six, ports, more), which)| match which {
            0 => (v1("TCP4", four.into(), to_four.into(), ports), Some(four.into())),
            1 => (v1("TCP6", six.into(), to_six.into(), ports), Some(IpAddr::from(six).to_canonical())),
            2 => (b"PROXY UNKNOWN\r\n".to_vec(), None),
            3 => (binary(0x21, 0x11, &four, &to_four, ports, &more), Some(four.into())),
            4 => (binary(0x21, 0x21, &six, &to_six, ports, &more), Some(IpAddr::from(six).to_canonical())),
            5 => (v2(0x20, 0x00, &more), None),
            _ => (v2(0x21, 0x00, &more), None),
        })
    }

    proptest! {
        #[test]
        fn what_a_load_balancer_writes_is_read_back((header, behind) in written(), tls in vec(any::<u8>(), 0..32)) {
            prop_assert_eq!(read(&[&header[..], &tls].concat()), Ok((behind, header.len())));
            // Cut anywhere it is no header, and more is asked for than there is.
            for length in 0..header.len() {
                prop_assert!(read(&header[..length]).is_err());
            }
        }

        #[test]
        fn whatever_comes_is_read_or_refused_and_never_for_long((header, _) in written(), start in 0..128_usize, noise in vec(any::<u8>(), 0..2_200)) {
            // The beginning of a header, and then anything.
            let bytes = [&header[..start.min(header.len())], &noise].concat();
            let mut taken = Vec::new();
            while let Ok(Step::Read(count)) = step(&taken) {
                prop_assert!(count > 0 && taken.len() + count <= 16 + MAX_V2);
                let Some(next) = bytes.get(taken.len()..taken.len() + count) else { break };
                taken.extend_from_slice(next);
            }
        }
    }
}
