//! Whatever happens at whichever call: each file is the old one or the new one, and the next replacement puts everything
//! in order.

use std::error::Error;
use std::time::Duration;

use crate::replacement_common::{LOCK, MOMENTS, SECOND, Scenario, account, file, litter, scenarios};
use toehold_core::FileError;
use toehold_core::testing::{Fault, Moment, World, run_until_stalled};
use toehold_keygen::replacement::ReplaceError;

/// The calls of a run in which nothing goes wrong; the first is the login.
fn calls(scenario: &Scenario) -> std::ops::Range<usize> {
    let world = (scenario.world)().restart();
    let replaced = run_until_stalled(scenario.run(&world, "first", 1)).unwrap().unwrap();
    assert!(replaced.changed() && replaced.leftovers.is_empty());
    assert!(scenario.is_new(&world), "{}", scenario.name);
    assert_eq!(litter(&world), [""; 0], "{}", scenario.name);
    1..world.faults().calls()
}

/// Runs a process that dies at a call.
fn crash(scenario: &Scenario, number: usize, moment: Moment) -> (World, String) {
    let world = (scenario.world)().restart();
    world.faults().crash_at(number, moment);
    assert!(run_until_stalled(scenario.run(&world, "first", 1)).is_none(), "{}: {number}", scenario.name);
    let what = format!("{}, {moment:?} {}", scenario.name, world.faults().describe(number));
    (world.restart(), what)
}

/// A removal of the file itself is not fenced, which its documentation says: late, it hits whatever is there.
fn is_late_removal(what: &str, moment: Moment) -> bool {
    moment == Moment::Late && what.contains("Remove") && what.ends_with("/authorized_keys")
}

#[test]
fn foreign_bytes_after_a_crash_the_same_holder_goes_on_at_once() {
    for scenario in scenarios() {
        for number in calls(&scenario) {
            for moment in MOMENTS {
                let (world, what) = crash(&scenario, number, moment);
                assert!(scenario.is_old_or_new(&world), "{what}");
                let replaced = run_until_stalled(scenario.run(&world, "first", 2)).unwrap();
                if let Err(ReplaceError::Locked { holder, .. }) = &replaced {
                    // Somebody who died long ago, or a lock that its writer did not get to fill, cannot be told from a live one.
                    assert!(file(&world, LOCK).unwrap().is_empty(), "{what}: {holder}");
                    continue;
                }
                assert!(replaced.is_ok(), "{what}: {replaced:?}");
                assert!(scenario.is_new(&world), "{what}");
                assert_eq!(litter(&world), [""; 0], "{what}");
                world.fleet().deliver_late();
                assert!(scenario.is_new(&world) || is_late_removal(&what, moment), "{what}");
            }
        }
    }
}

#[test]
fn one_writer_after_a_crash_another_holder_waits_for_the_lock_to_be_stale() {
    for scenario in scenarios() {
        for number in calls(&scenario) {
            for moment in MOMENTS {
                let (world, what) = crash(&scenario, number, moment);
                let locked = file(&world, LOCK);
                let taken_by_first = locked.as_ref().is_some_and(|lock| lock.starts_with(b"first "));
                let at_once = run_until_stalled(scenario.run(&world, "second", 2)).unwrap();
                match at_once {
                    Ok(_) => assert!(!taken_by_first, "{what}"),
                    Err(ReplaceError::Locked { holder, age, .. }) => {
                        assert_eq!((holder.as_str(), age), ("first", Duration::ZERO), "{what}");
                        assert!(taken_by_first && scenario.is_old_or_new(&world), "{what}");
                        assert_eq!(file(&world, LOCK), locked);
                    }
                    Err(error) => panic!("{what}: {error}"),
                }
                world.clock().advance(Duration::from_mins(11));
                run_until_stalled(scenario.run(&world, "second", 3)).unwrap().unwrap();
                assert!(scenario.is_new(&world), "{what}");
                assert_eq!(litter(&world), [""; 0], "{what}");
                world.fleet().deliver_late();
                assert!(scenario.is_new(&world) || is_late_removal(&what, moment), "{what}");
                // What came late is litter at most, and the next one takes it away.
                world.clock().advance(Duration::from_mins(11));
                run_until_stalled(scenario.run(&world, "third", 4)).unwrap().unwrap();
                assert!(scenario.is_new(&world), "{what}");
                assert_eq!(litter(&world), [""; 0], "{what}");
            }
        }
    }
}

#[test]
fn foreign_bytes_any_call_may_fail_in_any_way() {
    for scenario in scenarios() {
        for number in calls(&scenario) {
            let kinds = {
                let world = (scenario.world)().restart();
                run_until_stalled(scenario.run(&world, "first", 1)).unwrap().unwrap();
                world.faults().log()[number].kind.faults()
            };
            for fault in kinds {
                let world = (scenario.world)().restart();
                world.faults().fail_at(number, *fault);
                let result = run_until_stalled(scenario.run(&world, "first", 1));
                let what = format!("{}, {}", scenario.name, world.faults().describe(number));
                assert!(scenario.is_old_or_new(&world), "{what}");
                match result {
                    None => assert_eq!(*fault, Fault::Hang, "{what}"),
                    Some(Ok(replaced)) => {
                        assert!(scenario.is_new(&world), "{what}");
                        // A removal that was done but not answered is reported as not done.
                        assert!(!replaced.leftovers.is_empty() || litter(&world).is_empty(), "{what}: {replaced:?}");
                    }
                    Some(Err(error)) => failed(&scenario, &world, &error, *fault, &what),
                }
                let world = world.restart();
                let again = run_until_stalled(scenario.run(&world, "first", 2)).unwrap();
                if let Err(ReplaceError::Locked { .. }) = again {
                    assert!(file(&world, LOCK).unwrap().is_empty(), "{what}");
                    continue;
                }
                assert!(again.is_ok(), "{what}: {again:?}");
                assert!(scenario.is_new(&world), "{what}");
                assert_eq!(litter(&world), [""; 0], "{what}");
            }
        }
    }
}

fn failed(scenario: &Scenario, world: &World, error: &ReplaceError, fault: Fault, what: &str) {
    let lost = matches!(fault, Fault::LostBefore | Fault::LostAfter);
    if !error.may_have_replaced() && world.fleet().file(&account(), SECOND).is_none() {
        assert!(scenario.is_old(world), "{what}: {error}");
    }
    if !lost && !what.contains("Remove") {
        let ours = litter(world).into_iter().filter(|name| name.contains("first"));
        assert_eq!(ours.collect::<Vec<_>>(), [""; 0], "{what}: {error}");
        assert!(!file(world, LOCK).is_some_and(|lock| lock.starts_with(b"first")), "{what}: {error}");
    }
    let source = error.source().and_then(|source| source.downcast_ref::<Box<FileError>>());
    assert!(source.is_some(), "{what}: {error:?} keeps what the host said");
    if lost && what.contains("Rename") {
        assert!(matches!(error, ReplaceError::OutcomeUnknown { .. }), "{what}: {error}");
    }
}
