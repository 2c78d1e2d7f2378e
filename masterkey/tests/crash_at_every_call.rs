//! A rotation that dies at any of its calls, or has any of them fail in any way that it can, and then is resumed, rolled back,
//! or left to the clock.
//!
//! After every single call, of the first process and of those after it, `support::watch` looks at the store and at the hosts
//! and holds them to the invariants; this file only brings about what goes wrong.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use support::{Lab, Watch, rng, taking_over, watched};
use toehold_core::testing::{Call, Fault, Moment};
use toehold_core::{OnUnreachable, RotationPhase};
use toehold_masterkey::{End, NoObserver, Outcome, RotationError, RotationRequest};

/// How a rotation is set up.
#[derive(Clone, Copy, Debug)]
struct Case {
    hosts: usize,
    grace: u64,
    defer: bool,
    /// Whether the last host refuses the new key, so that the rotation goes back or leaves it behind.
    refuses: bool,
    /// Whether the hosts know no expiry (R12).
    without_expiry: bool,
    /// Whether the rotation is rolled back once it has come to its grace.
    back_in_grace: bool,
}

const CASE: Case = Case { hosts: 1, grace: 0, defer: false, refuses: false, without_expiry: false, back_in_grace: false };

type Ended = Option<Result<Outcome, RotationError>>;

/// What is done after the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Resume,
    RollBack,
    Nothing,
}

impl Case {
    fn lab(self) -> Lab {
        let mut lab = Lab::new(self.hosts);
        lab.pace.wait_for_grace = !self.back_in_grace;
        let fleet = lab.world.fleet();
        for account in &lab.accounts {
            if self.without_expiry {
                fleet.configure(account, |settings| settings.expiry_time = toehold_core::testing::ExpiryTime::Unknown);
            }
        }
        if self.refuses {
            fleet.configure(lab.accounts.last().unwrap(), |settings| {
                settings.refused_algorithms.push("ecdsa-sha2-nistp256".into());
            });
        }
        lab
    }

    fn request(self, lab: &Lab) -> RotationRequest {
        let mut request = lab.request();
        request.policy.grace = self.grace;
        if self.defer {
            request.policy.on_unreachable = OnUnreachable::Defer;
        }
        if self.refuses {
            request.algorithm = toehold_keygen::KeyAlgorithm::EcdsaP256;
        }
        request
    }

    /// The run in which things go wrong.
    fn run(self, lab: &Lab, watch: &mut Watch) -> Ended {
        let rotator = lab.rotator();
        let (mut one, mut other) = (rng(1), rng(7));
        let request = self.request(lab);
        watched(&lab.world, watch, async {
            let outcome = rotator.rotate(request, &mut one, &NoObserver).await?;
            if self.back_in_grace && outcome.end == End::Grace {
                return rotator.roll_back(taking_over(), &mut other, &NoObserver).await;
            }
            Ok(outcome)
        })
    }

    /// The calls of a run in which nothing goes wrong.
    fn calls(self) -> Vec<Call> {
        let lab = self.lab();
        let mut watch = Watch::new(&lab);
        let outcome = self.run(&lab, &mut watch).unwrap().unwrap();
        let expected = if (self.refuses && !self.defer) || self.back_in_grace { End::RolledBack } else { End::Done };
        assert_eq!(outcome.end, expected, "{self:?}: {:?}", outcome.reason);
        lab.world.faults().log()
    }
}

