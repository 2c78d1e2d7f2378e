//! Every call of a gateway with one connection is its last one, or goes wrong in every way; another gateway, or the cluster alone,
//! clears up.

use toehold_core::testing::{Moment, run_until_stalled};
use toehold_podrun::pod::Timing;
use toehold_podrun::testing::Fate;

use crate::support::{World, caretaker, gateway};

const MOMENTS: [Moment; 3] = [Moment::Before, Moment::After, Moment::Late];

fn fates() -> [Fate; 4] {
    [Fate::ReadyAfter(0), Fate::ReadyAfter(3), Fate::Waits("ImagePullBackOff"), Fate::EndsAfter(2)]
}

fn good_run(fate: &Fate) -> World {
    let world = World::new();
    world.cluster.set_fate(fate.clone());
    run_until_stalled(gateway(&world, Timing::default(), Some(6))).unwrap().unwrap();
    nothing_is_left(&world, "a good run");
    assert_eq!(world.cluster.ever_created_at_all(), 1);
    world
}

fn nothing_is_left(world: &World, context: &str) {
    assert!(world.cluster.ever_created_at_all() <= 1, "{context}: two pods for one connection");
    assert_eq!(world.records(), [], "{context}");
    let pods: Vec<_> = world.cluster.pods().into_iter().filter(|pod| !pod.is_terminating()).map(|pod| pod.name).collect();
    assert_eq!(pods, Vec::<String>::new(), "{context}");
    assert_eq!(world.cluster.owners(), [], "{context}");
}

/// Each call, each moment: the gateway dies.
fn after_each_death(mut then: impl FnMut(&World, &str)) {
    for fate in fates() {
        let good = good_run(&fate);
        for number in 0..good.faults.calls() {
            for moment in MOMENTS {
                let world = World::new();
                world.cluster.set_fate(fate.clone());
                world.faults.crash_at(number, moment);
                let context = format!("{fate:?}, dead {moment:?} {}", good.faults.describe(number));
                assert!(run_until_stalled(gateway(&world, Timing::default(), Some(6))).is_none(), "{context}");
                world.check(&context);
                then(&world, &context);
            }
        }
    }
}

#[test]
fn p1_p2_another_gateway_clears_up_after_a_death_at_any_call() {
    after_each_death(|world, context| {
        world.cluster.deliver_late();
        world.check(context);
        let next = world.restart();
        // 20 s until the owner is stale, some more to see everything gone: within a minute.
        run_until_stalled(caretaker(&next, 11)).expect(context);
        nothing_is_left(world, context);
    });
}

#[test]
fn p1_what_comes_late_after_the_clearing_up_is_collected_too() {
    after_each_death(|world, context| {
        run_until_stalled(caretaker(&world.restart(), 11)).expect(context);
        world.cluster.deliver_late();
        assert_eq!(world.records(), [], "{context}");
        // Its owner is gone: the cluster sees to it, in seconds.
        drop(world.cluster.pods());
        world.wait(6);
        nothing_is_left(world, context);
    });
}

#[test]
fn p1_with_no_gateway_left_the_cluster_ends_everything() {
    after_each_death(|world, context| {
        world.cluster.deliver_late();
        world.wait(toehold_podrun::owner::LAPSE.as_secs());
        drop(world.cluster.pods());
        world.wait(6);
        assert_eq!(world.cluster.owners(), [], "{context}");
        assert_eq!(world.cluster.pods(), [], "{context}");
    });
}

#[test]
fn pods_end_and_people_are_told_whatever_call_fails_in_whatever_way() {
    for fate in fates() {
        let good = good_run(&fate);
        for call in good.faults.log() {
            for fault in call.kind.faults() {
                let world = World::new();
                world.cluster.set_fate(fate.clone());
                world.faults.fail_at(call.number, *fault);
                let context = format!("{fate:?}, {fault:?} at {call}");
                let side = run_until_stalled(gateway(&world, Timing::default(), Some(120))).expect(&context);
                world.check(&context);
                assert_eq!(world.records(), [], "{context}");
                if let Some(side) = side {
                    assert!(side.pod.is_some() || side.trouble.is_some(), "{context}: nobody was told");
                }
                // An owner that could not be deleted, with all that is its.
                world.wait(toehold_podrun::owner::LAPSE.as_secs());
                drop(world.cluster.pods());
                world.wait(6);
                nothing_is_left(&world, &context);
            }
        }
    }
}

#[test]
fn two_failures_in_a_row_leave_nothing_either() {
    let good = good_run(&Fate::ReadyAfter(0));
    for call in good.faults.log() {
        for fault in call.kind.faults() {
            for next in 1..3 {
                for second in call.kind.faults() {
                    let world = World::new();
                    world.faults.fail_at(call.number, *fault);
                    world.faults.fail_at(call.number + next, *second);
                    let context = format!("{fault:?} at {call}, {second:?} {next} later");
                    run_until_stalled(gateway(&world, Timing::default(), Some(120))).expect(&context);
                    world.check(&context);
                    assert_eq!(world.records(), [], "{context}");
                    world.wait(toehold_podrun::owner::LAPSE.as_secs());
                    drop(world.cluster.pods());
                    world.wait(6);
                    nothing_is_left(&world, &context);
                }
            }
        }
    }
}
