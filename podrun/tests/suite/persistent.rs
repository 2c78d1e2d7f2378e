//! Persistent mode: one pod for each principal, or one for all, found or made, and made anew where it is over.

use std::time::Duration;

use serde_json::{Value, json};
use toehold_core::Clock as _;
use toehold_core::testing::{CallKind, Fault, Moment, join_all, run_until_stalled, yield_now};
use toehold_podrun::backend::{PodBackend as _, Preconditions};
use toehold_podrun::config::{Config, Settings};
use toehold_podrun::driver::{Keeper, PodReference, enter};
use toehold_podrun::kubernetes::{PodSnapshot, PodTrouble};
use toehold_podrun::pod::{Timing, Who, persistent_manifest, persistent_name};
use toehold_podrun::testing::Fate;

use crate::support::{World, who};

fn settings(more: &str) -> Settings {
    let text = format!(
        r#"{{"pod": {{"namespace": "pods", "mode": "persistent", {more}
            "podSpec": {{"containers": [{{"name": "shell", "image": "busybox"}}]}}}}}}"#
    );
    Config::parse(&text).unwrap().validate().unwrap()
}

const MAKING: &str = r#""createMissingPods": true,"#;

/// A world in which the principal's pod has ended, and pods made from now on are well; and what the pod was.
fn world_of_one_that_is_over(settings: &Settings) -> (World, PodReference) {
    let world = World::new();
    world.cluster.set_fate(Fate::EndsAfter(60));
    let pod = entered(&world, settings, &who()).unwrap();
    world.wait(100);
    world.cluster.set_fate(Fate::ReadyAfter(2));
    (world, pod)
}

fn deletions(world: &World) -> usize {
    world.faults.log().iter().filter(|call| call.kind == CallKind::ClusterDelete).count()
}

/// As somebody else does it, who takes nobody's turn.
fn deleted_by_somebody(world: &World, pod: &PodReference) {
    let preconditions = Preconditions { uid: pod.uid.clone(), resource_version: None };
    let other = world.restart();
    assert!(run_until_stalled(other.cluster.delete("pods", &pod.name, &preconditions)).unwrap().unwrap());
}

fn entered(world: &World, settings: &Settings, who: &Who) -> Result<PodReference, PodTrouble> {
    run_until_stalled(enter(world.hands().parts(), settings, who, &[], Timing::default())).unwrap()
}

