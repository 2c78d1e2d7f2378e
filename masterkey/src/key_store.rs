//! A store of one master key, for people who use this crate without Toehold's own store.

use std::future::Future;
use std::path::PathBuf;

use toehold_core::Source;
use toehold_keygen::{KeyPair, PrivateKeyError};

/// Keeps a fleet's master key: one at the most.
///
/// Whoever implements it decides whether a fleet can be lost: the key that [`load`](MasterKeyStore::load) gives is the only one
/// that opens it. A key that `save` has reported as saved must be there after a crash of this process and of the machine.
pub trait MasterKeyStore: Send + Sync {
    /// The stored key.
    ///
    /// # Errors
    /// [`EmptyStoreError`] where none was ever stored. A key that is there and cannot be read is another error: a new one in
    /// its place would lock everybody out.
    fn load(&self) -> impl Future<Output = Result<KeyPair, MasterKeyStoreError>> + Send;

    /// Puts `key` in the place of the stored one, if any, in one step: whatever happens meanwhile, afterwards the store holds
    /// the old key or the new one, whole.
    ///
    /// # Errors
    /// [`MasterKeyStoreError`]; the store then holds the old key, or the new one.
    fn save(&self, key: &KeyPair) -> impl Future<Output = Result<(), MasterKeyStoreError>> + Send;
}

impl<K: MasterKeyStore + ?Sized> MasterKeyStore for &K {
    fn load(&self) -> impl Future<Output = Result<KeyPair, MasterKeyStoreError>> + Send {
        (**self).load()
    }

    fn save(&self, key: &KeyPair) -> impl Future<Output = Result<(), MasterKeyStoreError>> + Send {
        (**self).save(key)
    }
}

/// There is no master key in the store yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no master key in {place} yet")]
pub struct EmptyStoreError {
    /// Where one was looked for.
    pub place: String,
}

/// Why a master key could not be loaded or saved. Holds no part of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterKeyStoreError {
    /// None was ever stored.
    #[error(transparent)]
    Empty(#[from] EmptyStoreError),
    /// Others than its owner can get at the key, or put another in its place.
    #[error("{} may be {what} (mode {mode:04o}); chmod {wanted} it", path.display())]
    Loose {
        /// The file or directory.
        path: PathBuf,
        /// What others may do.
        what: &'static str,
        /// Its permission bits.
        mode: u32,
        /// What `chmod` is to be told.
        wanted: &'static str,
    },
    /// Something else is in the key's place. A link is not followed: replacing it would not replace what it leads to.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// What is stored is not a private key that can be used.
    #[error("what is in {} is not a private key that can be used", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PrivateKeyError,
    },
    /// The key cannot be written.
    #[error("the master key cannot be written")]
    Unwritable(#[source] PrivateKeyError),
    /// The system refused.
    #[error("{doing} {} failed", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// Another kind of store failed.
    #[error("{doing} failed")]
    Other {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Source,
    },
}
