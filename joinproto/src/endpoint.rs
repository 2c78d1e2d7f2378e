//! Where a gateway listens.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::JoinError;

/// A host and a port: `gw.example.net:7443`, `192.0.2.1:7443`, `[2001:db8::1]:7443`. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
    is_v6: bool,
}

impl Endpoint {
    /// The longest text form in bytes.
    pub const MAX: usize = 255;

    /// The host without brackets: the name that the certificate has to be for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v6 { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl FromStr for Endpoint {
    type Err = JoinError;

    fn from_str(text: &str) -> Result<Self, JoinError> {
        let (host, port) = text.rsplit_once(':').ok_or(JoinError::InvalidEndpoint)?;
        let number: u16 = port.parse().map_err(|_| JoinError::InvalidEndpoint)?;
        if text.len() > Self::MAX || number == 0 || number.to_string() != port {
            return Err(JoinError::InvalidEndpoint);
        }
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => inner.parse::<Ipv6Addr>().map_err(|_| JoinError::InvalidEndpoint)?.to_string(),
            None if host.parse::<Ipv4Addr>().is_ok() || is_name(host) => host.to_ascii_lowercase(),
            None => return Err(JoinError::InvalidEndpoint),
        };
        Ok(Self { host, port: number, is_v6: bracketed.is_some() })
    }
}

/// A host name: labels of letters, digits and hyphens, the last not of digits alone (that would be an address).
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253
        && host.split('.').all(is_label)
        && !host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_printed() {
        for text in ["gw.example.net:7443", "192.0.2.1:1", "[2001:db8::1]:65535", "localhost:9090"] {
            assert_eq!(text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("GW.Example.net:7443".parse::<Endpoint>().unwrap().host(), "gw.example.net");
        for bad in [
            "",
            ":",
            "gw",
            "gw:",
            "gw:0",
            "gw:65536",
            "gw:+1",
            "gw:01",
            ":1",
            "a b:1",
            "2001:db8::1:1",
            "[::1]",
            "[gw]:1",
            "1.2.3:1",
            "-a:1",
            "a..b:1",
            "gw:1\n",
            "https://gw:1",
            "gw/x:1",
            "300.1.1.1:1",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(JoinError::InvalidEndpoint), "{bad}");
        }
    }
}
