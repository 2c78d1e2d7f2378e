//! A rotation that dies at any of its calls, or has any of them fail in any way that it can, and then is resumed, rolled back,
//! or left to the clock.
//!
//! After every single call, of the first process and of those after it, `support::watch` looks at the store and at the hosts
//! and holds them to the invariants; `support::crash` only brings about what goes wrong. Here is one host in all ways, and a share
//! of what is rarer; `crash_in_every_shape.rs` has other fleets.

use crate::support::crash::{CASE, Case, Run, Then, crash_again, crash_everywhere, fail_everywhere};

#[test]
fn holds_never_locked_out_and_exactly_one_key_and_foreign_bytes_wherever_it_crashes() {
    crash_everywhere(CASE, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_and_proven_current_whatever_fails() {
    fail_everywhere(CASE, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_the_grace_is_left_by_the_way_back() {
    crash_everywhere(Case { grace: 900, run: Run::BackInGrace, ..CASE }, 1);
    fail_everywhere(Case { grace: 900, run: Run::BackInGrace, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_a_host_refuses_the_new_key() {
    crash_everywhere(Case { hosts: 2, refuses: true, ..CASE }, 1);
    fail_everywhere(Case { hosts: 2, refuses: true, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_a_host_is_deferred() {
    crash_everywhere(Case { hosts: 2, refuses: true, defer: true, ..CASE }, 1);
    fail_everywhere(Case { hosts: 2, refuses: true, defer: true, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_on_hosts_without_expiry() {
    crash_everywhere(Case { without_expiry: true, ..CASE }, 1);
    fail_everywhere(Case { without_expiry: true, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_the_resumption_goes_wrong_as_well() {
    crash_again(CASE, Then::Resume, 61);
    crash_again(CASE, Then::RollBack, 61);
}
