//! `toehold demo`: the README's first command, as a new user runs it. Needs nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

use crate::support::demo::shows_every_host_managed;

#[test]
fn hosts_inside_the_process() {
    shows_every_host_managed(&["--json", "demo"], 3);
}
