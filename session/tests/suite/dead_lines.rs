//! The line of a session that was closed on a refusal: dead, and still on the host. It is remembered until it was taken away.

use crate::support;
use crate::support::{Home, Lab, Paste, Watch, master, master_key, rng, watched};
use toehold_core::testing::{CallKind, Moment, block_on};
use toehold_core::{StoreError, Stored};
use toehold_session::{AccountClaim, End, Evidence, SessionRecord, Status};

/// A session whose process died while it waited for the paste, which came; its key has ended since.
fn ended(lab: &Lab) -> SessionRecord {
    let knocks = lab.call(Paste::AtOnce, |call| call.kind == CallKind::LogIn);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), knocks);
    lab.pass_the_end(&record);
    record
}

/// The next session takes the dead line away.
fn swept_by_the_next(lab: &Lab, dead: &SessionRecord, when: &str) {
    assert!(lab.holds(&dead.temporary_key), "{when}: there is nothing to be swept");
    let next = lab.restart();
    let onboarder = next.onboarder();
    let mut hands = next.hands(Paste::AtOnce);
    let outcome = next.world.run(onboarder.onboard(next.request(), &master(), &mut rng(7), &mut hands)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Completed, "{when}: {:?}", outcome.reason);
    assert!(!lab.holds(&dead.temporary_key), "{when}: the dead line stayed");
    assert_eq!(lab.claim(), None, "{when}");
    assert!(lab.lets_in(&master_key()), "{when}");
}

#[test]
fn holds_journal_first_seen_gone_a_crash_at_any_call_of_the_close_forgets_no_dead_line() {
    let calls = {
        let lab = Lab::new(Home::Foreign);
        let record = ended(&lab);
        let recovery = lab.restart();
        recovery.recover(record.id).unwrap().unwrap();
        recovery.world.faults().log()
    };
    let mut closed_when_it_crashed = 0;
    for call in &calls {
        for moment in [Moment::Before, Moment::After, Moment::Late] {
            let when = format!("crashed {moment:?} {call}");
            let lab = Lab::new(Home::Foreign);
            let mut watch = Watch::new(&lab);
            let record = ended(&lab);
            watch.look(&|| when.clone());
            let recovery = lab.restart();
            recovery.world.faults().crash_at(call.number, moment);
            let onboarder = recovery.onboarder();
            let (master, mut rng, mut hands) = (master(), rng(2), recovery.hands(Paste::Never));
            let ended = watched(&recovery.world, &mut watch, onboarder.recover(record.id, &master, &mut rng, &mut hands));
            assert!(ended.is_none(), "{when}");
            lab.world.fleet().deliver_late();
            watch.look(&|| format!("{when}, delivered late"));
            if lab.session().status.is_open() {
                lab.recover_to(record.id, End::Failed);
                watch.look(&|| format!("{when}, recovered"));
            } else {
                closed_when_it_crashed += 1;
            }
            swept_by_the_next(&lab, &record, &when);
        }
    }
    assert!(closed_when_it_crashed > 1, "{closed_when_it_crashed}");
}

#[test]
fn journal_first_the_operators_word_forgets_no_dead_line_either() {
    let lab = Lab::new(Home::Foreign);
    let record = ended(&lab);
    for at in 0.. {
        let process = lab.restart();
        process.world.faults().crash_at(at, Moment::After);
        let onboarder = process.onboarder();
        let ended = process.world.run(onboarder.forget(record.id));
        let stored = lab.session();
        let known = lab.claim().unwrap().dead.iter().any(|dead| dead.session == record.id);
        assert!(stored.status.is_open() || known, "crashed at call {at}");
        if stored.status == Status::Failed {
            assert_eq!(stored.closed.unwrap().evidence, Evidence::OperatorsWord);
            assert!(ended.is_none());
            break;
        }
    }
    swept_by_the_next(&lab, &record, "forgotten");
}

#[test]
fn no_lost_update_one_that_dies_while_another_session_has_the_account_is_remembered_there() {
    // The second session is under way when the operator forgets the first one.
    let lab = Lab::new(Home::Foreign);
    let knocks = lab.call(Paste::AtOnce, |call| call.kind == CallKind::LogIn);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), knocks);
    lab.recover_to(record.id, End::Orphaned);
    lab.pass_the_end(&record);
    let second = lab.restart();
    second.world.faults().take_turns(true);
    let onboarder = second.onboarder();
    let (master, mut rng, mut hands) = (master(), rng(9), second.hands(Paste::AtOnce));
    let adds = lab.call_that_adds();
    let mut forgotten = false;
    let outcome =
        support::watch::stepped(&second.world, onboarder.onboard(second.request(), &master, &mut rng, &mut hands), |calls| {
            if calls >= adds - 1 && !forgotten {
                forgotten = true;
                block_on(lab.restart().onboarder().forget(record.id)).unwrap();
            }
        });
    let outcome = outcome.unwrap().unwrap();
    assert!(forgotten);
    assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
    // It did not know of it, and so it is still remembered.
    let claim: Result<Option<Stored<AccountClaim>>, StoreError> =
        block_on(Stored::read(lab.world.memory(), &AccountClaim::key(&lab.account).unwrap()));
    let dead: Vec<_> = claim.unwrap().unwrap().body.dead.iter().map(|dead| dead.session).collect();
    assert_eq!(dead, [record.id]);
    swept_by_the_next(&lab, &record, "forgotten meanwhile");
}
