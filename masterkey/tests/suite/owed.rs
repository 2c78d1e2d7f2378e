//! What a rotation does not call done: keys that no host has proven, hosts that are owed, a store that fails under way.

use crate::support::{Lab, rng, stepped};
use toehold_core::testing::{CallKind, Fault, Moment, block_on};
use toehold_core::{HostPhase, HostRecord, OnUnreachable, RotationPhase, Settled, Store as _};
use toehold_masterkey::{End, NoObserver, RotationError};

#[test]
fn proven_current_a_fleet_without_hosts_is_not_rotated() {
    let lab = Lab::empty();
    let before = lab.world.memory().entries();
    let error = lab.rotate(lab.request()).unwrap_err();
    assert!(matches!(error, RotationError::NoHosts), "{error}");
    let error = lab.world.run(lab.rotator().dry_run(&lab.request())).unwrap().unwrap_err();
    assert!(matches!(error, RotationError::NoHosts), "{error}");
    assert_eq!(lab.world.memory().entries(), before);
    assert_eq!(lab.settle().managed, 0);
}

#[test]
fn proven_current_a_fleet_whose_hosts_are_all_deferred_keeps_its_key() {
    let mut lab = Lab::new(2);
    lab.pace.attempts = 1;
    for account in &lab.accounts {
        lab.world.fleet().switch_off(account);
    }
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    let outcome = lab.rotate(request).unwrap();
    assert_eq!(outcome.end, End::RolledBack);
    assert!(outcome.reason.as_ref().unwrap().contains("no host has proven the key"), "{:?}", outcome.reason);
    assert_eq!(lab.current(), lab.first);
}

#[test]
fn proven_current_a_fleet_whose_last_host_goes_meanwhile_keeps_its_key() {
    let lab = Lab::new(1);
    let key = HostRecord::key(&lab.accounts[0]).unwrap();
    let (rotator, mut rng) = (lab.rotator(), rng(1));
    let outcome = stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |_| {
        assert_eq!(lab.current(), lab.first);
        if lab.rotation().is_some_and(|rotation| rotation.phase == RotationPhase::Proving)
            && let Some(entry) = block_on(lab.world.memory().get(&key)).unwrap()
        {
            block_on(lab.world.memory().delete(&key, entry.revision)).unwrap();
        }
    });
    let outcome = outcome.unwrap().unwrap();
    assert_eq!(outcome.end, End::RolledBack);
    assert!(outcome.reason.as_ref().unwrap().contains("no host is managed any more"), "{:?}", outcome.reason);
    assert_eq!(lab.current(), lab.first);
}

/// A fleet of two, one of which was away during a rotation, with another rotation that has died at this call.
fn owing(call: usize) -> Lab {
    let mut lab = Lab::new(2);
    lab.pace.attempts = 1;
    lab.world.fleet().switch_off(&lab.accounts[1]);
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    assert_eq!(lab.rotate(request.clone()).unwrap().owed().count(), 1);
    let lab = lab.restart();
    lab.world.faults().crash_at(call, Moment::After);
    assert!(lab.world.run(lab.rotator().rotate(request, &mut rng(9), &NoObserver)).is_none());
    assert!(lab.rotation().is_some_and(|rotation| rotation.number == 2 && !rotation.phase.is_closed()));
    lab.restart()
}

#[test]
fn r7_a_rollback_names_the_host_that_an_earlier_rotation_has_left_behind() {
    for call in [14, 22, 30] {
        let lab = owing(call);
        let away = lab.accounts[1].clone();
        let outcome = lab.roll_back().unwrap();
        assert_eq!(outcome.end, End::RolledBack, "{:?}", outcome.reason);
        let owed: Vec<_> = outcome.owed().map(|host| host.account.clone()).collect();
        assert_eq!(owed, std::slice::from_ref(&away), "call {call}");
        assert!(outcome.owed().next().unwrap().reason.is_some());
        assert!(lab.keys().iter().any(|key| key.public_key == lab.first), "call {call}: the key that it has is gone");

        // Where it is back by then, the way back heals it.
        let lab = owing(call);
        lab.world.fleet().switch_on(&away);
        let outcome = lab.roll_back().unwrap();
        assert_eq!((outcome.end, outcome.owed().count()), (End::RolledBack, 0), "call {call}: {:?}", outcome.hosts);
        lab.assert_settled_on(&outcome.rotation.old, "healed on the way back");
        assert_eq!(lab.keys().len(), 1);
    }
}

