//! The two phases for people who drive them themselves, over a key store of one key and without Toehold's own store.
//!
//! ```text
//! TwoPhaseRenewal --allow_both--> BothAllowed --saved_in--> NewSaved --retire_old--> done
//!                                      \--roll_back--> as it was
//! ```
//!
//! Each state is a type of its own and moves on by value, so that the old key cannot be retired before the store is known to
//! hold the new one, nor a renewal be rolled back after that. The same machine and the same [guard](crate::guard) as in a
//! [`Rotator`](crate::Rotator) look at every write: at every moment every host accepts a key for good that has logged in
//! there. What a rotation has besides is the journal: here nobody takes up what a dead process has left but the caller, with
//! the same two keys. [`renew_master_key`](crate::renew_master_key) does all that.

mod host;
mod phases;

pub use host::{Server, ServerFailure};
pub use phases::{BothAllowed, NewSaved, NotAllowed, NotRetired, NotSaved, TwoPhaseRenewal};
