//! The operator presses Ctrl-C, in each phase.

use crate::support::watch::stepped;
use crate::support::{Home, Lab, Paste, Watch, master, master_key, rng};
use toehold_core::testing::{CallKind, Process};
use toehold_session::{End, Evidence};

#[test]
fn holds_as_it_was_anchored_seen_gone_when_the_operator_leaves_between_any_two_calls() {
    for (home, paste) in [(Home::Bare, Paste::AtOnce), (Home::Foreign, Paste::Ran)] {
        let calls = Lab::new(home).call(paste, |call| call.kind == CallKind::Close);
        let adds = Lab::new(home).call_that_adds();
        let (mut completed, mut failed) = (0, 0);
        for at in 0..calls {
            let when = format!("{home:?}, left after call {at}");
            let lab = Lab::new(home);
            let mut watch = Watch::new(&lab);
            let onboarder = lab.onboarder();
            let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(paste));
            let other = hands.clone();
            let outcome = stepped(&lab.world, onboarder.onboard(lab.request(), &master, &mut rng, &mut hands), |calls| {
                if calls >= at {
                    other.leave();
                }
                watch.look(&|| when.clone());
            });
            let outcome = outcome.unwrap().unwrap();
            match outcome.end {
                End::Completed => {
                    completed += 1;
                    assert!(at + 30 > adds && lab.lets_in(&master_key()), "{when}");
                }
                End::Failed => {
                    failed += 1;
                    assert_eq!(outcome.reason.as_deref(), Some("interrupted"), "{when}");
                    assert_eq!(lab.tree(), lab.before, "{when}");
                    assert_eq!(lab.claim(), None, "{when}");
                }
                end => panic!("{when}: {end:?} {:?}", outcome.reason),
            }
            watch.check_end(&when);
        }
        assert!(completed > 40 && failed > 15, "{completed} completed, {failed} failed");
    }
}

#[test]
fn before_the_command_is_shown_nothing_is_owed() {
    let lab = Lab::new(Home::Foreign);
    let mut hands = lab.hands(Paste::AtOnce);
    hands.leave();
    let outcome = lab.onboard(lab.request(), &mut hands).unwrap().unwrap();
    assert_eq!((outcome.end, outcome.reason.as_deref()), (End::Failed, Some("interrupted")));
    assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::NeverShown);
    assert!(hands.seen().command.is_none());
    assert_eq!(lab.tree(), lab.before);
}

#[test]
fn the_wait_for_the_paste_ends_at_once() {
    let lab = Lab::new(Home::Foreign);
    lab.world.clock().set_auto_advance(false);
    let onboarder = lab.onboarder();
    let hands = lab.hands(Paste::Never);
    let (master, mut rng, mut operator) = (master(), rng(1), hands.clone());
    let mut process = Process::new(onboarder.onboard(lab.request(), &master, &mut rng, &mut operator));
    assert!(process.run().is_none());
    hands.leave();
    // The clock stands still.
    let outcome = process.run().unwrap().unwrap();
    assert_eq!(outcome.end, End::Orphaned);
    assert!(outcome.reason.unwrap().starts_with("interrupted"));
    assert!(outcome.record.cancelled, "what the operator did not want is not completed by a recovery");
}

#[test]
fn as_it_was_an_unreachable_host_is_tried_again_although_the_operator_wants_out() {
    let lab = Lab::new(Home::Foreign);
    let adds = lab.call_that_adds();
    let lab = lab.restart();
    // The connection is lost while the lines are being added, and the host is away for a moment.
    lab.world.faults().fail_at(adds, toehold_core::testing::Fault::LostBefore);
    lab.world.faults().fail_at(adds + 1, toehold_core::testing::Fault::Unreachable);
    lab.world.faults().fail_at(adds + 2, toehold_core::testing::Fault::TimedOut);
    let onboarder = lab.onboarder();
    let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(Paste::AtOnce));
    let other = hands.clone();
    let outcome = stepped(&lab.world, onboarder.onboard(lab.request(), &master, &mut rng, &mut hands), |calls| {
        if calls >= adds {
            other.leave();
        }
    });
    let outcome = outcome.unwrap().unwrap();
    assert_eq!(outcome.end, End::Failed, "{:?}", outcome.reason);
    assert_eq!(lab.tree(), lab.before);
}
