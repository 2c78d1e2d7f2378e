//! Why a grant was not given or not ended.

use std::time::Duration;

use toehold_core::{Account, ConnectError, FileError, Fingerprint, KeyError, Source, StoreError, Timestamp};
use toehold_keygen::replacement::ReplaceError;

use super::fenced::FencedError;
use super::id::GrantId;

/// Why a grant was not given, or could not be ended yet. Unless the variant says otherwise, no line of it is on the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// The host is not managed, or our keys are being taken away from it.
    #[error("{account} is not managed")]
    NotManaged {
        /// The account.
        account: Account,
    },
    /// The host's key is not on record, so that whoever answers could be anybody.
    #[error("the host key of {account} is not on record")]
    NoHostKey {
        /// The account.
        account: Account,
    },
    /// Shorter than a second, or longer than [`MAX_GRANT`](super::MAX_GRANT).
    #[error("a key is granted for 1 s to 366 d, not for {} s", asked.as_secs())]
    Lifetime {
        /// What was asked for.
        asked: Duration,
    },
    /// sshd would not take these options.
    #[error("the grant's options cannot stand before a key")]
    Options {
        /// Why.
        #[source]
        source: Source,
    },
    /// An option that would undo what a grant is.
    #[error("a grant cannot have the option {option}")]
    OptionNotAllowed {
        /// Its name.
        option: &'static str,
    },
    /// A master key opens the whole fleet and is never granted: its lines are a rotation's.
    #[error("{fingerprint} is, or was, the fleet's master key, which cannot be granted")]
    MasterKey {
        /// Its fingerprint.
        fingerprint: Fingerprint,
    },
    /// The host reads no end of a line, so that the grant could not end by itself.
    #[error("a grant on {account} could not end by itself: {why}")]
    NoExpiry {
        /// The account.
        account: Account,
        /// Why not.
        why: String,
    },
    /// No login with any of our keys.
    #[error("logging in to {account} failed")]
    Connect {
        /// The account.
        account: Account,
        /// Why.
        #[source]
        source: Box<ConnectError>,
    },
    /// The host could not be asked for its time zone.
    #[error("asking {account} for its time zone failed")]
    Zone {
        /// The account.
        account: Account,
        /// Why.
        #[source]
        source: Box<FileError>,
    },
    /// The host's file could not be changed.
    #[error("changing the keys of {account} failed")]
    Replace {
        /// The account.
        account: Account,
        /// Why.
        #[source]
        source: Box<ReplaceError>,
    },
    /// Whether the line is on the host is not known. The grant **stays on the list** and ends at its time all the same.
    #[error("whether grant {id} is on {account} is not known: it may be good until {expires_at}")]
    InDoubt {
        /// Which.
        id: GrantId,
        /// The account.
        account: Account,
        /// When it ends.
        expires_at: Timestamp,
        /// What happened.
        #[source]
        source: Box<GrantError>,
    },
    /// Somebody else took the grant up meanwhile: it was revoked, or swept.
    #[error("grant {id} was taken up by somebody else")]
    TakenUp {
        /// Which.
        id: GrantId,
    },
    /// There is no such grant: it was never given, or has ended and was seen gone.
    #[error("there is no grant {0}")]
    NotFound(GrantId),
    /// A grant may be forgotten on the operator's word only after its end.
    #[error("grant {id} can be forgotten once it has ended, at {expires_at}")]
    TooEarly {
        /// Which.
        id: GrantId,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot name the account.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl GrantError {
    pub(super) fn of_files(account: &Account, id: GrantId, error: FencedError) -> Self {
        match error {
            FencedError::Replace(source) => Self::Replace { account: account.clone(), source },
            FencedError::Stopped(NoPass::TakenUp) => Self::TakenUp { id },
            FencedError::Stopped(NoPass::NotManaged) => Self::NotManaged { account: account.clone() },
            FencedError::Stopped(NoPass::Store(error)) => Self::Store(error),
        }
    }

    /// Whether the host was not reached, or is busy: the same may go well later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !matches!(**source, ConnectError::HostKeyRefused { .. }),
            Self::Zone { .. } | Self::Store(_) => true,
            Self::Replace { source, .. } => is_busy(source) || is_lost(source),
            Self::InDoubt { source, .. } => source.is_passing(),
            _ => false,
        }
    }
}

/// Why a write that the record guards may not be made.
#[derive(Debug)]
pub(super) enum NoPass {
    /// The record is not as this run last wrote it.
    TakenUp,
    /// Our keys are being taken away from the host.
    NotManaged,
    /// Nobody knows.
    Store(StoreError),
}

/// Whether somebody else is at work on the account.
pub(super) fn is_busy(error: &ReplaceError) -> bool {
    matches!(error, ReplaceError::Locked { .. } | ReplaceError::LockLost { .. } | ReplaceError::KeepsChanging { .. })
}

/// Whether the connection is gone.
pub(super) fn is_lost(error: &ReplaceError) -> bool {
    match error {
        ReplaceError::File { source, .. }
        | ReplaceError::OutcomeUnknown { source, .. }
        | ReplaceError::Unverified { source, .. } => source.is_lost(),
        _ => false,
    }
}
