//! What servers do where the system hands no connection over.

use std::io;
use std::time::Duration;

/// How long to wait where the system has no connection to hand over (no file descriptors left, say).
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// The peer went before it was accepted: no reason to wait.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused)
}
