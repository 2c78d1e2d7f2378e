//! How long things take, what people are told, and that nothing is forgotten: one pod's life on a simulated cluster, and its machine
//! with random events.

use std::time::Duration;

use proptest::prelude::*;
use toehold_core::Timestamp;
use toehold_core::testing::{Fault, run_until_stalled};
use toehold_podrun::kubernetes::{ApiFailure, Availability, FailureKind, PodTrouble};
use toehold_podrun::pod::{Action, Event, Identity, Life, Phase, Timing};
use toehold_podrun::testing::{Fate, SimulatedSide};

use crate::support::{World, gateway};

fn lived(fate: Fate, timing: Timing, leaves_after: Option<u64>) -> (SimulatedSide, u64) {
    let world = World::new();
    world.cluster.set_fate(fate);
    let start = toehold_core::Clock::now(&world.clock);
    let side = run_until_stalled(gateway(&world, timing, leaves_after)).unwrap().unwrap();
    assert_eq!(world.records(), []);
    assert!(world.cluster.pods().iter().all(toehold_podrun::kubernetes::PodSnapshot::is_terminating));
    let told = side.told_at.map_or(0, |at| at.saturating_since(start).as_secs());
    (side, told)
}

#[test]
fn permanent_troubles_are_told_within_seconds() {
    let refused = |kind, code, text: &str| Fate::Refused(ApiFailure::new(kind, code, text));
    for (fate, part) in [
        (refused(FailureKind::Forbidden, 403, "pods is forbidden"), "not allowed"),
        (refused(FailureKind::Quota, 403, "exceeded quota: two"), "exceeded quota: two"),
        (refused(FailureKind::Invalid, 422, "spec.containers: Required value"), "spec.containers: Required value"),
        (Fate::Unschedulable, "no node can take the pod"),
        (Fate::Waits("ImagePullBackOff"), "the image cannot be pulled"),
        (Fate::Waits("ErrImagePull"), "the image cannot be pulled"),
        (Fate::Waits("InvalidImageName"), "the image's name is not valid"),
    ] {
        let (side, told) = lived(fate.clone(), Timing::default(), None);
        let trouble = side.trouble.expect(part);
        assert!(trouble.words.contains(part), "{fate:?}: {}", trouble.words);
        assert!(told <= 6, "{fate:?}: after {told} s");
        assert_eq!(side.pod, None);
    }
}

#[test]
fn a_pod_that_is_never_ready_is_given_up_after_the_timeout() {
    let (side, told) = lived(Fate::Waits("ContainerCreating"), Timing::default(), None);
    assert_eq!(told, 60);
    assert!(side.trouble.unwrap().words.contains("within 60 s"));
}

#[test]
fn a_pod_that_ends_by_itself_ends_the_connection_with_the_reason() {
    let (side, _) = lived(Fate::EndsAfter(4), Timing::default(), None);
    assert!(side.pod.is_some());
    assert_eq!(side.trouble.unwrap().reason, "OOMKilled");
}

#[test]
fn p1_idle_and_session_limits_are_the_gateways() {
    let limited = |session, idle| Timing { session, idle, ..Timing::default() };
    let (side, told) = lived(Fate::ReadyAfter(2), limited(Some(Duration::from_secs(30)), None), None);
    assert_eq!((told, side.trouble.unwrap().reason.as_str()), (30, "Limit"));
    let (side, told) = lived(Fate::ReadyAfter(2), limited(None, Some(Duration::from_secs(30))), None);
    assert_eq!((told, side.trouble.unwrap().reason.as_str()), (32, "Limit"), "from the time when it was ready");
}

#[test]
fn the_first_byte_waits_for_the_cluster_and_for_nothing_else() {
    for seconds in [0, 1, 7] {
        let world = World::new();
        world.cluster.set_fate(Fate::ReadyAfter(seconds));
        let start = toehold_core::Clock::now(&world.clock);
        let side = run_until_stalled(gateway(&world, Timing::default(), Some(60))).unwrap().unwrap();
        assert_eq!(side.ready_at.unwrap().saturating_since(start).as_secs(), seconds);
        let calls = world.faults.log();
        let ready = calls.iter().position(|call| call.subject.starts_with("watch")).unwrap();
        // owner, record, pod, one watch
        assert_eq!(ready, 3, "{calls:?}");
    }
}

