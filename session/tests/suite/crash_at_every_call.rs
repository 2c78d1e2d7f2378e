//! A process that dies at any of its calls, or has any of them fail in any way that it can, and what recovery makes of it.
//!
//! After every single call, of the first process and of those that recover, `support::watch` looks at the store and at the
//! host and holds them to the invariants; this file only brings about what goes wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::support::{Hands, Home, Lab, Paste, Watch, colleague, master, master_key, rng, watched};
use toehold_core::testing::{Call, Fault, Moment};
use toehold_session::{End, HostKeyCheck, Outcome, Request, SessionError, SessionRecord, Status};

/// How a session is set up.
#[derive(Clone, Copy, Debug)]
struct Case {
    home: Home,
    check: Check,
    seal: bool,
    paste: Paste,
    /// Whether the host refuses the master key whatever its file says, so that the session has to be undone.
    refused: bool,
    /// Seconds.
    lifetime: u64,
    /// Whether nothing ends the temporary key but us.
    without_expiry: bool,
}

#[derive(Clone, Copy, Debug)]
enum Check {
    Proof,
    Fingerprint,
    AcceptNew,
    Ask,
    Known,
}

const CASE: Case = Case {
    home: Home::Foreign,
    check: Check::Proof,
    seal: false,
    paste: Paste::AtOnce,
    refused: false,
    lifetime: 1800,
    without_expiry: false,
};

const MOMENTS: [Moment; 3] = [Moment::Before, Moment::After, Moment::Late];

type Ended = Option<Result<Outcome, SessionError>>;

impl Case {
    fn lab(self) -> Lab {
        let mut lab = Lab::new(self.home);
        if self.paste == Paste::Never {
            lab.pace.poll = Duration::from_secs(15);
        }
        if self.refused {
            lab.world.fleet().configure(&lab.account, |settings| settings.revoked.push(master_key().fingerprint()));
        }
        if matches!(self.check, Check::Known) {
            lab.knows_host_key(lab.host_key());
        }
        lab
    }

    fn request(self, lab: &Lab) -> Request {
        let mut request = lab.checked(match self.check {
            Check::Proof | Check::Known => HostKeyCheck::Proof,
            Check::Fingerprint => HostKeyCheck::Fingerprint(lab.host_key().fingerprint()),
            Check::AcceptNew => HostKeyCheck::AcceptNew,
            Check::Ask => HostKeyCheck::Ask,
        });
        request.seal_temporary_key = self.seal;
        request.lifetime = Duration::from_secs(self.lifetime);
        request.without_expiry = self.without_expiry;
        request
    }

    fn onboard(self, lab: &Lab, watch: &mut Watch, hands: &mut Hands) -> Ended {
        let onboarder = lab.onboarder();
        let master = master();
        watched(&lab.world, watch, onboarder.onboard(self.request(lab), &master, &mut rng(1), hands))
    }

    /// The calls of a run in which nothing goes wrong.
    fn calls(self) -> Vec<Call> {
        let lab = self.lab();
        let mut watch = Watch::new(&lab);
        let mut hands = lab.hands(self.paste);
        let outcome = self.onboard(&lab, &mut watch, &mut hands).unwrap().unwrap();
        let expected = match (self.paste, self.refused) {
            (Paste::Never, _) => End::Orphaned,
            (_, true) => End::Failed,
            (_, false) => End::Completed,
        };
        assert_eq!(outcome.end, expected, "{self:?}: {:?}", outcome.reason);
        watch.check_end("undisturbed");
        lab.world.faults().log()
    }
}

fn recover(lab: &Lab, watch: &mut Watch, record: &SessionRecord) -> Ended {
    let onboarder = lab.onboarder();
    let mut hands = lab.hands(Paste::Never);
    let master = master();
    watched(&lab.world, watch, onboarder.recover(record.id, &master, &mut rng(2), &mut hands))
}

fn open(lab: &Lab) -> Option<SessionRecord> {
    lab.sessions().into_iter().find(|session| session.status.is_open())
}

