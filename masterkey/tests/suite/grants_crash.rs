//! A process that dies at any of its calls, or has any of them fail in any way that it can, while it gives a grant or ends
//! one, and what becomes of the grant.
//!
//! After every single call the world is looked at ([`Lab::check`]): no line without its record, no other byte touched.

use std::time::Duration;

use crate::grant_support::{HOUR, Lab, bob, carol, foreign, master, rng};
use toehold_core::testing::{Call, Fault, Moment};
use toehold_masterkey::grant::GrantError;

/// What the process is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Grant,
    /// Of a grant that has not ended.
    Revoke,
    /// Of one that has.
    Sweep,
}

/// What comes after the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Somebody revokes what is on the list.
    Revoke,
    /// Time passes, and somebody sweeps.
    Sweep,
    /// Time passes, and nobody does anything.
    Nothing,
}

impl Job {
    /// A host with another grant of the same key, which lives on, and what this job needs.
    fn lab(self) -> Lab {
        let lab = Lab::new();
        let mut lasting = lab.request(bob());
        lasting.lifetime = 100 * HOUR;
        lab.grant(&lasting, 200);
        if self != Self::Grant {
            lab.grant(&lab.request(carol()), 201);
        }
        if self == Self::Sweep {
            lab.advance(2 * HOUR);
        }
        lab.restart()
    }

    /// `None` for a process that died, else whether it said that all went well.
    fn run(self, lab: &Lab) -> Option<Result<(), GrantError>> {
        let (grants, master) = (lab.grants(), master());
        let masters = [&master];
        match self {
            Self::Grant => {
                let request = lab.request(carol());
                lab.watched(async { grants.grant(&request, &masters, &mut rng(1)).await.map(|_| ()) })
            }
            Self::Revoke => {
                let id = lab.records().iter().find(|record| record.public_key == carol()).unwrap().id;
                lab.watched(async { grants.revoke(id, &masters, &mut rng(1)).await.map(|_| ()) })
            }
            Self::Sweep => lab.watched(async {
                match grants.sweep(&masters, &mut rng(1), |_| true).await {
                    Ok(swept) => swept.into_iter().try_for_each(|one| one.result.map(|_| ())),
                    Err(error) => Err(error.into()),
                }
            }),
        }
    }

    fn calls(self) -> Vec<Call> {
        let lab = self.lab();
        self.run(&lab).unwrap().unwrap();
        lab.world.faults().log()
    }
}

/// Of carol's grant, for she is on the host for good besides.
fn is_live(lab: &Lab) -> bool {
    lab.text().lines().any(|line| line.contains(&carol().base64()) && line.contains("toehold-grant:"))
}

fn settle(lab: &Lab, after: After, late_first: bool, when: &str) {
    let late = |when: &str| {
        lab.world.fleet().deliver_late();
        lab.check(&|| format!("{when}, delivered late"));
    };
    if late_first {
        late(when);
    }
    match after {
        After::Revoke => {
            for record in lab.records().iter().filter(|record| record.public_key == carol()) {
                lab.restart().revoke(record.id).unwrap_or_else(|error| panic!("{when}: {error}"));
            }
        }
        After::Sweep | After::Nothing => lab.advance(2 * HOUR),
    }
    if after == After::Sweep {
        lab.sweep();
    }
    if after != After::Nothing {
        late(when);
        assert!(!is_live(lab), "{when}: it lives on:\n{}", lab.text());
        assert_eq!(lab.records().len(), 1, "{when}: {:?}", lab.records());
    }
    late(when);
    // The other grant is as it was, and ends as it should.
    assert!(lab.lets_in(&bob()), "{when}: the other grant was taken along");
    lab.advance(101 * HOUR);
    assert!(!lab.lets_in(&bob()), "{when}");
    // Whatever is still there is on the list, and goes.
    lab.advance(Duration::from_secs(601)); // past the lock of a process that died
    lab.sweep();
    assert_eq!((lab.file(), lab.records(), lab.leftovers()), (foreign(), vec![], vec![]), "{when}");
}

fn crash_everywhere(job: Job) {
    for call in job.calls() {
        let moments: &[_] = if call.kind.has_effect() {
            &[(Moment::Before, false), (Moment::After, false), (Moment::Late, false), (Moment::Late, true)]
        } else {
            &[(Moment::Before, false)]
        };
        for (moment, late_first) in moments {
            for after in [After::Revoke, After::Sweep, After::Nothing] {
                let when = format!("{job:?}, crashed {moment:?} {call}, then {after:?} (late first: {late_first})");
                let lab = job.lab();
                lab.world.faults().crash_at(call.number, *moment);
                assert!(job.run(&lab).is_none(), "{when}");
                settle(&lab, after, *late_first, &when);
            }
        }
    }
}

fn fail_everywhere(job: Job) {
    for call in job.calls() {
        for fault in call.kind.faults() {
            let when = format!("{job:?}, {fault:?} at {call}");
            let lab = job.lab();
            lab.world.faults().fail_at(call.number, *fault);
            let ended = job.run(&lab);
            assert!(lab.world.faults().failed(), "{when}");
            assert_eq!(ended.is_none(), *fault == Fault::Hang, "{when}: {ended:?}");
            let record = lab.records().into_iter().find(|record| record.public_key == carol());
            match (job, &ended) {
                (Job::Grant, Some(Ok(()))) => assert!(is_live(&lab) && record.is_some(), "{when}"),
                (Job::Grant, Some(Err(GrantError::InDoubt { .. }))) => assert!(record.is_some(), "{when}"),
                (Job::Grant, Some(Err(_))) => assert!(!is_live(&lab), "{when}: an error, and it is there"),
                (_, Some(Ok(()))) => assert!(!is_live(&lab) && record.is_none(), "{when}: it was said to be gone"),
                (_, Some(Err(_))) => assert!(record.is_some() || !is_live(&lab), "{when}: off the list, and on the host"),
                (_, None) => {}
            }
            settle(&lab, After::Sweep, false, &when);
        }
    }
}

#[test]
fn holds_grant_recorded_foreign_bytes_seen_gone_when_the_granting_process_dies() {
    crash_everywhere(Job::Grant);
}

#[test]
fn holds_grant_recorded_foreign_bytes_seen_gone_when_the_ending_process_dies() {
    crash_everywhere(Job::Revoke);
    crash_everywhere(Job::Sweep);
}

#[test]
fn holds_grant_recorded_foreign_bytes_seen_gone_when_something_fails() {
    fail_everywhere(Job::Grant);
    fail_everywhere(Job::Revoke);
    fail_everywhere(Job::Sweep);
}
