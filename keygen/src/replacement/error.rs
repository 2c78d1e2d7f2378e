//! Why a replacement did not take place.

use std::time::Duration;

use toehold_core::{FileError, Source};

use crate::authorized_keys::Digest;

/// Why a replacement did not take place, or is not known to have.
///
/// Unless the variant says otherwise the host's files are as they were, and whatever was put beside them is gone again
/// where the connection still allowed that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The host cannot replace a file in one step, and anything less can lock its owner out.
    #[error("the host's SFTP server cannot replace {path} in one step (it has no posix-rename@openssh.com): nothing was changed")]
    NoAtomicRename {
        /// The file, relative to the home directory.
        path: String,
    },
    /// The home directory or its `.ssh` is not there.
    #[error("{path} does not exist on the host")]
    Missing {
        /// The path.
        path: String,
    },
    /// Something else stands where a file or directory is expected. Links are not followed: replacing one would cut it off
    /// from what it points to, and what it points to may be anybody's.
    #[error("{path} is a {found} on the host, not a {expected}")]
    WrongKind {
        /// The path.
        path: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The file or directory is somebody else's.
    #[error("{path} belongs to user {owner} on the host, not to user {expected}")]
    WrongOwner {
        /// The path.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// Others than its owner may write to it, for which sshd with `StrictModes` refuses every key in there.
    #[error("{path} may be written by others than its owner (mode {mode:04o}): sshd refuses keys in there; chmod go-w it")]
    LooseMode {
        /// The path.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Another Toehold is at work on this account.
    #[error("{path} is held by {holder} for {} s: another Toehold is at work on this account", age.as_secs())]
    Locked {
        /// The lock file.
        path: String,
        /// Who holds it, by its own account; `somebody unknown` where the lock file does not say.
        holder: String,
        /// For how long, by the host's clock.
        age: Duration,
    },
    /// Another Toehold took the lock over, since we were too slow.
    #[error("{path} was taken over by {holder}: another Toehold is at work on this account")]
    LockLost {
        /// The lock file.
        path: String,
        /// By whom; `somebody unknown` where that cannot be told.
        holder: String,
    },
    /// Somebody else keeps writing the file.
    #[error("{path} was changed by somebody else {tries} times while it was being edited")]
    KeepsChanging {
        /// The file.
        path: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The edit itself said no.
    #[error("{path} is not changed")]
    Refused {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Source,
    },
    /// What was staged is not what the host says is there.
    #[error("{path} does not read back as it was written to the host: {found}")]
    StagedDiffers {
        /// The staged file.
        path: String,
        /// How it differs.
        found: &'static str,
    },
    /// Something on the host could not be read or changed.
    #[error("{doing} {path} failed")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: String,
        /// What the host said.
        #[source]
        source: Box<FileError>,
    },
    /// The connection was lost at the very moment of the replacement: the file is whole, but either the old or the new one.
    #[error("the connection was lost while {path} was being replaced: the host has either the old or the new file")]
    OutcomeUnknown {
        /// The file.
        path: String,
        /// The digest of the old one; `None` for no file.
        before: Option<Digest>,
        /// The digest of the new one; `None` for no file.
        after: Option<Digest>,
        /// What happened to the connection.
        #[source]
        source: Box<FileError>,
    },
    /// The file **was replaced**, but could not be read back.
    #[error("{path} was replaced, but reading it back failed")]
    Unverified {
        /// The file.
        path: String,
        /// What the host said.
        #[source]
        source: Box<FileError>,
    },
    /// The file **was replaced**, and right after that it was no longer what had been written: somebody else has written it.
    #[error("{path} was replaced, but does not read back as written: somebody else changes it")]
    NotAsWritten {
        /// The file.
        path: String,
        /// What was written; `None` where the file was removed.
        expected: Option<Digest>,
        /// What was found; `None` for no file.
        found: Option<Digest>,
    },
    /// A driver gave an event that does not answer the last action.
    #[error("the replacement was waiting for {expected} and got {got}")]
    OutOfTurn {
        /// The kind of event that would be an answer.
        expected: &'static str,
        /// The kind that came.
        got: &'static str,
    },
}

impl ReplaceError {
    /// Whether the file may be, or is, the new one although this is an error.
    pub fn may_have_replaced(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::Unverified { .. } | Self::NotAsWritten { .. })
    }
}
