//! One refusal of a key proves nothing: a home directory that is away for a moment makes sshd refuse them all. Nothing is
//! removed, kept back or given up before the host has said it twice.

use crate::support::{Lab, Watch, rng, stepped, taking_over, watched};
use toehold_core::testing::{Call, CallKind, Fault, Moment};
use toehold_core::{HostPhase, OnUnreachable};
use toehold_keygen::KeyAlgorithm;
use toehold_masterkey::{End, NoObserver, Outcome, RotationRequest};

fn lab() -> (Lab, RotationRequest) {
    let mut lab = Lab::new(1);
    lab.pace.wait_for_grace = false;
    let mut request = lab.request();
    request.policy.grace = 600;
    (lab, request)
}

/// A rotation that died at this call; `None` where it was not open then.
fn died_at(call: usize) -> Option<Lab> {
    let (lab, request) = lab();
    lab.world.faults().crash_at(call, Moment::Before);
    let _ = lab.world.run(lab.rotator().rotate(request, &mut rng(1), &NoObserver));
    lab.rotation().is_some_and(|rotation| !rotation.phase.is_closed()).then(|| lab.restart())
}

/// Takes it up, with this refusal on the way.
fn taken_up(lab: &Lab, back: bool, refusal: Option<usize>) -> Outcome {
    if let Some(call) = refusal {
        lab.world.faults().fail_at(call, Fault::KeyRefused);
    }
    let mut watch = Watch::new(lab);
    let rotator = lab.rotator();
    let mut rng = rng(3);
    if back {
        watched(&lab.world, &mut watch, rotator.roll_back(taking_over(), &mut rng, &NoObserver)).unwrap().unwrap()
    } else {
        watched(&lab.world, &mut watch, rotator.resume(taking_over(), &mut rng, &NoObserver)).unwrap().unwrap()
    }
}

/// The places to die at: after every login and after every write to a host.
fn places() -> Vec<usize> {
    let (lab, request) = lab();
    assert_eq!(lab.rotate(request).unwrap().end, End::Grace);
    let tells = |call: &Call| matches!(call.kind, CallKind::LogIn | CallKind::Rename) || call.subject == "masterkey/current";
    lab.world.faults().log().iter().filter(|call| tells(call)).map(|call| call.number + 1).collect()
}

fn logins(lab: &Lab) -> Vec<usize> {
    lab.world.faults().log().into_iter().filter(|call| call.kind == CallKind::LogIn).map(|call| call.number).collect()
}

