//! A machine joins a gateway, both as processes: the commands, crashes, somebody in the middle, and Opni's protocol.
//!
//! `TOEHOLD_KILLS` says how often each is killed (12 where it is not set), `TOEHOLD_SEED` repeats a run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../join_support/mod.rs"]
mod join_support;
#[path = "../spec_support/mod.rs"]
mod spec_support;
#[path = "../support/mod.rs"]
mod support;

mod cli;
mod in_the_middle;
mod kill;
mod local;
mod on_record;
mod opni;
mod specs;
mod trust;
