//! `nats://host[:port][,host…]/bucket`: where a shared store is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The port that NATS servers listen on.
const PORT: u16 = 4222;
/// The most servers that are named.
const MAX_SERVERS: usize = 16;

/// Where a shared store is: the servers of one NATS cluster, and a bucket of its `JetStream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsAddress {
    servers: Vec<(String, u16)>,
    bucket: String,
}

/// A text that is no [`NatsAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not such as nats://host,host/bucket: {reason}")]
pub struct NatsAddressError {
    text: String,
    reason: &'static str,
}

impl NatsAddress {
    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The servers, as async-nats takes them.
    pub(super) fn servers(&self) -> impl Iterator<Item = String> {
        self.servers.iter().map(|(host, port)| format!("nats://{host}:{port}"))
    }

    /// Whether every server is on this machine, so that nobody else reads what is not encrypted (N5). A name other than `localhost`
    /// is somebody else's to answer.
    pub fn is_loopback(&self) -> bool {
        let is_here = |host: &str| {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        self.servers.iter().all(|(host, _)| is_here(host))
    }
}

impl fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nats://")?;
        for (number, (host, port)) in self.servers.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{host}")?;
            if *port != PORT {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.bucket)
    }
}

impl FromStr for NatsAddress {
    type Err = NatsAddressError;

    fn from_str(text: &str) -> Result<Self, NatsAddressError> {
        let wrong = |reason| NatsAddressError { text: without_secrets(text), reason };
        let rest = text.strip_prefix("nats://").ok_or_else(|| wrong("it begins with nats://"))?;
        let (servers, bucket) = rest.split_once('/').ok_or_else(|| wrong("it names no bucket"))?;
        if servers.contains('@') {
            return Err(wrong("user and password do not stand in an address, but in a credentials file"));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if bucket.is_empty() || bucket.len() > 64 || !bucket.bytes().all(is_name) {
            return Err(wrong("a bucket's name has 1 to 64 letters, digits, - and _"));
        }
        let servers: Vec<_> =
            servers.split(',').map(server).collect::<Option<_>>().ok_or_else(|| wrong("a server is host or host:port"))?;
        if servers.len() > MAX_SERVERS {
            return Err(wrong("at most 16 servers are named"));
        }
        Ok(Self { servers, bucket: bucket.to_owned() })
    }
}

fn server(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (
                format!("[{address}]"),
                port.strip_prefix(':').map_or_else(|| port.is_empty().then_some(PORT), |port| port.parse().ok())?,
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), port.parse().ok()?),
            None => (text.to_owned(), PORT),
        },
    };
    let is_bare = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    (port != 0 && !host.is_empty() && (is_bare || host.starts_with('['))).then_some((host, port))
}

/// What stands before an `@` is not repeated.
fn without_secrets(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("nats://…@{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in ["nats://localhost/toehold", "nats://a.example.net,b.example.net:4333/fleet_1", "nats://[::1]:4223/x"] {
            assert_eq!(text.parse::<NatsAddress>().unwrap().to_string(), text);
        }
        assert_eq!("nats://a:4222/x".parse::<NatsAddress>().unwrap().to_string(), "nats://a/x");
    }

    #[test]
    fn loopback_is_all_servers_or_none() {
        for (text, here) in [
            ("nats://localhost/x", true),
            ("nats://127.0.0.1:1,[::1]:2/x", true),
            ("nats://127.0.0.1,10.0.0.1/x", false),
            ("nats://localhost.example.net/x", false),
            ("nats://[2001:db8::1]/x", false),
        ] {
            assert_eq!(text.parse::<NatsAddress>().unwrap().is_loopback(), here, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_secrets() {
        for text in [
            "",
            "nats://",
            "nats://a",
            "nats:///x",
            "nats://a/",
            "nats://a/b/c",
            "nats://a/b.c",
            "nats://a:0/x",
            "nats://a:b/x",
            "nats://a,/x",
            "nats://[::1/x",
            "nats://[a]/x",
            "http://a/x",
            "nats://a b/x",
        ] {
            assert!(text.parse::<NatsAddress>().is_err(), "{text}");
        }
        let said = "nats://me:secret@host/x".parse::<NatsAddress>().unwrap_err().to_string();
        assert!(!said.contains("secret") && said.contains("credentials"), "{said}");
    }
}
