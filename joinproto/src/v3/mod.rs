//! Version 3 of the protocol: see `docs/join-v3.md` in the repository, from which it can be implemented anew.
//!
//! ```text
//! client                                         gateway
//!   Hello   versions                       ──►
//!                                          ◄──     Retry    version, cookie           (nothing kept)
//!   Offer   cookie, token id, own keys     ──►
//!                                          ◄──     Answer   ephemeral key
//!   Proof   two signatures                 ──►                                        (admission)
//!                                          ◄──     Accept   KEM ciphertext, MAC
//!   Confirm MAC                            ──►                                        (keyring stored)
//!                                          ◄──     Done
//! ```
//!
//! Every message is one frame; all of it runs inside one TLS 1.3 connection, whose exporter both sides put into the transcript.

mod client;
mod conversation;
mod cookie;
pub mod frame;
mod gateway;
mod identity;
mod keys;
mod transcript;

pub use client::{Accepted, AwaitAccept, AwaitAnswer, AwaitRetry, ClientConfig, Joined};
pub use conversation::{Conversation, Ended, Turn};
pub use cookie::{COOKIE_LIFETIME, CookieKeys};
pub use gateway::{AwaitConfirm, AwaitProof, Channel, Confirmed, Gateway, GatewayError, Proven};
pub use identity::{AgentId, AgentIdError, AgentIdentity, FreshIdentity};
pub use keys::{TokenKey, TokenSigner};
pub use transcript::Exporter;

/// The number of this version.
pub const VERSION: u16 = 3;
/// The label of the TLS exporter (RFC 8446, 7.5), with an empty context and 32 bytes of output.
pub const EXPORTER_LABEL: &str = "EXPORTER-toehold-join-v3";
