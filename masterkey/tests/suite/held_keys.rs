//! Keys that the store holds and that do not open for whoever runs this: sealed to another operator, or damaged. They are
//! the fleet's all the same.

use crate::support::{Lab, Notes, Standing, Watch, rng};
use toehold_core::testing::block_on;
use toehold_core::{HostPhase, MasterKeyRecord, OnUnreachable, PublicKey, Stored};
use toehold_masterkey::{End, NoObserver, Progress, RotationError};

/// Two hosts and a rotation that had to leave the second one behind; its old key.
fn deferred() -> (Lab, PublicKey) {
    let mut lab = Lab::new(2);
    lab.pace.attempts = 1;
    let away = lab.accounts[1].clone();
    lab.world.fleet().switch_off(&away);
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    assert_eq!(lab.rotate(request).unwrap().end, End::Done);
    lab.world.fleet().switch_on(&away);
    let old = lab.first.clone();
    (lab.restart(), old)
}

/// Makes a sealed half one that does not open; what it was before.
fn spoil(lab: &Lab, key: &PublicKey, sealed: &str) -> String {
    let key = MasterKeyRecord::key(&key.fingerprint()).unwrap();
    let mut record = block_on(Stored::<MasterKeyRecord>::read(lab.world.memory(), &key)).unwrap().unwrap();
    let before = std::mem::replace(&mut record.body.sealed, sealed.to_owned());
    block_on(record.save(lab.world.memory())).unwrap();
    before
}

fn is_held(lab: &Lab, key: &PublicKey) -> bool {
    lab.keys().iter().any(|held| held.public_key == *key)
}

#[test]
fn r7_a_key_that_does_not_open_is_ours_and_is_kept_and_named() {
    for both in [false, true] {
        let (lab, old) = deferred();
        let (current, away) = (lab.current(), lab.accounts[1].clone());
        if both {
            // Somebody has put the current key there as well: only the old one's line is too many.
            let file = [lab.file(&away), format!("{current} toehold-master\n").into_bytes()].concat();
            lab.world.fleet().set_authorized_keys(&away, file);
        }
        spoil(&lab, &old, "sealed to bob");
        let (notes, rotator) = (Notes::default(), lab.rotator());
        let outcome = lab.world.run(rotator.settle(&mut rng(4), &notes)).unwrap().unwrap();
        assert!(outcome.dropped.is_empty() && is_held(&lab, &old), "its private half is gone");
        let host = &outcome.hosts[0];
        let fingerprint = old.fingerprint().to_string();
        if both {
            assert_eq!(host.phase, HostPhase::Settled, "{host:?}");
            assert!(!lab.holds(&away, &old), "the line of a key that does not open is taken for somebody else's");
        } else {
            assert_eq!(host.phase, HostPhase::Quarantined, "{host:?}");
            assert!(host.reason.as_ref().unwrap().contains(&fingerprint), "{host:?}");
            assert!(lab.holds(&away, &old));
        }
        let told = notes.0.lock().unwrap();
        let named = |progress: &Progress| matches!(progress, Progress::Warning(text) if text.contains(&fingerprint));
        assert!(told.iter().any(named), "{told:?}");
    }
}

#[test]
fn r7_whoever_can_open_it_heals_the_host_and_lets_it_go() {
    let (lab, old) = deferred();
    let sealed = spoil(&lab, &old, "sealed to bob");
    let next = lab.restart();
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    let outcome = next.world.run(next.rotator().rotate(request, &mut rng(9), &NoObserver)).unwrap().unwrap();
    assert_eq!((outcome.end, outcome.owed().count()), (End::Done, 1), "{:?}", outcome.reason);
    assert!(is_held(&lab, &old), "a later rotation has dropped it");
    spoil(&lab, &old, &sealed);
    let healed = lab.restart().settle();
    assert_eq!(healed.hosts[0].phase, HostPhase::Settled, "{:?}", healed.hosts);
    assert!(healed.dropped.contains(&old) && !is_held(&lab, &old));
    lab.assert_settled_on(&outcome.rotation.new, "healed by somebody who can open it");
}

#[test]
fn r8_whoever_cannot_open_a_key_of_a_rotation_fences_off_nobody_who_can() {
    let calls = {
        let lab = Lab::new(2);
        lab.rotate_well();
        lab.world.faults().calls()
    };
    for at in (8..calls).step_by(20) {
        let lab = Lab::new(2);
        let (leader, mut one) = (lab.rotator(), rng(1));
        let mut leading = Standing::new(leader.rotate(lab.request(), &mut one, &NoObserver));
        let mut watch = Watch::new(&lab);
        assert!(leading.run_watched_to(&lab.world, &mut watch, at).is_none());
        let Some(rotation) = lab.rotation().filter(|rotation| !rotation.phase.is_closed()) else { continue };
        for key in [&rotation.old, &rotation.new] {
            if !is_held(&lab, key) {
                continue;
            }
            let sealed = spoil(&lab, key, "sealed to alice alone");
            for refused in [lab.restart().resume(), lab.restart().roll_back()] {
                assert!(matches!(refused, Err(RotationError::NoDurableCopy { .. })), "call {at}: {refused:?}");
            }
            spoil(&lab, key, &sealed);
        }
        assert_eq!(lab.rotation().unwrap(), rotation, "call {at}: it has been taken up");
        let outcome = leading.run_on(&lab.world, &mut watch).unwrap().unwrap();
        assert_eq!(outcome.end, End::Done, "call {at}: {:?}", outcome.reason);
        lab.assert_settled_on(&rotation.new, "led on by whoever can");
    }
}
