//! The hands: one file for each outside system.

pub mod identity;
pub mod local_host;
pub mod russh_connector;
pub mod russh_files;
pub mod sqlite;
