//! Accounts (`user@host[:port]`) and the routes that lead to them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The port of `sshd` where an account names none (RFC 4253 §4.1).
pub const DEFAULT_PORT: u16 = 22;

/// A login on a host: user, host and TCP port.
///
/// Written `user@host[:port]`; an IPv6 address stands in brackets, `user@[2001:db8::1]:2222`. The host is kept in lower
/// case, the user as given. [`Display`](fmt::Display) prints the port only where it is not 22, so that one account has
/// one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account {
    user: String,
    host: String,
    port: u16,
}

/// Why a text is not an [`Account`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// No `@` between user and host.
    #[error("\"{0}\" has no user: write user@host[:port]")]
    NoUser(String),
    /// The user is empty, longer than 255 bytes, begins with `-`, or has a control character, blank, `:`, `/` or quote.
    #[error("\"{0}\" is not a user name that a host can have")]
    BadUser(String),
    /// The host is neither a host name (letters, digits, `.`, `-`, `_`; at most 253 bytes) nor an address.
    #[error("\"{0}\" is not a host name or address (an IPv6 address stands in brackets: user@[2001:db8::1])")]
    BadHost(String),
    /// The port is not a number from 1 to 65535.
    #[error("\"{0}\" is not a port (1 to 65535)")]
    BadPort(String),
}

impl Account {
    /// An account from its parts; `host` may be an IPv6 address without brackets.
    ///
    /// # Errors
    /// [`AccountError`] where a part is not what its name says.
    pub fn new(user: &str, host: &str, port: u16) -> Result<Self, AccountError> {
        if !valid_user(user) {
            return Err(AccountError::BadUser(user.to_owned()));
        }
        if !valid_host(host) {
            return Err(AccountError::BadHost(host.to_owned()));
        }
        if port == 0 {
            return Err(AccountError::BadPort("0".to_owned()));
        }
        Ok(Self { user: user.to_owned(), host: host.to_ascii_lowercase(), port })
    }

    /// The login name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Host name or address in lower case, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port of the host's SSH server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port` as a socket address is written, with brackets around an IPv6 address.
    pub fn endpoint(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

fn valid_user(user: &str) -> bool {
    !user.is_empty()
        && user.len() <= 255
        && !user.starts_with('-')
        && !user.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/' | '\'' | '"'))
}

fn valid_host(host: &str) -> bool {
    if host.contains(':') {
        let (address, zone) = host.split_once('%').map_or((host, None), |(a, z)| (a, Some(z)));
        return Ipv6Addr::from_str(address).is_ok()
            && zone.is_none_or(|z| !z.is_empty() && z.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
    }
    !host.is_empty()
        && host.len() <= 253
        && !host.starts_with(['-', '.'])
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, rest) = text.rsplit_once('@').ok_or_else(|| AccountError::NoUser(text.to_owned()))?;
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, after) = bracketed.split_once(']').ok_or_else(|| AccountError::BadHost(rest.to_owned()))?;
            if !host.contains(':') {
                return Err(AccountError::BadHost(rest.to_owned()));
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(AccountError::BadHost(rest.to_owned())),
            }
        } else {
            match rest.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(AccountError::BadHost(rest.to_owned())),
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().map_err(|_| AccountError::BadPort(port.to_owned()))?
            }
            Some(port) => return Err(AccountError::BadPort(port.to_owned())),
        };
        Self::new(user, host, port)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port == DEFAULT_PORT) {
            (false, true) => write!(f, "{}@{}", self.user, self.host),
            (true, true) => write!(f, "{}@[{}]", self.user, self.host),
            (_, false) => write!(f, "{}@{}", self.user, self.endpoint()),
        }
    }
}

impl TryFrom<String> for Account {
    type Error = AccountError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Account> for String {
    fn from(account: Account) -> Self {
        account.to_string()
    }
}

/// An account and the hosts that a connection to it passes through, outermost first (`ssh -J`).
///
/// A host key is pinned for the whole route: the same address behind another jump host is another host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Where the connection ends.
    pub account: Account,
    /// The jump hosts in the order in which they are passed; empty for a direct connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jumps: Vec<Account>,
}

