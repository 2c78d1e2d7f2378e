//! The lock of another Toehold on the account's files.

use crate::support;
use crate::support::{Home, Lab, Paste, master, rng};
use toehold_core::testing::Process;
use toehold_session::End;

const LOCK: &str = ".ssh/authorized_keys.toehold-lock";

fn lock(lab: &Lab) {
    lab.world.fleet().write_file(&lab.account, LOCK, "somebody-else 0123456789abcdef\n", 0o600);
}

#[test]
fn it_is_waited_for_and_the_work_goes_on_when_it_is_gone() {
    let lab = Lab::new(Home::Foreign);
    lab.world.clock().set_auto_advance(false);
    lock(&lab);
    let onboarder = lab.onboarder();
    let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(Paste::AtOnce));
    let mut process = Process::new(onboarder.onboard(lab.request(), &master, &mut rng, &mut hands));
    for _ in 0..10 {
        assert!(process.run().is_none());
        lab.advance(2);
    }
    lab.world.fleet().remove_path(&lab.account, LOCK);
    let outcome = process.run().unwrap().unwrap();
    assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
    assert_eq!(lab.names(), ["authorized_keys"]);
}

#[test]
fn patience_has_an_end_and_the_lock_is_left_alone() {
    let lab = Lab::new(Home::Foreign);
    lock(&lab);
    let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Orphaned);
    assert!(outcome.reason.as_ref().unwrap().contains("another Toehold is at work"), "{:?}", outcome.reason);
    assert!(lab.names().iter().any(|name| LOCK.ends_with(name.as_str())));
    assert!(!lab.holds(&support::master_key()));
    // Somebody who holds a lock for ten minutes is dead.
    lab.pass_the_end(&outcome.record);
    lab.recover_to(outcome.record.id, End::Failed);
}

#[test]
fn as_it_was_a_lock_that_is_gone_in_time_lets_the_undoing_go_on() {
    let lab = Lab::new(Home::Bare);
    lab.world.clock().set_auto_advance(false);
    let onboarder = lab.onboarder();
    let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(Paste::FailedAfter));
    hands.after = |fleet, account, _| fleet.write_file(account, LOCK, "somebody-else 0123456789abcdef\n", 0o600);
    let mut process = Process::new(onboarder.onboard(lab.request(), &master, &mut rng, &mut hands));
    for _ in 0..10 {
        assert!(process.run().is_none());
        lab.advance(2);
    }
    lab.world.fleet().remove_path(&lab.account, LOCK);
    let outcome = process.run().unwrap().unwrap();
    assert_eq!(outcome.end, End::Failed, "{:?}", outcome.reason);
    assert_eq!(lab.tree(), lab.before);
}
