//! What a run tells while it runs, and what it is told.

use std::future::Future;
use std::time::Duration;

use toehold_core::{Account, HostPhase, RotationPhase};

/// Something that happened, for a progress display. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The fleet has come to this phase, which concerns so many hosts.
    Phase {
        /// Which.
        phase: RotationPhase,
        /// Of the fleet, those that are not done with it.
        hosts: usize,
    },
    /// Work on a host has begun.
    HostBegun(Account),
    /// A host is about to be changed; how, in words.
    HostStep {
        /// Which host.
        account: Account,
        /// Such as `adding the new key`.
        step: &'static str,
    },
    /// Something did not work and is tried again; why, in words.
    HostRetrying {
        /// Which host.
        account: Account,
        /// Why.
        reason: String,
    },
    /// A host is done with the phase of the fleet.
    HostDone {
        /// Which host.
        account: Account,
        /// How far it has come.
        phase: HostPhase,
        /// How long this run over it took.
        took: Duration,
    },
    /// A host cannot be taken along; why, in words.
    HostFailed {
        /// Which host.
        account: Account,
        /// Why.
        reason: String,
        /// How long this run over it took.
        took: Duration,
    },
    /// The old key logs in until then.
    Grace(toehold_core::Timestamp),
    /// Something went wrong that stops nothing.
    Warning(String),
}

/// Whoever watches a run. It is called from within it, so it should not take long.
pub trait Observer: Send + Sync {
    /// Takes note.
    fn progress(&self, progress: Progress);

    /// Whether the operator wants out: no host is begun any more, those that were are finished, and the rotation stays open.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Ends when [`Observer::is_leaving`] becomes true, so that a wait of hours can be left at once. One that never ends costs
    /// the time until the lead is renewed next, a third of [`Pace::lively`](crate::Pace::lively).
    fn wants_out(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn progress(&self, _: Progress) {}
}

impl<O: Observer + ?Sized> Observer for &O {
    fn progress(&self, progress: Progress) {
        (**self).progress(progress);
    }

    fn is_leaving(&self) -> bool {
        (**self).is_leaving()
    }

    fn wants_out(&self) -> impl Future<Output = ()> + Send {
        (**self).wants_out()
    }
}
