//! Where the shape of a rotation differs: two hosts, a grace, a host that is left behind, the healing of one, the way back from every
//! phase. See `crash_at_every_call.rs`.

use crate::support::crash::{CASE, Case, Run, crash_everywhere, fail_everywhere};
use toehold_core::RotationPhase;

#[test]
fn holds_never_locked_out_and_exactly_one_key_on_two_hosts() {
    crash_everywhere(Case { hosts: 2, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_on_two_hosts_whatever_fails() {
    fail_everywhere(Case { hosts: 2, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_with_a_grace() {
    crash_everywhere(Case { grace: 90, ..CASE }, 1);
    fail_everywhere(Case { grace: 90, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_a_host_that_is_away_is_left_behind() {
    crash_everywhere(Case { hosts: 2, away: true, defer: true, ..CASE }, 1);
    fail_everywhere(Case { hosts: 2, away: true, defer: true, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_a_host_that_is_away_leads_all_back() {
    crash_everywhere(Case { hosts: 2, away: true, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_the_healing_goes_wrong() {
    crash_everywhere(Case { hosts: 2, run: Run::Healing, ..CASE }, 1);
    fail_everywhere(Case { hosts: 2, run: Run::Healing, ..CASE }, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_the_way_back_from_any_phase_goes_wrong() {
    let case = Case { grace: 90, ..CASE };
    let ways = case.ways_in();
    for phase in [
        RotationPhase::Planned,
        RotationPhase::Installing,
        RotationPhase::Proving,
        RotationPhase::Switching,
        RotationPhase::Retiring,
    ] {
        assert!(ways.iter().any(|(way, _)| *way == phase), "never in {phase}: {ways:?}");
    }
    // The barrier, and the grace.
    assert_eq!(ways.len(), 7, "{ways:?}");
    for (_, call) in ways {
        crash_everywhere(Case { run: Run::BackFrom(call), ..case }, 1);
        fail_everywhere(Case { run: Run::BackFrom(call), ..case }, 1);
    }
}
