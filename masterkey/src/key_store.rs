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

    /// What keeps other renewals away until it is dropped, or its process dies.
    type Hold: Send;

    /// Begins a renewal; only one at a time.
    ///
    /// # Errors
    /// [`MasterKeyStoreError::Held`] where another one is under way.
    fn hold(&self) -> impl Future<Output = Result<Self::Hold, MasterKeyStoreError>> + Send;

    /// The two keys of the renewal that was begun and not finished, if there is one.
    ///
    /// # Errors
    /// As [`load`](MasterKeyStore::load); none is no error.
    fn load_unfinished(&self) -> impl Future<Output = Result<Option<Unfinished>, MasterKeyStoreError>> + Send;

    /// Notes both keys of a renewal beside the stored one, before the first host learns of the new one; `None` once all hosts
    /// have come along, or back. As durable as [`save`](MasterKeyStore::save): without it, a crash between the phases leaves
    /// a key on the hosts that nobody holds.
    ///
    /// # Errors
    /// [`MasterKeyStoreError`]; the old note is there, or the new one.
    fn save_unfinished(&self, keys: Option<(&KeyPair, &KeyPair)>)
    -> impl Future<Output = Result<(), MasterKeyStoreError>> + Send;
}

/// A renewal that was begun and not finished. Which of its keys is the stored one tells how far it has come.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "made by implementers")]
pub struct Unfinished {
    /// The key that is to go.
    pub old: KeyPair,
    /// The key that is to stay.
    pub new: KeyPair,
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
    /// Another renewal is under way.
    #[error("another renewal holds {place}")]
    Held {
        /// What it holds.
        place: String,
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