#[test]
fn a_store_that_fails_once_a_rotation_has_begun_leaves_it_unfinished_and_that_is_said() {
    let good = Lab::new(1);
    good.rotate_well();
    let (mut before, mut under_way) = (0, 0);
    for call in good.world.faults().log() {
        if !matches!(call.kind, CallKind::StoreGet | CallKind::StoreList | CallKind::StorePut) {
            continue;
        }
        let lab = Lab::new(1);
        // For good: a store that is away for one call is often asked again.
        for number in call.number..call.number + 400 {
            lab.world.faults().fail_at(number, Fault::UnavailableBefore);
        }
        let Err(error) = lab.rotate(lab.request()) else { continue };
        let begun = lab.rotation().is_some();
        match error {
            RotationError::Unfinished { number: 1, .. } => under_way += 1,
            RotationError::InDoubt { number: 1, .. } => assert!(!begun, "{call}"),
            other => {
                assert!(!begun, "{call}: {other}");
                before += 1;
            }
        }
        if begun {
            let outcome = lab.restart().resume();
            assert!(
                matches!(outcome, Ok(ref outcome) if outcome.end == End::Done) || matches!(outcome, Err(RotationError::NoneOpen)),
                "{call}"
            );
        }
    }
    assert!(before > 3 && under_way > 20, "{before} {under_way}");
}

/// One key is all that the store holds, and a host's record is of before.
#[test]
fn a_host_that_is_owed_is_healed_where_a_single_key_is_held() {
    let lab = Lab::new(1);
    lab.rotate_well();
    let account = &lab.accounts[0];
    assert_eq!(lab.keys().len(), 1);
    lab.change_host(account, |host| host.settled = Some(Settled { generation: 0, fingerprint: lab.current().fingerprint() }));
    let before = lab.world.fleet().logins(account).len();
    let outcome = lab.settle();
    assert_eq!((outcome.hosts[0].phase, &outcome.hosts[0].reason), (HostPhase::Settled, &None));
    assert!(lab.world.fleet().logins(account).len() - before <= 2);
    assert!(lab.settle().hosts.is_empty());
}

#[test]
fn r12_what_was_tried_with_the_new_key_says_nothing_of_the_old_one_on_the_way_back() {
    let lab = Lab::new(1);
    let account = &lab.accounts[0];
    lab.world.fleet().configure(account, |settings| settings.refused_algorithms.push("ecdsa-sha2-nistp256".into()));
    let mut request = lab.request();
    request.algorithm = toehold_keygen::KeyAlgorithm::EcdsaP256;
    assert_eq!(lab.rotate(request).unwrap().end, End::RolledBack);
    assert!(!lab.host(account).without_expiry, "a host that knows expiry is held for one that does not");
}

/// A host whose session committed with a key that was not current any more has no mark of being settled, as before the first rotation.
#[test]
fn r11_a_host_that_came_in_with_another_key_is_looked_at_on_the_way_back() {
    let lab = Lab::new(2);
    let account = &lab.accounts[1];
    let other = toehold_keygen::KeyPair::generate(&mut rng(77), toehold_keygen::KeyAlgorithm::Ed25519).unwrap();
    lab.change_host(account, |host| {
        host.settled = None;
        for line in &mut host.keys {
            line.public_key = other.public_key().clone();
        }
    });
    lab.world.faults().crash_at(8, Moment::After);
    assert!(lab.world.run(lab.rotator().rotate(lab.request(), &mut rng(9), &NoObserver)).is_none());
    let lab = lab.restart();
    assert!(lab.rotation().is_some_and(|rotation| !rotation.phase.is_closed()));
    let before = lab.world.fleet().logins(account).len();
    assert_eq!(lab.roll_back().unwrap().end, End::RolledBack);
    assert!(lab.world.fleet().logins(account).len() > before, "it was called settled unseen");
}

