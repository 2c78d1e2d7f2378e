#![doc = include_str!("../README.md")]

pub mod admission;
pub mod agreement;
mod chain;
pub mod challenge;
mod encoding;
mod endpoint;
mod error;
pub mod jws;
pub mod keyring;
pub mod line;
pub mod mac;
mod names;
pub mod opni;
pub mod pin;
pub mod token;
mod trust;
pub mod v3;
pub mod wire;

pub use endpoint::Endpoint;
pub use error::JoinError;
pub use trust::{GatewayIdentity, Trust};
