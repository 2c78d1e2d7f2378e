//! Why a session could not be run at all.

use toehold_core::{Account, AccountError, SessionId, StoreError};

use crate::machine::OutOfTurn;
use crate::status::Status;

/// Why a session could not be opened, read or driven. A session that ran and ended badly is not an error but an
/// [`Outcome`](crate::Outcome) with its reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such session.
    #[error("there is no session {0}")]
    NotFound(SessionId),
    /// The session is closed.
    #[error("session {id} is {status} already")]
    Closed {
        /// Which.
        id: SessionId,
        /// How it ended.
        status: Status,
    },
    /// Two sessions for one account would undo each other's work.
    #[error("session {id} for {account} is still open; wait for it, or cancel it: toehold session cancel {id}")]
    AlreadyOpen {
        /// The account.
        account: Account,
        /// The session that is open.
        id: SessionId,
    },
    /// An account is one host, and this one is managed over another route.
    #[error(
        "{account} is managed {managed}, and cannot be added {asked}: an account names one host. Give another host a host name of \
         its own; where it is the same host, take it out first: toehold host rm {account}"
    )]
    ManagedElsewhere {
        /// The account.
        account: Account,
        /// The way to the managed host, in words.
        managed: String,
        /// The way that was asked for, in words.
        asked: String,
    },
    /// A session for the account is open over another route, and that leads to another host.
    #[error(
        "session {id} for {account} is open {other}, and another cannot begin {asked}: an account names one host. Give another \
         host a host name of its own; where it is the same host, cancel that session: toehold session cancel {id}"
    )]
    OpenElsewhere {
        /// The account.
        account: Account,
        /// The session that is open.
        id: SessionId,
        /// The way to that session's host, in words.
        other: String,
        /// The way that was asked for, in words.
        asked: String,
    },
    /// The operator named a fingerprint, and the host is known by another key.
    #[error("{route} is known by the host key {known}, not by {named}; if the host was set up anew, remove it first")]
    KnownOtherwise {
        /// The route.
        route: String,
        /// The known key's fingerprint.
        known: String,
        /// The named one.
        named: String,
    },
    /// The route cannot be named in a store.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The temporary key, the command or a managed line could not be made.
    #[error("{what} could not be made")]
    Making {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The temporary key could not be sealed or opened again.
    #[error("the temporary key could not be sealed: {0}")]
    Sealing(String),
    /// The operator's side did not let it begin.
    #[error("the session was not begun: {0}")]
    NotOpened(String),
    /// The session may be forgotten on the operator's word only after its key has ended.
    #[error("session {id} can be forgotten once its key has ended, at {expires_at}")]
    TooEarly {
        /// Which.
        id: SessionId,
        /// When its key ends.
        expires_at: toehold_core::Timestamp,
    },
    /// A fault of this crate: a step that the status does not allow.
    #[error("session {id} cannot go from {from} to {to}")]
    IllegalTransition {
        /// Which.
        id: SessionId,
        /// From where.
        from: Status,
        /// To where.
        to: Status,
    },
    /// A fault of this crate: an answer that was not asked for.
    #[error(transparent)]
    OutOfTurn(#[from] OutOfTurn),
}
