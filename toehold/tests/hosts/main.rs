//! `toehold host …` and `session …` against real servers.
//!
//! Needs: openssh.

#[path = "../support/mod.rs"]
mod support;

mod cli_agent;
mod cli_demo_sshd;
mod cli_drops;
mod cli_hangs;
mod cli_jumps;
mod cli_sessions;
mod cli_via_ssh;
