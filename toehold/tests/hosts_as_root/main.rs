//! `toehold host …` against real servers with hosts, disks and users of their own.
//!
//! Needs: openssh, root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod cli_add_again;
mod cli_bad_hosts;
mod cli_full_state;
mod cli_host_add;
mod cli_invite;
mod cli_secrets;
