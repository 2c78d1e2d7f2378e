//! When a machine is removed, and when not.

use crate::envelope_support::key;
use crate::reconcile::{in_place, verdict};
use crate::simulated::{Answer, Node, spec, version};
use toehold_specsign::{
    AdmissionError, Format, Freshness, Outcome, PassError, Place, PlainPolicy, PurgeReason, Settings, Verdict, pack,
};

#[test]
fn s4_a_matcher_that_fails_or_cannot_tell_never_removes() {
    let mut node = Node::default();
    let matching = |text: &str| version("a", 1).matching(text);
    node.apply(1, &[matching("identity('^web')")]);
    node.facts.files = None;
    let failing = [
        "has_file('/dark')",
        "get_fact('x') == 1",
        "identity('",
        "1",
        "1 % 0 == 1",
        "identity('[')",
        "has_file('/dark') && !has_file('/darker')",
    ];
    for (serial, text) in (2..).zip(failing) {
        for _ in 0..10 {
            let report = node.apply(serial, &[matching(text)]);
            assert!(matches!(verdict(&report, "a"), Verdict::Unknown(_) | Verdict::Error(_)), "{text}: {report:?}");
            node.advance(60);
        }
        assert!(in_place(&node, "a"), "{text}");
    }
}

#[test]
fn s4_a_no_removes_on_the_third_evaluation_apart() {
    let node = Node::default();
    let (yes, no) = (version("a", 1), version("a", 1).matching("identity('^db')"));
    let keep = version("keep", 1);
    node.apply(1, &[yes.clone(), keep.clone()]);
    let apply = |serial| node.apply(serial, &[no.clone(), keep.clone()]);
    for passes in 1..=2 {
        // Passes that follow each other at once count as one.
        for _ in 0..20 {
            let report = apply(2);
            assert!(
                matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains(&format!("{passes} of 3"))),
                "{report:?}"
            );
        }
        node.advance(60);
    }
    assert!(in_place(&node, "a"));
    // A yes in between begins anew.
    node.apply(3, &[yes, keep.clone()]);
    for _ in 0..2 {
        apply(4);
        node.advance(60);
    }
    assert!(in_place(&node, "a"));
    let report = apply(4);
    assert_eq!(verdict(&report, "a"), &Verdict::Purge(PurgeReason::NoMatch));
    assert!(!in_place(&node, "a") && in_place(&node, "keep"));
    assert_eq!(verdict(&apply(4), "a"), &Verdict::Skipped);
}

#[test]
fn only_what_was_placed_is_removed_and_only_where_it_is_asked_for() {
    let mut node = Node::default();
    node.apply(1, &[version("a", 1), version("b", 1)]);
    for name in ["foreign", "mm_", "mm_x"] {
        node.root.put(Place::Live, name, Some(version("x", 1).dir));
    }
    node.settings.purge = false;
    let report = node.apply(2, &[version("b", 1)]);
    assert!(matches!(verdict(&report, "a"), Verdict::Held(_)) && in_place(&node, "a"));
    assert_eq!(report.outcome, Outcome::Unchanged);
    node.settings.purge = true;
    let report = node.apply(3, &[version("b", 1)]);
    assert_eq!(verdict(&report, "a"), &Verdict::Purge(PurgeReason::NotListed));
    assert!(!in_place(&node, "a"));
    for name in ["foreign", "mm_", "mm_x", "b"] {
        assert!(in_place(&node, name), "{name}");
    }
    // Nor is a stranger's directory replaced; one that is the wanted version is taken over.
    let report = node.apply(4, &[version("b", 1), version("foreign", 2)]);
    assert!(matches!(verdict(&report, "foreign"), Verdict::Error(reason) if reason.contains("not placed here")), "{report:?}");
    assert_eq!(node.root.live("foreign"), Some(version("x", 1).dir));
    node.root.put(Place::Live, "foreign", Some(version("foreign", 2).dir));
    assert_eq!(verdict(&node.apply(4, &[version("b", 1), version("foreign", 2)]), "foreign"), &Verdict::Adopt);
}

#[test]
fn s4_the_guard_counts_over_a_window_and_holds_unless_it_is_meant() {
    let mut node = Node { settings: Settings { purge: true, ..Settings::default() }, ..Node::default() };
    let all: Vec<_> = (0..10).map(|number| version(&format!("m{number}"), 1)).collect();
    let left = |node: &Node| (0..10).filter(|number| in_place(node, &format!("m{number}"))).count();
    node.apply(1, &all);
    let report = node.apply(2, &all[..6]);
    assert!(matches!(verdict(&report, "m9"), Verdict::Held(reason) if reason.contains("4 of 10")), "{report:?}");
    assert_eq!(left(&node), 10);
    node.apply(3, &all[..8]);
    assert_eq!(left(&node), 8, "two of ten");
    // In small steps it is no less.
    node.apply(4, &all[..7]);
    assert_eq!(left(&node), 7);
    node.apply(5, &all[..6]);
    assert_eq!(left(&node), 7, "a fourth within a day");
    node.advance(20 * 3600);
    node.apply(5, &all[..6]);
    assert_eq!(left(&node), 7);
    // What is meant is said by one signed version, and holds for that one.
    let report = node.pass(&spec(6, &all[..2], true)).unwrap();
    assert_eq!((left(&node), report.outcome), (2, Outcome::Updated));
    node.apply(7, &all);
    let report = node.apply(8, &all[..2]);
    assert!(matches!(verdict(&report, "m9"), Verdict::Held(_)));
    assert_eq!(left(&node), 10);
    node.settings.guard_percent = 88;
    assert!(matches!(verdict(&node.apply(9, &all[..2]), "m9"), Verdict::Held(reason) if reason.contains("16 of 18")));
    node.settings.guard_percent = 89;
    node.apply(9, &all[..2]);
    assert_eq!(left(&node), 2);
}

