//! `toehold demo --sshd`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

use crate::support::demo::shows_every_host_managed;

#[test]
fn real_sshd_processes() {
    shows_every_host_managed(&["--json", "demo", "--sshd", "--hosts", "2"], 2);
}
