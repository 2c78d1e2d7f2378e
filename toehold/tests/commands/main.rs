//! What needs no server: usage, passphrases, terminals, stores, the demo.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod cli_audit;
mod cli_demo;
mod cli_let_go;
mod cli_newer_store;
mod cli_passphrase;
mod cli_ssh_key;
mod cli_store;
mod cli_terminal;
mod cli_usage;
mod local_host;
mod store_copying;
mod store_pruning;
mod stored_records;
