//! `toehold host …` and `session …` against real servers.
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

mod cli_agent;
mod cli_demo_sshd;
mod cli_drops;
mod cli_hangs;
mod cli_jumps;
mod cli_sessions;
mod cli_via_ssh;
