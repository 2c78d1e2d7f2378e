//! A session that ends while the master key is being rotated.

use crate::support::{Home, Lab, Paste, master, master_key, rng};
use toehold_core::testing::{block_on, sample_public_key};
use toehold_core::{
    CurrentMasterKey, HostRecord, MasterKeyRecord, OnUnreachable, RetiredKey, RotationPhase, RotationPolicy, RotationRecord,
    Settled, Stored, Timestamp,
};
use toehold_session::End;

fn rotation(phase: RotationPhase) -> RotationRecord {
    RotationRecord {
        number: 8,
        old: master_key(),
        new: sample_public_key("ssh-ed25519", "the next master key"),
        sealed_key: None,
        phase,
        policy: RotationPolicy {
            on_unreachable: OnUnreachable::Abort,
            grace: 0,
            canary: None,
            wave: None,
            max_failures: None,
            provisional_for: 600,
        },
        operator: "alice@laptop".to_owned(),
        run: "1".to_owned(),
        fence: 1,
        started_at: Timestamp::UNIX_EPOCH,
        seen_at: Timestamp::UNIX_EPOCH,
        retire_at: None,
        joined: Vec::new(),
        reason: None,
        at_rest: false,
        closed_at: None,
    }
}

fn lab(phase: Option<RotationPhase>, current: Settled) -> Lab {
    let lab = Lab::new(Home::Foreign);
    let store = lab.world.memory();
    let current = CurrentMasterKey { fingerprint: current.fingerprint, generation: current.generation };
    block_on(Stored::create(store, CurrentMasterKey::key().unwrap(), current)).unwrap();
    if let Some(phase) = phase {
        block_on(Stored::create(store, RotationRecord::key(8).unwrap(), rotation(phase))).unwrap();
    }
    lab
}

#[test]
fn r11_a_session_joins_the_open_rotation_before_it_closes_and_says_which_key_its_host_has() {
    let ours = Settled { generation: 7, fingerprint: master_key().fingerprint() };
    let lab = lab(Some(RotationPhase::Installing), ours);
    lab.onboard_well();
    let key = RotationRecord::key(8).unwrap();
    let joined = block_on(Stored::<RotationRecord>::read(lab.world.memory(), &key)).unwrap().unwrap();
    assert_eq!(joined.body.joined, std::slice::from_ref(&lab.account));
    assert_eq!(lab.host().unwrap().settled, Some(ours));
}

#[test]
fn r11_a_host_that_got_a_key_that_is_current_no_more_is_not_settled() {
    let other = Settled { generation: 7, fingerprint: rotation(RotationPhase::Planned).new.fingerprint() };
    let lab = lab(Some(RotationPhase::Retiring), other);
    lab.onboard_well();
    assert_eq!(lab.host().unwrap().settled, None);
    let key = RotationRecord::key(8).unwrap();
    let joined = block_on(Stored::<RotationRecord>::read(lab.world.memory(), &key)).unwrap().unwrap();
    assert_eq!(joined.body.joined, std::slice::from_ref(&lab.account));
}

#[test]
fn r11_a_session_of_an_account_that_has_joined_before_makes_the_leader_look_again() {
    let lab = lab(Some(RotationPhase::Retiring), Settled { generation: 7, fingerprint: master_key().fingerprint() });
    let read =
        || block_on(Stored::<RotationRecord>::read(lab.world.memory(), &RotationRecord::key(8).unwrap())).unwrap().unwrap();
    let mut earlier = read();
    earlier.body.joined.push(lab.account.clone());
    block_on(earlier.save(lab.world.memory())).unwrap();
    lab.onboard_well();
    let joined = read();
    assert_eq!(joined.body.joined, std::slice::from_ref(&lab.account));
    assert!(joined.revision > earlier.revision, "whoever has listed the hosts before the session ended does not hear of it");
}

/// Onboards the same host again, under a key that is `current` or not, after it was settled on `settled`.
fn again(settled: Settled, current: Settled) -> Option<Settled> {
    let lab = lab(None, current);
    lab.onboard_well();
    let key = HostRecord::key(&lab.account).unwrap();
    let mut host = block_on(Stored::<HostRecord>::read(lab.world.memory(), &key)).unwrap().unwrap();
    host.body.settled = Some(settled);
    block_on(host.save(lab.world.memory())).unwrap();
    let lab = lab.restart();
    let (onboarder, mut hands) = (lab.onboarder(), lab.hands(Paste::AtOnce));
    let outcome = lab.world.run(onboarder.onboard(lab.request(), &master(), &mut rng(2), &mut hands)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
    lab.host().unwrap().settled
}

#[test]
fn r7_a_host_that_is_added_again_is_settled_on_no_other_key_than_it_got() {
    let ours = Settled { generation: 7, fingerprint: master_key().fingerprint() };
    let other = Settled { generation: 8, fingerprint: rotation(RotationPhase::Planned).new.fingerprint() };
    assert_eq!(again(ours, ours), Some(ours));
    // The rotation to the other key ended while the session waited, or long before: what the host has now is its former key.
    assert_eq!(again(other, other), None);
    assert_eq!(again(other, ours), None);
}

#[test]
fn a_rotation_that_has_ended_is_left_alone() {
    for phase in [None, Some(RotationPhase::Done), Some(RotationPhase::RolledBack)] {
        let lab = lab(phase, Settled { generation: 7, fingerprint: master_key().fingerprint() });
        lab.onboard_well();
        let key = RotationRecord::key(8).unwrap();
        let after = block_on(Stored::<RotationRecord>::read(lab.world.memory(), &key)).unwrap();
        assert!(after.is_none_or(|after| after.body.joined.is_empty()));
    }
}

/// A session that has read the master key before a rotation without a grace ended, and is on record only since.
#[test]
fn r11_a_session_whose_key_was_dropped_before_it_was_on_record_leaves_its_host_as_it_was() {
    for held in [true, false] {
        for home in [Home::Foreign, Home::Bare] {
            let lab = Lab::new(home);
            let (store, key) = (lab.world.memory(), master_key());
            let fingerprint = key.fingerprint();
            let current = CurrentMasterKey { fingerprint: rotation(RotationPhase::Done).new.fingerprint(), generation: 8 };
            block_on(Stored::create(store, CurrentMasterKey::key().unwrap(), current)).unwrap();
            let retired = RetiredKey { public_key: key.clone(), generation: 8, retired_at: Timestamp::UNIX_EPOCH };
            block_on(Stored::create(store, RetiredKey::key(&fingerprint).unwrap(), retired)).unwrap();
            if held {
                let (comment, sealed) = (String::new(), "sealed".to_owned());
                let created_at = Timestamp::UNIX_EPOCH;
                let record = MasterKeyRecord { public_key: key.clone(), comment, created_at, sealed, generation: 7 };
                block_on(Stored::create(store, MasterKeyRecord::key(&fingerprint).unwrap(), record)).unwrap();
            }
            let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap();
            if held {
                assert_eq!(outcome.end, End::Completed, "{home:?}: {:?}", outcome.reason);
                continue;
            }
            assert_eq!(outcome.end, End::Failed, "{home:?}: a host was brought in with a key that nobody holds");
            assert!(outcome.reason.as_ref().unwrap().contains("run it again"), "{:?}", outcome.reason);
            assert_eq!(lab.tree(), lab.before, "{home:?}");
            assert_eq!(lab.host(), None);
        }
    }
}