/// Recovers, in processes in which nothing goes wrong, until the session is closed; what was on its way at the crash arrives
/// before that or after the first recovery.
fn settle(lab: &Lab, watch: &mut Watch, late_first: bool, when: &str) {
    if late_first {
        lab.world.fleet().deliver_late();
        watch.look(&|| format!("{when}, delivered late"));
    }
    let Some(left) = open(lab) else {
        watch.check_end(when);
        return late(lab, watch, when);
    };
    let could_log_in = lab.lets_in(&master_key());
    let outcome = recover(&lab.restart(), watch, &left).unwrap_or_else(|| panic!("{when}: the recovery stalls")).unwrap();
    // Where the record says that lines were about to be added and a key of ours can log in, that settles it at once.
    let can = left.host_key.is_some() && (could_log_in || left.sealed_temporary_key.is_some());
    assert!(!can || matches!(outcome.end, End::Completed | End::Failed), "{when}: {:?} {:?}", outcome.end, outcome.reason);
    if open(lab).is_none() {
        watch.check_end(when);
    }
    late(lab, watch, when);
    if let Some(orphan) = open(lab) {
        assert_eq!((outcome.end, orphan.status), (End::Orphaned, Status::Orphaned), "{when}");
        // The key ends by itself, on the host.
        lab.advance(1800 + 301);
        if orphan.without_expiry {
            // It does not: as long as it lets in, it is on the list.
            let outcome = recover(&lab.restart(), watch, &orphan).unwrap().unwrap();
            assert!(outcome.end == End::Orphaned || !lab.lets_in(&orphan.temporary_key), "{when}");
            assert_eq!(open(lab).is_some(), outcome.end == End::Orphaned, "{when}");
            return;
        }
        assert!(!lab.lets_in(&orphan.temporary_key), "{when}: the key outlives its end");
        let outcome = recover(&lab.restart(), watch, &orphan).unwrap().unwrap();
        if lab.lets_in(&colleague()) && !lab.lets_in(&master_key()) {
            // A line of ours lets somebody in, and none of our own keys can take it away: it stays on the list.
            assert_eq!(outcome.end, End::Orphaned, "{when}");
            return;
        }
        assert_ne!(outcome.end, End::Orphaned, "{when}: {:?}", outcome.reason);
        watch.check_end(when);
    }
    assert_eq!(open(lab), None, "{when}");
}