#[test]
fn one_refusal_on_the_way_back_takes_nothing_away() {
    let mut tried = 0;
    for place in places() {
        let Some(lab) = died_at(place) else { continue };
        taken_up(&lab, true, None);
        for login in logins(&lab) {
            let lab = died_at(place).unwrap();
            let outcome = taken_up(&lab, true, Some(login));
            let when = format!("died before call {place}, refused at call {login}");
            assert_eq!(outcome.end, End::RolledBack, "{when}: {:?}", outcome.reason);
            assert_eq!(outcome.owed().count(), 0, "{when}: {:?}", outcome.hosts);
            lab.assert_settled_on(&lab.first, &when);
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried} refusals");
}

#[test]
fn one_refusal_on_the_way_on_takes_nothing_away() {
    let mut tried = 0;
    for place in places() {
        let Some(lab) = died_at(place) else { continue };
        let ends = taken_up(&lab, false, None).end;
        for login in logins(&lab) {
            let lab = died_at(place).unwrap();
            let outcome = taken_up(&lab, false, Some(login));
            let when = format!("died before call {place}, refused at call {login}");
            assert_eq!(outcome.end, ends, "{when}: {:?}", outcome.reason);
            assert_eq!(outcome.owed().count(), 0, "{when}: {:?}", outcome.hosts);
            assert!(!lab.host(&lab.accounts[0]).without_expiry, "{when}: taken for a host that reads no end");
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried} refusals");
}

/// A host that was away during a rotation, and that refuses the key that is current since.
fn left_behind() -> Lab {
    let mut lab = Lab::new(2);
    let account = lab.accounts[1].clone();
    let attempts = std::mem::replace(&mut lab.pace.attempts, 1);
    lab.world.fleet().switch_off(&account);
    let mut request = lab.request();
    (request.algorithm, request.policy.on_unreachable) = (KeyAlgorithm::EcdsaP256, OnUnreachable::Defer);
    assert_eq!(lab.rotate(request).unwrap().end, End::Done);
    lab.world.fleet().switch_on(&account);
    lab.world.fleet().configure(&account, |settings| settings.refused_algorithms.push("ecdsa-sha2-nistp256".into()));
    lab.pace.attempts = attempts;
    lab.restart()
}

/// Whether it is only the end that a host does not read is found out with a line that has none: whoever dies over that leaves it.
#[test]
fn r3_a_line_that_a_settling_has_made_permanent_and_left_is_taken_away_by_the_next() {
    let calls = {
        let lab = left_behind();
        assert_eq!(lab.settle().hosts[0].phase, HostPhase::Quarantined);
        lab.world.faults().calls()
    };
    let permanent = |lab: &Lab| {
        let (file, current) = (lab.file(&lab.accounts[1]), lab.current().to_string());
        String::from_utf8_lossy(&file).lines().any(|line| line.starts_with(&current))
    };
    let mut left = 0;
    for call in 0..calls {
        let lab = left_behind();
        lab.world.faults().crash_at(call, Moment::After);
        assert!(lab.world.run(lab.rotator().settle(&mut rng(4), &NoObserver)).is_none(), "call {call}");
        left += usize::from(permanent(&lab));
        let next = lab.restart();
        next.advance(600);
        let mut watch = Watch::new(&next);
        let (rotator, mut rng) = (next.rotator(), rng(5));
        let settled = watched(&next.world, &mut watch, rotator.settle(&mut rng, &NoObserver)).unwrap().unwrap();
        let host = &settled.hosts[0];
        assert_eq!(host.phase, HostPhase::Quarantined, "call {call}");
        assert!(host.reason.as_ref().unwrap().contains("refuses the key"), "call {call}: {host:?}");
        assert!(!permanent(&lab), "call {call}: a line that nobody has proven stays for good");
        assert!(lab.lets_in(&lab.accounts[1], &lab.first), "call {call}");
    }
    assert!(left > 3, "{left} of {calls}");
}

/// What was proven before the barrier is no line that nobody has proven, though the host refuses its key now.
#[test]
fn r3_a_line_that_was_proven_stays_where_its_key_is_refused_later() {
    let mut lab = Lab::new(3);
    lab.pace.attempts = 1;
    let (away, fleet) = (lab.accounts[1..].to_vec(), lab.world.fleet());
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    let (rotator, mut one, mut gone) = (lab.rotator(), rng(1), false);
    let outcome = stepped(&lab.world, rotator.rotate(request, &mut one, &NoObserver), |_| {
        if lab.current() != lab.first && !std::mem::replace(&mut gone, true) {
            for account in &away {
                fleet.switch_off(account);
            }
        }
    });
    let outcome = outcome.unwrap().unwrap();
    assert_eq!((outcome.end, outcome.owed().count()), (End::Done, 2), "{:?}", outcome.reason);
    for account in &away {
        fleet.switch_on(account);
        fleet.configure(account, |settings| settings.revoked.push(outcome.rotation.new.fingerprint()));
    }
    let settled = lab.restart().settle();
    for account in &away {
        let host = settled.hosts.iter().find(|host| host.account == *account).unwrap();
        assert_eq!(host.phase, HostPhase::Quarantined, "{host:?}");
        assert!(lab.holds(account, &outcome.rotation.new), "the line is taken away");
        assert!(lab.lets_in(account, &lab.first));
        fleet.configure(account, |settings| settings.revoked.clear());
    }
    assert!(lab.restart().settle().hosts.iter().all(|host| host.phase == HostPhase::Settled));
    lab.assert_settled_on(&outcome.rotation.new, "taken again");
}
