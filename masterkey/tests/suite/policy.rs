//! What an operator chooses for a rotation: who goes first, how many at a time, how many may fail, what becomes of those that do,
//! and how often a host is tried.

use std::time::Duration;

use crate::support::{Lab, Notes, holds, rng, stepped, taking_over};
use toehold_core::testing::{CallKind, Fault, Moment};
use toehold_core::{Account, Clock as _, HostPhase, OnUnreachable, RotationPhase};
use toehold_masterkey::{End, NoObserver, Outcome, Progress, RotationRequest};

/// A fleet of which these hosts are away.
fn without(hosts: usize, away: &[usize]) -> (Lab, RotationRequest) {
    let mut lab = Lab::new(hosts);
    (lab.pace.attempts, lab.pace.concurrency) = (1, 1);
    for number in away {
        lab.world.fleet().switch_off(&lab.accounts[*number]);
    }
    let mut request = lab.request();
    request.policy.on_unreachable = OnUnreachable::Defer;
    (lab, request)
}

fn resume(lab: &Lab, choice: Option<OnUnreachable>) -> Outcome {
    let mut by = taking_over();
    by.on_unreachable = choice;
    lab.world.run(lab.rotator().resume(by, &mut rng(2), &NoObserver)).unwrap().unwrap()
}

#[track_caller]
fn never_met(lab: &Lab, hosts: &[usize]) {
    for number in hosts {
        assert!(lab.world.fleet().logins(&lab.accounts[*number]).is_empty(), "host {number} was begun");
    }
}

#[test]
fn a_failed_canary_stops_a_rotation_before_any_other_host_is_begun() {
    let (lab, mut request) = without(4, &[1]);
    request.policy.canary = Some("web2".to_owned());
    let outcome = lab.rotate(request).unwrap();
    assert_eq!(outcome.end, End::Stopped);
    let reason = outcome.reason.unwrap();
    assert!(reason.starts_with("one of the first hosts failed: deploy@web2"), "{reason}");
    never_met(&lab, &[0, 2, 3]);
    assert_eq!((lab.current(), lab.rotation().unwrap().phase), (lab.first.clone(), RotationPhase::Installing));
    // It is not passed over by taking it up again, and goes on once the first host is back.
    let again = resume(&lab.restart(), None);
    assert_eq!(again.end, End::Stopped, "{:?}", again.reason);
    never_met(&lab, &[0, 2, 3]);
    lab.world.fleet().switch_on(&lab.accounts[1]);
    let outcome = resume(&lab.restart(), None);
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    lab.assert_settled_on(&outcome.rotation.new, "the first host is back");
}

#[test]
fn more_failures_than_may_be_stop_a_rotation_where_it_is() {
    let (lab, mut request) = without(5, &[0, 1, 2]);
    request.policy.max_failures = Some(1);
    let outcome = lab.rotate(request).unwrap();
    assert_eq!((outcome.end, outcome.owed().count()), (End::Stopped, 2));
    let reason = outcome.reason.unwrap();
    assert!(reason.starts_with("2 hosts failed, more than may; the first: deploy@web1"), "{reason}");
    never_met(&lab, &[3, 4]);
    assert_eq!(lab.current(), lab.first);
    // As many as may are no more than may.
    let (lab, mut request) = without(5, &[0, 1]);
    request.policy.max_failures = Some(2);
    let outcome = lab.rotate(request).unwrap();
    assert_eq!((outcome.end, outcome.owed().count()), (End::Done, 2), "{:?}", outcome.reason);
}

#[test]
fn the_first_hosts_go_alone_and_the_others_so_many_at_a_time() {
    let mut lab = Lab::new(6);
    lab.pace.concurrency = 8;
    let mut request = lab.request();
    (request.policy.canary, request.policy.wave) = (Some("web3".to_owned()), Some(2));
    let plan = lab.world.run(lab.rotator().dry_run(&request)).unwrap().unwrap();
    let (notes, rotator) = (Notes::default(), lab.rotator());
    let mut rng = rng(1);
    let outcome = stepped(&lab.world, rotator.rotate(request, &mut rng, &notes), |_| {}).unwrap().unwrap();
    assert_eq!(outcome.end, End::Done, "{:?}", outcome.reason);
    // A wave begins when the one before it is over.
    let (mut waves, mut under_way): (Vec<Vec<Account>>, usize) = (Vec::new(), 0);
    for progress in notes.0.lock().unwrap().iter() {
        match progress {
            Progress::Phase { phase: RotationPhase::Proving, .. } => break,
            Progress::HostBegun(account) => {
                if under_way == 0 {
                    waves.push(Vec::new());
                }
                waves.last_mut().unwrap().push(account.clone());
                under_way += 1;
            }
            Progress::HostDone { phase, .. } => {
                assert_eq!(*phase, HostPhase::Proven);
                under_way -= 1;
            }
            _ => {}
        }
    }
    let web = |numbers: &[usize]| numbers.iter().map(|number| lab.accounts[number - 1].clone()).collect::<Vec<_>>();
    assert_eq!(waves, [web(&[3]), web(&[1, 2]), web(&[4, 5]), web(&[6])]);
    assert_eq!(plan.waves, waves, "a dry run says otherwise");
}

