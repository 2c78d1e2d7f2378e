//! Two processes at once: between any two calls of one, another does its work from beginning to end.

use crate::grant_support::{HOUR, Lab, Stepped, bob, foreign, master, rng};
use toehold_masterkey::grant::GrantError;

fn calls(lab: &Lab, job: impl Fn(&Lab)) -> usize {
    let lab = lab.restart();
    job(&lab);
    lab.world.faults().calls()
}

#[test]
fn holds_grant_recorded_when_it_is_revoked_while_it_is_being_given() {
    let count = calls(&Lab::new(), |lab| drop(lab.try_grant(&lab.request(bob()), 1).unwrap().unwrap()));
    let mut given = 0;
    for number in 1..count {
        let lab = Lab::new();
        let (grants, request, master) = (lab.grants(), lab.request(bob()), master());
        let masters = [&master];
        let mut revoked = false;
        let result = lab.interrupted(number, async { grants.grant(&request, &masters, &mut rng(1)).await }, || {
            for record in lab.records() {
                // The giver's lock may be in the way of nobody: the grant is the same.
                lab.restart().revoke(record.id).unwrap();
                revoked = true;
            }
        });
        let result = result.unwrap_or_else(|| panic!("stalls at call {number}"));
        if revoked {
            assert!(!lab.lets_in(&bob()), "revoked before call {number} of {count}, and let in: {result:?}");
            assert_eq!((lab.file(), lab.records(), lab.leftovers()), (foreign(), vec![], vec![]), "{number}: {result:?}");
            let after_it_was_confirmed = result.is_ok();
            assert!(after_it_was_confirmed || matches!(result, Err(GrantError::TakenUp { .. })), "{number}: {result:?}");
            given += usize::from(after_it_was_confirmed);
        } else {
            assert!(result.is_ok() && lab.lets_in(&bob()), "{number}: {result:?}");
        }
    }
    assert!(given < count / 2, "the giver hardly ever noticed");
}

/// The giver stops anywhere, somebody begins to revoke and stops anywhere (every other call), the giver goes on to its end,
/// then the other.
#[test]
fn holds_grant_recorded_when_both_stop_half_way() {
    let count = calls(&Lab::new(), |lab| drop(lab.try_grant(&lab.request(bob()), 1).unwrap().unwrap()));
    let given = Lab::new();
    let id = given.grant(&given.request(bob()), 1).record.id;
    let ending = calls(&given, |lab| drop(lab.revoke(id).unwrap()));
    for (first, second) in (1..count).flat_map(|first| (1 + first % 2..ending).step_by(2).map(move |second| (first, second))) {
        let (lab, request, master) = (Lab::new(), given.request(bob()), master());
        let (masters, grants) = ([&master], lab.grants());
        let mut giving_one = Stepped::new(&lab, async { grants.grant(&request, &masters, &mut rng(1)).await });
        assert!(giving_one.run_to(first).is_none());
        let Some(record) = lab.records().pop() else { continue };
        let (other, other_rng) = (lab.restart(), &mut rng(2));
        let others = other.grants();
        let mut revoking_one = Stepped::new(&other, async { others.revoke(record.id, &masters, other_rng).await });
        let early = revoking_one.run_to(second);
        let granted = giving_one.run_to(usize::MAX).unwrap();
        let ended = early.unwrap_or_else(|| revoking_one.run_to(usize::MAX).unwrap());
        let when = format!("given up to call {first}, revoked up to {second}: {granted:?}, {ended:?}");
        match ended {
            Ok(_) => assert!(!lab.lets_in(&bob()) && lab.records().is_empty(), "{when}"),
            // Its lock was in the way too long; it stays on the list.
            Err(_) => assert_eq!(lab.sweep(), [record.id], "{when}"),
        }
        assert_eq!((lab.file(), lab.leftovers()), (foreign(), vec![]), "{when}");
    }
}

#[test]
fn holds_grant_recorded_when_the_host_is_given_up_meanwhile() {
    let count = calls(&Lab::new(), |lab| drop(lab.try_grant(&lab.request(bob()), 1).unwrap().unwrap()));
    for number in 1..count {
        let lab = Lab::new();
        let (grants, request, master) = (lab.grants(), lab.request(bob()), master());
        let masters = [&master];
        let result = lab.interrupted(number, async { grants.grant(&request, &masters, &mut rng(1)).await }, || {
            lab.change_host(|host| host.removing = true);
            let (grants, account) = (lab.restart().grants(), &lab.account);
            let ending = async { grants.end_all(&masters, &mut rng(2), |record| record.account() == account).await };
            assert!(lab.restart().world.run(ending).unwrap().unwrap().iter().all(|one| one.result.is_ok()), "{number}");
        });
        assert_eq!(lab.file(), foreign(), "given up before call {number}: {result:?}");
    }
}

#[test]
fn two_who_end_one_grant_both_see_it_gone() {
    let ended = || {
        let lab = Lab::new();
        lab.grant(&lab.request(bob()), 1);
        lab.advance(2 * HOUR);
        lab.restart()
    };
    let count = calls(&ended(), |lab| drop(lab.try_sweep().unwrap()));
    for number in 1..count {
        let lab = ended();
        let (grants, master) = (lab.grants(), master());
        let masters = [&master];
        let first = lab.interrupted(number, async { grants.sweep(&masters, &mut rng(3), |_| true).await }, || {
            lab.sweep();
        });
        assert_eq!((lab.file(), lab.records(), lab.leftovers()), (foreign(), vec![], vec![]), "{number}");
        for one in first.unwrap().unwrap() {
            let fine = matches!(&one.result, Ok(_) | Err(GrantError::NotFound(_)));
            assert!(fine, "{number}: {one:?}");
        }
    }
}

#[test]
fn two_grants_on_one_host_at_once_are_both_given() {
    let count = calls(&Lab::new(), |lab| drop(lab.try_grant(&lab.request(bob()), 1).unwrap().unwrap()));
    for number in 1..count {
        let lab = Lab::new();
        let (grants, request, master) = (lab.grants(), lab.request(bob()), master());
        let masters = [&master];
        let other = std::cell::RefCell::new(None);
        let first = lab.interrupted(number, async { grants.grant(&request, &masters, &mut rng(1)).await }, || {
            *other.borrow_mut() = Some(lab.restart().try_grant(&request, 2).unwrap());
        });
        let first = first.unwrap().unwrap();
        // The other one waits for the lock as long as it may; the first does not move meanwhile.
        match other.into_inner().unwrap() {
            Ok(second) => assert_eq!(lab.granted_in_file().len(), 2, "{number}: {second:?}"),
            Err(error) => {
                assert!(matches!(error, GrantError::Replace { .. }) && error.is_passing(), "{number}: {error}");
                assert_eq!(lab.granted_in_file(), [first.record.id]);
                assert_eq!(lab.records().len(), 1, "{number}: nothing of it stays on the list");
            }
        }
    }
}
