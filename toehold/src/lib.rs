//! Toehold's adapters and commands: what its binary is made of.

mod accepting;
pub mod adapters;
pub mod agent;
pub mod audit_seen;
mod child;
pub mod cli;
pub mod commands;
mod counters;
pub mod gateway;
pub mod master_key;
mod on_record;
pub mod pods;
pub mod private;
pub mod recovery;
pub mod serve;
pub mod shared;
pub mod spec_store;
pub mod state;
pub mod store_check;
pub mod store_copy;
pub mod store_gc;
mod telling;
