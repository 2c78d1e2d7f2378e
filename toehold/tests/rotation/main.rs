//! `toehold key …` and `grant …` against real servers.
//!
//! Needs: openssh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod cli_agent_rotation;
mod cli_grants;
mod cli_newer_generation;
mod cli_recovery_copy;
mod cli_renew;
mod cli_rotate;
mod cli_rotate_failures;
mod cli_rotate_joins;
mod cli_rotate_operators;
mod cli_rotate_owed;