/// Of a host without a mark of being settled nothing is known once there was a rotation, whatever key its record names.
#[test]
fn r7_a_host_of_which_nothing_is_known_is_looked_at_before_a_key_goes() {
    let lab = Lab::new(2);
    lab.rotate_well();
    lab.change_host(&lab.accounts[1], |host| host.settled = None);
    let before = lab.world.fleet().logins(&lab.accounts[1]).len();
    let outcome = lab.settle();
    assert_eq!(outcome.hosts.iter().map(|host| &host.account).collect::<Vec<_>>(), [&lab.accounts[1]]);
    assert!(lab.world.fleet().logins(&lab.accounts[1]).len() > before, "it was called settled unseen");
}

#[test]
fn while_a_rotation_is_open_only_the_hosts_that_were_left_behind_are_owed() {
    let mut lab = Lab::new(3);
    (lab.pace.attempts, lab.pace.concurrency) = (1, 1);
    let away = lab.accounts[2].clone();
    lab.world.fleet().switch_off(&away);
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    assert_eq!(lab.rotate(request).unwrap().owed().count(), 1);
    lab.world.fleet().switch_on(&away);
    let of = |lab: &Lab| -> Vec<_> {
        let status = block_on(lab.restart().rotator().status()).unwrap();
        status.hosts.iter().map(|host| (host.is_owed, host.is_settled, host.phase)).collect()
    };
    let settled = (false, true, Some(HostPhase::Settled));
    assert_eq!(of(&lab), [settled, settled, (true, false, Some(HostPhase::Quarantined))]);
    let mut seen = Vec::new();
    let next = lab.restart();
    let (rotator, mut one) = (next.rotator(), rng(5));
    let outcome = stepped(&next.world, rotator.rotate(lab.request(), &mut one, &NoObserver), |_| {
        if lab.rotation().is_some_and(|rotation| !rotation.phase.is_closed() && rotation.number == 2) {
            seen.push(of(&lab));
        }
    });
    assert_eq!(outcome.unwrap().unwrap().end, End::Done);
    let (untouched, left_behind) = ((false, true, Some(HostPhase::Untouched)), (true, false, Some(HostPhase::Untouched)));
    assert_eq!(seen[0], [untouched, untouched, left_behind]);
    assert!(seen.contains(&vec![(false, false, Some(HostPhase::Touched)), untouched, left_behind]), "{seen:?}");
    assert!(seen.iter().all(|hosts| !hosts[0].0 && !hosts[1].0), "{seen:?}");
}

#[test]
fn a_host_that_stays_away_ends_each_rotation_that_may_not_leave_it_behind() {
    let mut lab = Lab::new(4);
    (lab.pace.attempts, lab.pace.concurrency) = (1, 1);
    lab.world.fleet().switch_off(&lab.accounts[3]);
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    assert_eq!(lab.rotate(request).unwrap().owed().count(), 1);
    let (current, lab) = (lab.current(), lab.restart());
    // The tests' own random source begins anew.
    assert!(matches!(lab.rotate(lab.request()), Err(RotationError::RepeatedKey(key)) if key == current.fingerprint()));
    for seed in 2..4 {
        let next = lab.restart();
        let (rotator, mut random) = (next.rotator(), rng(seed));
        let rotation = rotator.rotate(next.request(), &mut random, &NoObserver);
        let outcome = next.world.run(rotation).unwrap().unwrap();
        assert_eq!((outcome.end, next.current()), (End::RolledBack, current.clone()), "{:?}", outcome.reason);
    }
}
