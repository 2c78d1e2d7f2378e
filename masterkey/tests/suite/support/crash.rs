//! A run that dies at any of its calls, or has any of them fail in any way that it can, and then is resumed, rolled back, or left
//! to the clock: what the tests of that have in common.

use std::panic::{AssertUnwindSafe, catch_unwind};

use toehold_core::testing::{Call, ExpiryTime, Fault, Moment};
use toehold_core::{OnUnreachable, RotationPhase};
use toehold_masterkey::{End, NoObserver, RotationError, RotationRequest};

use super::{Lab, Watch, rng, stepped, taking_over, watched};

/// How a rotation is set up.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub hosts: usize,
    pub grace: u64,
    pub defer: bool,
    /// Whether the last host refuses the new key, so that the rotation goes back or leaves it behind.
    pub refuses: bool,
    /// Whether the hosts know no expiry (R12).
    pub without_expiry: bool,
    /// Whether the last host is away while things go wrong, and back afterwards.
    pub away: bool,
    /// What things go wrong in.
    pub run: Run,
}

/// The run in which things go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// A rotation from its beginning.
    Rotation,
    /// One that is rolled back once it has come to its grace.
    BackInGrace,
    /// The way back of a rotation that was left after this call.
    BackFrom(usize),
    /// The healing of the last host, which an earlier rotation had to leave behind.
    Healing,
}

pub const CASE: Case =
    Case { hosts: 1, grace: 0, defer: false, refuses: false, without_expiry: false, away: false, run: Run::Rotation };

pub type Ended = Option<Result<End, RotationError>>;

/// What is done after the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Resume,
    RollBack,
    Nothing,
}

const THENS: [Then; 3] = [Then::Resume, Then::RollBack, Then::Nothing];

impl Case {
    /// Everything as it is before the run in which things go wrong.
    fn lab(self) -> Lab {
        let mut lab = Lab::new(self.hosts);
        lab.pace.wait_for_grace = self.run != Run::BackInGrace;
        let last = lab.accounts.last().unwrap().clone();
        let fleet = lab.world.fleet();
        for account in &lab.accounts {
            if self.without_expiry {
                fleet.configure(account, |settings| settings.expiry_time = ExpiryTime::Unknown);
            }
        }
        if self.refuses {
            fleet.configure(&last, |settings| settings.refused_algorithms.push("ecdsa-sha2-nistp256".into()));
        }
        if self.away || self.run == Run::Healing {
            fleet.switch_off(&last);
            lab.pace.attempts = 1;
        }
        let rotate = |lab: &Lab| lab.world.run(lab.rotator().rotate(self.request(lab), &mut rng(1), &NoObserver));
        match self.run {
            Run::Rotation | Run::BackInGrace => lab,
            Run::BackFrom(call) => {
                lab.world.faults().crash_at(call, Moment::After);
                assert!(rotate(&lab).is_none(), "{self:?}");
                lab.restart()
            }
            Run::Healing => {
                let outcome = rotate(&lab).unwrap().unwrap();
                assert_eq!((outcome.end, outcome.owed().count()), (End::Done, 1), "{self:?}: {:?}", outcome.reason);
                lab.world.fleet().switch_on(&last);
                lab.restart()
            }
        }
    }

