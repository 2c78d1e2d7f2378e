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
    /// A revocation broke off when some of the token's uses were revoked, or may have been. Run again, it finishes.
    #[error("{revoked} of the {uses} uses of the token are revoked for certain, and whoever has it may join with the others")]
    PartlyRevoked {
        /// How many are.
        revoked: u32,
        /// How many there are.
        uses: u32,
        /// Why it broke off.
        #[source]
        source: Box<DeskError>,
    },
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

impl DeskError {
    /// Whether it is the gateway's own trouble and no decision: what was begun may have taken place or not, and the client may come again.
    pub fn is_own_trouble(&self) -> bool {
        !matches!(self, Self::BadToken(_) | Self::PeerKey | Self::Refused(_) | Self::Superseded | Self::Unknown)
    }
}

impl From<KeyError> for DeskError {
    fn from(error: KeyError) -> Self {
        Self::Store(error.into())
    }
}
