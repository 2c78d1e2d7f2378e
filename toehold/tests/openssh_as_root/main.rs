//! The adapter to SSH against real servers with users and disks of their own.
//!
//! Needs: openssh, root.

#[path = "../support/mod.rs"]
mod support;

mod openssh_files;
mod openssh_replacement;
