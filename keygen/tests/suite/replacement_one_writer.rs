//! Two at once: whoever is told that it is done, its line is there; nobody's line is lost.

use std::time::Duration;

use crate::replacement_common::{
    FILE, FOREIGN, LOCK, Stepper, account, add, add_now, file, host, key, leave_stale_lock, line, litter, plan, with,
};
use toehold_core::testing::World;
use toehold_keygen::authorized_keys::AuthorizedKeys;
use toehold_keygen::replacement::{ReplaceError, Replaced, Replacement, STALE_LOCK, STALE_NAMELESS_LOCK};

/// How many steps a replacement takes that nobody disturbs.
fn steps() -> usize {
    let mut stepper = Stepper::new(&host(Some(FOREIGN)), plan("a", 1), add("a"));
    let mut steps = 0;
    while stepper.step() {
        steps += 1;
    }
    steps
}

fn holds(world: &World, name: &str) -> bool {
    AuthorizedKeys::parse(file(world, FILE).unwrap()).contains(&key(name))
}

/// The owner's bytes are there, and the lines of all that were told so.
fn check(world: &World, results: &[(&str, &Result<Replaced, ReplaceError>)], what: &str) {
    let now = file(world, FILE).unwrap();
    assert!(now.starts_with(FOREIGN), "{what}");
    for (name, result) in results {
        match result {
            Ok(_) => assert!(holds(world, name), "{what}: {name} was told that its line is there"),
            Err(error) => assert!(error.may_have_replaced() || !holds(world, name), "{what}: {name} got {error}"),
        }
    }
    let mut rest = AuthorizedKeys::parse(now);
    for (name, _) in results {
        rest.remove(&key(name));
    }
    assert_eq!(rest.as_bytes(), FOREIGN, "{what}");
}

#[test]
fn one_writer_a_live_lock_is_respected() {
    for before in 0..steps() {
        let world = host(Some(FOREIGN));
        let mut first = Stepper::new(&world, plan("a", 1), add("a"));
        first.steps(before);
        let locked = file(&world, LOCK).is_some();
        world.clock().advance(Duration::from_secs(599));
        let second = add_now(&world, "b", 2, "b");
        assert_eq!(
            locked,
            matches!(&second, Err(ReplaceError::Locked { holder, age, .. }) if holder == "a" && age.as_secs() == 599)
        );
        let first = first.finish();
        assert!(first.is_ok() || second.is_ok(), "after {before} steps");
        check(&world, &[("a", &first), ("b", &second)], &format!("after {before} steps"));
        assert_eq!(litter(&world), [""; 0]);
    }
}

#[test]
fn one_writer_a_late_writer_whose_staged_file_was_swept_cannot_replace() {
    let steps = steps();
    for holder in ["b", "a"] {
        for before in 0..steps {
            for between in 0..=steps {
                let what = format!("a, {before} steps, {holder}, {between} steps");
                let world = host(Some(FOREIGN));
                let mut first = Stepper::new(&world, plan("a", 1), add("a"));
                first.steps(before);
                world.clock().advance(Duration::from_mins(10));
                let mut second = Stepper::new(&world, plan(holder, 2), add("b"));
                second.steps(between);
                // The first one wakes up while the second is at work.
                let first = first.finish();
                let second = second.finish();
                assert!(first.is_ok() || second.is_ok(), "{what}: {first:?} {second:?}");
                check(&world, &[("a", &first), ("b", &second)], &what);
                // Whoever comes next finds and leaves everything in order.
                world.clock().advance(Duration::from_mins(10));
                let third = add_now(&world, "c", 3, "c");
                assert!(third.is_ok(), "{what}: {third:?}");
                check(&world, &[("a", &first), ("b", &second), ("c", &third)], &what);
                assert_eq!(litter(&world), [""; 0], "{what}");
            }
        }
    }
}

#[test]
fn one_writer_a_successor_takes_over_at_once_from_whom_it_has_fenced_off_and_from_nobody_else() {
    for before in 0..steps() {
        let world = host(Some(FOREIGN));
        let mut first = Stepper::new(&world, plan("a", 1), add("a"));
        first.steps(before);
        let locked = file(&world, LOCK).is_some();
        let another = plan("b", 2).succeeds("c").unwrap();
        assert_eq!(locked, Stepper::new(&world, another, add("b")).finish().is_err(), "after {before} steps");
        let second = Stepper::new(&world, plan("b", 3).succeeds("a").unwrap(), add("b")).finish();
        assert!(second.is_ok(), "after {before} steps: {second:?}");
        // Alive or not.
        let first = first.finish();
        check(&world, &[("a", &first), ("b", &second)], &format!("after {before} steps"));
        assert_eq!(litter(&world), [""; 0], "after {before} steps");
    }
    assert!(plan("b", 2).succeeds("not/a/holder").is_err());
}

#[test]
fn one_writer_three_take_over_from_a_dead_one_in_any_order() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let names = ["a", "b", "c"];
    for stride in 1..12 {
        for order in orders {
            let world = host(Some(FOREIGN));
            leave_stale_lock(&world, "dead");
            let mut all: Vec<_> =
                names.iter().zip(1..).map(|(name, seed)| Stepper::new(&world, plan(name, seed), add(name))).collect();
            for round in 0..60 {
                all[order[round % 3]].steps(stride);
            }
            let results: Vec<_> = all.into_iter().map(Stepper::finish).collect();
            let by_name: Vec<_> = names.iter().copied().zip(&results).collect();
            let what = format!("{order:?}, {stride} steps in turn: {results:?}");
            assert!(results.iter().any(Result::is_ok), "{what}");
            check(&world, &by_name, &what);
            assert_eq!(litter(&world), [""; 0], "{what}");
        }
    }
}

