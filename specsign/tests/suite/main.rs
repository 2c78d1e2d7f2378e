//! The tests of the crate, in one program, since each program links the same libraries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod admission;
mod archive_hostile;
mod archive_known_answers;
mod choria_known_answers;
mod crash_at_every_call;
mod envelope_support;
mod events_known_answers;
mod hostile;
mod journal;
mod matcher_known_answers;
mod matcher_properties;
mod matcher_unknown;
mod reconcile;
mod removals;
mod root_state;
mod simulated;
mod sums;
mod support;
