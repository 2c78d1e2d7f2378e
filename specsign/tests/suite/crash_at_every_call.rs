//! The power goes at every call that the reconciler makes to its root, and again while it recovers: who reads sees the old
//! or the new machine whole at every moment, and the end is the same as without a crash.

use crate::support;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::simulated;
use crate::simulated::{Cut, Dir, Node, Sick, spec, version};
use toehold_core::Clock as _;
use toehold_core::testing::ManualClock;
use toehold_specsign::{Place, RootState, Verdict};

static ALLOWED: LazyLock<BTreeMap<&'static str, Vec<Option<Dir>>>> = LazyLock::new(allowed);

/// What may be seen in each machine's place while the second document is applied; `None`: nothing.
fn allowed() -> BTreeMap<&'static str, Vec<Option<Dir>>> {
    let dir = |name, number| Some(version(name, number).dir);
    BTreeMap::from([
        ("same", vec![dir("same", 1)]),
        ("changed", vec![dir("changed", 1), dir("changed", 2)]),
        ("drifted", vec![Some(drifted()), dir("drifted", 1)]),
        ("missing", vec![None, dir("missing", 1)]),
        ("new", vec![None, dir("new", 1)]),
        ("sick", vec![dir("sick", 1), dir("sick", 2)]),
        ("sicknew", vec![None, dir("sicknew", 1)]),
        ("unlisted", vec![dir("unlisted", 1), None]),
        ("foreign", vec![dir("foreign", 7)]),
    ])
}

fn drifted() -> Dir {
    let mut dir = version("drifted", 1).dir;
    dir.insert("bin/run.sh".to_owned(), Some((b"#!/bin/sh\nmine\n".to_vec(), 0o644)));
    dir
}

const BEFORE: &[&str] = &["same", "changed", "drifted", "missing", "sick", "unlisted"];

fn second() -> Vec<simulated::Version> {
    ["same", "drifted", "missing", "new", "sicknew"]
        .map(|name| version(name, 1))
        .into_iter()
        .chain([version("changed", 2), version("sick", 2)])
        .collect()
}

/// A node after the first document, with a world that has changed since. `sick`: two of the new versions do not work.
fn start(sick: bool) -> Node {
    let node = Node::default();
    let first: Vec<_> = BEFORE.iter().map(|name| version(name, 1)).collect();
    assert_eq!(node.apply(1, &first).outcome.to_string(), "updated");
    node.root.put(Place::Live, "drifted", Some(drifted()));
    node.root.put(Place::Live, "missing", None);
    node.root.put(Place::Live, "foreign", Some(version("foreign", 7).dir));
    if sick {
        node.sick.0.lock().unwrap().extend(["sick".to_owned(), "sicknew".to_owned()]);
    }
    node.serve(&second());
    node
}

/// The same node on a copy of its disk, with a clock and a health command of its own.
fn copy(node: &Node) -> Node {
    let sick = Sick::default();
    sick.0.lock().unwrap().clone_from(&node.sick.0.lock().unwrap());
    let copy = Node { root: node.root.copy(), clock: ManualClock::new(node.clock.now()), sick, ..node.clone() };
    copy.root.watch(move |places| {
        for (name, trees) in &*ALLOWED {
            let seen = places.get(&(Place::Live, (*name).to_owned())).cloned();
            assert!(trees.contains(&seen), "a reader sees {name} as {seen:?}");
        }
    });
    copy
}

/// Later, all versions work.
fn finish(node: &Node, document: &[u8]) -> (BTreeMap<(Place, String), String>, RootState) {
    node.sick.0.lock().unwrap().clear();
    for _ in 0..3 {
        node.advance(4000);
        node.pass(document).unwrap_or_else(|error| panic!("{error}"));
    }
    let mut places = node.root.0.lock().unwrap().places.clone();
    // What had drifted has the list of what replaced it, and may be gone for good when the power goes between the two.
    places.remove(&(Place::Previous, "drifted".to_owned()));
    let places =
        places.into_iter().map(|(place, dir)| (place, format!("{:?}", support::digest_of(&format!("{dir:?}"))))).collect();
    let mut state = node.root.state();
    // When something was removed is no part of the result.
    state.removals.clear();
    (places, state.without_sequence())
}

