#![doc = include_str!("../README.md")]

pub mod change;
mod error;
mod file_store;
pub mod fleet;
pub mod grant;
pub mod guard;
pub mod host;
mod host_files;
mod key_store;
mod keys;
pub mod observe;
mod observer;
mod outcome;
mod renew;
pub mod renewal;
mod request;
mod rotator;
pub mod two_phase;
mod vault;
mod wait;

pub use error::RotationError;
pub use file_store::FileSystemMasterKeyStore;
pub use key_store::{EmptyStoreError, MasterKeyStore, MasterKeyStoreError, Unfinished};
pub use keys::generate_key;
pub use observer::{NoObserver, Observer, Progress};
pub use outcome::{End, FleetStatus, HostOutcome, HostStatus, Outcome, Plan, SettleOutcome};
pub use renew::{Means, RenewError, renew_master_key};
pub use request::{DEFAULT_GRACE, DEFAULT_PROVISIONAL, Pace, RotationRequest, TakeUp};
pub use rotator::Rotator;
pub use toehold_keygen::{KeyAlgorithm, KeyGenerationError, KeyPair, PrivateKeyError, read_private_key_file};
pub use vault::KeyVault;
