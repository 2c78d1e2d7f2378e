//! The SSH side of a connection, played.

use std::future::pending;
use std::time::Duration;

use toehold_core::testing::ManualClock;
use toehold_core::{Clock as _, Timer as _, Timestamp};

use crate::driver::{ConnectionSide, PodReference, SideEvent};
use crate::kubernetes::PodTrouble;

/// Somebody who connects and leaves after a while, and what they were told.
#[derive(Debug)]
pub struct SimulatedSide {
    clock: ManualClock,
    leaves_at: Option<Timestamp>,
    /// The pod that was ready.
    pub pod: Option<PodReference>,
    /// When it was.
    pub ready_at: Option<Timestamp>,
    /// Why there was none.
    pub trouble: Option<PodTrouble>,
    /// When that was said.
    pub told_at: Option<Timestamp>,
}

impl SimulatedSide {
    /// Leaves so many seconds from now; `None` stays.
    pub fn new(clock: ManualClock, leaves_after: Option<u64>) -> Self {
        let leaves_at = leaves_after.map(|seconds| clock.now().saturating_add(Duration::from_secs(seconds)));
        Self { clock, leaves_at, pod: None, ready_at: None, trouble: None, told_at: None }
    }
}

impl ConnectionSide for SimulatedSide {
    async fn ready(&mut self, pod: &PodReference) {
        self.ready_at = Some(self.clock.now());
        self.pod = Some(pod.clone());
    }

    async fn failed(&mut self, trouble: &PodTrouble) {
        self.told_at = Some(self.clock.now());
        self.trouble = Some(trouble.clone());
    }

    async fn next(&mut self) -> SideEvent {
        match self.leaves_at {
            Some(at) => {
                self.clock.sleep_until(at).await;
                self.leaves_at = None;
                SideEvent::Disconnected
            }
            None => pending().await,
        }
    }
}
