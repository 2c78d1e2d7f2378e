//! What ssh-keygen says of the same keys and files.
//!
//! Needs: openssh.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod authorized_keys_ssh_keygen;
#[path = "../suite/keys_common/mod.rs"]
mod keys_common;
mod keys_read;
mod keys_ssh_keygen;
