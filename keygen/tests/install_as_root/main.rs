//! The install command on hosts of its own.
//!
//! Needs: openssh, root, shells.

#[path = "../install/install_support/mod.rs"]
mod install_support;

mod install_cloud_init;
mod install_expiry;
mod install_refusals;
mod install_sshd;
