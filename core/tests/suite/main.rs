//! The tests of the crate, in one program, since each program links the same libraries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod audit_chain;
mod audit_log;
mod clock_and_executor;
mod faults;
mod memory_store;
mod records;
mod simulated_fleet;
mod simulated_sshd;
mod store_exports;
mod store_keys;
