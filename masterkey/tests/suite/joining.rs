//! R11: hosts that come in, or come in once more, while a rotation runs.

use std::time::Duration;

use crate::support::{Lab, account, rng, stepped};
use toehold_core::testing::{Process, block_on};
use toehold_core::{Account, RotationPhase, RotationRecord, Settled, Stored};
use toehold_masterkey::{End, NoObserver};

/// The last thing that a session does before it closes: the leader looks for hosts once more.
fn join(lab: &Lab, account: &Account) {
    let key = RotationRecord::key(1).unwrap();
    let mut stored = block_on(Stored::<RotationRecord>::read(lab.world.memory(), &key)).unwrap().unwrap();
    if !stored.body.joined.contains(account) {
        stored.body.joined.push(account.clone());
    }
    block_on(stored.save(lab.world.memory())).unwrap();
}

#[test]
fn r11_a_host_that_comes_while_a_rotation_runs_ends_with_exactly_its_keys() {
    let mut lab = Lab::new(2);
    let late = account("deploy@late.example.net");
    lab.world.fleet().add_host(&late);
    lab.world.fleet().set_authorized_keys(&late, format!("{} toehold-master\n", lab.first));
    lab.accounts.push(late.clone());
    let calls = {
        let lab = Lab::new(2);
        lab.rotate_well();
        lab.world.faults().calls()
    };
    for at in (20..calls).step_by(9) {
        let mut lab = Lab::new(2);
        lab.world.fleet().add_host(&late);
        lab.world.fleet().set_authorized_keys(&late, format!("{} toehold-master\n", lab.first));
        let old = lab.first.clone();
        let rotator = lab.rotator();
        let mut rng = rng(1);
        let mut joined = false;
        let outcome = stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |number| {
            let Some(rotation) = lab.rotation().filter(|_| number == at && !joined) else { return };
            if rotation.phase.is_closed() {
                return;
            }
            joined = true;
            // As a session does that has committed with the old key: its host, then the joining.
            lab.record(&late);
            lab.change_host(&late, |host| {
                host.keys[0].public_key = old.clone();
                host.settled = Some(Settled { generation: 0, fingerprint: old.fingerprint() });
            });
            join(&lab, &late);
        });
        let outcome = outcome.unwrap().unwrap();
        assert_eq!(outcome.end, End::Done, "joined at call {at}: {:?}", outcome.reason);
        if joined {
            lab.accounts.push(late.clone());
        }
        lab.assert_settled_on(&outcome.rotation.new, &format!("joined at call {at}"));
        assert_eq!(lab.keys().len(), 1, "joined at call {at}");
    }
}

/// A session that began before the current key changed, and whose line was pasted late, on a host that was managed all along.
#[test]
fn r11_a_host_that_is_added_again_with_the_old_key_is_led_to_the_new_one_again() {
    let calls = {
        let lab = Lab::new(2);
        lab.rotate_well();
        lab.world.faults().calls()
    };
    let mut in_phases = Vec::new();
    for at in (10..calls).step_by(3) {
        let lab = Lab::new(2);
        let (again, old) = (lab.accounts[0].clone(), lab.first.clone());
        let rotator = lab.rotator();
        let mut rng = rng(1);
        let mut joined = false;
        let outcome = stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |number| {
            // The session waits for the lock on the host's file like anybody else.
            let locked = lab.names(&again).iter().any(|name| name.contains("toehold"));
            let Some(rotation) = lab.rotation().filter(|_| number >= at && !joined && !locked) else { return };
            if rotation.phase.is_closed() {
                return;
            }
            joined = true;
            in_phases.push(rotation.phase);
            if !lab.holds(&again, &old) {
                let line = format!("{old} toehold-master\n");
                lab.world.fleet().set_authorized_keys(&again, [lab.file(&again), line.into_bytes()].concat());
            }
            let is_current = lab.current() == old;
            lab.change_host(&again, |host| {
                host.session = "ffeeddccbbaa99887766554433221100".parse().unwrap();
                host.keys[0].public_key = old.clone();
                host.settled = is_current.then(|| Settled { generation: 0, fingerprint: old.fingerprint() });
            });
            join(&lab, &again);
        });
        let outcome = outcome.unwrap().unwrap();
        assert_eq!(outcome.end, End::Done, "added again at call {at}: {:?}", outcome.reason);
        lab.assert_settled_on(&outcome.rotation.new, &format!("added again at call {at}"));
        assert_eq!(lab.keys().len(), 1, "added again at call {at}");
    }
    for phase in [RotationPhase::Installing, RotationPhase::Switching, RotationPhase::Retiring] {
        assert!(in_phases.contains(&phase), "never in {phase}: {in_phases:?}");
    }
}

#[test]
fn r11_a_host_that_comes_in_with_the_old_key_within_the_grace_gets_the_new_one_before_its_end() {
    let mut lab = Lab::new(1);
    let mut request = lab.request();
    request.policy.grace = 3600;
    lab.world.clock().set_auto_advance(false);
    let (rotator, mut rng) = (lab.rotator(), rng(1));
    let mut process = Process::new(rotator.rotate(request, &mut rng, &NoObserver));
    assert!(process.run().is_none(), "there is no grace");
    let rotation = lab.rotation().unwrap();
    assert!(rotation.phase == RotationPhase::Retiring && rotation.retire_at.is_some(), "{rotation:?}");
    let late = account("deploy@late.example.net");
    lab.world.fleet().add_host(&late);
    lab.world.fleet().set_authorized_keys(&late, format!("{} toehold-master\n", lab.first));
    lab.record(&late);
    lab.change_host(&late, |host| host.keys[0].public_key = lab.first.clone());
    lab.accounts.push(late.clone());
    join(&lab, &late);
    let mut ended = None;
    for _ in 0..60 {
        lab.world.clock().advance(Duration::from_secs(1));
        ended = ended.or(process.run());
    }
    assert!(ended.is_none(), "the grace is over");
    assert!(lab.lets_in(&late, &rotation.new), "the current key does not open it");
    assert!(lab.lets_in(&late, &lab.first), "it has no grace");
    lab.world.clock().set_auto_advance(true);
    let outcome = process.run().unwrap().unwrap();
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    lab.assert_settled_on(&rotation.new, "after the grace");
}
