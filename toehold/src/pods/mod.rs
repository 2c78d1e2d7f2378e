//! Pods on demand: an SSH connection becomes a pod, which goes when the connection goes.
//!
//! `serve` accepts connections and awaits no client; each connection is a task of its own with limits and deadlines, and a panic ends
//! one of them. What is decided is decided in `toehold_podrun`, over a store and a backend.

pub mod authentication;
mod channel;
mod client;
mod connection;
mod host_key;
mod hub;
mod launching;
mod leash;
pub mod metrics;
mod serve;
mod side;
mod stream;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use toehold_core::StoreError;
use toehold_podrun::backend::BackendError;

pub use authentication::{Admission, Applicant, Authenticator, AuthorizedKeysFiles, LoginMetadata};
pub use hub::SharedBackend;
pub use serve::{Announcement, serve};

use crate::gateway::LimitOptions;
use crate::private::PrivateError;

/// How a gateway of pods is to run.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its metrics and health are told; loopback alone.
    pub metrics: Option<SocketAddr>,
    /// How much of everything. `agents` are connections on which somebody has logged in, `sessions_per_agent` are those of one principal,
    /// `stranger_lifetime` is for the login, `calls_per_minute` counts what clients ask of channels.
    pub limits: LimitOptions,
    /// Channels of one connection at once.
    pub channels: usize,
    /// How often a silent client is asked whether it is still there.
    pub keep_alive: Duration,
    /// How often it may stay silent.
    pub keep_alive_count: usize,
    /// How long sessions may go on when it is told to stop.
    pub drain: Duration,
    /// Whose chain of the audit log it writes; one of its own run's where none is named.
    pub audit_writer: Option<String>,
}

/// Why a gateway of pods cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodsError {
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The host key cannot be used or made.
    #[error("the host key cannot be used: {0}")]
    HostKey(String),
    /// An address cannot be listened on.
    #[error("listening on {address} failed")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not private, or the system refused.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
