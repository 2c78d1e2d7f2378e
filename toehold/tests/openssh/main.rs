//! The adapter to SSH against real servers.
//!
//! Needs: openssh.

#[path = "../support/mod.rs"]
mod support;

mod openssh_hangs;
mod openssh_jumps;
mod openssh_login;
