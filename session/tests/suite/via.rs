//! A command that is run on the host instead of being pasted.

use std::time::Duration;

use crate::support::{Home, Lab, Paste};
use toehold_core::Clock as _;
use toehold_session::{End, Evidence};

#[test]
fn it_ran_and_the_host_refuses_all_the_same() {
    for known in [false, true] {
        let lab = Lab::new(Home::Foreign);
        if known {
            lab.knows_host_key(lab.host_key());
        }
        let begun = lab.world.clock().now();
        let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::SaidToHaveRun)).unwrap().unwrap();
        assert!(outcome.reason.unwrap().contains("ran on the host, and yet"), "known: {known}");
        // A known host's refusal says all there is to know; an unproven one's does not.
        assert_eq!(outcome.end, if known { End::Failed } else { End::Orphaned });
        let took = lab.world.clock().now().saturating_since(begun);
        assert!(took < Duration::from_secs(20), "half an hour of waiting is for those who paste: {took:?}");
    }
}

#[test]
fn as_it_was_it_failed_after_its_work_was_done() {
    for home in Home::ALL {
        let lab = Lab::new(home);
        let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::FailedAfter)).unwrap().unwrap();
        assert_eq!((outcome.end, outcome.reason.as_deref()), (End::Failed, Some("the connection of the command was lost")));
        assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::SeenGone);
        assert_eq!(lab.tree(), lab.before, "{home:?}");
    }
}

#[test]
fn seen_gone_it_failed_and_nobody_knows_how_far_it_came() {
    for known in [false, true] {
        let lab = Lab::new(Home::Foreign);
        if known {
            lab.knows_host_key(lab.host_key());
        }
        let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::FailedBefore)).unwrap().unwrap();
        assert_eq!(outcome.end, End::Orphaned);
        assert!(outcome.reason.unwrap().starts_with("the command could not be run"));
        lab.pass_the_end(&outcome.record);
        lab.recover_to(outcome.record.id, End::Failed);
    }
}

#[test]
fn it_ran_and_the_host_cannot_be_reached() {
    let lab = Lab::new(Home::Foreign);
    let begun = lab.world.clock().now();
    let mut hands = lab.hands(Paste::Ran);
    hands.after = |fleet, account, _| fleet.switch_off(account);
    let outcome = lab.onboard(lab.request(), &mut hands).unwrap().unwrap();
    assert_eq!(outcome.end, End::Orphaned);
    assert!(outcome.reason.unwrap().contains("cannot be logged in to"));
    assert!(lab.world.clock().now().saturating_since(begun) < Duration::from_mins(1));
}

#[test]
fn it_ran_and_the_host_is_managed() {
    let lab = Lab::new(Home::Bare);
    let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::Ran)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Completed);
}
