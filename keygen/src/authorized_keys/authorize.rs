//! The question that sshd asks: may this key log in?

use std::net::IpAddr;

use toehold_core::{PublicKey, Timestamp};

use super::base64::Wanted;
use super::document::AuthorizedKeys;
use super::effect::Effect;
use super::lines::KeyLine;
use super::options::Options;

/// A login that is being tried.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    /// The host's time.
    pub now: Timestamp,
    /// How many seconds the host is ahead of UTC; matters to an `expiry-time` without `Z`.
    pub utc_offset: i32,
    /// The client's address; without it, a line with `from` admits nobody.
    pub peer: Option<IpAddr>,
}

/// The line that admits a login.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Authorized {
    /// The line's number, from 1.
    pub line: usize,
    /// Its options as they stand.
    pub options: Options,
    /// What they mean.
    pub effect: Effect,
}

impl AuthorizedKeys {
    /// The line by which sshd of OpenSSH 10.5 would admit `key` at `now` on a host that keeps UTC: [`authorizes_login`] for a
    /// client of unknown address.
    ///
    /// [`authorizes_login`]: AuthorizedKeys::authorizes_login
    pub fn authorizes(&self, key: &PublicKey, now: Timestamp) -> Option<Authorized> {
        self.authorizes_login(key, &Login { now, utc_offset: 0, peer: None })
    }

    /// The line by which sshd of OpenSSH 10.5 would admit a login with `key`: the first one that holds the key, is no
    /// certificate authority, and whose options are all known, well-formed and fulfilled.
    pub fn authorizes_login(&self, key: &PublicKey, login: &Login) -> Option<Authorized> {
        let wanted = Wanted::new(key);
        self.entries().filter(|entry| entry.holds(&wanted)).find_map(|entry| {
            let found = entry.key().filter(KeyLine::openssh_reads_key)?;
            let options = Options::parse(found.options().unwrap_or_default()).ok()?;
            let effect = options.effect(login.utc_offset).ok()?;
            effect.admits(login.now, login.peer).then(|| Authorized { line: entry.number(), options, effect })
        })
    }
}