#[test]
fn one_writer_what_others_write_meanwhile_is_not_lost() {
    for before in 0..steps() {
        let world = host(Some(FOREIGN));
        let mut first = Stepper::new(&world, plan("a", 1), add("a"));
        first.steps(before);
        // Somebody with an editor, who knows no locks.
        let theirs = with(&file(&world, FILE).unwrap(), &["editor"]);
        world.fleet().write_file(&account(), FILE, theirs, 0o640);
        let about_to_rename = matches!(first.machine.action(), toehold_keygen::replacement::Action::Rename { .. });
        let result = first.finish();
        let lost = !holds(&world, "editor");
        assert_eq!(lost, about_to_rename, "after {before} steps: only between the last comparison and the rename");
        match result {
            Ok(_) => assert!(holds(&world, "a")),
            Err(error) => assert!(matches!(error, ReplaceError::NotAsWritten { .. }), "after {before} steps: {error}"),
        }
        assert_eq!(litter(&world), [""; 0]);
    }
}

#[test]
fn somebody_who_never_stops_writing_is_given_up_on() {
    let world = host(Some(FOREIGN));
    let editor = world.clone();
    let mut n = 0;
    let mut line = add("a");
    let first = Stepper::new(&world, plan("a", 1), move |file, document| {
        n += 1;
        editor.fleet().write_file(&account(), FILE, [FOREIGN, b"\n# ", n.to_string().as_bytes()].concat(), 0o640);
        line(file, document)
    });
    let error = first.finish().unwrap_err();
    assert!(matches!(error, ReplaceError::KeepsChanging { tries: 5, .. }), "{error}");
    assert_eq!(file(&world, FILE).unwrap(), [FOREIGN, b"\n# 5"].concat());
    assert_eq!(litter(&world), [""; 0]);
}

#[test]
fn a_file_that_appears_while_it_is_missing_is_not_overwritten() {
    let world = host(None);
    let owner = world.clone();
    let mut line_of_ours = add("a");
    let first = Stepper::new(&world, plan("a", 1), move |which, document| {
        if file(&owner, FILE).is_none() {
            owner.fleet().write_file(&account(), FILE, FOREIGN, 0o600);
        }
        line_of_ours(which, document)
    });
    assert!(first.finish().unwrap().changed());
    assert_eq!(file(&world, FILE).unwrap(), with(FOREIGN, &["a"]));
}

#[test]
fn a_file_that_becomes_a_link_is_not_replaced() {
    let world = host(Some(FOREIGN));
    let owner = world.clone();
    let first = Stepper::new(&world, plan("a", 1), move |_, document| {
        owner.fleet().write_file(&account(), "elsewhere", FOREIGN, 0o600);
        owner.fleet().make_link(&account(), FILE, "../elsewhere");
        let _ = document.add(&line("a"));
        Ok(())
    });
    let error = first.finish().unwrap_err();
    assert!(matches!(error, ReplaceError::WrongKind { .. }), "{error}");
    assert_eq!(file(&world, "elsewhere").unwrap(), FOREIGN);
    assert_eq!(litter(&world), [""; 0]);
}

#[test]
fn a_lock_that_was_cut_off_is_somebodys_until_it_is_stale() {
    for content in ["", "a", "a 0123", "not one of ours\n"] {
        let world = host(Some(FOREIGN));
        world.fleet().write_file(&account(), LOCK, content, 0o600);
        let error = add_now(&world, "a", 1, "a").unwrap_err();
        let holder = if content.starts_with("not") { "not" } else { "somebody unknown" };
        assert!(matches!(&error, ReplaceError::Locked { holder: found, .. } if found == holder), "{content:?}: {error}");
        assert_eq!(litter(&world), ["authorized_keys.toehold-lock"]);
        // Whoever wrote no name died while writing it; whoever has one may be at work.
        let stale = if holder == "not" { STALE_LOCK } else { STALE_NAMELESS_LOCK };
        world.clock().advance(Duration::from_secs(stale - 1));
        assert!(matches!(add_now(&world, "a", 2, "a"), Err(ReplaceError::Locked { .. })), "{content:?}");
        world.clock().advance(Duration::from_secs(1));
        assert!(add_now(&world, "a", 3, "a").unwrap().changed());
        assert_eq!(litter(&world), [""; 0]);
    }
}

#[test]
fn a_lock_of_the_hosts_future_is_not_stale() {
    let world = host(Some(FOREIGN));
    world.fleet().configure(&account(), |settings| settings.clock_skew = 86_400);
    world.fleet().write_file(&account(), LOCK, "b 1\n", 0o600);
    world.fleet().configure(&account(), |settings| settings.clock_skew = -86_400);
    let error = add_now(&world, "a", 1, "a").unwrap_err();
    assert!(matches!(error, ReplaceError::Locked { age: Duration::ZERO, .. }), "{error}");
}

#[test]
fn a_driver_out_of_turn_ends_it_and_cleans_up() {
    use toehold_keygen::replacement::{Action, Event};
    let capabilities = toehold_core::Capabilities { atomic_rename: true, sync: true };
    let mut machine = Replacement::new(plan("a", 1), capabilities);
    assert!(matches!(machine.action(), Action::RealPath(".")));
    machine.handle(Event::Done(Ok(())));
    assert!(matches!(machine.action(), Action::Finish));
    machine.handle(Event::Done(Ok(())));
    let error = machine.into_result().unwrap_err();
    assert!(matches!(error, ReplaceError::OutOfTurn { .. }), "{error}");
    let unfinished = Replacement::new(plan("a", 1), capabilities).into_result();
    assert!(matches!(unfinished, Err(ReplaceError::OutOfTurn { .. })));
}
