//! Pods on a real Kubernetes cluster.
//!
//! Needs: kubernetes, openssh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../cluster_support/mod.rs"]
mod cluster_support;
#[path = "../operators/membership.rs"]
mod membership;
#[path = "../serve_support/mod.rs"]
mod serve_support;
#[path = "../store_nats/server.rs"]
#[allow(unreachable_pub, reason = "other test programs use it from further away")]
mod server;
#[path = "../support/mod.rs"]
mod support;

// What holds on any ground.
#[path = "../pods/bytes.rs"]
mod bytes;
#[path = "../pods/commands.rs"]
mod commands;
#[path = "../pods/gateway.rs"]
#[allow(dead_code, reason = "tests of this machine's pods use the rest")]
mod gateway;
#[path = "../pods/multiplexed.rs"]
mod multiplexed;
#[path = "../pods/raw.rs"]
mod raw;
#[path = "../pods/terminal.rs"]
mod terminal;

mod access;
mod audited;
mod backend;
mod collecting;
mod credentials;
mod ends;
mod faults;
mod files;
mod ground;
mod hurting;
mod images;
mod leashed;
mod limits;
mod logins;
mod many;
mod modes;
mod network;
mod refusals;
mod sharing;
mod way;
