#![doc = include_str!("../README.md")]

pub mod backend;
pub mod channel;
pub mod config;
pub mod driver;
pub mod exec;
pub mod kubernetes;
mod labels;
mod name;
pub mod owner;
pub mod pod;
mod secret_text;
mod signal;
pub mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;

pub use labels::{LabelValue, MAX_ANNOTATIONS, MAX_LABEL, Marks, MetadataTooLarge, PREFIX, metadata_key};
pub use name::{ConnectionId, NameError, Nonce, OwnerName, PodName, Uid};
pub use secret_text::SecretText;
pub use signal::{Signal, UnknownSignal};
