//! One refusal of a key proves nothing: a home directory that is away for a moment makes sshd refuse them all. Nothing is
//! removed, kept back or given up before the host has said it twice.

use crate::support::{Lab, Watch, rng, taking_over, watched};
use toehold_core::testing::{Call, CallKind, Fault, Moment};
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
