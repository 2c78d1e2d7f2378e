//! Renewing the master key again and again.
//!
//! [`PeriodicalRenewal`] decides when, [`Renew`] is what is then done. When the next renewal is due stands in the store and
//! changes by conditional writes only: a process that was away for three intervals renews once and not three times, one that
//! died over a renewal is followed by one that finishes it, and of two processes one renews. The future runs until it is
//! terminated; a renewal that fails is reported and tried again, later each time.

mod periodical;
mod schedule;
mod terminate;

pub use periodical::{PeriodicalRenewal, RenewalEvent, RenewalPace};
pub use schedule::{RenewalClaim, RenewalSchedule, Renewed};
pub use terminate::Termination;

use std::future::Future;

use toehold_core::Fingerprint;

/// What a renewal is.
pub trait Renew: Send {
    /// Why it fails.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Which key is current, and whether a renewal was begun and not finished. Decides whether one that this process, or one
    /// before it, had begun took place: a wrong `current` renews twice, or not at all.
    fn state(&mut self) -> impl Future<Output = Result<RenewalState, Self::Error>> + Send;

    /// Renews the key, or finishes the renewal that is open; returns the key that is current then. May be called again after
    /// an error, and by another process after a crash.
    fn renew(&mut self) -> impl Future<Output = Result<Fingerprint, Self::Error>> + Send;
}

/// How it stands with the master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by implementers")]
pub struct RenewalState {
    /// The key that is current.
    pub current: Fingerprint,
    /// Whether a renewal was begun and not finished.
    pub open: bool,
}
