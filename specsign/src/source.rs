//! Where an archive is fetched from.

use std::fmt;

/// Which kinds of source a node takes. `https` always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourcePolicy {
    /// Also `http`, where everybody on the way reads the credentials. The archive's checksum is checked all the same.
    pub allow_http: bool,
    /// Also `file`, for what another program has fetched.
    pub allow_file: bool,
}

/// The most bytes of a source.
pub const MAX_SOURCE: usize = 4096;

/// The scheme of a [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle each")]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// HTTP in clear.
    Http,
    /// A file of this machine.
    File,
}

/// A URL that can be fetched and can be shown to anybody: no user, no password, no fragment, nothing to be decoded twice.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Source {
    url: String,
    scheme: Scheme,
    host: String,
    port: u16,
}

/// Why a text is no [`Source`]. Never holds the text, which could have a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Not a URL of RFC 3986 with a scheme, a host and a path.
    #[error("it is not a URL such as https://files.example.net/machine.tgz ({0})")]
    NotAUrl(&'static str),
    /// The scheme is not one that this node takes.
    #[error("it is {scheme}, which this node does not take; https always, http and file only where allowed")]
    Scheme {
        /// The scheme.
        scheme: &'static str,
    },
    /// There is a user, perhaps with a password, before the host.
    #[error("it has a user in the URL, where it would be logged; use username and password")]
    UserInfo,
}

impl Source {
    /// Reads and checks a URL.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn parse(text: &str, policy: SourcePolicy) -> Result<Self, SourceError> {
        use SourceError::{NotAUrl, UserInfo};
        if text.len() > MAX_SOURCE {
            return Err(NotAUrl("it is too long"));
        }
        check_characters(text)?;
        let (scheme, rest) = text.split_once("://").ok_or(NotAUrl("no scheme"))?;
        let scheme = match scheme {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            "file" => Scheme::File,
            _ => return Err(SourceError::Scheme { scheme: "of another scheme" }),
        };
        match scheme {
            Scheme::Http if !policy.allow_http => return Err(SourceError::Scheme { scheme: "http" }),
            Scheme::File if !policy.allow_file => return Err(SourceError::Scheme { scheme: "file" }),
            _ => {}
        }
        let (authority, path) = rest.split_once('/').ok_or(NotAUrl("no path"))?;
        if authority.contains('@') {
            return Err(UserInfo);
        }
        if path.is_empty() {
            return Err(NotAUrl("no path"));
        }
        if scheme == Scheme::File {
            if !authority.is_empty() {
                return Err(NotAUrl("a file has no host"));
            }
            if path.contains(['%', '?']) || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err(NotAUrl("a file's path is absolute and plain"));
            }
            return Ok(Self { url: text.to_owned(), scheme, host: String::new(), port: 0 });
        }
        let (host, port) = split_port(authority, if scheme == Scheme::Https { 443 } else { 80 })?;
        Ok(Self { url: text.to_owned(), scheme, host: host.to_ascii_lowercase(), port })
    }

    /// The URL as it was given.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Its scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its host, in lower case, without the brackets of an IPv6 address; empty for a file.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port, 0 for a file.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of a file; `None` for others.
    pub fn file_path(&self) -> Option<&str> {
        if self.scheme == Scheme::File { self.url.strip_prefix("file://") } else { None }
    }

    /// Whether both have the same scheme, host and port.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.host == other.host && self.port == other.port
    }

    pub(crate) fn takes_credentials(&self) -> bool {
        self.scheme != Scheme::File
    }
}

/// RFC 3986 §2: unreserved, reserved without `#`, and whole percent escapes.
fn check_characters(text: &str) -> Result<(), SourceError> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => bytes.next().zip(bytes.next()).is_some_and(|(a, b)| a.is_ascii_hexdigit() && b.is_ascii_hexdigit()),
            b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'?' | b'[' | b']' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')'
            | b'*' | b'+' | b',' | b';' | b'=' => true,
            _ => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return Err(SourceError::NotAUrl("a character that no URL has, or a broken escape"));
        }
    }
    Ok(())
}

fn split_port(authority: &str, default: u16) -> Result<(&str, u16), SourceError> {
    use SourceError::NotAUrl;
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(NotAUrl("a broken IPv6 address"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(NotAUrl("a broken IPv6 address"));
        }
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(NotAUrl("a broken port"))?) })
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    if !authority.starts_with('[') && (host.is_empty() || !host.bytes().all(named)) {
        return Err(NotAUrl("no host"));
    }
    let port = match port {
        None => default,
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().ok().filter(|port| *port != 0).ok_or(NotAUrl("a broken port"))?
        }
        Some(_) => return Err(NotAUrl("a broken port")),
    };
    Ok((host, port))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}
