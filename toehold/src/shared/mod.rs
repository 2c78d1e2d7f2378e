//! A store that several people and machines share: who may write what into it, and how everybody sees that it was they (rules N1 to N4).
//!
//! - [`Envelope`]: every value goes into the store with a signature over the store, the key, and the value ([`SignedStore`]).
//! - [`Chain`]: who the members are, a list that only its own operators continue.
//! - [`Role`]: which member may write what; NATS permissions are printed from the same table.
//! - [`Marks`]: what this machine has seen of the store, kept beside it and not in it.
//! - [`sealed`]: private halves, sealed to all who may use them, and anew when those change.
//!
//! `docs/decisions/0012-…` says why it is so, and what it does not give.

mod any;
mod chain;
mod envelope;
mod marks;
mod member;
mod roles;
pub mod sealed;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code: a broken assumption is a failed test")]
mod tests;

pub use any::{AnyStore, AnyWatch, SharedStore};
pub use chain::{Chain, ChainError, OperatorSet};
pub use envelope::{Distrust, Envelope, EnvelopeError, MAX_OVERHEAD, Origin};
pub use marks::{Behind, Marks, MarksError, Seen};
pub use member::{Member, MemberId, NewMember, NewMemberError, StoreId};
pub use roles::{Permissions, Role, permissions};
pub use store::{Backing, Judged, SignedError, SignedStore, Signer, check_continues, read_chain};
