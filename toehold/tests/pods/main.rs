//! `pods serve` on the local backend, with the OpenSSH client and with clients that mean no good.
//!
//! Needs: openssh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod cli;
mod commands;
mod crowd;
mod ends;
mod files;
#[allow(dead_code, reason = "tests on a cluster use the rest")]
mod gateway;
mod ground;
mod hostile;
mod local;
mod multiplexed;
mod panics;
mod raw;
mod reasons;
mod recorded;
mod terminal;
mod transfers;
mod who;
