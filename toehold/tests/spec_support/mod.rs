//! What the tests of specifications share: a desk where they are made, nodes that apply them, and a web server that misbehaves.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::zombie_processes,
    unreachable_pub,
    reason = "test code: a broken assumption is a failed test, and no test uses all of it"
)]

pub mod machines;
pub mod spec;
pub mod web;
