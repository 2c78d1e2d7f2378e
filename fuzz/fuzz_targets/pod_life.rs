//! A pod's life with any events in any order: an error changes nothing, only our UID is ever deleted, a person is told at most once.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use toehold_core::Timestamp;
use toehold_podrun::kubernetes::{ApiFailure, Availability, FailureKind, PodTrouble};
use toehold_podrun::pod::{Action, Event, Identity, Life, Timing};

#[derive(Arbitrary, Debug)]
struct Step {
    seconds: u8,
    event: u8,
    state: u8,
    ours: bool,
}

fn availability(state: u8) -> Availability {
    let trouble = || PodTrouble { reason: "r".to_owned(), words: "w".to_owned() };
    match state % 5 {
        0 => Availability::Pending,
        1 => Availability::Ready,
        2 => Availability::Doubtful(trouble()),
        3 => Availability::Failed(trouble()),
        _ => Availability::Ended(trouble()),
    }
}

fn event(step: &Step) -> Option<Event> {
    let uid = if step.ours { "one" } else { "two" }.parse().ok()?;
    let state = availability(step.state);
    let identity = if step.ours { Identity::Ours } else { Identity::Foreign };
    let refused = |kind| Event::CreateRefused(ApiFailure::new(kind, 500, "x"));
    Some(match step.event % 22 {
        0 => Event::HandshakeSucceeded,
        1 => Event::RecordSaved,
        2 => Event::RecordFailed("x".to_owned()),
        3 => Event::Created("one".parse().ok()?, state),
        4 => refused(FailureKind::AlreadyExists),
        5 => refused(FailureKind::Unavailable),
        6 => refused(FailureKind::Quota),
        7 => Event::CreateUncertain("x".to_owned()),
        8 => Event::LookedUp(None),
        9 => Event::LookedUp(Some((uid, identity, state))),
        10 => Event::LookUpFailed("x".to_owned()),
        11 => Event::Observed(uid, state),
        12 => Event::Gone,
        13 => Event::DeleteAccepted,
        14 => Event::DeleteMissing,
        15 => Event::DeleteFailed("x".to_owned()),
        16 => Event::RecordRemoved,
        17 => Event::RecordRemoveFailed("x".to_owned()),
        18 => Event::Traffic,
        19 => Event::Disconnected,
        20 => Event::OwnerLost,
        _ => Event::Tick,
    })
}

fuzz_target!(|steps: Vec<Step>| {
    let mut life = Life::new(Timing::default());
    let (mut now, mut told) = (1_000_000, 0);
    for step in steps {
        now += i64::from(step.seconds);
        let Some(event) = event(&step) else { return };
        let before = life.clone();
        match life.handle(Timestamp::from_unix_seconds(now), event) {
            Ok(actions) => {
                for action in actions {
                    match action {
                        Action::Delete(uid) => assert_eq!(uid.as_str(), "one"),
                        Action::Fail(_) => told += 1,
                        Action::Ready(_) => assert_eq!(told, 0),
                        _ => {}
                    }
                }
            }
            Err(_) => assert_eq!(life, before),
        }
        assert!(told <= 1);
    }
});
