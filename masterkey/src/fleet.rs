//! The fleet's way through the phases of a rotation, as one function: what is next, by where the hosts are.

use toehold_core::{OnUnreachable, RotationPhase, RotationPolicy};

use crate::host::Goal;

/// What decides about a fleet. Counts are of hosts in the direction of the phase: a rotation that goes back counts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Where the rotation stands.
    pub phase: RotationPhase,
    /// What becomes of it when a host cannot be taken along.
    pub on_unreachable: OnUnreachable,
    /// How many may fail before a deferring rotation stops.
    pub max_failures: Option<u32>,
    /// Whether the old key is to log in for a while after the barrier.
    pub grace: bool,
    /// Whether that while is over; `None` where it has not begun.
    pub grace_over: Option<bool>,
    /// Whether the store's current key is the new one.
    pub current_is_new: bool,
    /// Whether a rotation that goes back has made sure that no late write of another leader changes the current key.
    pub current_is_held: bool,
    /// All hosts that the rotation has to do with.
    pub hosts: u32,
    /// Those that failed in this run.
    pub failed: u32,
    /// Whether one of those that go first has failed.
    pub canary_failed: bool,
    /// Those that have proven the arriving key.
    pub proven: u32,
    /// Those that have not, and have not failed.
    pub to_prepare: u32,
    /// Those whose leaving key has no end yet, and that have not failed.
    pub to_soften: u32,
    /// Those on which the leaving key was not yet seen refused, and that have not failed.
    pub to_remove: u32,
}

/// What is next for the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a driver has to do them all")]
pub enum FleetStep {
    /// Write this phase into the rotation's record. Where hosts or sessions have come since they were listed, list them first.
    Enter(RotationPhase),
    /// Lead the next wave of hosts there.
    Lead(Goal),
    /// Make the arriving key the store's current one, unless it was written since the phase was entered.
    Switch,
    /// Write the current key as it is, so that a late write that would change it fails.
    Hold,
    /// Write down when the grace ends.
    BeginGrace,
    /// Wait for the end of the grace.
    AwaitGrace,
    /// Go back.
    TurnBack(Reason),
    /// Stand still, open.
    Stop(Reason),
    /// The rotation has ended.
    End,
}

/// Why a rotation does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a caller has to find words for them all")]
pub enum Reason {
    /// A host cannot be taken along, and all of them were to be.
    HostFailed,
    /// One of the first hosts cannot be taken along.
    CanaryFailed,
    /// More hosts failed than may.
    TooManyFailures,
    /// No host has proven the key that is to be current.
    NoneProven,
    /// The new key is current, and some hosts still take the old one.
    OldKeyLeft,
}

impl View {
    /// A view in which nothing has happened yet.
    pub fn of(phase: RotationPhase, policy: &RotationPolicy) -> Self {
        Self {
            phase,
            on_unreachable: policy.on_unreachable,
            max_failures: policy.max_failures,
            grace: policy.grace > 0,
            grace_over: None,
            current_is_new: false,
            current_is_held: false,
            hosts: 0,
            failed: 0,
            canary_failed: false,
            proven: 0,
            to_prepare: 0,
            to_soften: 0,
            to_remove: 0,
        }
    }

    /// The rules.
    pub fn next(&self) -> FleetStep {
        match self.phase {
            RotationPhase::Planned => FleetStep::Enter(RotationPhase::Installing),
            RotationPhase::Installing | RotationPhase::Proving => self.before_the_barrier(),
            // A host that came in meanwhile counts as well (R4).
            RotationPhase::Switching if !self.current_is_new => match self.before_the_barrier() {
                FleetStep::Enter(RotationPhase::Switching) => FleetStep::Switch,
                step => step,
            },
            RotationPhase::Switching => FleetStep::Enter(RotationPhase::Retiring),
            RotationPhase::Retiring => self.after_the_barrier(),
            RotationPhase::RollingBack => self.on_the_way_back(),
            _ => FleetStep::End,
        }
    }

    fn before_the_barrier(&self) -> FleetStep {
        let failure = if self.failed == 0 {
            None
        } else if self.on_unreachable == OnUnreachable::Abort {
            Some(Reason::HostFailed)
        } else if self.canary_failed {
            Some(Reason::CanaryFailed)
        } else {
            self.max_failures.filter(|most| self.failed > *most).map(|_| Reason::TooManyFailures)
        };
        match (failure, self.on_unreachable) {
            (Some(reason), OnUnreachable::Abort) => FleetStep::TurnBack(reason),
            (Some(reason), OnUnreachable::Defer) => FleetStep::Stop(reason),
            (None, _) if self.to_prepare > 0 => FleetStep::Lead(Goal::Prepare),
            (None, _) if self.phase == RotationPhase::Installing => FleetStep::Enter(RotationPhase::Proving),
            // What no host has proven is not called current, also where the last host has been taken off the list meanwhile.
            (None, _) if self.proven == 0 => FleetStep::TurnBack(Reason::NoneProven),
            (None, _) => FleetStep::Enter(RotationPhase::Switching),
        }
    }

    fn after_the_barrier(&self) -> FleetStep {
        if self.grace && self.grace_over != Some(true) {
            return match self.grace_over {
                None | Some(false) if self.to_soften > 0 => FleetStep::Lead(Goal::Soften),
                None => FleetStep::BeginGrace,
                Some(_) => FleetStep::AwaitGrace,
            };
        }
        if self.to_remove > 0 {
            FleetStep::Lead(Goal::Remove)
        } else if self.failed > 0 && self.on_unreachable == OnUnreachable::Abort {
            FleetStep::Stop(Reason::OldKeyLeft)
        } else {
            FleetStep::Enter(RotationPhase::Done)
        }
    }

    fn on_the_way_back(&self) -> FleetStep {
        if self.current_is_new {
            if self.to_prepare > 0 {
                FleetStep::Lead(Goal::Prepare)
            // Without hosts nobody is lost, and the old key was proven when it was current.
            } else if self.proven == 0 && self.hosts > 0 {
                FleetStep::Stop(Reason::NoneProven)
            } else {
                FleetStep::Switch
            }
        } else if !self.current_is_held {
            FleetStep::Hold
        } else if self.to_remove > 0 {
            FleetStep::Lead(Goal::Remove)
        } else {
            FleetStep::Enter(RotationPhase::RolledBack)
        }
    }
}
