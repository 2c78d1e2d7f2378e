//! Why a rotation could not be run.

use toehold_core::{Fingerprint, KeyError, RotationPhase, StoreError, Timestamp};
use toehold_keygen::{KeyGenerationError, PrivateKeyError};

/// Why a rotation could not be begun, taken up or gone on with. What went wrong with a single host is part of the
/// [`Outcome`](crate::Outcome) instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// There is one already.
    #[error(
        "rotation {number} is open ({phase}): {operator} has led it since {started_at} and was last at it at {seen_at}; resume it or roll it back"
    )]
    AlreadyOpen {
        /// Its number.
        number: u64,
        /// Where it stands.
        phase: RotationPhase,
        /// Who leads it.
        operator: String,
        /// Since when it is open.
        started_at: Timestamp,
        /// When its leader last wrote.
        seen_at: Timestamp,
    },
    /// Its leader may be alive.
    #[error("rotation {number} is being led by {operator}, who was last at it at {seen_at}")]
    BeingLed {
        /// Its number.
        number: u64,
        /// Who leads it.
        operator: String,
        /// When its leader last wrote.
        seen_at: Timestamp,
    },
    /// There is none to take up.
    #[error("no rotation is open")]
    NoneOpen,
    /// The store has no current master key.
    #[error("the store has no master key")]
    NoMasterKey,
    /// A key has no private half in the store that opens. A key that lives in an agent's memory alone is not rotated: with
    /// that memory the fleet would be lost.
    #[error("the store holds no private half of {fingerprint} that can be opened: {reason}")]
    NoDurableCopy {
        /// Of the key.
        fingerprint: Fingerprint,
        /// Why not.
        reason: String,
    },
    /// No host is under management: none could prove a new key, and none has the old one.
    #[error("no host is managed, so there is none that could prove a new master key, and none that needs one")]
    NoHosts,
    /// No host is labelled or tagged so.
    #[error("no host has the label or tag {0}, by which the first hosts were to be chosen")]
    NoCanary(String),
    /// The new key could not be made.
    #[error("the new key could not be made")]
    KeyGeneration(#[from] KeyGenerationError),
    /// The random source has brought forth the current key once more, as that of a virtual machine that was copied may.
    #[error("the new key is the current one, {0}: the random source repeats itself")]
    RepeatedKey(Fingerprint),
    /// The new key could not be written as a file.
    #[error("the new key could not be written")]
    PrivateKey(#[from] PrivateKeyError),
    /// The new key could not be sealed.
    #[error("the new key could not be sealed: {0}")]
    Sealing(String),
    /// Something failed in the middle of a rotation: it stands as far as it had come. Resume it, or roll it back.
    #[error("rotation {number} is not finished")]
    Unfinished {
        /// Its number.
        number: u64,
        /// What failed.
        #[source]
        source: Box<RotationError>,
    },
    /// The store failed while a rotation was being begun or taken up, so that nobody knows whether it was. No host was touched.
    #[error("it is not known whether rotation {number} is under way")]
    InDoubt {
        /// Its number.
        number: u64,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<KeyError> for RotationError {
    fn from(error: KeyError) -> Self {
        Self::Store(error.into())
    }
}

/// An error and its sources in one line.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