#[test]
fn s4_one_may_go_however_few_there_are_but_where_none_may() {
    for (percent, left) in [(0, 2), (1, 1), (100, 1)] {
        let mut node = Node::default();
        node.settings.guard_percent = percent;
        let all = [version("a", 1), version("b", 1)];
        node.apply(1, &all);
        node.apply(2, &all[..1]);
        assert_eq!(in_place(&node, "b"), left == 2, "{percent}");
    }
}

#[test]
fn a_signed_empty_list_or_null_removes_nothing() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let report = node.apply(2, &[]);
    assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("empty")));
    assert!(in_place(&node, "a"));
    let null = pack(Format::Machines, b"null", Some(&key(1))).unwrap();
    let mut lax = Node::default();
    lax.admission.plain = PlainPolicy::AcceptSigned;
    assert!(matches!(lax.pass(null.as_bytes()), Err(PassError::List(_))));
    // If it is meant, it is meant.
    node.pass(&spec(3, &[], true)).unwrap();
    assert!(!in_place(&node, "a"));
}

#[test]
fn s3_an_expired_document_holds_what_is_there_and_removes_nothing() {
    let node = Node::default();
    node.apply(1, &[version("a", 1), version("b", 1)]);
    let unlisted = spec(2, &[version("a", 1)], true);
    let mut held = Node { root: node.root.copy(), ..node.clone() };
    held.settings.purge = false;
    held.pass(&unlisted).unwrap();
    held.settings.purge = true;
    held.advance(24 * 3600);
    held.root.put(Place::Live, "a", None);
    let report = held.pass(&unlisted).unwrap();
    assert!(matches!(report.freshness, Freshness::Stale { .. }), "people see it");
    assert!(matches!(verdict(&report, "b"), Verdict::Held(reason) if reason.contains("expired")));
    assert!(in_place(&held, "b"));
    assert!(in_place(&held, "a"), "what was in place is mended");
    let error = held.pass(&spec(3, &[version("a", 1)], false)).unwrap_err();
    assert!(matches!(error, PassError::Admission(AdmissionError::Expired(_))));
}

#[test]
fn nothing_is_removed_before_everything_is_in_place() {
    let node = Node::default();
    node.apply(1, &[version("a", 1), version("b", 1)]);
    node.server.serve(&version("c", 1).url, Answer::Refused);
    let replaced = spec(2, &[version("b", 1), version("c", 1)], false);
    let report = node.pass(&replaced).unwrap();
    assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("not everything")));
    assert!(in_place(&node, "a"));
    node.serve(&[version("c", 1)]);
    node.pass(&replaced).unwrap();
    assert!(!in_place(&node, "a") && in_place(&node, "c"));
    let log = node.root.0.lock().unwrap().log.clone();
    let place = |what: &str| log.iter().rposition(|call| call == what).unwrap_or_else(|| panic!("{what}"));
    assert!(place("rename c Staged Live") < place("discard a Live"));
}

/// What cannot even be planned for is not in place: the machine that it came to replace stays.
#[test]
fn nothing_is_removed_while_what_belongs_here_is_in_error() {
    let node = Node::default();
    let keep = version("keep", 1);
    node.apply(1, &[version("a", 1), keep.clone()]);
    node.sick.0.lock().unwrap().insert("b".to_owned());
    node.serve(&[version("b", 1)]);
    let replaced = spec(2, &[keep.clone(), version("b", 1)], true);
    for pass in ["it fails", "it has failed, and is not tried again yet"] {
        let report = node.pass(&replaced).unwrap();
        assert!(matches!(verdict(&report, "b"), Verdict::Error(_)), "{pass}: {report:?}");
        assert!(
            matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("not everything")),
            "{pass}: {report:?}"
        );
        assert!(in_place(&node, "a"), "{pass}");
    }
    let invalid = spec(3, &[keep, version("c", 1).matching("identity(")], true);
    node.pass(&invalid).unwrap();
    assert!(in_place(&node, "a"), "a matcher that is none may be the one that replaces it");
}

/// What cannot be told may be what came to replace it.
#[test]
fn s4_nothing_is_removed_while_it_cannot_be_told_what_belongs_here() {
    let mut node = Node::default();
    node.apply(1, &[version("a", 1), version("keep", 1)]);
    node.facts.files = None;
    let replaced = [version("keep", 1), version("b", 1).matching("has_file('/stalled')")];
    node.serve(&replaced);
    let document = spec(2, &replaced, true);
    for _ in 0..4 {
        let plan = node.reconciler().look(&document, &node.facts).unwrap();
        assert!(plan.actions.is_empty(), "{plan:?}");
        let report = node.pass(&document).unwrap();
        assert!(matches!(verdict(&report, "b"), Verdict::Unknown(_)), "{report:?}");
        assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("not everything")), "{report:?}");
        assert!(in_place(&node, "a"));
        node.advance(60);
    }
    node.facts.files = Some(["/stalled".to_owned()].into());
    node.pass(&document).unwrap();
    assert!(!in_place(&node, "a") && in_place(&node, "b"));
}