#[test]
fn a_cluster_that_stands_still_is_waited_for_and_the_pod_is_not_made_twice() {
    for fault in [Fault::Hang, Fault::LostAfter, Fault::LostBefore, Fault::Unreachable] {
        let world = World::new();
        for number in 2..5 {
            world.faults.fail_at(number, fault);
        }
        let side = run_until_stalled(gateway(&world, Timing::default(), Some(100))).unwrap().unwrap();
        let pod = side.pod.expect("it is ready in the end");
        assert_eq!(side.trouble, None, "{fault:?}");
        assert!(pod.name.starts_with("toehold-"));
        assert_eq!(world.records(), []);
        let created: usize = 1;
        let connection = world.cluster.ever_created_at_all();
        assert_eq!(connection, created, "{fault:?}");
    }
}

#[test]
fn a_creation_that_may_come_late_is_looked_for_all_the_time_and_deleted_at_once() {
    let start = Timestamp::from_unix_seconds(1_000_000);
    let mut life = Life::new(Timing::default());
    life.handle(start, Event::HandshakeSucceeded).unwrap();
    life.handle(start, Event::RecordSaved).unwrap();
    life.handle(start, Event::CreateUncertain("no answer".to_owned())).unwrap();
    assert_eq!(life.handle(start, Event::Disconnected).unwrap(), [Action::LookUp]);
    let mut now = start;
    while now.saturating_since(start) < Duration::from_secs(60) {
        assert_eq!(life.handle(now, Event::LookedUp(None)).unwrap(), []);
        let next = life.deadline().unwrap();
        assert!(next.saturating_since(now) <= Duration::from_secs(5), "{next:?}");
        now = next;
        assert_eq!(life.handle(now, Event::Tick).unwrap(), [Action::LookUp]);
    }
    let uid: toehold_podrun::Uid = "late".parse().unwrap();
    let found = Event::LookedUp(Some((uid.clone(), Identity::Ours, Availability::Ready)));
    assert_eq!(life.handle(now, found).unwrap(), [Action::Delete(uid)]);
}

#[test]
fn creations_that_trip_over_each_other_are_tried_again() {
    let now = Timestamp::from_unix_seconds(1_000_000);
    let mut life = Life::new(Timing::default());
    life.handle(now, Event::HandshakeSucceeded).unwrap();
    life.handle(now, Event::RecordSaved).unwrap();
    let conflict = ApiFailure::new(FailureKind::Conflict, 409, "the object has been modified");
    assert_eq!(life.handle(now, Event::CreateRefused(conflict)).unwrap(), []);
    let next = life.deadline().unwrap();
    assert_eq!(life.handle(next, Event::Tick).unwrap(), [Action::Create]);
}

fn availabilities() -> impl Strategy<Value = Availability> {
    let trouble = || PodTrouble { reason: "r".to_owned(), words: "w".to_owned() };
    prop_oneof![
        Just(Availability::Pending),
        Just(Availability::Ready),
        Just(Availability::Doubtful(trouble())),
        Just(Availability::Failed(trouble())),
        Just(Availability::Ended(trouble())),
    ]
}

