//! The install command on hosts of its own.
//!
//! Needs: openssh, root, shells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../install/install_support/mod.rs"]
mod install_support;

mod install_cloud_init;
mod install_expiry;
mod install_refusals;
mod install_sshd;
