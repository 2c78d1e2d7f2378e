//! A settling, and a rotation that begins meanwhile: two operators on one store, in every order of their calls.

use crate::support::{Lab, Standing, Watch, rng, watched};
use toehold_core::{HostPhase, OnUnreachable};
use toehold_masterkey::{End, NoObserver, RotationError};

/// A fleet of two, the second of which an earlier rotation has left behind.
fn owing() -> Lab {
    let mut lab = Lab::new(2);
    let away = lab.accounts[1].clone();
    let attempts = std::mem::replace(&mut lab.pace.attempts, 1);
    lab.world.fleet().switch_off(&away);
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    let outcome = lab.rotate(request).unwrap();
    assert_eq!((outcome.end, outcome.owed().count()), (End::Done, 1));
    lab.world.fleet().switch_on(&away);
    lab.pace.attempts = attempts;
    lab.restart()
}

#[test]
fn r8_a_settling_that_a_rotation_has_overtaken_stops_for_that_host_and_says_so() {
    let calls = {
        let lab = owing();
        assert!(lab.settle().hosts.iter().all(|host| host.phase == HostPhase::Settled));
        lab.world.faults().calls()
    };
    let (mut said, mut owing_still) = (0, 0);
    // It is held up, or dead. Either way the rotation goes on at once: a lock that the settling holds is in nobody's way.
    for dead in [false, true] {
        for at in 1..calls {
            let when = format!("after call {at} of the settling, dead: {dead}");
            let lab = owing();
            let away = lab.accounts[1].clone();
            let (healer, mut one) = (lab.rotator(), rng(4));
            let mut slow = Standing::new(healer.settle(&mut one, &NoObserver));
            let mut watch = Watch::new(&lab);
            if slow.run_watched_to(&lab.world, &mut watch, at).is_some() {
                continue;
            }
            let owed = lab.host(&away).settled.is_none_or(|settled| settled.generation < 1);
            let second = lab.restart();
            let rotator = second.rotator();
            let rotation = watched(&second.world, &mut watch, rotator.rotate(lab.request(), &mut rng(9), &NoObserver));
            let rotation = rotation.unwrap().unwrap();
            assert_eq!((rotation.end, rotation.owed().count()), (End::Done, 0), "{when}: {:?}", rotation.reason);
            owing_still += usize::from(owed);
            if owed {
                assert_eq!(lab.progress(1, &away).unwrap().taken_by, Some(2), "{when}: the settling is not fenced off");
            }
            if dead {
                drop(slow);
            } else {
                let files: Vec<Vec<u8>> = lab.accounts.iter().map(|account| lab.file(account)).collect();
                let late = slow.run_on(&lab.world, &mut watch).unwrap_or_else(|| panic!("{when}: the settling stalls"));
                let after: Vec<Vec<u8>> = lab.accounts.iter().map(|account| lab.file(account)).collect();
                assert_eq!(files, after, "{when}: it has gone on");
                match late {
                    Ok(late) => {
                        // Nor is it told of a host that the rotation has settled on a key that it does not know of.
                        assert!(late.hosts.iter().all(|host| host.account == away), "{when}: {:?}", late.hosts);
                        let of_away = late.hosts.iter().find(|host| host.account == away);
                        let reason = of_away.and_then(|host| host.reason.clone()).unwrap_or_default();
                        said += usize::from(reason.contains("taken the host up"));
                    }
                    // It had read too little before the rotation, and sees it now, or the key that it wanted to leave there is gone.
                    Err(RotationError::AlreadyOpen { .. } | RotationError::NoDurableCopy { .. }) => {}
                    Err(error) => panic!("{when}: {error}"),
                }
            }
            let cured = lab.restart().settle();
            assert!(cured.hosts.iter().all(|host| host.reason.is_none()), "{when}: {:?}", cured.hosts);
            lab.assert_settled_on(&rotation.rotation.new, &when);
            assert_eq!(lab.keys().len(), 1, "{when}");
        }
    }
    assert!(said > 0 && owing_still > calls, "{said} and {owing_still} of {calls}");
}

/// The rotation is held up as well, in the middle of its way.
#[test]
fn r8_a_settling_and_a_rotation_side_by_side_leave_exactly_one_key() {
    let calls = {
        let lab = owing();
        lab.settle();
        lab.world.faults().calls()
    };
    for at in (3..calls).step_by(4) {
        for until in (4..260).step_by(23) {
            let when = format!("after call {at} of the settling and call {until} of the rotation");
            let lab = owing();
            let second = lab.restart();
            let (healer, rotator) = (lab.rotator(), second.rotator());
            let (mut one, mut two) = (rng(4), rng(9));
            let mut slow = Standing::new(healer.settle(&mut one, &NoObserver));
            let mut watch = Watch::new(&lab);
            if slow.run_watched_to(&lab.world, &mut watch, at).is_some() {
                continue;
            }
            lab.advance(600);
            let mut rotating = Standing::new(rotator.rotate(lab.request(), &mut two, &NoObserver));
            let ended = rotating.run_watched_to(&second.world, &mut watch, until);
            assert!(slow.run_on(&lab.world, &mut watch).is_some(), "{when}: the settling stalls");
            let rotation = match ended {
                Some(ended) => ended,
                None => rotating.run_on(&second.world, &mut watch).unwrap_or_else(|| panic!("{when}: the rotation stalls")),
            };
            let rotation = rotation.unwrap_or_else(|error| panic!("{when}: {error}"));
            assert!(matches!(rotation.end, End::Done | End::RolledBack), "{when}: {:?}", rotation.reason);
            let cured = lab.restart().settle();
            assert!(cured.hosts.iter().all(|host| host.reason.is_none()), "{when}: {:?}", cured.hosts);
            let key = if rotation.end == End::Done { &rotation.rotation.new } else { &rotation.rotation.old };
            lab.assert_settled_on(key, &when);
        }
    }
}
