//! Versions 1 and 2 of the protocol, which are Opni's, byte for byte on the wire.
//!
//! ```text
//! client                                          gateway
//!   Join                                    ──►
//!                                           ◄──     a signature for each active token
//!   Auth   token with its signature,        ──►                                        (admission)
//!          client id, ephemeral key
//!                                           ◄──     ephemeral key
//! ```
//!
//! The answer to Join shows anybody the ids of all active tokens; that is the protocol's, and so is that the token itself travels. Version 3
//! has neither.

mod client;
mod gateway;
mod signatures;

pub use client::{AuthCall, AwaitAuth, AwaitJoin, OpniClient, Version};
pub use gateway::{OpniError, OpniGateway, Status};
pub use signatures::Signatures;
