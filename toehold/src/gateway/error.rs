//! Why a gateway cannot run.

use std::io;
use std::path::PathBuf;

use toehold_core::{Source, StoreError};
use toehold_joinproto::admission::DeskError;

use crate::state::StateError;

/// Why a gateway cannot run, or its keys cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// A certificate or key file cannot be used.
    #[error("{} cannot be used as the gateway's {what}", path.display())]
    File {
        /// What it should be.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Source,
    },
    /// Others kept writing the gateway's record.
    #[error("others kept writing the gateway's record; try again")]
    Busy,
    /// Admission failed.
    #[error(transparent)]
    Desk(#[from] DeskError),
    /// An address cannot be listened on.
    #[error("listening on {address} failed")]
    Listen {
        /// Which.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no gateway key yet.
    #[error("there is no gateway key yet")]
    NoKey,
    /// What was sealed cannot be opened, or nothing can be sealed.
    #[error("{0}")]
    Sealed(String),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys are the operator's own, given with --cert and --key.
    #[error("the gateway's key is one that was given to it, with --cert and --key")]
    Supplied,
    /// TLS cannot be set up with this key.
    #[error("the gateway's key and certificate cannot be used for TLS")]
    Tls(#[source] Source),
}
