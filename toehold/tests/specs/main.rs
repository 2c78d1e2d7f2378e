//! `toehold spec …` as a process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../spec_support/mod.rs"]
mod spec_support;
#[path = "../support/mod.rs"]
mod support;

mod cli_spec_documents;
mod cli_spec_match;
mod fuzz_seeds;
mod spec_apply;
mod spec_apply_durable;
mod spec_apply_fetch;
mod spec_apply_hostile;
mod spec_apply_present;
mod spec_apply_rules;
mod spec_store;
