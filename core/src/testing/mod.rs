//! Stand-ins for the world: what Toehold's own tests run on, and tests of crates that build on it.
//!
//! [`World`] puts them together: a [`MemoryStore`], a [`ManualClock`] and a [`SimulatedFleet`] of hosts with real
//! `authorized_keys` bytes, all seen by one process that can be made to fail or to die at any of its calls ([`Faults`]).
//! [`run_until_stalled`] runs such a process without a runtime. [`store_conformance`] checks any
//! [`Store`](crate::Store).
//!
//! Nothing here belongs into a program that does real work. Asking a simulated host about an account that it does not have
//! panics, as a failed assertion does.

mod clock;
mod conformance;
mod crashing;
mod executor;
mod faults;
mod fleet;
mod memory_store;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use clock::{ManualClock, START};
pub use conformance::store_conformance;
pub use crashing::Crashing;
pub use executor::{Process, block_on, join_all, run_until_stalled, yield_now};
pub use faults::{Call, CallKind, Fault, Faults, Moment, Step};
pub use fleet::{
    ExpiryTime, Grant, HostSettings, SimulatedFile, SimulatedFiles, SimulatedFleet, SimulatedSession, TreeEntry, sample_identity,
    sample_public_key,
};
pub use memory_store::{MemoryStore, MemoryWatch};
pub use world::World;

/// A lock that a panicking test does not take away from the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
