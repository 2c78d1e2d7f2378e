//! Owners: who is taken for dead, and who never is (P1, P2); whose a pod is (P3); what an exec is allowed to reach (P4).

use std::time::Duration;

use serde_json::{Value, json};
use toehold_core::testing::{join_all, run_until_stalled};
use toehold_core::{Clock as _, Expect, Key, Store as _, Timer as _, Timestamp};
use toehold_podrun::backend::{ExecRequest, OwnerSnapshot, PodBackend as _};
use toehold_podrun::driver::{Keeper, OwnerState, Reaper, run};
use toehold_podrun::owner::{INTERVAL, LAPSE, STALE_AFTER, Sightings, deadline_seconds};
use toehold_podrun::pod::{Identity, Timing, identify, may_enter, persistent_manifest, pod_manifest};
use toehold_podrun::testing::SimulatedSide;

use crate::support::{NAMESPACE, World, record, settings, who};

fn owner(number: u64, version: u64, heartbeat: u64) -> OwnerSnapshot {
    OwnerSnapshot {
        name: format!("toehold-gateway-{number:032x}").parse().unwrap(),
        uid: format!("uid-{number}").parse().unwrap(),
        resource_version: version.to_string(),
        heartbeat,
        terminating: false,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(1_000_000 + seconds)
}

#[test]
fn p2_an_owner_is_stale_only_after_having_been_seen_unchanged_for_long() {
    let mut sightings = Sightings::new();
    for pass in 0..4 {
        assert_eq!(sightings.observe(at(pass * 5), &[owner(1, 7, 3)], None), [], "{pass}");
    }
    let stale = sightings.observe(at(20), &[owner(1, 7, 3)], None);
    assert_eq!(stale[0].preconditions.resource_version.as_deref(), Some("7"));
    assert_eq!(stale[0].preconditions.uid.as_str(), "uid-1");
}

#[test]
fn p2_a_change_a_failed_list_or_a_gap_begins_anew() {
    type Disturbance = fn(&mut Sightings) -> (i64, OwnerSnapshot);
    let disturbances: [Disturbance; 5] = [
        |_| (20, owner(1, 8, 3)),
        |_| (20, owner(1, 7, 4)),
        |sightings| {
            sightings.failed();
            (20, owner(1, 7, 3))
        },
        // This process was stopped, or the clock was put on: others were not watched meanwhile.
        |_| (500, owner(1, 7, 3)),
        |_| (-500, owner(1, 7, 3)),
    ];
    for (number, disturb) in disturbances.into_iter().enumerate() {
        let mut sightings = Sightings::new();
        for pass in 0..4 {
            sightings.observe(at(pass * 5), &[owner(1, 7, 3)], None);
        }
        let (time, seen) = disturb(&mut sightings);
        assert_eq!(sightings.observe(at(time), std::slice::from_ref(&seen), None), [], "{number}");
        assert_eq!(sightings.observe(at(time + 5), &[seen], None), [], "{number}");
    }
}

#[test]
fn p2_one_look_after_a_long_time_is_not_enough_and_our_own_is_never_stale() {
    let mut sightings = Sightings::new();
    sightings.observe(at(0), &[owner(1, 7, 3)], None);
    assert_eq!(sightings.observe(at(10), &[owner(1, 7, 3)], None), []);
    assert_eq!(sightings.observe(at(20), &[owner(1, 7, 3)], None), [], "three looks in 20 s");
    let mut own = Sightings::new();
    let uid = owner(1, 7, 3).uid;
    assert!((0..20).all(|pass| own.observe(at(pass * 5), &[owner(1, 7, 3)], Some(&uid)).is_empty()));
}

#[test]
fn p1_the_lapse_is_far_above_the_reapers_threshold_and_grows_with_our_own_clock_alone() {
    const { assert!(LAPSE.as_secs() >= 10 * STALE_AFTER.as_secs() && STALE_AFTER.as_secs() >= 4 * INTERVAL.as_secs()) };
    assert_eq!(deadline_seconds(at(0), at(0)), 600);
    assert_eq!(deadline_seconds(at(0), at(3600)), 4200);
    assert_eq!(deadline_seconds(at(0), at(-3600)), 600, "a clock that was put back shortens nothing");
}

#[test]
fn p1_a_living_gateway_keeps_its_pods_and_a_stalled_cluster_kills_none() {
    let world = World::new();
    let other = world.restart();
    let settings = settings();
    let living = async {
        let hands = world.hands();
        let mut keeper = Keeper::create(hands.parts(), NAMESPACE, &mut world.rng()).await.unwrap();
        let record = record(&world, keeper.owner(), &settings);
        let manifest = pod_manifest(&settings, &record, []).unwrap();
        let mut side = SimulatedSide::new(world.clock.clone(), Some(1800));
        let beats = async {
            loop {
                let state = keeper.beat(hands.parts()).await.unwrap();
                assert!(!matches!(state, OwnerState::Lost(_)));
                world.clock.sleep_until(world.clock.now().saturating_add(INTERVAL)).await;
            }
        };
        {
            let whole = run(hands.parts(), &record, &manifest, &settings.container, Timing::default(), &mut side);
            drop(futures_util::future::select(std::pin::pin!(whole), std::pin::pin!(beats)).await);
        }
        side.trouble
    };
    let reaper = async {
        let hands = other.hands();
        let mut clearing = Reaper::new();
        let end = world.clock.now().saturating_add(Duration::from_secs(1750));
        let mut pass = 0;
        while world.clock.now() < end {
            pass += 1;
            // Its own connection fails for a minute now and then.
            if pass % 50 < 12 {
                other.faults.fail_at(other.faults.calls() + 1, toehold_core::testing::Fault::Hang);
            }
            let found = clearing.pass(hands.parts(), NAMESPACE, None).await;
            assert_eq!(found.owners, [], "pass {pass}");
            assert_eq!(found.orphans, [], "pass {pass}");
            world.clock.sleep_until(world.clock.now().saturating_add(INTERVAL)).await;
        }
        None
    };
    let boxed: Vec<std::pin::Pin<Box<dyn Future<Output = _>>>> = vec![Box::pin(living), Box::pin(reaper)];
    let ends = run_until_stalled(join_all(boxed)).expect("both end");
    assert_eq!(ends, [None, None], "it lasted for half an hour, and nobody ended it");
}

#[test]
fn p1_a_gateway_that_was_taken_for_dead_learns_it_and_tells_its_people() {
    let world = World::new();
    let hands = world.hands();
    let mut keeper = run_until_stalled(Keeper::create(hands.parts(), NAMESPACE, &mut world.rng())).unwrap().unwrap();
    world.clock.set_auto_advance(false);
    world.wait(LAPSE.as_secs() - 1);
    assert!(matches!(run_until_stalled(keeper.beat(hands.parts())), Some(Ok(OwnerState::Held(_)))));
    world.wait(LAPSE.as_secs() + 1);
    assert!(matches!(run_until_stalled(keeper.beat(hands.parts())), Some(Ok(OwnerState::Lost(_)))));
}

/// The cluster's clock goes on.
#[test]
fn p1_a_clock_that_is_put_back_ends_no_pod() {
    let world = World::new();
    let hands = world.hands();
    let mut keeper = run_until_stalled(Keeper::create(hands.parts(), NAMESPACE, &mut world.rng())).unwrap().unwrap();
    world.clock.set_auto_advance(false);
    let mut beat = || matches!(run_until_stalled(keeper.beat(hands.parts())), Some(Ok(OwnerState::Held(_))));
    for _ in 0..24 {
        world.wait(LAPSE.as_secs() / 2);
        assert!(beat());
    }
    let now = world.clock.now();
    world.clock.set(now.saturating_sub(Duration::from_secs(3600)));
    assert!(beat());
    world.clock.set(now.saturating_add(Duration::from_secs(10)));
    assert!(beat(), "it was told a time that is over");
}

#[test]
fn p2_a_sign_of_life_at_the_last_moment_stops_the_deletion() {
    let world = World::new();
    world.clock.set_auto_advance(false);
    let hands = world.hands();
    let mut keeper = run_until_stalled(Keeper::create(hands.parts(), NAMESPACE, &mut world.rng())).unwrap().unwrap();
    let mut sightings = Sightings::new();
    let mut stale = Vec::new();
    for _ in 0..5 {
        stale = sightings.observe(world.clock.now(), &world.cluster.owners(), None);
        world.wait(5);
    }
    assert_eq!(stale.len(), 1);
    run_until_stalled(keeper.beat(hands.parts())).unwrap().unwrap();
    let delete = world.cluster.delete_owner(NAMESPACE, stale[0].name, &stale[0].preconditions);
    assert!(!run_until_stalled(delete).unwrap().unwrap());
    assert_eq!(world.cluster.owners().len(), 1);
}

#[test]
fn p1_the_owner_is_an_empty_job_that_ends_by_itself() {
    let job = toehold_podrun::pod::owner_manifest(owner(1, 0, 0).name, "pods", 600, 0);
    for (pointer, value) in [
        ("/kind", json!("Job")),
        ("/spec/parallelism", json!(0)),
        ("/spec/ttlSecondsAfterFinished", json!(0)),
        ("/spec/activeDeadlineSeconds", json!(600)),
    ] {
        assert_eq!(job.pointer(pointer), Some(&value), "{pointer}");
    }
    assert_eq!(job.pointer("/spec/completions"), None, "a Job that counts as completed is cleaned up, and pods with it");
}

fn manifest() -> (World, toehold_podrun::pod::PodRecord, Value) {
    let world = World::new();
    let owner = toehold_podrun::pod::OwnerReference { name: owner(1, 0, 0).name, uid: owner(1, 0, 0).uid };
    let record = record(&world, &owner, &settings());
    let manifest = pod_manifest(&settings(), &record, []).unwrap();
    (world, record, manifest)
}

#[test]
fn p3_only_what_has_our_nonce_our_owner_and_our_spec_is_ours() {
    let (world, record, manifest) = manifest();
    let found = |change: fn(&mut Value)| {
        let mut other = manifest.clone();
        change(&mut other);
        identify(&record, &manifest, &world.cluster.put_pod(NAMESPACE, &other).unwrap())
    };
    assert_eq!(found(|_| {}), Identity::Ours);
    // What a server adds is no difference.
    let defaults = |pod: &mut Value| {
        pod["spec"]["dnsPolicy"] = json!("ClusterFirst");
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        pod["spec"]["tolerations"] = json!([{ "key": "node.kubernetes.io/not-ready" }]);
    };
    assert_eq!(found(defaults), Identity::Ours);
    let strange: [fn(&mut Value); 4] = [
        |pod| pod["metadata"]["annotations"]["toehold.local/nonce"] = json!("0".repeat(32)),
        |pod| pod["metadata"]["annotations"] = json!({}),
        |pod| pod["metadata"]["ownerReferences"][0]["uid"] = json!("another"),
        |pod| pod["metadata"]["ownerReferences"] = json!([]),
    ];
    for change in strange {
        assert_eq!(found(change), Identity::Foreign);
    }
    let altered: [fn(&mut Value); 6] = [
        |pod| pod["spec"]["containers"][0]["image"] = json!("evil"),
        |pod| pod["spec"]["containers"][0]["command"] = json!(["evil"]),
        |pod| pod["spec"]["hostNetwork"] = json!(true),
        |pod| pod["spec"]["ephemeralContainers"] = json!([{ "name": "evil" }]),
        |pod| pod["spec"]["volumes"] = json!([{ "name": "host", "hostPath": { "path": "/" } }]),
        |pod| pod["metadata"]["annotations"]["toehold.local/spec-digest"] = json!("0"),
    ];
    for change in altered {
        assert_eq!(found(change), Identity::OursAltered);
    }
}

#[test]
fn p3_a_strangers_pod_of_our_name_is_neither_used_nor_deleted() {
    let (world, record, manifest) = manifest();
    let mut strange = manifest.clone();
    strange["metadata"]["annotations"] = json!({});
    world.cluster.put_pod(NAMESPACE, &strange).unwrap();
    // It has no owner that is there; the cluster would collect it.
    strange["metadata"]["ownerReferences"] = json!([]);
    world.cluster.put_pod(NAMESPACE, &strange).unwrap();
    let hands = world.hands();
    let mut side = SimulatedSide::new(world.clock.clone(), None);
    run_until_stalled(run(hands.parts(), &record, &manifest, "shell", Timing::default(), &mut side)).unwrap().unwrap();
    assert_eq!(side.pod, None);
    assert_eq!(side.trouble.unwrap().reason, "NameTaken");
    assert_eq!(world.cluster.pods().len(), 1);
    assert!(!world.cluster.pods()[0].is_terminating());
}

#[test]
fn p4_an_exec_goes_by_uid_and_a_persistent_pod_by_its_full_principal() {
    let (world, record, manifest) = manifest();
    let pod = world.cluster.put_pod(NAMESPACE, &manifest).unwrap();
    let request = |uid: &str| ExecRequest {
        namespace: NAMESPACE.to_owned(),
        pod: record.pod.to_string(),
        uid: uid.parse().unwrap(),
        container: "shell".to_owned(),
        command: Some(vec!["true".to_owned()]),
        terminal: None,
    };
    let exec = |uid: &str| run_until_stalled(world.cluster.exec(&request(uid))).unwrap().is_ok();
    assert!(exec(pod.uid.as_str()));
    assert!(!exec("another-pod-of-that-name"));

    let settings = settings();
    let own = world.cluster.put_pod(NAMESPACE, &persistent_manifest(&settings, &who(), []).unwrap()).unwrap();
    assert!(may_enter(&settings, &own, "josé@example.org"));
    for other in ["josé", "jose@example.org", "", "bad user!"] {
        assert!(!may_enter(&settings, &own, other), "{other}");
    }
}

#[test]
fn p6_no_pod_gets_a_token_of_the_cluster_and_its_end_is_set_at_its_creation() {
    let (_, _, manifest) = manifest();
    assert_eq!(manifest.pointer("/spec/automountServiceAccountToken"), Some(&json!(false)));
    assert_eq!(manifest.pointer("/spec/activeDeadlineSeconds"), Some(&json!(3600)));
    assert_eq!(manifest.pointer("/spec/restartPolicy"), Some(&json!("Never")));
    let command = manifest.pointer("/spec/containers/0/command/2").and_then(Value::as_str).unwrap();
    assert!(command.contains("PID=$$!"), "Kubernetes makes it $! again: {command}");
}

#[test]
fn p4_a_users_names_are_on_the_pod_in_full_and_as_valid_labels() {
    let (_, _, manifest) = manifest();
    assert_eq!(manifest["metadata"]["annotations"]["toehold.local/principal"], "josé@example.org");
    assert_eq!(manifest["metadata"]["labels"]["toehold.local/principal"], "jos_c3_a9_40example.org");
    assert_eq!(manifest["metadata"]["labels"]["toehold.local/user"], "bad_20user_21");
}

#[test]
fn a_pod_that_was_created_after_all_is_found_and_deleted_though_its_record_is_gone() {
    let world = World::new();
    let settings = settings();
    let hands = world.hands();
    let strays = async {
        let mut keeper = Keeper::create(hands.parts(), NAMESPACE, &mut world.rng()).await.unwrap();
        let record = record(&world, keeper.owner(), &settings);
        let manifest = pod_manifest(&settings, &record, []).unwrap();
        world.cluster.put_pod(NAMESPACE, &manifest).unwrap();
        let mut reaper = Reaper::new();
        let mut found = Vec::new();
        for _ in 0..3 {
            keeper.beat(hands.parts()).await.unwrap();
            found.push(reaper.pass(hands.parts(), NAMESPACE, Some(keeper.owner())).await.strays.len());
            world.clock.sleep_until(world.clock.now().saturating_add(Duration::from_secs(5))).await;
        }
        found
    };
    assert_eq!(run_until_stalled(strays), Some(vec![0, 1, 0]), "seen twice, then deleted");
    assert_eq!(world.cluster.pods(), []);
}

/// Whoever takes a pod over between the look and the deletion keeps it; any other change is looked at, and then it goes.
#[test]
fn p2_a_stray_that_changes_under_its_deletion_is_looked_at_again() {
    let mut kept = 0;
    for moment in 0..8 {
        for is_taken_over in [true, false] {
            let world = World::new();
            world.faults.take_turns(true);
            let settings = settings();
            let hands = world.hands();
            let mut keeper = run_until_stalled(Keeper::create(hands.parts(), NAMESPACE, &mut world.rng())).unwrap().unwrap();
            let record = record(&world, keeper.owner(), &settings);
            let stray = world.cluster.put_pod(NAMESPACE, &pod_manifest(&settings, &record, []).unwrap()).unwrap();
            let mut reaper = Reaper::new();
            let own = keeper.owner().clone();
            let first = run_until_stalled(reaper.pass(hands.parts(), NAMESPACE, Some(&own))).unwrap();
            assert!(first.strays.is_empty() && first.problems.is_empty(), "{first:?}");
            world.wait(5);
            run_until_stalled(keeper.beat(hands.parts())).unwrap().unwrap();
            let before = world.faults.calls();
            let mut was_in_time = false;
            let changing = async {
                for _ in 0..1000 {
                    if world.faults.calls() >= before + moment {
                        break;
                    }
                    toehold_core::testing::yield_now().await;
                }
                was_in_time = world.cluster.pods().iter().any(|pod| !pod.is_terminating());
                world.cluster.change_pod(NAMESPACE, &stray.name, |pod| {
                    let (name, value) = if is_taken_over { ("ownerReferences", json!([])) } else { ("generateName", json!("p")) };
                    pod["metadata"][name] = value;
                });
            };
            let pass = reaper.pass(hands.parts(), NAMESPACE, Some(&own));
            let (second, ()) = run_until_stalled(futures_util::future::join(pass, changing)).unwrap();
            assert_eq!(second.problems, Vec::<String>::new(), "{moment}");
            let left = world.cluster.pods().iter().filter(|pod| !pod.is_terminating()).count();
            if is_taken_over && was_in_time {
                kept += 1;
                assert_eq!((left, second.strays.len()), (1, 0), "{moment}");
            } else {
                assert_eq!((left, second.strays.len()), (0, 1), "{moment}");
            }
        }
    }
    assert!(kept > 3, "{kept}");
}

/// What cannot be read may be the record of any pod: an error is no proof that there is none.
#[test]
fn a_pod_is_no_stray_while_a_record_cannot_be_read() {
    let world = World::new();
    let settings = settings();
    let hands = world.hands();
    let key = Key::parse("pod/planted").unwrap();
    let passes = async {
        let mut keeper = Keeper::create(hands.parts(), NAMESPACE, &mut world.rng()).await.unwrap();
        let record = record(&world, keeper.owner(), &settings);
        world.cluster.put_pod(NAMESPACE, &pod_manifest(&settings, &record, []).unwrap()).unwrap();
        let mut planted = Some(world.memory.put(&key, b"no record", Expect::Absent).await.unwrap());
        let mut reaper = Reaper::new();
        let mut found = Vec::new();
        for pass in 0..6 {
            if pass == 3 {
                world.memory.delete(&key, planted.take().unwrap()).await.unwrap();
            }
            keeper.beat(hands.parts()).await.unwrap();
            let seen = reaper.pass(hands.parts(), NAMESPACE, Some(keeper.owner())).await;
            assert_eq!(seen.problems, Vec::<String>::new());
            found.push((seen.unreadable.len(), seen.strays.len()));
            world.clock.sleep_until(world.clock.now().saturating_add(Duration::from_secs(5))).await;
        }
        found
    };
    // It is told once, and not in every pass.
    assert_eq!(run_until_stalled(passes), Some(vec![(1, 0), (0, 0), (0, 0), (0, 0), (0, 1), (0, 0)]));
}

/// One store, two clusters with a namespace of the same name: nothing is known here of the other one's owners.
#[test]
fn p2_a_pod_of_another_cluster_is_nobodys_orphan_here() {
    let world = World::new();
    let hands = world.hands();
    let elsewhere = toehold_podrun::pod::OwnerReference { name: owner(1, 0, 0).name, uid: owner(1, 0, 0).uid };
    let here = record(&world, &elsewhere, &settings());
    let there = toehold_podrun::pod::PodRecord {
        cluster: "production".to_owned(),
        channel: Some(1),
        ..record(&world, &elsewhere, &settings())
    };
    for record in [&here, &there] {
        run_until_stalled(toehold_core::Stored::create(hands.parts().store, record.key().unwrap(), record.clone()))
            .unwrap()
            .unwrap();
    }
    let found = run_until_stalled(Reaper::new().pass(hands.parts(), NAMESPACE, None)).unwrap();
    assert_eq!(found.orphans, [here]);
}
