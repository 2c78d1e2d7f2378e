//! Cancelling a session: while somebody works on it, and when nobody does any more.

use std::time::Duration;

use crate::support;
use crate::support::watch::stepped;
use crate::support::{Home, Lab, Paste, Watch, master, master_key, rng};
use toehold_core::SessionId;
use toehold_core::testing::{Process, block_on};
use toehold_session::{End, Evidence, SessionError, Status};

fn cancel(lab: &Lab, id: SessionId) -> End {
    let lab = lab.restart();
    let onboarder = lab.onboarder();
    let outcome = lab.world.run(onboarder.cancel(id, &master(), &mut rng(3), &mut lab.hands(Paste::Never))).unwrap().unwrap();
    outcome.end
}

#[test]
fn as_it_was_a_live_session_sees_its_cancellation_at_the_next_look() {
    let lab = Lab::new(Home::Bare);
    lab.world.clock().set_auto_advance(false);
    let onboarder = lab.onboarder();
    let hands = lab.hands(Paste::Never);
    let (master, mut rng, mut operator) = (master(), rng(1), hands.clone());
    let mut process = Process::new(onboarder.onboard(lab.request(), &master, &mut rng, &mut operator));
    assert!(process.run().is_none(), "it waits for the paste");
    let id = lab.session().id;
    block_on(lab.restart().onboarder().mark_cancelled(id)).unwrap();
    hands.paste_late();
    assert!(process.run().is_none(), "it sleeps");
    lab.world.clock().advance(Duration::from_secs(2));
    let outcome = process.run().unwrap().unwrap();
    assert_eq!((outcome.end, outcome.reason.as_deref()), (End::Failed, Some("cancelled")));
    assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::SeenGone);
    assert!(outcome.record.cancelled);
    assert_eq!(lab.tree(), lab.before);
}

#[test]
fn holds_as_it_was_anchored_seen_gone_when_the_cancellation_comes_between_any_two_calls() {
    let settles = Lab::new(Home::Foreign).call_that_settles();
    let calls = Lab::new(Home::Foreign).call(Paste::AtOnce, |call| call.kind == toehold_core::testing::CallKind::Close);
    for at in Lab::new(Home::Foreign).call_that_opens() + 1..calls {
        let when = format!("cancelled after call {at}");
        let lab = Lab::new(Home::Foreign);
        let mut watch = Watch::new(&lab);
        let onboarder = lab.onboarder();
        let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(Paste::AtOnce));
        let mut cancelled = false;
        let outcome = stepped(&lab.world, onboarder.onboard(lab.request(), &master, &mut rng, &mut hands), |calls| {
            if calls == at && !cancelled {
                cancelled = true;
                // A session that is closed already is not cancelled any more.
                drop(block_on(lab.restart().onboarder().mark_cancelled(lab.session().id)));
            }
            watch.look(&|| when.clone());
        });
        let outcome = outcome.unwrap().unwrap();
        // The last look at the record before the master key has logged in is the one before the lines are added.
        match outcome.end {
            End::Completed => assert!(lab.lets_in(&master_key()), "{when}"),
            End::Failed => {
                assert!(at <= settles, "{when}: undone after the master key had logged in");
                assert_eq!(lab.tree(), lab.before, "{when}");
            }
            end => panic!("{when}: {end:?} {:?}", outcome.reason),
        }
        watch.check_end(&when);
    }
}

#[test]
fn as_it_was_a_dead_session_is_undone_with_the_master_key() {
    for home in Home::ALL {
        let lab = Lab::new(home);
        let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_proves());
        assert!(lab.holds(&record.temporary_key) && lab.lets_in(&master_key()));
        assert_eq!(cancel(&lab, record.id), End::Failed, "{home:?}");
        assert_eq!(lab.session().closed.unwrap().evidence, Evidence::SeenGone);
        assert_eq!(lab.tree(), lab.before, "{home:?}");
        assert_eq!(lab.claim(), None);
        assert_eq!(lab.host(), None);
    }
}

#[test]
fn anchored_a_cancellation_after_the_master_key_has_logged_in_comes_too_late() {
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_settles());
    assert_eq!(cancel(&lab, record.id), End::Completed);
    assert!(lab.lets_in(&master_key()) && !lab.holds(&record.temporary_key));
    assert_eq!(lab.host().unwrap().session, record.id);
}

#[test]
fn a_recovery_of_a_cancelled_session_undoes_it_too() {
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_proves());
    block_on(lab.restart().onboarder().mark_cancelled(record.id)).unwrap();
    lab.recover_to(record.id, End::Failed);
    assert_eq!(lab.tree(), lab.before);
}

#[test]
fn a_closed_session_is_not_cancelled() {
    let lab = Lab::new(Home::Foreign);
    let record = lab.onboard_well();
    let error = block_on(lab.restart().onboarder().mark_cancelled(record.id)).unwrap_err();
    assert!(matches!(error, SessionError::Closed { status: Status::Completed, .. }), "{error}");
    let nobody = support::turns::id('e');
    let error = block_on(lab.restart().onboarder().mark_cancelled(nobody)).unwrap_err();
    assert!(matches!(error, SessionError::NotFound(id) if id == nobody), "{error}");
}

#[test]
fn all_of_them_at_once_and_an_unreadable_one_hides_none() {
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_proves());
    let newer = support::turns::id('0');
    let key = toehold_session::SessionRecord::key(newer).unwrap();
    let value = br#"{"v":9,"readable_from":9}"#;
    block_on(toehold_core::Store::put(lab.world.memory(), &key, value, toehold_core::Expect::Absent)).unwrap();
    let onboarder = lab.onboarder();
    let results =
        lab.world.run(onboarder.cancel_all(&master(), &mut rng(3), &mut lab.hands(Paste::Never), |_| true)).unwrap().unwrap();
    assert_eq!(results.len(), 2);
    assert!(matches!(results[0], (id, Err(SessionError::Store(toehold_core::StoreError::Newer { .. }))) if id == newer));
    assert!(matches!(&results[1], (id, Ok(outcome)) if *id == record.id && outcome.end == End::Failed));
    assert!(!toehold_session::is_settled(&results[0].1) && toehold_session::is_settled(&results[1].1));
    assert_eq!(lab.tree(), lab.before);
}
