//! `gateway serve` and the tokens, as processes, with raw clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../join_support/mod.rs"]
mod join_support;
#[path = "../support/mod.rs"]
mod support;

mod admission;
mod crash;
mod hostile;
mod join;
mod keys;
mod opni;
mod process;
mod proxy;
mod race;
mod sessions;
mod tokens;
