//! What a NATS server says, in words for the person who reads them.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use toehold_core::StoreError;

use super::address::NatsAddress;
use crate::cli::chain;
use crate::private::PrivateError;

/// Why a shared store could not be used. The source of a [`StoreError::Unavailable`] from [`super::NatsStore`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// There is no such bucket.
    #[error("there is no bucket {}; make it: toehold init --store {address}", address.bucket())]
    Absent {
        /// Which store.
        address: NatsAddress,
    },
    /// What would be sent would not be encrypted (N5).
    #[error("the server does not encrypt, and not all servers are on this machine: nothing was sent to it")]
    Plaintext,
    /// No server answers, or none lets us in.
    #[error("no server of {address} can be used: {reason}")]
    Unreachable {
        /// Which store.
        address: NatsAddress,
        /// What was tried last.
        reason: String,
    },
    /// The bucket is there, and would lose values or is none of ours.
    #[error("the bucket {} cannot be used: {reason}", address.bucket())]
    Bucket {
        /// Which store.
        address: NatsAddress,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },
    /// A file with a secret is not there, or not private.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// A file with certificates or credentials cannot be read as such.
    #[error("{path} is no {wanted}")]
    File {
        /// Its path.
        path: String,
        /// What it was to be.
        wanted: &'static str,
    },
    /// A key is too long for a subject.
    #[error("a name of {got} bytes is over the limit of {limit}")]
    Name {
        /// How long it is, as a subject.
        got: usize,
        /// How long it may be.
        limit: usize,
    },
    /// There is no connection just now; it is being made again. Nothing was sent.
    #[error("no server is connected")]
    Disconnected,
    /// Behind the connection that was made anew is an earlier state of the store (N3). A write was not sent to it, but for one that was
    /// handed over in the moment in which the connection broke, and may have been taken there.
    #[error(
        "the store has come to revision {found}, and {seen} was written to it before: it may have been restored from a backup"
    )]
    WentBack {
        /// What it had come to.
        seen: u64,
        /// What it has come to now.
        found: u64,
    },
    /// The bucket that was watched was removed, and another one was made in its place.
    #[error("the bucket was made anew: whatever is in it may be another")]
    MadeAnew,
    /// No answer came. Whether a write took place, or will when the connection is there again, is unknown.
    #[error("no answer came within {} s", limit.as_secs_f32())]
    TimedOut {
        /// How long it was waited for.
        limit: Duration,
    },
    /// Anything else that the server or the client reports.
    #[error("{reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
}

impl NatsError {
    pub(super) fn engine(error: &(dyn Error + 'static)) -> Self {
        Self::Engine { reason: chain(error) }
    }

    /// As the error of a store that was `doing` something.
    pub(super) fn while_doing(self, doing: impl Into<String>) -> StoreError {
        StoreError::Unavailable { doing: doing.into(), source: Box::new(self) }
    }
}
