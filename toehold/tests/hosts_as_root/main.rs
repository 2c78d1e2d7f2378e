//! `toehold host …` against real servers with hosts, disks and users of their own.
//!
//! Needs: openssh, root.

#[path = "../support/mod.rs"]
mod support;

mod cli_add_again;
mod cli_bad_hosts;
mod cli_full_state;
mod cli_host_add;
mod cli_invite;
mod cli_secrets;
