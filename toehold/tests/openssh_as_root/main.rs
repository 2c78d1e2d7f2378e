//! The adapter to SSH against real servers with users and disks of their own.
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

mod openssh_files;
mod openssh_replacement;