fn crash_everywhere(sick: bool) -> usize {
    let document = spec(2, &second(), false);
    let start = start(sick);
    let whole = copy(&start);
    let report = whole.pass(&document).unwrap();
    assert_eq!(matches!(report.machines["sick"], Verdict::Error(_)), sick, "{report:?}");
    // What failed holds the removal back.
    assert_eq!(matches!(report.machines["unlisted"], Verdict::Purge(_)), !sick, "{report:?}");
    let calls = whole.root.calls();
    let expected = finish(&whole, &document);
    for (name, number) in
        [("same", 1), ("changed", 2), ("drifted", 1), ("missing", 1), ("new", 1), ("sick", 2), ("sicknew", 1), ("foreign", 7)]
    {
        assert_eq!(whole.root.live(name), Some(version(name, number).dir), "{name}");
    }
    assert_eq!(whole.root.live("unlisted"), None);

    let mut crashes = 0;
    for number in 0..calls {
        for cut in [Cut::Before, Cut::After, Cut::Middle] {
            let node = copy(&start);
            node.root.cut_at(Some((number, cut)));
            let died = node.pass(&document);
            let what = node.root.0.lock().unwrap().log.last().cloned().unwrap();
            // The last call of all is the emptying of the trash, whose failure is nobody's; that of one machine is that one's error.
            let told = died.as_ref().map_or(true, |report| report.outcome.to_string() == "error");
            assert!(told || what == "empty the trash" || what.starts_with("inspect"), "call {number}, {what}: {died:?}");
            if cut == Cut::Middle && !what.starts_with("write") {
                continue;
            }
            crashes += 1;
            let second = if number % 2 == 0 { Cut::After } else { Cut::Before };
            for again in (number % 12..36).step_by(12) {
                let node = copy(&node);
                node.root.cut_at(Some((again, second)));
                let _ = node.pass(&document);
                node.root.cut_at(None);
                node.pass(&document).unwrap_or_else(|error| panic!("cut {cut:?} at {what}, again at {again}: {error}"));
                crashes += 1;
            }
            node.root.cut_at(None);
            node.pass(&document).unwrap_or_else(|error| panic!("cut {cut:?} at {what}: {error}"));
            assert_eq!(finish(&node, &document), expected, "cut {cut:?} at call {number}, {what}");
        }
    }
    println!("{calls} calls, {crashes} crashes");
    crashes
}

/// Two versions with the same list, of which one has an executable file: the power goes at every call, and the next pass still knows
/// which one is the good one.
#[test]
fn s5_versions_that_differ_in_modes_alone_are_told_apart() {
    let (good, next) = (version("a", 1), version("a", 1).with_an_executable());
    assert_eq!(good.sums, next.sums);
    for sick in [false, true] {
        let start = Node::default();
        start.apply(1, &[version("a", 0)]);
        start.apply(2, std::slice::from_ref(&good));
        start.serve(std::slice::from_ref(&next));
        if sick {
            start.sick.0.lock().unwrap().insert("a".to_owned());
        }
        let document = spec(3, std::slice::from_ref(&next), false);
        let again = |node: &Node| Node { root: node.root.copy(), clock: ManualClock::new(node.clock.now()), ..node.clone() };
        let whole = again(&start);
        whole.pass(&document).unwrap();
        for number in 0..whole.root.calls() {
            for cut in [Cut::Before, Cut::After] {
                let node = again(&start);
                node.root.cut_at(Some((number, cut)));
                let _ = node.pass(&document);
                let what = node.root.0.lock().unwrap().log.last().cloned().unwrap();
                node.root.cut_at(None);
                for _ in 0..2 {
                    node.pass(&document).unwrap_or_else(|error| panic!("cut {cut:?} at {what}: {error}"));
                }
                let expected = if sick { &good.dir } else { &next.dir };
                assert_eq!(node.root.live("a").as_ref(), Some(expected), "sick: {sick}, cut {cut:?} at {what}");
                let previous = node.root.0.lock().unwrap().places.get(&(Place::Previous, "a".to_owned())).cloned();
                assert!(sick || previous.as_ref() == Some(&good.dir), "the version before, cut {cut:?} at {what}");
            }
        }
    }
}

/// The same of a root that has taken nothing yet: the next pass goes on, told nothing else than the first one.
#[test]
fn a_first_document_can_be_cut_short_anywhere() {
    let versions = ["missing", "new"].map(|name| version(name, 1));
    let document = spec(1, &versions, false);
    let start = Node::default();
    start.serve(&versions);
    let again = |node: &Node| Node { root: node.root.copy(), clock: ManualClock::new(node.clock.now()), ..node.clone() };
    let whole = again(&start);
    whole.pass(&document).unwrap();
    let expected = finish(&whole, &document);
    let calls = whole.root.calls();
    assert!(calls > 20, "{calls}");
    for number in 0..calls {
        for cut in [Cut::Before, Cut::After] {
            let node = again(&start);
            node.root.cut_at(Some((number, cut)));
            let _ = node.pass(&document);
            let what = node.root.0.lock().unwrap().log.last().cloned().unwrap();
            for second in 0..12 {
                let node = again(&node);
                node.root.cut_at(Some((second, cut)));
                let _ = node.pass(&document);
                node.root.cut_at(None);
                node.pass(&document).unwrap_or_else(|error| panic!("cut {cut:?} at {what}, again at {second}: {error}"));
            }
            node.root.cut_at(None);
            node.pass(&document).unwrap_or_else(|error| panic!("cut {cut:?} at {what}: {error}"));
            assert_eq!(finish(&node, &document), expected, "cut {cut:?} at call {number}, {what}");
        }
    }
}

#[test]
fn s5_old_or_new_at_every_moment_and_the_same_end() {
    assert!(crash_everywhere(false) > 500);
}

#[test]
fn s5_old_or_new_at_every_moment_where_versions_do_not_work() {
    assert!(crash_everywhere(true) > 500);
}