#[test]
fn a_missing_pod_is_made_where_that_is_wanted_and_found_again() {
    let world = World::new();
    world.cluster.set_fate(Fate::ReadyAfter(3));
    let error = entered(&world, &settings(""), &who()).unwrap_err();
    assert_eq!(error.reason, "NotFound");
    let making = settings(r#""createMissingPods": true,"#);
    let first = entered(&world, &making, &who()).unwrap();
    assert_eq!(entered(&world, &making, &who()).unwrap(), first);
    assert_eq!(entered(&world, &settings(""), &who()).unwrap(), first);
    let other = Who { principal: "other".to_owned(), ..who() };
    assert_ne!(entered(&world, &making, &other).unwrap().name, first.name);
    assert_eq!(world.cluster.ever_created_at_all(), 2);
    world.wait(100_000);
    assert_eq!(world.cluster.pods().len(), 2, "nobody removes them");
}

#[test]
fn p4_another_principals_pod_is_not_entered() {
    let world = World::new();
    let making = settings(r#""createMissingPods": true,"#);
    let mut theirs = persistent_manifest(&making, &who(), []).unwrap();
    theirs["metadata"]["annotations"]["toehold.local/principal"] = "somebody else".into();
    world.cluster.put_pod("pods", &theirs).unwrap();
    assert_eq!(entered(&world, &making, &who()).unwrap_err().reason, "NotYours");
    // The user name of the login is not the principal.
    let disguised = Who { user: who().principal, principal: "mallory".to_owned(), ..who() };
    let own = entered(&world, &making, &disguised).unwrap();
    assert_ne!(Some(own.name.as_str()), theirs["metadata"]["name"].as_str());
}

#[test]
fn one_pod_for_all_is_entered_by_all_that_may_log_in() {
    let world = World::new();
    let shared = settings(r#""createMissingPods": true, "name": "shared","#);
    let first = entered(&world, &shared, &who()).unwrap();
    assert_eq!(first.name, "shared");
    assert_eq!(entered(&world, &shared, &Who { principal: "other".to_owned(), ..who() }).unwrap(), first);
}

#[test]
fn two_connections_at_once_make_one_pod() {
    let world = World::new();
    world.faults.take_turns(true);
    let making = settings(r#""createMissingPods": true,"#);
    let (one, other, principal) = (world.hands(), world.hands(), who());
    let both = [&one, &other].map(|hands| enter(hands.parts(), &making, &principal, &[], Timing::default()));
    let pods = run_until_stalled(join_all(both)).unwrap();
    assert_eq!(pods[0], pods[1]);
    assert!(pods[0].is_ok());
    assert_eq!(world.cluster.ever_created_at_all(), 1);
}

#[test]
fn passing_failures_are_borne_and_permanent_ones_told() {
    let making = settings(r#""createMissingPods": true,"#);
    for fault in [Fault::Hang, Fault::LostBefore, Fault::LostAfter, Fault::Unreachable] {
        for number in 0..3 {
            let world = World::new();
            world.faults.fail_at(number, fault);
            assert!(entered(&world, &making, &who()).is_ok(), "{fault:?} at {number}");
            assert_eq!(world.cluster.ever_created_at_all(), 1);
        }
    }
    let world = World::new();
    world.faults.fail_at(1, Fault::Denied);
    let error = entered(&world, &making, &who()).unwrap_err();
    assert!(error.words.contains("not allowed"), "{}", error.words);
    world.cluster.set_fate(Fate::Waits("ErrImagePull"));
    let error = entered(&world, &making, &who()).unwrap_err();
    assert_eq!(error.reason, "ErrImagePull");
    world.cluster.set_fate(Fate::Waits("ContainerCreating"));
    let other = Who { principal: "other".to_owned(), ..who() };
    assert_eq!(entered(&world, &making, &other).unwrap_err().reason, "TimedOut");
}

#[test]
fn one_that_is_over_is_removed_and_another_made() {
    let making = settings(MAKING);
    let (world, over) = world_of_one_that_is_over(&making);
    let anew = entered(&world, &making, &who()).unwrap();
    assert_eq!(anew.name, over.name);
    assert_ne!(anew.uid, over.uid);
    assert_eq!(world.cluster.pods().len(), 1);
    // Its time may have been over as well.
    let text = r#"{"pod": {"namespace": "pods", "mode": "persistent", "createMissingPods": true,
        "podSpec": {"containers": [{"name": "shell", "image": "busybox"}]}}, "limits": {"total": "1h"}}"#;
    let limited = Config::parse(text).unwrap().validate().unwrap();
    let world = World::new();
    let first = entered(&world, &limited, &who()).unwrap();
    world.wait(3000);
    assert_eq!(entered(&world, &limited, &who()).unwrap(), first);
    world.wait(700);
    assert_ne!(entered(&world, &limited, &who()).unwrap().uid, first.uid);
}

#[test]
fn one_that_is_over_is_left_where_none_is_made_or_it_is_for_all_or_not_provably_ours() {
    type Change = fn(&mut Value, &str);
    let cases: [(&str, Change); 6] = [
        ("", |_, _| {}),
        (r#""createMissingPods": true, "name": "shared","#, |_, _| {}),
        (MAKING, |pod, _| pod["metadata"]["labels"]["toehold.local/mode"] = json!("mine")),
        (MAKING, |pod, _| pod["metadata"]["labels"]["toehold.local/principal"] = json!("somebody")),
        (MAKING, |pod, owner| pod["metadata"]["ownerReferences"] = json!([{ "kind": "Job", "uid": owner }])),
        (MAKING, |pod, _| drop(pod["metadata"]["annotations"].as_object_mut().unwrap().remove("toehold.local/spec-digest"))),
    ];
    for (number, (more, change)) in cases.into_iter().enumerate() {
        let making = if more.contains("shared") { settings(more) } else { settings(MAKING) };
        let (world, over) = world_of_one_that_is_over(&making);
        let hands = world.hands();
        let owner = run_until_stalled(Keeper::create(hands.parts(), "pods", &mut world.rng())).unwrap().unwrap();
        world.cluster.change_pod("pods", &over.name, |pod| change(pod, owner.owner().uid.as_str()));
        let error = entered(&world, &settings(more), &who()).unwrap_err();
        assert_eq!(error.reason, "OOMKilled", "{number}: {error:?}");
        let todo = format!("toehold pods rm {}", over.name);
        assert!(error.words.contains("memory") && error.words.contains(&todo), "{number}: {}", error.words);
        assert_eq!((deletions(&world), world.cluster.pods().len()), (0, 1), "{number}");
        assert!(!world.cluster.pods()[0].is_terminating());
    }
}

#[test]
fn one_that_is_being_deleted_is_waited_for() {
    for more in [MAKING, r#""createMissingPods": true, "name": "shared","#] {
        let making = settings(more);
        let world = World::new();
        let first = entered(&world, &making, &who()).unwrap();
        world.cluster.set_grace(Duration::from_secs(20));
        deleted_by_somebody(&world, &first);
        let begun = world.clock.now();
        let second = entered(&world, &making, &who()).unwrap();
        assert_ne!(second.uid, first.uid);
        assert!(world.clock.now() >= begun.saturating_add(Duration::from_secs(20)));
        assert_eq!((deletions(&world), world.cluster.pods().len()), (0, 1));
    }
    // Not for ever, and not where no other is made.
    let world = World::new();
    let first = entered(&world, &settings(MAKING), &who()).unwrap();
    world.cluster.set_grace(Duration::from_secs(3600));
    deleted_by_somebody(&world, &first);
    let error = entered(&world, &settings(""), &who()).unwrap_err();
    assert!(error.words.contains("is being deleted, and no other is made"), "{}", error.words);
    let begun = world.clock.now();
    let error = entered(&world, &settings(MAKING), &who()).unwrap_err();
    assert!(error.words.contains("is being deleted, and is still there"), "{}", error.words);
    assert!(world.clock.now() <= begun.saturating_add(Timing::default().ready_within + Duration::from_secs(1)));
    assert_eq!(world.cluster.ever_created_at_all(), 1);
}

#[test]
fn one_that_is_deleted_while_it_is_waited_for_is_made_again() {
    let world = World::new();
    world.cluster.set_fate(Fate::ReadyAfter(10));
    let making = settings(MAKING);
    let hands = world.hands();
    let principal = who();
    let entering = enter(hands.parts(), &making, &principal, &[], Timing::default());
    let removing = async {
        while world.cluster.pods().is_empty() {
            yield_now().await;
        }
        world.cluster.remove_pod("pods", &persistent_name(&making, &principal.principal));
    };
    let (pod, ()) = run_until_stalled(futures_util::future::join(entering, removing)).unwrap();
    assert!(pod.is_ok(), "{pod:?}");
    assert_eq!((world.cluster.ever_created_at_all(), world.cluster.pods().len()), (2, 1));
}

#[test]
fn connections_at_once_replace_one_that_is_over_once() {
    let making = settings(MAKING);
    for connections in 2..6 {
        let (world, over) = world_of_one_that_is_over(&making);
        world.faults.take_turns(true);
        let principal = who();
        let hands: Vec<_> = (0..connections).map(|_| world.hands()).collect();
        let all = hands.iter().map(|hands| enter(hands.parts(), &making, &principal, &[], Timing::default()));
        let pods = run_until_stalled(join_all(all)).unwrap();
        assert!(pods.iter().all(|pod| pod.is_ok() && *pod == pods[0]), "{pods:?}");
        assert_ne!(pods[0].as_ref().unwrap().uid, over.uid);
        assert_eq!((world.cluster.ever_created_at_all(), world.cluster.pods().len()), (2, 1));
    }
}

#[test]
fn p2_one_that_changes_under_its_deletion_is_judged_again() {
    let making = settings(MAKING);
    let mut refused = 0;
    for moment in 0..8 {
        for is_taken_over in [true, false] {
            let (world, over) = world_of_one_that_is_over(&making);
            world.faults.take_turns(true);
            let (hands, principal, before) = (world.hands(), who(), world.faults.calls());
            let entering = enter(hands.parts(), &making, &principal, &[], Timing::default());
            let mut was_in_time = false;
            let changing = async {
                for _ in 0..1000 {
                    if world.faults.calls() >= before + moment {
                        break;
                    }
                    yield_now().await;
                }
                was_in_time = world.cluster.pods().iter().any(|pod| pod.uid == over.uid && !pod.is_terminating());
                world.cluster.change_pod("pods", &over.name, |pod| {
                    let label = if is_taken_over { "toehold.local/mode" } else { "other" };
                    pod["metadata"]["labels"][label] = json!("mine");
                });
            };
            let (pod, ()) = run_until_stalled(futures_util::future::join(entering, changing)).unwrap();
            if is_taken_over && was_in_time {
                refused += 1;
                assert!(pod.unwrap_err().words.contains("toehold pods rm"), "{moment}");
                assert!(world.cluster.pods().iter().all(|pod| pod.uid == over.uid && !pod.is_terminating()), "{moment}");
            } else {
                assert_ne!(pod.unwrap().uid, over.uid, "{moment}");
            }
        }
    }
    assert!(refused > 1, "{refused}");
}

#[test]
fn a_gateway_that_dies_while_it_replaces_one_leaves_nobody_locked_out() {
    let making = settings(MAKING);
    for moment in [Moment::Before, Moment::After, Moment::Late] {
        for number in 0.. {
            let (world, over) = world_of_one_that_is_over(&making);
            world.faults.crash_at(world.faults.calls() + number, moment);
            let (hands, principal) = (world.hands(), who());
            let ended = run_until_stalled(enter(hands.parts(), &making, &principal, &[], Timing::default()));
            if ended.is_some() {
                assert!(number > 3);
                break;
            }
            let next = world.restart();
            let pod = entered(&next, &making, &who()).unwrap();
            world.cluster.deliver_late();
            assert_ne!(pod.uid, over.uid, "{moment:?} {number}");
            assert_eq!(entered(&next, &making, &who()).unwrap(), pod, "{moment:?} {number}");
            assert_eq!(world.cluster.pods().len(), 1, "{moment:?} {number}");
        }
    }
}

#[test]
fn failures_while_one_is_replaced_are_borne_or_told() {
    let making = settings(MAKING);
    for fault in [Fault::Hang, Fault::LostBefore, Fault::LostAfter, Fault::Unreachable] {
        for number in 0..6 {
            let (world, over) = world_of_one_that_is_over(&making);
            world.faults.fail_at(world.faults.calls() + number, fault);
            let pod = entered(&world, &making, &who());
            assert_ne!(pod.unwrap().uid, over.uid, "{fault:?} at {number}");
            assert_eq!((world.cluster.ever_created_at_all(), world.cluster.pods().len()), (2, 1), "{fault:?} at {number}");
        }
    }
    let (world, over) = world_of_one_that_is_over(&making);
    world.faults.fail_at(world.faults.calls() + 1, Fault::Denied);
    let error = entered(&world, &making, &who()).unwrap_err();
    assert!(error.words.contains("not allowed") && error.words.contains(&format!("toehold pods rm {}", over.name)), "{error:?}");
}

#[test]
fn what_is_over_as_soon_as_it_is_made_is_made_once_a_connection() {
    let world = World::new();
    world.cluster.set_fate(Fate::EndsAfter(0));
    for made in 1..4 {
        let error = entered(&world, &settings(MAKING), &who()).unwrap_err();
        assert_eq!((error.reason.as_str(), world.cluster.ever_created_at_all()), ("OOMKilled", made), "{}", error.words);
    }
}

#[test]
fn over_is_what_nothing_will_start_again() {
    let pod = |phase: &str, restart: &str, state: Value| {
        let object = json!({
            "metadata": { "name": "p", "uid": "u", "resourceVersion": "1" },
            "spec": { "restartPolicy": restart, "containers": [{ "name": "shell" }, { "name": "beside" }] },
            "status": { "phase": phase, "containerStatuses": [
                { "name": "shell", "state": state },
                { "name": "beside", "state": { "running": {} } },
            ] },
        });
        PodSnapshot::from_object(object).unwrap().is_over("shell")
    };
    let ended = || json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
    assert!(pod("Failed", "Never", json!({})) && pod("Succeeded", "Always", json!({})));
    // Another container may go on for ever.
    assert!(pod("Running", "Never", ended()));
    assert!(!pod("Running", "Always", ended()) && !pod("Running", "Never", json!({ "running": {} })));
    assert!(!pod("Pending", "Never", json!({ "waiting": { "reason": "ImagePullBackOff" } })));
}
