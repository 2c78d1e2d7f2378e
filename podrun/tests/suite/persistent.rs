//! Persistent mode: one pod for each principal, or one for all, found or made, and never removed by us.

use toehold_core::testing::{Fault, join_all, run_until_stalled};
use toehold_podrun::config::{Config, Settings};
use toehold_podrun::driver::{PodReference, enter};
use toehold_podrun::kubernetes::PodTrouble;
use toehold_podrun::pod::{Timing, Who, persistent_manifest};
use toehold_podrun::testing::Fate;

use crate::support::{World, who};

fn settings(more: &str) -> Settings {
    let text = format!(
        r#"{{"pod": {{"namespace": "pods", "mode": "persistent", {more}
            "podSpec": {{"containers": [{{"name": "shell", "image": "busybox"}}]}}}}}}"#
    );
    Config::parse(&text).unwrap().validate().unwrap()
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
