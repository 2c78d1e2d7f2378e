//! The tests of the crate, in one program, since each program links the same libraries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod channel;
mod configuration;
mod crash;
mod exec_vectors;
mod life;
mod owners;
mod persistent;
mod pod_vectors;
mod refusal_vectors;
mod supervisor;
mod support;
mod watch_vectors;
