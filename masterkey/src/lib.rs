#![doc = include_str!("../README.md")]

pub mod change;
mod error;
pub mod fleet;
pub mod grant;
pub mod guard;
pub mod host;
mod host_files;
pub mod observe;
mod observer;
mod outcome;
mod request;
mod rotator;
mod vault;
mod wait;

pub use error::RotationError;
pub use observer::{NoObserver, Observer, Progress};
pub use outcome::{End, FleetStatus, HostOutcome, HostStatus, Outcome, Plan, SettleOutcome};
pub use request::{DEFAULT_GRACE, DEFAULT_PROVISIONAL, Pace, RotationRequest, TakeUp};
pub use rotator::Rotator;
pub use vault::KeyVault;