/// Goes on after what went wrong, in processes in which nothing does, and looks at how it ends.
fn finish(lab: &Lab, watch: &mut Watch, case: Case, then: Then, when: &str) {
    let old = lab.first.clone();
    let mut outcome = None;
    let open = |lab: &Lab| lab.rotation().is_some_and(|rotation| !rotation.phase.is_closed());
    if then == Then::Nothing {
        // The clock alone: whatever has an end has passed it, and nobody is locked out.
        for _ in 0..3 {
            lab.advance(3600);
            watch.look(&|| format!("{when}, left to the clock"));
        }
    }
    for _ in 0..4 {
        if !open(lab) {
            break;
        }
        let next = lab.restart();
        let rotator = next.rotator();
        let (mut one, mut other) = (rng(12), rng(13));
        let ended = if then == Then::RollBack {
            watched(&next.world, watch, rotator.roll_back(taking_over(), &mut one, &NoObserver))
        } else {
            watched(&next.world, watch, rotator.resume(taking_over(), &mut other, &NoObserver))
        };
        let ended = ended.unwrap_or_else(|| panic!("{when}: {then:?} stalls"));
        let ended = ended.unwrap_or_else(|error| panic!("{when}: {then:?}: {error}"));
        if ended.end == End::Grace {
            lab.advance(case.grace + 1);
        }
        outcome = Some(ended);
    }
    // A lock or a staged file that comes after all else stays until somebody comes by.
    let late = lab.world.fleet().deliver_late() > 0;
    watch.look(&|| format!("{when}, delivered late"));
    assert!(!open(lab), "{when}: {:?}", outcome.map(|outcome| (outcome.end, outcome.reason)));
    // Hosts that were left behind are healed, where they can be; the store lets go of what nobody needs.
    let settled = lab.restart();
    let rotator = settled.rotator();
    let mut healing = rng(4);
    if !case.refuses || !case.defer {
        let healed = watched(&settled.world, watch, rotator.settle(&mut healing, &NoObserver)).unwrap().unwrap();
        assert!(healed.hosts.iter().all(|host| host.reason.is_none()), "{when}: {:?}", healed.hosts);
    }
    let Some(rotation) = lab.rotation() else {
        assert_eq!(lab.current(), old, "{when}");
        assert_eq!(lab.keys().len(), 1, "{when}: a key without a rotation");
        return;
    };
    if then == Then::RollBack && outcome.is_some() {
        assert_eq!(rotation.phase, RotationPhase::RolledBack, "{when}");
    }
    if case.refuses && case.defer && rotation.phase == RotationPhase::Done {
        assert_eq!(lab.current(), rotation.new, "{when}");
        assert!(lab.lets_in(lab.accounts.last().unwrap(), &old), "{when}");
        assert!(lab.keys().iter().any(|key| key.public_key == old), "{when}: R7");
        return;
    }
    let key = if rotation.phase == RotationPhase::Done { &rotation.new } else { &rotation.old };
    lab.assert_settled_on(key, when);
    if !late {
        lab.assert_tidy(when);
    }
    assert_eq!(lab.keys().len(), 1, "{when}: a key is held that nobody needs");
}

/// Runs all of them, and says at the end which ones went wrong.
fn all(runs: impl IntoIterator<Item = (String, impl FnOnce(&str))>) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (when, run) in runs {
        count += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&when))) {
            let text = panic.downcast_ref::<String>().cloned();
            wrong.push(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default());
        }
    }
    let shown = wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(wrong.is_empty(), "{} of {count} went wrong:\n{shown}", wrong.len());
}

fn crash_everywhere(case: Case, share: usize) {
    let calls = case.calls();
    let mut plans = Vec::new();
    for call in &calls {
        // Where a call changes nothing, all moments are one.
        let moments = [(Moment::Before, false), (Moment::After, false), (Moment::Late, false), (Moment::Late, true)];
        for (moment, early) in moments.into_iter().take(if call.kind.has_effect() { 4 } else { 1 }) {
            for then in [Then::Resume, Then::RollBack, Then::Nothing] {
                plans.push((call, moment, early, then));
            }
        }
    }
    all(plans.into_iter().skip(share / 2).step_by(share).map(|(call, moment, early, then)| {
        (format!("{case:?}, crashed {moment:?} {call} (early: {early}), then {then:?}"), move |when: &str| {
            let lab = case.lab();
            let mut watch = Watch::new(&lab);
            lab.world.faults().crash_at(call.number, moment);
            assert!(case.run(&lab, &mut watch).is_none(), "{when}");
            assert!(lab.world.faults().crashed(), "{when}");
            if early {
                lab.world.fleet().deliver_late();
                watch.look(&|| format!("{when}, delivered early"));
            }
            finish(&lab, &mut watch, case, then, when);
        })
    }));
}