    fn request(self, lab: &Lab) -> RotationRequest {
        let mut request = lab.request();
        request.policy.grace = self.grace;
        if self.defer || self.run == Run::Healing {
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
            let outcome = match self.run {
                Run::Healing => return rotator.settle(&mut other, &NoObserver).await.map(|_| End::Done),
                Run::BackFrom(_) => rotator.roll_back(taking_over(), &mut other, &NoObserver).await?,
                Run::Rotation | Run::BackInGrace => rotator.rotate(request, &mut one, &NoObserver).await?,
            };
            if self.run == Run::BackInGrace && outcome.end == End::Grace {
                return rotator.roll_back(taking_over(), &mut other, &NoObserver).await.map(|outcome| outcome.end);
            }
            Ok(outcome.end)
        })
    }

    /// The calls of a run in which nothing goes wrong.
    fn calls(self) -> Vec<Call> {
        let lab = self.lab();
        let mut watch = Watch::new(&lab);
        let end = self.run(&lab, &mut watch).unwrap().unwrap();
        let aborts = (self.refuses || self.away) && !self.defer;
        let back = matches!(self.run, Run::BackInGrace | Run::BackFrom(_));
        assert_eq!(end, if aborts || back { End::RolledBack } else { End::Done }, "{self:?}");
        lab.world.faults().log()
    }

    /// The calls with which a rotation comes into each of its phases, past the barrier, and into its grace.
    pub fn ways_in(self) -> Vec<(RotationPhase, usize)> {
        let lab = self.lab();
        let (rotator, mut rng) = (lab.rotator(), rng(1));
        let (mut seen, mut ways) = (None, Vec::new());
        let outcome = stepped(&lab.world, rotator.rotate(self.request(&lab), &mut rng, &NoObserver), |calls| {
            let Some(rotation) = lab.rotation().filter(|rotation| !rotation.phase.is_closed()) else { return };
            let place = (rotation.phase, lab.current() == lab.first, rotation.retire_at.is_some());
            if seen.replace(place) != Some(place) {
                ways.push((rotation.phase, calls - 1));
            }
        });
        assert_eq!(outcome.unwrap().unwrap().end, End::Done);
        ways
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
    if case.away {
        lab.world.fleet().switch_on(lab.accounts.last().unwrap());
    }
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
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
            wrong.push(format!("{when}: {text}"));
        }
    }
    let shown = wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(wrong.is_empty(), "{} of {count} went wrong:\n{shown}", wrong.len());
}

/// Every so many of the plans, or all of them where `TOEHOLD_EVERY_CALL` is set.
fn share_of(share: usize) -> usize {
    if std::env::var_os("TOEHOLD_EVERY_CALL").is_some() { 1 } else { share }
}

pub fn crash_everywhere(case: Case, share: usize) {
    let share = share_of(share);
    let calls = case.calls();
    let mut plans = Vec::new();
    for call in &calls {
        // Where a call changes nothing, all moments are one.
        let moments = [(Moment::Before, false), (Moment::After, false), (Moment::Late, false), (Moment::Late, true)];
        for (moment, early) in moments.into_iter().take(if call.kind.has_effect() { 4 } else { 1 }) {
            for then in THENS {
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

pub fn fail_everywhere(case: Case, share: usize) {
    let share = share_of(share);
    let calls = case.calls();
    let plans = calls.iter().flat_map(|call| call.kind.faults().iter().map(move |fault| (call, *fault)));
    all(plans.enumerate().skip(share / 2).step_by(share).map(|(index, (call, fault))| {
        (format!("{case:?}, {fault:?} at {call}"), move |when: &str| {
            let lab = case.lab();
            let mut watch = Watch::new(&lab);
            lab.world.faults().fail_at(call.number, fault);
            let ended = case.run(&lab, &mut watch);
            assert!(lab.world.faults().failed(), "{when}");
            if let Some(Ok(end)) = &ended {
                assert_ne!(*end, End::LetGo, "{when}: nobody else was there");
            }
            assert!(ended.is_some() || fault == Fault::Hang, "{when}: it stalls");
            finish(&lab, &mut watch, case, THENS[index % 3], when);
        })
    }));
}

/// A crash, and then another one, or a failure, in the run that goes on: every `share`th of all.
pub fn crash_again(case: Case, then: Then, share: usize) {
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
    // Each of these is a run and its resumption only to learn which calls there are.
    let first = case.calls().into_iter().filter(|call| call.kind.has_effect()).step_by(share_of(17));
    let share = share_of(share);
    for call in first {
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
