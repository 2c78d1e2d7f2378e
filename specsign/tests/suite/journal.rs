//! What a pass writes into a root's memory: linear in what it changes, whole after every cut, and believed only where it fits.

use crate::simulated::{Cut, Node, spec, version};
use crate::support;
use toehold_specsign::{AdmissionError, Freshness, Outcome, PassError, Place, RootState, StateError, Verdict};

/// A node that died in the middle of a pass: both copies are of one version, and the journal has lines behind them.
fn interrupted() -> (Node, RootState, Vec<u8>) {
    let node = Node::default();
    node.apply(1, &[version("a", 1), version("b", 1), version("c", 1)]);
    let next = [version("a", 2), version("b", 2), version("c", 2)];
    node.serve(&next);
    let whole = Node { root: node.root.copy(), ..node.clone() };
    whole.pass(&spec(2, &next, false)).unwrap();
    let log = whole.root.0.lock().unwrap().log.clone();
    let last = log.iter().rposition(|call| call == "write the journal").unwrap();
    node.root.cut_at(Some((last, Cut::After)));
    assert!(node.pass(&spec(2, &next, false)).is_err());
    node.root.cut_at(None);
    let (copies, journal) = {
        let disk = node.root.0.lock().unwrap();
        (disk.copies.clone(), disk.journal.clone().unwrap())
    };
    let copies = RootState::load(copies[0].as_deref(), copies[1].as_deref(), false).unwrap().unwrap();
    assert!(copies.repair.is_empty());
    (node, copies.state, journal)
}

fn lines(journal: &[u8]) -> Vec<&[u8]> {
    journal.split_inclusive(|byte| *byte == b'\n').collect()
}

#[test]
fn what_a_pass_writes_grows_with_what_it_changes_and_not_with_its_square() {
    let written = |count: usize| {
        let node = Node::default();
        let all: Vec<_> = (0..count).map(|number| version(&format!("m{number:04}"), 1)).collect();
        assert_eq!(node.apply(1, &all).outcome, Outcome::Updated);
        let written = node.root.0.lock().unwrap().written;
        (written, node)
    };
    let ((few, _), (many, node)) = (written(100), written(800));
    assert!(many < 10 * few, "{few} bytes for 100 machines, {many} for 800");
    assert!(many < 800 * 3000, "{many} bytes for 800 machines");
    // One of many changes: twice the copies, and a little.
    let copy = node.root.0.lock().unwrap().copies[0].as_ref().unwrap().len();
    let mut all: Vec<_> = (0..800).map(|number| version(&format!("m{number:04}"), 1)).collect();
    all[7] = version("m0007", 2);
    let document = spec(2, &all, false);
    node.serve(&all);
    node.pass(&document).unwrap();
    let more = node.root.0.lock().unwrap().written - many;
    assert!(more < 4 * copy + document.len() + 2000, "{more} bytes, with copies of {copy}");
}

#[test]
fn s3_every_prefix_of_the_journal_is_read_up_to_its_last_whole_line() {
    let (_, copies, journal) = interrupted();
    let whole = lines(&journal);
    assert!(whole.len() >= 4, "{}", whole.len());
    for cut in 0..=journal.len() {
        let mut state = copies.clone();
        let replayed = state.replay(&journal[..cut]).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let expected = journal[..cut].split(|byte| *byte == b'\n').count() - 1;
        assert_eq!(usize::try_from(replayed).unwrap(), expected, "cut at {cut}");
        assert_eq!(state.serial, copies.serial);
        assert_eq!(state == copies, expected == 0);
    }
}

#[test]
fn s3_a_journal_that_does_not_fit_fails_closed() {
    let (node, copies, journal) = interrupted();
    let whole = lines(&journal);
    let refused = |journal: &[u8]| match copies.clone().replay(journal) {
        Err(StateError::Journal(_)) => {}
        other => panic!("{other:?}"),
    };
    // A line too few, a line twice, two in another order; and a flipped bit anywhere but in the last line.
    refused(&whole[1..].concat());
    refused(&[whole[0], whole[2]].concat());
    refused(&[whole[0], whole[0]].concat());
    refused(&[whole[1], whole[0]].concat());
    let last = journal.len() - whole[whole.len() - 1].len();
    // Without the line end before it, the last line and the one before look like one that was torn.
    for place in 0..last - 1 {
        let mut bad = journal.clone();
        bad[place] ^= 0x04;
        refused(&bad);
    }
    // In the last one it is a write that did not come to its end.
    let mut bad = journal.clone();
    bad[last + 80] ^= 0x04;
    assert_eq!(copies.clone().replay(&bad).unwrap(), whole.len() as u64 - 1);
    // Copies that were put back from before the journal began.
    let earlier = Node::default();
    earlier.apply(1, &[version("a", 1), version("b", 1), version("c", 1)]);
    assert!(matches!(earlier.root.state().replay(&journal), Err(StateError::Journal(reason)) if reason.contains("put back")));
    // A pass does nothing then, and the error names the repair.
    node.root.0.lock().unwrap().journal = Some(whole[1..].concat());
    let error = node.pass(&spec(2, &[version("a", 2)], false)).unwrap_err();
    assert!(
        matches!(error, PassError::State(StateError::Journal(_))) && error.to_string().contains("remove the journal"),
        "{error}"
    );
    node.root.0.lock().unwrap().journal = None;
    let next = [version("a", 2), version("b", 2), version("c", 2)];
    node.pass(&spec(2, &next, false)).unwrap();
    assert_eq!(node.root.live("c"), Some(version("c", 2).dir), "without it everything comes to be as it should");
}

#[test]
fn a_journal_of_a_newer_release_is_refused() {
    let (_, mut copies, journal) = interrupted();
    let line = std::str::from_utf8(lines(&journal)[0]).unwrap().trim_end();
    let body = line.split_once(' ').unwrap().1.replacen("\"v\":1,\"readable_from\":1", "\"v\":4,\"readable_from\":2", 1);
    let text = format!("{} {body}\n", support::digest(body.as_bytes()));
    assert_eq!(copies.replay(text.as_bytes()), Err(StateError::Newer(4)));
}

#[test]
fn s3_the_last_good_document_survives_a_restart_and_says_that_it_is_stale() {
    let node = Node::default();
    assert_eq!(node.reconciler().last_good().unwrap(), None);
    node.apply(1, &[version("a", 1), version("b", 1)]);
    // A pass of another process, a day later, which can have no newer document, or only one that is not taken.
    let node = Node { root: node.root.copy(), ..node };
    node.advance(24 * 3600);
    let error = node.pass(&spec(2, &[version("a", 1)], false)).unwrap_err();
    assert!(matches!(error, PassError::Admission(AdmissionError::Expired(_))));
    node.root.put(Place::Live, "a", None);
    let kept = node.reconciler().last_good().unwrap().unwrap();
    let report = node.pass(&kept).unwrap();
    assert!(matches!(report.freshness, Freshness::Stale { .. }), "{report:?}");
    assert_eq!((report.serial, &report.machines["b"]), (Some(1), &Verdict::Unchanged));
    assert_eq!(node.root.live("a"), Some(version("a", 1).dir), "what is in place is mended on its word");
    // An old one that was put in its place is refused like any other.
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let old = node.root.0.lock().unwrap().document.clone();
    node.apply(2, &[version("a", 2)]);
    node.root.0.lock().unwrap().document = old;
    let kept = node.reconciler().last_good().unwrap().unwrap();
    assert!(matches!(node.pass(&kept), Err(PassError::Admission(AdmissionError::Rollback { .. }))));
}