impl Route {
    /// A route without jump hosts.
    pub fn direct(account: Account) -> Self {
        Self { account, jumps: Vec::new() }
    }

    /// The name under which the host key at the end of this route is kept: every endpoint on the way, joined by `>`.
    /// Users do not matter to it, ports do.
    pub fn host_key_path(&self) -> String {
        let mut path = String::new();
        for jump in &self.jumps {
            path.push_str(&jump.endpoint());
            path.push('>');
        }
        path.push_str(&self.account.endpoint());
        path
    }

    /// Whether both lead to the account through the same jump hosts.
    pub fn same_way(&self, other: &Self) -> bool {
        self.jumps == other.jumps
    }

    /// The way to the account in words: `directly`, or `through` and the jump hosts.
    pub fn way(&self) -> String {
        if self.jumps.is_empty() {
            return "directly".to_owned();
        }
        format!("through {}", self.jumps.iter().map(Account::to_string).collect::<Vec<_>>().join(", "))
    }
}

impl From<Account> for Route {
    fn from(account: Account) -> Self {
        Self::direct(account)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.jumps.is_empty() { write!(f, "{}", self.account) } else { write!(f, "{} {}", self.account, self.way()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_written_forms_are_read() {
        for (text, user, host, port, shown) in [
            ("deploy@web1", "deploy", "web1", 22, "deploy@web1"),
            ("deploy@Web1.Example.NET:22", "deploy", "web1.example.net", 22, "deploy@web1.example.net"),
            ("deploy@10.0.0.7:2222", "deploy", "10.0.0.7", 2222, "deploy@10.0.0.7:2222"),
            ("root@[2001:db8::1]", "root", "2001:db8::1", 22, "root@[2001:db8::1]"),
            ("root@[fe80::1%eth0]:2200", "root", "fe80::1%eth0", 2200, "root@[fe80::1%eth0]:2200"),
            ("someone@corp.example@host", "someone@corp.example", "host", 22, "someone@corp.example@host"),
        ] {
            let account: Account = text.parse().unwrap();
            assert_eq!((account.user(), account.host(), account.port()), (user, host, port), "{text}");
            assert_eq!(account.to_string(), shown);
        }
    }

    #[test]
    fn malformed_accounts_are_refused_by_part() {
        for (text, want) in [
            ("web1", "has no user"),
            ("@web1", "not a user name"),
            ("-oProxyCommand=x@web1", "not a user name"),
            ("a b@web1", "not a user name"),
            ("deploy@", "not a host name"),
            ("deploy@-v", "not a host name"),
            ("deploy@we$b", "not a host name"),
            ("deploy@2001:db8::1", "not a host name"),
            ("deploy@[2001:db8::1", "not a host name"),
            ("deploy@[web1]", "not a host name"),
            ("deploy@[::1]x", "not a host name"),
            ("deploy@web1:", "not a port"),
            ("deploy@web1:0", "not a port"),
            ("deploy@web1:+22", "not a port"),
            ("deploy@web1:65536", "not a port"),
        ] {
            let error = text.parse::<Account>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn a_pin_belongs_to_the_whole_route() {
        let account: Account = "deploy@10.0.0.7".parse().unwrap();
        let direct = Route::direct(account.clone());
        let jumped = Route { account, jumps: vec!["ops@bastion:2222".parse().unwrap()] };
        assert_eq!(direct.host_key_path(), "10.0.0.7:22");
        assert_eq!(jumped.host_key_path(), "bastion:2222>10.0.0.7:22");
        assert!(!direct.same_way(&jumped) && jumped.same_way(&jumped.clone()));
        assert_eq!((direct.to_string(), direct.way()), ("deploy@10.0.0.7".to_owned(), "directly".to_owned()));
        assert_eq!(jumped.to_string(), "deploy@10.0.0.7 through ops@bastion:2222");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(text in "\\PC{0,40}") {
            if let Ok(account) = text.parse::<Account>() {
                prop_assert_eq!(account.to_string().parse::<Account>(), Ok(account));
            }
        }
    }
}
