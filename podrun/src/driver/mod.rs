//! Does what the machines say, on any backend, store and clock, and on no runtime.

mod calls;
mod keep;
mod persistent;
mod reap;
mod run;

pub use keep::{Keeper, OwnerState};
pub use persistent::enter;
pub use reap::{Reaped, Reaper};
pub use run::{ConnectionSide, PodReference, SideEvent, recover, run};

/// A backend, a store and a clock: what a driver works with.
#[derive(Debug)]
pub struct Parts<'a, B, S, T> {
    /// What runs the pods.
    pub backend: &'a B,
    /// Where the records are.
    pub store: &'a S,
    /// The time.
    pub timer: &'a T,
    /// How long one call to the backend or the store may take.
    pub call_timeout: std::time::Duration,
}

impl<B, S, T> Clone for Parts<'_, B, S, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B, S, T> Copy for Parts<'_, B, S, T> {}
