//! The tests of the crate, in one program, since each program links the same libraries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod authorized_keys_authorizes;
mod authorized_keys_copies;
mod authorized_keys_known_answers;
mod authorized_keys_properties;
mod keys_common;
mod keys_properties;
mod keys_refused;
mod keys_secrets;
mod keys_temporary;
mod replacement_common;
mod replacement_crash;
mod replacement_fenced;
mod replacement_one_writer;
mod replacement_steps;