/// What was on its way at a crash arrives: it changes nothing that matters.
fn late(lab: &Lab, watch: &mut Watch, when: &str) {
    if lab.world.fleet().deliver_late() > 0 {
        watch.look(&|| format!("{when}, delivered late"));
        for session in lab.sessions() {
            let managed = session.status == Status::Completed;
            assert!(!managed || lab.lets_in(&master_key()), "{when}: delivered late, and the host is locked");
        }
    }
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
    assert!(wrong.is_empty(), "{} of {count} went wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

fn crash_everywhere(case: Case) {
    let calls = case.calls();
    // Where a call changes nothing, all moments are one.
    let plans = calls.iter().flat_map(|call| {
        let plans = [(Moment::Before, false), (Moment::After, false), (Moment::Late, false), (Moment::Late, true)];
        plans.into_iter().take(if call.kind.has_effect() { 4 } else { 1 }).map(move |plan| (call, plan))
    });
    all(plans.map(|(call, (moment, late_first))| {
        let when = format!("{case:?}, crashed {moment:?} {call} (late first: {late_first})");
        (when, move |when: &str| {
            let lab = case.lab();
            let mut watch = Watch::new(&lab);
            let mut hands = lab.hands(case.paste);
            lab.world.faults().crash_at(call.number, moment);
            assert!(case.onboard(&lab, &mut watch, &mut hands).is_none(), "{when}");
            assert!(lab.world.faults().crashed(), "{when}");
            if case.paste == Paste::Never {
                hands.paste_late();
            }
            settle(&lab, &mut watch, late_first, when);
        })
    }));
}

fn fail_everywhere(case: Case) {
    let calls = case.calls();
    let plans = calls.iter().flat_map(|call| call.kind.faults().iter().map(move |fault| (call, *fault)));
    all(plans.map(|(call, fault)| {
        (format!("{case:?}, {fault:?} at {call}"), move |when: &str| {
            let lab = case.lab();
            let mut watch = Watch::new(&lab);
            let mut hands = lab.hands(case.paste);
            lab.world.faults().fail_at(call.number, fault);
            let ended = case.onboard(&lab, &mut watch, &mut hands);
            assert!(lab.world.faults().failed(), "{when}");
            assert_eq!(ended.is_none(), fault == Fault::Hang, "{when}: {ended:?}");
            if let Some(Ok(outcome)) = &ended {
                // What failed once is tried again, or undone: nothing is owed.
                let settled = matches!(outcome.end, End::Completed | End::Failed) || case.paste == Paste::Never;
                assert!(settled, "{when}: {:?} {:?}", outcome.end, outcome.reason);
                assert_eq!(open(&lab), None, "{when}");
            }
            settle(&lab, &mut watch, false, when);
        })
    }));
}

/// A crash, and then another one, or a failure, in the recovery: every `share`th of all.
fn crash_the_recovery(case: Case, share: usize) {
    let crashed = |call: &Call, when: &str| {
        let lab = case.lab();
        let mut watch = Watch::new(&lab);
        lab.world.faults().crash_at(call.number, Moment::After);
        assert!(case.onboard(&lab, &mut watch, &mut lab.hands(case.paste)).is_none(), "{when}");
        (lab, watch)
    };
    let mut plans = Vec::new();
    for call in case.calls() {
        let (lab, mut watch) = crashed(&call, "crashed");
        let Some(left) = open(&lab) else { continue };
        let second = lab.restart();
        recover(&second, &mut watch, &left).unwrap().unwrap();
        for next in second.world.faults().log() {
            let faults = next.kind.faults().iter().copied().map(Some).chain([None]);
            plans.extend(faults.map(|fault| (call.clone(), left.clone(), next.clone(), fault)));
        }
    }
    all(plans.into_iter().skip(share / 2).step_by(share).map(|(call, left, next, fault)| {
        (format!("{case:?}, crashed after {call}, then {fault:?} at {next}"), move |when: &str| {
            let (lab, mut watch) = crashed(&call, when);
            let second = lab.restart();
            match fault {
                Some(fault) => second.world.faults().fail_at(next.number, fault),
                None => second.world.faults().crash_at(next.number, MOMENTS[call.number % 3]),
            }
            let ended = recover(&second, &mut watch, &left);
            assert_eq!(ended.is_none(), matches!(fault, None | Some(Fault::Hang)), "{when}");
            settle(&lab, &mut watch, next.number % 2 == 0, when);
        })
    }));
}

/// The single crashes and failures, complete for each way to judge the host key, with and without the key sealed, and for
/// each state of the account's files.
fn everything_once(case: Case) {
    crash_everywhere(case);
    fail_everywhere(case);
}

#[test]
fn holds_anchored_seen_gone_foreign_bytes_journal_first_with_a_proof() {
    everything_once(CASE);
}

#[test]
fn holds_anchored_seen_gone_as_it_was_where_there_is_no_directory() {
    everything_once(Case { home: Home::Bare, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_foreign_bytes_as_it_was_where_the_last_line_has_no_end() {
    everything_once(Case { home: Home::Unterminated, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_with_a_sealed_key() {
    everything_once(Case { seal: true, home: Home::Bare, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_with_a_named_fingerprint() {
    everything_once(Case { check: Check::Fingerprint, home: Home::Unterminated, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_with_a_named_fingerprint_and_a_sealed_key() {
    everything_once(Case { check: Check::Fingerprint, seal: true, home: Home::Directory, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_with_the_first_key_seen() {
    everything_once(Case { check: Check::AcceptNew, home: Home::Bare, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_with_the_first_key_seen_and_a_sealed_key() {
    everything_once(Case { check: Check::AcceptNew, seal: true, home: Home::Unterminated, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_foreign_bytes_on_a_known_host_that_has_the_master_key() {
    everything_once(Case { check: Check::Known, home: Home::Managed, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_on_a_known_host_with_a_sealed_key() {
    everything_once(Case { check: Check::Known, seal: true, home: Home::Empty, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_when_the_undoing_goes_wrong() {
    everything_once(Case { refused: true, home: Home::Bare, ..CASE });
    everything_once(Case { refused: true, seal: true, home: Home::Unterminated, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_where_nothing_but_us_ends_the_key() {
    everything_once(Case { without_expiry: true, home: Home::Unterminated, ..CASE });
    everything_once(Case { without_expiry: true, seal: true, refused: true, home: Home::Bare, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_where_the_operator_is_asked() {
    everything_once(Case { check: Check::Ask, home: Home::Bare, ..CASE });
}

#[test]
fn holds_anchored_seen_gone_as_it_was_where_the_command_is_run_for_the_operator() {
    everything_once(Case { paste: Paste::Ran, home: Home::Unterminated, ..CASE });
}

#[test]
fn holds_seen_gone_when_the_command_is_pasted_after_the_crash() {
    let case = Case { paste: Paste::Never, lifetime: 70, ..CASE };
    crash_everywhere(case);
    crash_everywhere(Case { seal: true, check: Check::Known, home: Home::Bare, ..case });
}

#[test]
fn holds_anchored_seen_gone_when_the_recovery_goes_wrong_as_well() {
    crash_the_recovery(CASE, 23);
    crash_the_recovery(Case { seal: true, home: Home::Bare, ..CASE }, 47);
    crash_the_recovery(Case { seal: true, refused: true, home: Home::Unterminated, ..CASE }, 47);
}
