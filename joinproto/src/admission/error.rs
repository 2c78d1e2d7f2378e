//! Why admission did not do as asked, and what seals its secrets.

use toehold_core::{KeyError, SecretBytes, StoreError};

use super::decide::Refusal;
use crate::keyring::KeyringError;

/// Seals secrets for rest in a store.
pub trait Vault: Send + Sync {
    /// Seals `secret`; only [`Vault::open`] under the same name brings it back.
    ///
    /// # Errors
    /// Why not, in words, without the secret.
    fn seal(&self, name: &str, secret: &SecretBytes) -> Result<String, String>;

    /// Opens what [`Vault::seal`] made.
    ///
    /// # Errors
    /// Why not, in words.
    fn open(&self, name: &str, sealed: &str) -> Result<SecretBytes, String>;
}

/// Why admission did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeskError {
    /// The token to be made cannot be.
    #[error("no such token can be made: {0}")]
    BadToken(&'static str),
    /// Others kept writing the same records; nothing was decided.
    #[error("too many others at once; try again")]
    Busy,
    /// A keyring in the store is none.
    #[error("the keyring of agent {agent} cannot be read")]
    Keyring {
        /// Whose.
        agent: String,
        /// What is wrong with it.
        #[source]
        source: KeyringError,
    },
    /// The client's ephemeral key is of small order.
    #[error("the client's ephemeral key is not one to agree on a secret with")]
    PeerKey,
    /// Not admitted, after proof.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another attempt of the same machine came first; it may try again.
    #[error("another attempt of the same agent came first; join again")]
    Superseded,
    /// There is no such token or agent, or what was presented does not prove it. Nothing is told to the peer.
    #[error("there is no such token or agent, or it is not proven")]
    Unknown,
    /// Something cannot be sealed or opened.
    #[error("what belongs to {name} cannot be sealed or opened: {reason}")]
    Vault {
        /// To what it belongs.
        name: String,
        /// Why, in words.
        reason: String,
    },
}

impl From<KeyError> for DeskError {
    fn from(error: KeyError) -> Self {
        Self::Store(error.into())
    }
}
