//! The shared store on real NATS servers: one by itself, and a cluster of three whose servers are killed and held.
//!
//! Needs: nats.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod cluster;
mod command_line;
mod contract;
mod copying;
mod markers;
mod outages;
mod server;

use std::error::Error;

use toehold_core::Key;

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// An error with all its sources, as a person gets to see it.
fn in_words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
