//! How a simulated host is set up, and whom it lets in.

use crate::public_key::{Fingerprint, PublicKey};
use crate::time::Timestamp;

use super::authorized_keys::{self, Grant};

/// What a host's sshd makes of `expiry-time="…"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryTime {
    /// OpenSSH before 7.7: an unknown option, which makes the line refuse its key.
    Unknown,
    /// OpenSSH 7.7 to 9.0: a time in the host's zone; one in UTC (`…Z`) is malformed, which makes the line refuse its key.
    LocalOnly,
    /// OpenSSH from 9.1.
    LocalAndUtc,
}

/// How a simulated host behaves. The default is a present-day OpenSSH as distributions set it up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a host, most named for lines of sshd_config(5)")]
pub struct HostSettings {
    /// How far the host's clock is ahead of the world's, in seconds.
    pub clock_skew: i64,
    /// The host's time zone: seconds east of UTC, without summer time, since `expiry-time` is read in standard time.
    pub utc_offset: i64,
    /// What its sshd knows of expiry.
    pub expiry_time: ExpiryTime,
    /// What the server says to be ([`HostSession::software`](crate::HostSession::software)) instead of a version of OpenSSH
    /// that fits `expiry_time`; empty for a server that does not say.
    pub software: Option<String>,
    /// Where connections come from, as the host sees it; for `from="…"`.
    pub client_address: String,
    /// `AuthorizedKeysFile`; `%h`, `%u` and `%%` are filled in, a relative path begins in the home directory.
    pub authorized_keys_files: Vec<String>,
    /// `StrictModes`: a file that others can write to lets nobody in.
    pub strict_modes: bool,
    /// Key types that `PubkeyAcceptedAlgorithms` leaves out, such as `ssh-rsa`.
    pub refused_algorithms: Vec<String>,
    /// Keys in `RevokedKeys`.
    pub revoked: Vec<Fingerprint>,
    /// Whoever comes gets in, as with a host that somebody put in the middle.
    pub accept_any_key: bool,
    /// Whether there is an SFTP server at all.
    pub sftp: bool,
    /// `ChrootDirectory` of the SFTP server, an absolute path; `real_path(".")` then is `/`.
    pub chroot: Option<String>,
    /// Whether the SFTP server has `posix-rename@openssh.com`.
    pub atomic_rename: bool,
    /// Whether the SFTP server has `fsync@openssh.com`.
    pub sync: bool,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            clock_skew: 0,
            utc_offset: 0,
            expiry_time: ExpiryTime::LocalAndUtc,
            software: None,
            client_address: "192.0.2.10".to_owned(),
            authorized_keys_files: vec![".ssh/authorized_keys".to_owned(), ".ssh/authorized_keys2".to_owned()],
            strict_modes: true,
            refused_algorithms: Vec::new(),
            revoked: Vec::new(),
            accept_any_key: false,
            sftp: true,
            chroot: None,
            atomic_rename: true,
            sync: true,
        }
    }
}

impl HostSettings {
    /// What the server says to be.
    pub(super) fn says_to_be(&self) -> Option<String> {
        let fitting = match self.expiry_time {
            ExpiryTime::Unknown => "OpenSSH_7.4",
            ExpiryTime::LocalOnly => "OpenSSH_8.9p1 Ubuntu-3",
            ExpiryTime::LocalAndUtc => "OpenSSH_9.2p1 Debian-2",
        };
        match &self.software {
            Some(text) => (!text.is_empty()).then(|| text.clone()),
            None => Some(fitting.to_owned()),
        }
    }

    /// Whether a login by `key` at `now` (by the host's clock) is granted by a file with these bytes, as sshd(8) reads it;
    /// then what the line that grants it says.
    ///
    /// A reader of its own, written against OpenSSH's source and not against keygen's document, so that either can be tested
    /// with the other. Certificates are not modelled.
    pub fn grants(&self, authorized_keys: &[u8], key: &PublicKey, now: Timestamp) -> Option<Grant> {
        if self.refused_algorithms.iter().any(|name| name == key.algorithm()) || self.revoked.contains(&key.fingerprint()) {
            return None;
        }
        authorized_keys::find(self, authorized_keys, key, now.unix_seconds())
    }
}
