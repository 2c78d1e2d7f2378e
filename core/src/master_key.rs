//! The fleet's master keys in the store, and which of them is current.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::public_key::{Fingerprint, PublicKey};
use crate::record::Record;
use crate::store::{Key, KeyError};
use crate::time::Timestamp;

/// A master key that the store holds: `masterkey/<fingerprint>`, the fingerprint as [`Fingerprint::to_segment`] writes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKeyRecord {
    /// The public half.
    pub public_key: PublicKey,
    /// The comment that stands in the private key file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The private half as an OpenSSH private key file, sealed to the identities that may use it.
    pub sealed: String,
    /// The number of the rotation that it was made for; 0 for the first of all.
    #[serde(default)]
    pub generation: u64,
}

impl fmt::Debug for MasterKeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKeyRecord")
            .field("public_key", &self.public_key)
            .field("comment", &self.comment)
            .field("created_at", &self.created_at)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Record for MasterKeyRecord {}

impl MasterKeyRecord {
    /// `masterkey/<fingerprint>`.
    ///
    /// # Errors
    /// None in practice: a fingerprint's segment is always one.
    pub fn key(fingerprint: &Fingerprint) -> Result<Key, KeyError> {
        Key::new(["masterkey", &fingerprint.to_segment()])
    }

    /// `masterkey`, below which all of them lie, and [`CurrentMasterKey`] beside them.
    pub fn prefix() -> Key {
        Key::literal("masterkey")
    }
}

/// Which master key is in use: `masterkey/current`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentMasterKey {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// The number of the last rotation that ended. The next one has this plus one, so that a single read tells which rotation
    /// can be open: no list is needed, and a stale one does no harm.
    #[serde(default)]
    pub generation: u64,
}

impl Record for CurrentMasterKey {}

impl CurrentMasterKey {
    /// `masterkey/current`.
    ///
    /// # Errors
    /// None in practice.
    pub fn key() -> Result<Key, KeyError> {
        Key::new(["masterkey", "current"])
    }
}

/// A master key that is no longer one: `retired/<fingerprint>`. Kept for ever, so that a copy of it on a host is known for
/// what it is; it holds no private half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredKey {
    /// The public half.
    pub public_key: PublicKey,
    /// The rotation that retired it: a host that was settled by it, or by a later one, was seen to refuse the key.
    pub generation: u64,
    /// When.
    pub retired_at: Timestamp,
}

impl Record for RetiredKey {}

impl RetiredKey {
    /// `retired/<fingerprint>`.
    ///
    /// # Errors
    /// None in practice.
    pub fn key(fingerprint: &Fingerprint) -> Result<Key, KeyError> {
        Key::new(["retired", &fingerprint.to_segment()])
    }

    /// `retired`, below which all of them lie.
    pub fn prefix() -> Key {
        Key::literal("retired")
    }
}
