//! The tests of the crate, in one program, since each program links the same libraries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod carried_options;
mod crash_at_every_call;
mod crash_in_every_shape;
mod grant_support;
mod grants;
mod grants_crash;
mod grants_race;
mod held_keys;
mod joining;
mod key_store;
mod lead;
mod newer_generation;
mod owed;
mod periodical_renewal;
mod policy;
mod properties;
mod refusals;
mod rotation;
mod rules;
mod settle_race;
mod settled_audit;
mod shared_file;
mod silent_query;
mod support;
mod transition_table;
mod two_phase;
mod unclear_zone;
