//! Why a machine does not join, or does not authenticate.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use toehold_joinproto::keyring::KeyringError;
use toehold_joinproto::{Endpoint, JoinError};
use tonic::Status;

use crate::adapters::gateway_connection::GatewayConnectionError;
use crate::private::PrivateError;

/// Why a machine does not join, or does not authenticate. Holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Another process is at work on the same files.
    #[error("another toehold process is at work in {}", directory.display())]
    Busy {
        /// Where.
        directory: PathBuf,
    },
    /// There is no connection to the gateway.
    #[error(transparent)]
    Connection(#[from] GatewayConnectionError),
    /// A file is not what was written.
    #[error("the agent's file \"{file}\" is damaged: {reason}")]
    Damaged {
        /// Which.
        file: String,
        /// In what way.
        reason: String,
    },
    /// The gateway does not take these keys, or does not prove that it has them.
    #[error("the gateway {endpoint} does not know this machine by the keys that it has")]
    NotKnown {
        /// Which gateway.
        endpoint: Endpoint,
    },
    /// A keyring is none.
    #[error("{} is damaged", path.display())]
    Keyring {
        /// Which.
        path: PathBuf,
        /// In what way.
        #[source]
        source: KeyringError,
    },
    /// The protocol's own reasons.
    #[error("the gateway {endpoint}: {source}")]
    Join {
        /// Which gateway.
        endpoint: Endpoint,
        /// Why not.
        source: JoinError,
    },
    /// The connection broke.
    #[error("the connection to the gateway {endpoint} broke off when it was {doing}")]
    Lost {
        /// Which gateway.
        endpoint: Endpoint,
        /// In what.
        doing: &'static str,
        /// What broke, in words.
        #[source]
        source: Box<Status>,
    },
    /// A file that a newer release wrote.
    #[error("{} was written by a newer release", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
    },
    /// This machine has not joined anything.
    #[error("this machine has not joined a gateway (nothing in {})", directory.display())]
    NotJoined {
        /// Where that would stand.
        directory: PathBuf,
    },
    /// It has joined something else already.
    #[error("this machine has joined {endpoint} already, as {id}")]
    OtherJoined {
        /// What it has joined.
        endpoint: String,
        /// As what.
        id: String,
    },
    /// A file or directory is not private, or the system refused.
    #[error(transparent)]
    Private(PrivateError),
    /// The gateway answered a call with an error.
    #[error("the gateway {endpoint} refused {doing}: {message}")]
    Refused {
        /// Which gateway.
        endpoint: Endpoint,
        /// What it refused.
        doing: &'static str,
        /// Its words, which whoever answers there has chosen.
        message: String,
        /// Its status.
        code: tonic::Code,
    },
    /// It does not answer.
    #[error("the gateway {endpoint} took over {} s {doing}", limit.as_secs())]
    TimedOut {
        /// Which gateway.
        endpoint: Endpoint,
        /// For what.
        doing: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The gateway says something that it should not.
    #[error("the gateway {endpoint} {what}")]
    Unexpected {
        /// Which gateway.
        endpoint: Endpoint,
        /// What it does.
        what: &'static str,
    },
}

impl AgentError {
    /// What a failed call means: the gateway's own word, or a connection that broke.
    pub(super) fn of_status(status: Status, endpoint: &Endpoint, doing: &'static str) -> Self {
        use std::error::Error as _;
        let endpoint = endpoint.clone();
        // What the gateway has said came over the wire; what broke here has a cause.
        if status.source().is_some() {
            return Self::Lost { endpoint, doing, source: Box::new(status) };
        }
        match status.code() {
            // What tonic says of a message over the limit, before it is read.
            tonic::Code::OutOfRange => Self::Unexpected { endpoint, what: "sent a message that is larger than any that is read" },
            tonic::Code::Ok | tonic::Code::Cancelled => Self::Lost { endpoint, doing, source: Box::new(status) },
            code => Self::Refused { endpoint, doing, message: status.message().to_owned(), code },
        }
    }

    /// Whether it is the gateway's no. What it says of its own trouble is none: whether it has done what was asked is not known.
    pub fn is_decision(&self) -> bool {
        use tonic::Code::{Aborted, DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown};
        let trouble = [Aborted, DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown];
        matches!(self, Self::Refused { code, .. } if !trouble.contains(code))
    }

    /// Whether the gateway has no such service, as a gateway of Opni's has no sessions of ours.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Refused { code: tonic::Code::Unimplemented, .. })
    }
}

/// How far a join is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing that the gateway would keep was sent.
    Begun,
    /// The proof was sent: a use of the token may be this machine's by now.
    Proven,
    /// The keys were confirmed: the gateway may have this machine as joined.
    Confirmed,
}

/// How far a join has come, also for whoever gave it up in the middle.
#[derive(Debug, Default)]
pub struct Reached(AtomicU8);

impl Reached {
    pub(super) fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    /// How far.
    pub fn stage(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Begun,
            1 => Stage::Proven,
            _ => Stage::Confirmed,
        }
    }
}
