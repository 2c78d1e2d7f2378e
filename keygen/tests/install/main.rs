//! The install command in real shells, against real servers.
//!
//! Needs: openssh, root, shells.

mod install_cloud_init;
mod install_expiry;
mod install_hostile;
mod install_refusals;
mod install_shells;
mod install_sshd;
mod install_support;
mod install_waiting_files;
