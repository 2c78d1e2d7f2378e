//! What a Kubernetes API server says: refusals, watches, the state of pods.

mod failure;
mod observe;
mod watch;

pub(crate) use failure::cleaned;
pub use failure::{ApiFailure, FailureKind};
pub use observe::{Availability, PodSnapshot, PodTrouble};
pub use watch::{MAX_LINE, WatchDecoder, WatchError, WatchEvent};
