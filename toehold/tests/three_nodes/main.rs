//! Three NATS servers, two operators and two gateways. In the middle of onboardings, of a rotation and of joins a server is killed, or
//! the one that leads the store, or the network between two halves is cut. Afterwards nothing is lost and nothing is doubled: every
//! invariant is read off the hosts' real files and by real logins.
//!
//! `TOEHOLD_HOSTS` says how many hosts there are (6 where it is not set), `TOEHOLD_JOINS` how many machines compete for `TOEHOLD_TOKENS`
//! one-time tokens (40 and 4). `cargo xtask chaos --of three-nodes` takes 100, 1,000 and 10.
//!
//! Needs: nats, openssh, root.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    unreachable_pub,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../join_support/mod.rs"]
mod join_support;
#[path = "../store_nats/server.rs"]
mod server;
#[path = "../support/mod.rs"]
mod support;

mod cut;
mod faults;
mod joins;
mod network;
mod onboarding;
mod rotation;
mod site;
mod size;

use std::sync::{Mutex, PoisonError};

use faults::Fault;
use site::Site;
use size::Size;

static ALONE: Mutex<()> = Mutex::new(());

/// Everything once, with the same fault in the middle of each.
fn under(fault: Fault) {
    let counts = Size::of_environment();
    let _alone = counts.is_large().then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
    let mut site = Site::start(counts, fault == Fault::Cut);
    // All else is done where the second and the third server are: from there on it is a network of its own.
    let right = site.right.clone();
    right.enter(|| {
        onboarding::under(&mut site, fault);
        rotation::under(&mut site, fault);
        joins::under(&mut site, fault);
        site.is_whole();
    });
}

#[test]
fn nothing_is_lost_or_doubled_when_a_server_is_killed() {
    under(Fault::Follower);
}

#[test]
fn nothing_is_lost_or_doubled_when_the_leading_server_is_killed() {
    under(Fault::Leader);
}

#[test]
fn nothing_is_lost_or_doubled_when_a_network_is_cut_in_two() {
    under(Fault::Cut);
}