fn fail_everywhere(case: Case, share: usize) {
    let calls = case.calls();
    let plans = calls.iter().flat_map(|call| call.kind.faults().iter().map(move |fault| (call, *fault)));
    let thens = [Then::Resume, Then::RollBack, Then::Nothing];
    all(plans.enumerate().skip(share / 2).step_by(share).map(|(index, (call, fault))| {
        (format!("{case:?}, {fault:?} at {call}"), move |when: &str| {
            let lab = case.lab();
            let mut watch = Watch::new(&lab);
            lab.world.faults().fail_at(call.number, fault);
            let ended = case.run(&lab, &mut watch);
            assert!(lab.world.faults().failed(), "{when}");
            if let Some(Ok(outcome)) = &ended {
                assert_ne!(outcome.end, End::LetGo, "{when}: nobody else was there");
            }
            assert!(ended.is_some() || fault == Fault::Hang, "{when}: it stalls");
            finish(&lab, &mut watch, case, thens[index % 3], when);
        })
    }));
}

/// A crash, and then another one, or a failure, in the run that goes on: every `share`th of all.
fn crash_again(case: Case, then: Then, share: usize) {
    let crashed = |call: &Call, when: &str| {
        let lab = case.lab();
        let mut watch = Watch::new(&lab);
        lab.world.faults().crash_at(call.number, Moment::After);
        assert!(case.run(&lab, &mut watch).is_none(), "{when}");
        (lab, watch)
    };
    let go_on = |lab: &Lab, watch: &mut Watch| {
        let rotator = lab.rotator();
        let mut one = rng(2);
        if then == Then::RollBack {
            watched(&lab.world, watch, rotator.roll_back(taking_over(), &mut one, &NoObserver))
        } else {
            watched(&lab.world, watch, rotator.resume(taking_over(), &mut one, &NoObserver))
        }
    };
    let mut plans = Vec::new();
    for call in case.calls().into_iter().filter(|call| call.kind.has_effect()) {
        let (lab, mut watch) = crashed(&call, "crashed");
        if lab.rotation().is_none_or(|rotation| rotation.phase.is_closed()) {
            continue;
        }
        let second = lab.restart();
        go_on(&second, &mut watch).unwrap().unwrap();
        for next in second.world.faults().log() {
            let faults = next.kind.faults().iter().copied().map(Some).chain([None]);
            plans.extend(faults.map(|fault| (call.clone(), next.clone(), fault)));
        }
    }
    all(plans.into_iter().skip(share / 2).step_by(share).enumerate().map(|(index, (call, next, fault))| {
        (format!("{case:?}, crashed after {call}, then {then:?}, then {fault:?} at {next}"), move |when: &str| {
            let (lab, mut watch) = crashed(&call, when);
            let second = lab.restart();
            match fault {
                Some(fault) => second.world.faults().fail_at(next.number, fault),
                None => second.world.faults().crash_at(next.number, [Moment::Before, Moment::After, Moment::Late][index % 3]),
            }
            drop(go_on(&second, &mut watch));
            finish(&lab, &mut watch, case, if index % 2 == 0 { then } else { Then::RollBack }, when);
        })
    }));
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_and_foreign_bytes_wherever_it_crashes() {
    crash_everywhere(CASE, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_and_proven_current_whatever_fails() {
    fail_everywhere(CASE, 1);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_with_a_grace() {
    crash_everywhere(Case { grace: 900, ..CASE }, 17);
    fail_everywhere(Case { grace: 900, ..CASE }, 17);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_the_grace_is_left_by_the_way_back() {
    crash_everywhere(Case { grace: 900, back_in_grace: true, ..CASE }, 17);
    fail_everywhere(Case { grace: 900, back_in_grace: true, ..CASE }, 17);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_a_host_refuses_the_new_key() {
    crash_everywhere(Case { hosts: 2, refuses: true, ..CASE }, 23);
    fail_everywhere(Case { hosts: 2, refuses: true, ..CASE }, 23);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_a_host_is_deferred() {
    crash_everywhere(Case { hosts: 2, refuses: true, defer: true, ..CASE }, 23);
    fail_everywhere(Case { hosts: 2, refuses: true, defer: true, ..CASE }, 23);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_on_hosts_without_expiry() {
    crash_everywhere(Case { without_expiry: true, ..CASE }, 17);
    fail_everywhere(Case { without_expiry: true, ..CASE }, 17);
}

#[test]
fn holds_never_locked_out_and_exactly_one_key_when_the_resumption_goes_wrong_as_well() {
    crash_again(CASE, Then::Resume, 401);
    crash_again(CASE, Then::RollBack, 401);
}