/// An answer to `action`, of the kinds that there are; `step` chooses.
fn answer(action: &Action, step: u8, availability: Availability) -> Option<Event> {
    let uid = |text: &str| text.parse().unwrap();
    let failure = |kind| ApiFailure::new(kind, 500, "x");
    Some(match (action, step % 6) {
        (Action::SaveRecord, 0) => Event::RecordFailed("x".to_owned()),
        (Action::SaveRecord, _) => Event::RecordSaved,
        (Action::Create, 0) => Event::CreateUncertain("x".to_owned()),
        (Action::Create, 1) => Event::CreateRefused(failure(FailureKind::Unavailable)),
        (Action::Create, 2) => Event::CreateRefused(failure(FailureKind::AlreadyExists)),
        (Action::Create, 3) => Event::CreateRefused(failure(FailureKind::Quota)),
        (Action::Create, _) => Event::Created(uid("one"), availability),
        (Action::LookUp, 0) => Event::LookUpFailed("x".to_owned()),
        (Action::LookUp, 1 | 2) => Event::LookedUp(None),
        (Action::LookUp, 3) => Event::LookedUp(Some((uid("two"), Identity::Foreign, availability))),
        (Action::LookUp, 4) => Event::LookedUp(Some((uid("one"), Identity::OursAltered, availability))),
        (Action::LookUp, _) => Event::LookedUp(Some((uid("one"), Identity::Ours, availability))),
        (Action::Delete(_), 0 | 1) => Event::DeleteFailed("x".to_owned()),
        (Action::Delete(_), 2) => Event::DeleteMissing,
        (Action::Delete(_), _) => Event::DeleteAccepted,
        (Action::RemoveRecord, 0 | 1) => Event::RecordRemoveFailed("x".to_owned()),
        (Action::RemoveRecord, _) => Event::RecordRemoved,
        (Action::Watch | Action::Ready(_) | Action::Fail(_), _) => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn p1_every_life_ends_in_a_deletion_that_was_seen_or_the_certainty_of_none(
        steps in proptest::collection::vec((any::<u8>(), availabilities(), 0_i64..20), 1..60),
    ) {
        let mut now = Timestamp::from_unix_seconds(1_000_000);
        let mut life = Life::new(Timing::default());
        let (mut created, mut gone, mut told, mut ready) = (false, false, 0, false);
        let mut pending = life.handle(now, Event::HandshakeSucceeded).unwrap();
        let mut random = steps.into_iter();
        let mut rounds = 0;
        while !life.is_closed() {
            rounds += 1;
            prop_assert!(rounds < 500, "it never ends: {:?}", life);
            // After the random part, the connection is gone and everything answers as it should.
            let good = |action: &Action| match action {
                Action::LookUp if created && !gone => 5,
                Action::LookUp => 1,
                _ => 4,
            };
            let (choice, availability, seconds) = random.next().unwrap_or((255, Availability::Pending, 70));
            let event = if pending.is_empty() {
                now = Timestamp::from_unix_seconds(now.unix_seconds() + seconds);
                match choice % 8 {
                    0 => Event::Disconnected,
                    1 => Event::OwnerLost,
                    2 => Event::Traffic,
                    3 if created && !gone => { gone = true; Event::Gone },
                    4 | 5 if !gone => Event::Observed("one".parse().unwrap(), availability),
                    _ if choice == 255 && !matches!(life.phase(), Phase::Pausing(..) | Phase::AwaitGone) => Event::Disconnected,
                    _ if choice == 255 && *life.phase() == Phase::AwaitGone => { gone = true; Event::Gone },
                    _ => Event::Tick,
                }
            } else {
                let action = pending.remove(0);
                match &action {
                    Action::Ready(_) => { ready = true; prop_assert_eq!(told, 0, "nobody is there any more"); }
                    Action::Fail(_) => told += 1,
                    Action::Delete(uid) => prop_assert_eq!(uid.as_str(), "one", "only what is ours is deleted"),
                    Action::RemoveRecord => prop_assert!(
                        !created || gone || matches!(life.phase(), Phase::Forgetting),
                    ),
                    _ => {}
                }
                let choice = if choice == 255 { good(&action) } else { choice };
                let Some(event) = answer(&action, choice, availability) else { continue };
                match &event {
                    Event::Created(..) => created = true,
                    Event::LookedUp(Some((uid, _, _))) if uid.as_str() == "one" => created = true,
                    Event::LookedUp(_) | Event::DeleteMissing => gone = true,
                    _ => {}
                }
                event
            };
            let before = life.clone();
            match life.handle(now, event) {
                Ok(actions) => pending.extend(actions),
                Err(error) => {
                    prop_assert_eq!(&life, &before, "an error changes nothing");
                    prop_assert!(false, "an answer to what was asked is never out of turn: {}", error);
                }
            }
            if life.is_closed() && created {
                prop_assert!(gone, "closed without having seen it gone");
            }
        }
        prop_assert!(told <= 1 && (told == 1 || ready || !created || rounds > 0));
    }
}
