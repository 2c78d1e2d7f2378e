//! A store that fails at some moment and stays away.

use crate::support::{Home, Lab, Paste, Watch, master, master_key, rng, watched};
use toehold_core::testing::{CallKind, Fault};
use toehold_session::{End, SessionError};

/// From this call on every write to the store, or every use of it, fails.
fn away_from(lab: &Lab, call: usize, fault: Fault) {
    for number in call..call + 400 {
        lab.world.faults().fail_at(number, fault);
    }
}

#[test]
fn holds_anchored_seen_gone_journal_first_when_the_store_goes_away_for_good_at_any_call() {
    for fault in [Fault::UnavailableBefore, Fault::UnavailableAfter, Fault::Conflict] {
        let calls = Lab::new(Home::Foreign).call(Paste::AtOnce, |call| call.kind == CallKind::Close);
        for at in 0..calls {
            let when = format!("{fault:?} from call {at} on");
            let lab = Lab::new(Home::Foreign);
            let mut watch = Watch::new(&lab);
            away_from(&lab, at, fault);
            let onboarder = lab.onboarder();
            let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(Paste::AtOnce));
            let ended = watched(&lab.world, &mut watch, onboarder.onboard(lab.request(), &master, &mut rng, &mut hands));
            let ended = ended.unwrap_or_else(|| panic!("{when}: it stalls"));
            drop(onboarder);
            let Ok(outcome) = ended else {
                assert!(matches!(ended, Err(SessionError::Store(_))), "{when}: {ended:?}");
                assert_eq!(lab.tree(), lab.before, "{when}");
                continue;
            };
            if outcome.end == End::LetGo {
                assert!(outcome.reason.is_some(), "{when}");
            }
            // With the store back, recovery leads it to an end, now or once the key has ended.
            let open = || lab.sessions().into_iter().find(|session| session.status.is_open());
            if let Some(left) = open() {
                lab.restart().recover(left.id).unwrap().unwrap();
            }
            if let Some(left) = open() {
                lab.pass_the_end(&left);
                lab.restart().recover(left.id).unwrap().unwrap();
            }
            assert_eq!(open(), None, "{when}");
            watch.check_end(&when);
        }
    }
}

#[test]
fn as_it_was_without_the_store_a_temporary_key_is_still_taken_away() {
    let lab = Lab::new(Home::Bare);
    // The store is gone before anything of value is on the host.
    let reads = lab.call(Paste::AtOnce, |call| call.subject.contains("toehold-proof"));
    let commits = lab.call(Paste::AtOnce, |call| call.number > reads && call.kind == CallKind::StorePut);
    let lab = lab.restart();
    away_from(&lab, commits, Fault::UnavailableBefore);
    let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap();
    assert_eq!(outcome.end, End::LetGo);
    assert_eq!(lab.tree(), lab.before);
    assert!(lab.session().status.is_open(), "the store knows of it as it was");
}

#[test]
fn an_audit_log_that_fails_is_said_and_stops_nothing() {
    let lab = Lab::new(Home::Foreign);
    let audits = |call: &toehold_core::testing::Call| call.kind == CallKind::StorePut && call.subject.starts_with("audit/");
    let audit = lab.call(Paste::AtOnce, audits);
    let lab = lab.restart();
    lab.world.faults().fail_at(audit, Fault::UnavailableBefore);
    let hands = lab.hands(Paste::AtOnce);
    let outcome = lab.onboard(lab.request(), &mut hands.clone()).unwrap().unwrap();
    assert_eq!(outcome.end, End::Completed);
    assert!(lab.lets_in(&master_key()));
    assert!(hands.warnings().iter().any(|text| text.contains("not on the audit record")), "{:?}", hands.warnings());
}
