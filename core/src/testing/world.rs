//! A store, a fleet and a clock, and the process that uses them.

use std::future::Future;

use super::{Crashing, Faults, ManualClock, MemoryStore, SimulatedFleet, run_until_stalled};

/// A simulated world as one process sees it.
///
/// A crash test is a loop over the calls of a good run:
///
/// ```
/// use toehold_core::testing::{Moment, World};
/// use toehold_core::{Expect, Key, Store as _};
///
/// async fn job(world: &World) {
///     let key = Key::parse("session/1").unwrap();
///     let revision = world.store().put(&key, b"open", Expect::Absent).await.unwrap();
///     world.store().put(&key, b"done", Expect::Revision(revision)).await.unwrap();
/// }
///
/// let good = World::new();
/// good.run(job(&good)).unwrap();
///
/// for number in 0..good.faults().calls() {
///     for moment in [Moment::Before, Moment::After] {
///         let world = World::new();
///         world.faults().crash_at(number, moment);
///         assert!(world.run(job(&world)).is_none());
///
///         let world = world.restart(); // the next process, in the same world
///         let written = world.memory().entries().len();
///         assert_eq!(written, usize::from(number > 0 || moment == Moment::After), "{}", good.faults().describe(number));
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct World {
    clock: ManualClock,
    memory: MemoryStore,
    fleet: SimulatedFleet,
    faults: Faults,
}

impl World {
    /// An empty store, no hosts, and a clock that advances by itself when everybody sleeps.
    pub fn new() -> Self {
        let clock = ManualClock::default().auto_advance();
        let faults = Faults::new();
        let fleet = SimulatedFleet::new(clock.clone()).with_faults(faults.clone());
        Self { memory: MemoryStore::with_clock(clock.clone()), clock, fleet, faults }
    }

    /// The same world as a new process sees it: nothing is planned to go wrong, no call has been made. The process that
    /// uses `self` may live on or be dead.
    #[must_use]
    pub fn restart(&self) -> Self {
        let faults = Faults::new();
        Self { fleet: self.fleet.with_faults(faults.clone()), faults, ..self.clone() }
    }

    /// Runs a process until it ends; `None` where it has died or waits for what never comes.
    pub fn run<F: Future>(&self, process: F) -> Option<F::Output> {
        run_until_stalled(process)
    }

    /// The store as this process sees it.
    pub fn store(&self) -> Crashing<MemoryStore> {
        Crashing::new(self.memory.clone(), self.faults.clone())
    }

    /// The store itself: no fault, no call counted.
    pub fn memory(&self) -> &MemoryStore {
        &self.memory
    }

    /// The clock as this process sees it.
    pub fn timer(&self) -> Crashing<ManualClock> {
        Crashing::new(self.clock.clone(), self.faults.clone())
    }

    /// The clock itself.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// The hosts: connections made through it count as this process's calls, looking at hosts and changing them does not.
    pub fn fleet(&self) -> &SimulatedFleet {
        &self.fleet
    }

    /// What goes wrong for this process.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
