//! Join a machine to a gateway.

pub mod agreement;
mod chain;
pub mod challenge;
mod encoding;
mod error;
pub mod jws;
pub mod keyring;
pub mod mac;
mod names;
pub mod pin;
pub mod token;
mod trust;
pub mod wire;

pub use error::JoinError;
pub use trust::{GatewayIdentity, Trust};