#[test]
fn whoever_takes_a_rotation_up_may_leave_behind_what_cannot_be_reached() {
    let calls = {
        let lab = Lab::new(3);
        lab.rotate_well();
        lab.world.faults().log()
    };
    let first_write = calls.iter().find(|call| call.kind == CallKind::Rename).unwrap().number;
    for (choice, end) in [(None, End::RolledBack), (Some(OnUnreachable::Defer), End::Done)] {
        let mut lab = Lab::new(3);
        lab.pace.attempts = 1;
        lab.world.faults().crash_at(first_write, Moment::After);
        assert!(lab.world.run(lab.rotator().rotate(lab.request(), &mut rng(1), &NoObserver)).is_none());
        let away = lab.accounts[2].clone();
        lab.world.fleet().switch_off(&away);
        let outcome = resume(&lab.restart(), choice);
        assert_eq!((outcome.end, outcome.owed().count()), (end, 1), "{choice:?}: {:?}", outcome.reason);
        assert_eq!(outcome.rotation.policy.on_unreachable, choice.unwrap_or_default());
        lab.world.fleet().switch_on(&away);
        lab.pace.attempts = 3;
        lab.restart().settle();
        lab.assert_settled_on(if choice.is_none() { &lab.first } else { &outcome.rotation.new }, "all are back");
    }
}

#[test]
fn a_host_that_is_away_for_a_moment_is_tried_again_after_longer_and_longer_waits() {
    let first = {
        let lab = Lab::new(1);
        lab.rotate_well();
        lab.world.faults().log().iter().find(|call| call.kind == CallKind::LogIn).unwrap().number
    };
    for failing in 1..=3 {
        for fault in [Fault::Unreachable, Fault::TimedOut, Fault::LostBefore, Fault::LostAfter] {
            let mut lab = Lab::new(1);
            // No beat in between: the calls are counted.
            (lab.pace.backoff, lab.pace.lively) = (Duration::from_secs(8), Duration::from_hours(1));
            for call in first..first + failing {
                lab.world.faults().fail_at(call, fault);
            }
            let (notes, rotator) = (Notes::default(), lab.rotator());
            let begun = lab.world.clock().now();
            let outcome = lab.world.run(rotator.rotate(lab.request(), &mut rng(1), &notes)).unwrap().unwrap();
            let when = format!("{failing} times {fault:?}");
            let end = if failing < 3 { End::Done } else { End::RolledBack };
            assert_eq!(outcome.end, end, "{when}: {:?}", outcome.reason);
            let notes = notes.0.lock().unwrap();
            let tried = notes.iter().filter(|told| matches!(told, Progress::HostRetrying { .. })).count();
            assert_eq!(tried, failing.min(2), "{when}");
            // 8 s, then 16 s, each up to as much again.
            let (least, most) = if failing == 1 { (8, 16) } else { (24, 48) };
            let waited = lab.world.clock().now().saturating_since(begun).as_secs();
            assert!((least..=most + 2).contains(&waited), "{when}: waited {waited} s");
        }
    }
}

/// A write whose answer was lost is no write to be made once more: what is to be written is decided anew by what is there.
#[test]
fn r2_nothing_is_written_twice_where_the_answer_to_a_write_was_lost() {
    let writes: Vec<usize> = {
        let lab = Lab::new(1);
        lab.rotate_well();
        let log = lab.world.faults().log();
        log.iter().filter(|call| matches!(call.kind, CallKind::Stage | CallKind::Rename)).map(|call| call.number).collect()
    };
    assert!(writes.len() >= 6, "{writes:?}");
    for call in writes {
        for fault in [Fault::LostBefore, Fault::LostAfter, Fault::ServerError] {
            let lab = Lab::new(1);
            let account = lab.accounts[0].clone();
            lab.world.faults().fail_at(call, fault);
            let (rotator, mut rng) = (lab.rotator(), rng(1));
            let outcome = stepped(&lab.world, rotator.rotate(lab.request(), &mut rng, &NoObserver), |_| {
                let file = lab.file(&account);
                for key in lab.keys() {
                    let lines = file.split(|byte| *byte == b'\n').filter(|line| holds(line, &key.public_key)).count();
                    assert!(lines <= 1, "call {call}, {fault:?}: {lines} lines of one key");
                }
            });
            let outcome = outcome.unwrap().unwrap();
            assert_eq!(outcome.end, End::Done, "call {call}, {fault:?}: {:?}", outcome.reason);
            lab.assert_settled_on(&outcome.rotation.new, &format!("call {call}, {fault:?}"));
        }
    }
}
