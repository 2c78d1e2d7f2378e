//! The install command in real shells.
//!
//! Needs: openssh, shells.

mod install_hostile;
mod install_shells;
mod install_support;
mod install_waiting_files;
