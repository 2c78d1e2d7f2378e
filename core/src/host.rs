//! What is known of a managed host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::account::{Account, Route};
use crate::id::SessionId;
use crate::public_key::{Fingerprint, PublicKey};
use crate::record::Record;
use crate::store::{Key, KeyError};
use crate::time::Timestamp;

/// What a managed line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyRole {
    /// The fleet's master key, by which Toehold itself logs in.
    Master,
    /// A key that the operator asked to be put there, such as a colleague's.
    Selected,
}

/// A line that a host's `authorized_keys` should hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedKey {
    /// What it is for.
    pub role: KeyRole,
    /// The key.
    pub public_key: PublicKey,
    /// The options in front of it as they stand in the line, such as `restrict,command="internal-sftp"`; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// The comment behind it; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A host under management: `host/<account>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The account and the way to it.
    #[serde(flatten)]
    pub route: Route,
    /// The operator's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The operator's tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The account's home directory where it is not what the SFTP server starts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The lines that its `authorized_keys` should hold.
    pub keys: Vec<ManagedKey>,
    /// The session that brought it in.
    pub session: SessionId,
    /// When that session ended well.
    pub managed_since: Timestamp,
    /// Whether our keys are being taken away from it: written before the first of them goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removing: bool,
    /// Whether temporary lines on this host carry no expiry, because its SSH server does not know `expiry-time`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_expiry: bool,
    /// Under which master key it was last seen settled; `None` where that is not known, as before the first rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
}

/// A host that was seen to hold one master key alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The number of the rotation that had settled it, or that was the last one when it came in.
    pub generation: u64,
    /// That key.
    pub fingerprint: Fingerprint,
}

impl Record for HostRecord {}

impl HostRecord {
    /// `host/<account>`.
    ///
    /// # Errors
    /// [`KeyError`] for an account whose text no key can hold.
    pub fn key(account: &Account) -> Result<Key, KeyError> {
        Key::new(["host", &account.to_string()])
    }

    /// `host`, below which all of them lie.
    pub fn prefix() -> Key {
        Key::literal("host")
    }
}

/// How a host's key came to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostKeyTrust {
    /// The host proved it with the secret in the command that was pasted there.
    Proof,
    /// The operator named its fingerprint beforehand.
    Fingerprint,
    /// The operator said beforehand that the first key seen is to be taken.
    AcceptNew,
    /// The operator was shown its fingerprint and agreed.
    Asked,
    /// It was on record when the session began; how it had come there was taken off the record since.
    KnownBefore,
}

/// The host key at the end of a route: `knownhost/<path>`, see [`Route::host_key_path`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHost {
    /// The key.
    pub host_key: PublicKey,
    /// How it came to be trusted.
    pub trust: HostKeyTrust,
    /// When.
    pub since: Timestamp,
}

impl Record for KnownHost {}

impl KnownHost {
    /// `knownhost/<path>`.
    ///
    /// # Errors
    /// [`KeyError`] for a route whose text no key can hold.
    pub fn key(route: &Route) -> Result<Key, KeyError> {
        Key::new(["knownhost", &route.host_key_path()])
    }
}
