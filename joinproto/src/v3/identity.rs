//! Who a machine is: an Ed25519 key that it made itself, and the id that follows from it.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use super::keys;
use super::transcript::Digest;
use crate::encoding;

/// An agent's id: the first 16 bytes of a hash over its identity key, as 32 lower-case hex digits. Nobody else can have it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId([u8; 16]);

/// A text that is not an agent's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agent's id is 32 lower-case hex digits")]
pub struct AgentIdError;

impl AgentId {
    /// The id of an identity key, given by its 32 bytes.
    pub fn of_key(key: &[u8; 32]) -> Self {
        let hash = Sha512::new().chain_update(b"toehold join v3 agent id\0").chain_update(key).finalize();
        let mut id = [0; 16];
        id.iter_mut().zip(hash).for_each(|(place, byte)| *place = byte);
        Self(id)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encoding::hex(&self.0))
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentId({self})")
    }
}

impl FromStr for AgentId {
    type Err = AgentIdError;

    fn from_str(text: &str) -> Result<Self, AgentIdError> {
        encoding::unhex(text.as_bytes()).map(|id| Self(*id)).ok_or(AgentIdError)
    }
}

impl TryFrom<String> for AgentId {
    type Error = AgentIdError;

    fn try_from(text: String) -> Result<Self, AgentIdError> {
        text.parse()
    }
}

impl From<AgentId> for String {
    fn from(id: AgentId) -> Self {
        id.to_string()
    }
}

/// A new identity that is in nobody's file yet. Joining with it and then losing it would lose the token's use, so it has to be
/// saved first: a retry is the same admission only for the same identity.
pub struct FreshIdentity(SigningKey);

impl FreshIdentity {
    /// A fresh key.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Lends the 32 bytes that have to be saved (0600, synced).
    pub fn expose_seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The caller has saved the seed, durably.
    pub fn saved(self) -> AgentIdentity {
        AgentIdentity(self.0)
    }
}

impl fmt::Debug for FreshIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreshIdentity([redacted])")
    }
}

/// A machine's identity, which is durable.
pub struct AgentIdentity(SigningKey);

impl AgentIdentity {
    /// From the seed, as it was saved.
    pub fn from_saved(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The id that follows from it.
    pub fn id(&self) -> AgentId {
        AgentId::of_key(&self.public_key())
    }

    pub(crate) fn prove(&self, digest: &Digest) -> [u8; 64] {
        self.0.sign(&keys::proof_message(keys::IDENTITY_PROOF, digest)).to_bytes()
    }
}

impl fmt::Debug for AgentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentIdentity").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Whether the holder of this identity key signed this transcript.
pub(crate) fn is_proven(key: &[u8; 32], digest: &Digest, signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| {
        key.verify_strict(&keys::proof_message(keys::IDENTITY_PROOF, digest), &Signature::from_bytes(signature)).is_ok()
    })
}
