//! `toehold spec …` as a process.

#[path = "../spec_support/mod.rs"]
mod spec_support;
#[path = "../support/mod.rs"]
mod support;

mod cli_spec_documents;
mod cli_spec_match;
mod spec_apply;
mod spec_apply_fetch;
mod spec_apply_rules;
mod spec_store;
