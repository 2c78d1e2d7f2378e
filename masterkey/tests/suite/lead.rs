//! Keeping the lead of a rotation, and leaving it.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::support::{Lab, rng, stepped};
use toehold_core::testing::{Call, CallKind, Fault, Moment, Process};
use toehold_core::{Clock as _, HostPhase, RotationPhase};
use toehold_masterkey::{End, NoObserver, Observer, Progress, RotationError, TakeUp};

/// As many hosts as are worked on at once hang: nobody comes to an end for five minutes.
#[test]
fn a_leader_whose_hosts_all_hang_keeps_its_lead() {
    let mut lab = Lab::new(3);
    (lab.pace.timeout, lab.pace.attempts) = (Duration::from_mins(5), 1);
    let logins = |lab: &Lab| -> Vec<usize> {
        let log = lab.world.faults().log();
        log.iter().filter(|call| call.kind == CallKind::LogIn).map(|call| call.number).collect()
    };
    let good = Lab::new(3);
    good.rotate_well();
    let first = logins(&good)[0];
    let hanging = Lab::new(3);
    hanging.world.faults().fail_at(first, Fault::Hang);
    hanging.world.clock().set_auto_advance(false);
    let (rotator, mut one) = (hanging.rotator(), rng(1));
    assert!(Process::new(rotator.rotate(hanging.request(), &mut one, &NoObserver)).run().is_none());
    let second = logins(&hanging)[1];
    for number in [first, second] {
        lab.world.faults().fail_at(number, Fault::Hang);
    }
    lab.world.clock().set_auto_advance(false);
    let (rotator, mut one) = (lab.rotator(), rng(1));
    let mut process = Process::new(rotator.rotate(lab.request(), &mut one, &NoObserver));
    let other = lab.restart();
    let taker = other.rotator();
    let mut waited = 0;
    while process.run().is_none() {
        let hang = lab.world.faults().log().iter().filter(|call| call.fault == Some(Fault::Hang)).count();
        if waited == 0 {
            assert_eq!(hang, 2, "{:?}", lab.world.faults().log());
        }
        let seen = lab.world.clock().now().saturating_since(lab.rotation().unwrap().seen_at);
        assert!(seen <= lab.pace.lively / 3, "its leader has said nothing for {seen:?} after {waited} s");
        if waited % 30 == 0 {
            let mut two = rng(2);
            let refused = other.world.run(taker.resume(TakeUp::new("bob@desk"), &mut two, &NoObserver)).unwrap();
            assert!(matches!(refused, Err(RotationError::BeingLed { .. })), "after {waited} s: {refused:?}");
        }
        lab.world.clock().advance(Duration::from_secs(1));
        waited += 1;
        assert!(waited < 3_000, "it never ends");
    }
    assert!(waited >= 300, "nothing has hung: {waited} s");
    assert_eq!(lab.rotation().unwrap().phase, RotationPhase::RolledBack);
}

/// Wants out when it is told to.
#[derive(Default)]
struct Operator {
    leaving: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Operator {
    fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }
}

impl Observer for Operator {
    fn progress(&self, _: Progress) {}

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    async fn wants_out(&self) {
        poll_fn(|context| {
            *self.waker.lock().unwrap() = Some(context.waker().clone());
            if self.is_leaving() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

#[test]
fn a_grace_is_left_at_once_by_an_operator_who_wants_out() {
    let lab = Lab::new(1);
    let mut request = lab.request();
    request.policy.grace = 3600;
    lab.world.clock().set_auto_advance(false);
    let (rotator, mut rng, operator) = (lab.rotator(), rng(1), Operator::default());
    let mut process = Process::new(rotator.rotate(request, &mut rng, &operator));
    assert!(process.run().is_none(), "there is no grace");
    operator.leave();
    // No time passes.
    let outcome = process.run().expect("it waits on").unwrap();
    assert_eq!(outcome.end, End::Grace);
    assert!(lab.rotation().unwrap().at_rest);
}

/// Between the write that begins a rotation and the one that gives its key a place of its own.
fn begun() -> Lab {
    let good = Lab::new(2);
    good.rotate_well();
    let log = good.world.faults().log();
    let begins = |call: &&Call| call.kind == CallKind::StorePut && call.subject == "rotation/1";
    let lab = Lab::new(2);
    lab.world.faults().crash_at(log.iter().find(begins).unwrap().number, Moment::After);
    assert!(lab.world.run(lab.rotator().rotate(lab.request(), &mut rng(1), &NoObserver)).is_none());
    let rotation = lab.rotation().unwrap();
    let sealed = rotation.sealed_key.as_ref().unwrap();
    assert_eq!((&sealed.public_key, sealed.generation, lab.keys().len()), (&rotation.new, 1, 1));
    assert!(!format!("{rotation:?}").contains(&sealed.sealed));
    lab.restart()
}

#[test]
fn r10_the_new_key_comes_with_its_rotation_and_whoever_takes_it_up_keeps_it() {
    let lab = begun();
    let status = lab.world.run(lab.rotator().status()).unwrap().unwrap();
    assert!(status.rotation.as_ref().is_some_and(|rotation| rotation.sealed_key.is_none()), "{status:?}");
    let settled = lab.world.run(lab.rotator().settle(&mut rng(4), &NoObserver)).unwrap();
    assert!(matches!(settled, Err(RotationError::AlreadyOpen { number: 1, .. })), "{settled:?}");
    let new = lab.rotation().unwrap().new;
    let outcome = lab.resume().unwrap();
    assert_eq!((outcome.end, &outcome.rotation.new, outcome.rotation.sealed_key), (End::Done, &new, None));
    lab.assert_settled_on(&new, "resumed");
    assert_eq!((lab.keys().len(), lab.rotation().unwrap().sealed_key), (1, None));

    let lab = begun();
    let outcome = lab.roll_back().unwrap();
    assert_eq!(outcome.end, End::RolledBack);
    lab.assert_settled_on(&lab.first, "rolled back");
    assert_eq!((lab.keys().len(), lab.rotation().unwrap().sealed_key), (1, None));
    // It is known for what it is, should it turn up anywhere.
    assert_eq!(lab.retired()[0].public_key, outcome.rotation.new);
}

/// Every connection ends well within the limit, and all of them together do not.
#[test]
fn a_try_of_a_host_ends_within_its_time_limit_however_many_connections_it_makes() {
    for (seconds, ends) in [(25, End::Done), (35, End::RolledBack)] {
        let mut lab = Lab::new(2);
        let slow = lab.accounts[1].clone();
        (lab.pace.concurrency, lab.pace.attempts) = (1, 2);
        let (rotator, mut rng) = (lab.rotator(), rng(1));
        let mut logins = 0;
        let outcome = stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |_| {
            let now = lab.world.fleet().logins(&slow).len();
            if now > std::mem::replace(&mut logins, now) && lab.rotation().unwrap().phase != RotationPhase::RollingBack {
                lab.advance(seconds);
            }
        });
        let outcome = outcome.unwrap().unwrap();
        assert_eq!(outcome.end, ends, "{seconds} s: {:?}", outcome.reason);
        let why = "did not come to an end within 60 s";
        assert_eq!(outcome.reason.is_some_and(|reason| reason.contains(why)), ends == End::RolledBack, "{seconds} s");
        assert_eq!(outcome.hosts.iter().filter(|host| host.phase == HostPhase::Quarantined).count(), 0);
    }
}
