//! A command that is run late: after its session was given up, or after its key has ended.

use crate::support;
use crate::support::{Home, Lab, Paste, master_key};
use toehold_session::{End, Evidence, HostKeyCheck, Request};

/// Interrupted while it waits; returns the hands that have the command.
fn given_up(lab: &Lab, request: Request) -> (support::Hands, toehold_session::Outcome) {
    let mut hands = lab.hands(Paste::Never);
    let shown = lab.call(Paste::Never, |call| call.kind == toehold_core::testing::CallKind::LogIn);
    let onboarder = lab.onboarder();
    let (master, mut rng, other) = (support::master(), support::rng(1), hands.clone());
    let outcome = support::watch::stepped(&lab.world, onboarder.onboard(request, &master, &mut rng, &mut hands), |calls| {
        if calls > shown {
            other.leave();
        }
    });
    (hands, outcome.unwrap().unwrap())
}

#[test]
fn seen_gone_a_session_whose_command_is_still_out_is_not_closed_by_a_refusal() {
    for known in [false, true] {
        let lab = Lab::new(Home::Foreign);
        if known {
            lab.knows_host_key(lab.host_key());
        }
        let (hands, outcome) = given_up(&lab, lab.request());
        assert_eq!(outcome.end, End::Orphaned, "{:?}", outcome.reason);
        lab.recover_to(outcome.record.id, End::Orphaned);

        hands.paste_late();
        assert!(lab.lets_in(&outcome.record.temporary_key), "the grant is there, and on the list");
        lab.recover_to(outcome.record.id, End::Orphaned);
        lab.pass_the_end(&outcome.record);
        assert!(!lab.lets_in(&outcome.record.temporary_key));
        lab.recover_to(outcome.record.id, End::Failed);
    }
}

#[test]
fn as_it_was_a_late_paste_is_undone_where_a_key_of_ours_can_log_in() {
    // With the temporary key, sealed.
    let lab = Lab::new(Home::Unterminated);
    let mut request = lab.request();
    request.seal_temporary_key = true;
    let (hands, outcome) = given_up(&lab, request);
    hands.paste_late();
    let closed = lab.recover_to(outcome.record.id, End::Failed).record.closed.unwrap();
    assert_eq!(closed.evidence, Evidence::SeenGone);
    assert_eq!(lab.tree(), lab.before);

    // With the master key, on a host that is managed already.
    let lab = Lab::new(Home::Managed);
    lab.knows_host_key(lab.host_key());
    let (hands, outcome) = given_up(&lab, lab.request());
    assert_eq!(outcome.end, End::Orphaned);
    // Not there: but that says nothing yet.
    lab.recover_to(outcome.record.id, End::Orphaned);
    hands.paste_late();
    let closed = lab.recover_to(outcome.record.id, End::Failed).record.closed.unwrap();
    assert_eq!(closed.evidence, Evidence::SeenGone);
    assert_eq!(lab.tree(), lab.before);
    assert!(lab.lets_in(&master_key()));
}

#[test]
fn after_the_end_of_its_key_the_command_brings_nothing() {
    let lab = Lab::new(Home::Bare);
    let (hands, outcome) = given_up(&lab, lab.checked(HostKeyCheck::AcceptNew));
    lab.pass_the_end(&outcome.record);
    hands.paste_late();
    assert_eq!(lab.tree(), lab.before);
    let closed = lab.recover_to(outcome.record.id, End::Failed).record.closed.unwrap();
    assert_eq!(closed.evidence, Evidence::RefusedAfterExpiry);
}

#[test]
fn a_paste_that_takes_its_time_is_no_trouble() {
    let lab = Lab::new(Home::Foreign);
    lab.world.clock().set_auto_advance(false);
    let onboarder = lab.onboarder();
    let hands = lab.hands(Paste::Never);
    let (master, mut rng, mut operator) = (support::master(), support::rng(1), hands.clone());
    let mut process = toehold_core::testing::Process::new(onboarder.onboard(lab.request(), &master, &mut rng, &mut operator));
    for _ in 0..800 {
        assert!(process.run().is_none());
        lab.advance(2);
    }
    hands.paste_late();
    let outcome = loop {
        match process.run() {
            Some(outcome) => break outcome.unwrap(),
            None => lab.advance(2),
        }
    };
    assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
}
