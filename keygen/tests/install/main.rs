//! The install command in real shells.
//!
//! Needs: openssh, shells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod install_hostile;
mod install_shells;
mod install_support;
mod install_waiting_files;
