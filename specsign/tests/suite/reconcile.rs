//! What a pass does and does not do: every way in which the original fails, ending well.

use crate::support;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::envelope_support;
use crate::envelope_support::key;
use crate::simulated;
use crate::simulated::{Answer, Node, spec, version};
use toehold_core::testing::MemoryStore;
use toehold_core::{Key, Store as _};
use toehold_specsign::plan::REMOVING_IS_OFF;
use toehold_specsign::{
    AdmissionError, DeployReason, Format, Freshness, Outcome, PassError, Place, PlainPolicy, PurgeReason, Report, SlotRecord,
    StateCopy, StateError, StoreGovernors, Verdict, pack,
};

pub(crate) fn verdict<'a>(report: &'a Report, name: &str) -> &'a Verdict {
    &report.machines[name]
}

pub(crate) fn in_place(node: &Node, name: &str) -> bool {
    node.root.live(name).is_some()
}

#[test]
fn a_first_pass_a_second_and_a_new_version() {
    let node = Node::default();
    let report = node.apply(1, &[version("a", 1), version("b", 1)]);
    assert_eq!((report.outcome, report.serial, report.freshness), (Outcome::Updated, Some(1), Freshness::Fresh));
    assert_eq!(verdict(&report, "a"), &Verdict::Deploy(DeployReason::New));
    assert_eq!(node.root.live("a"), Some(version("a", 1).dir));
    node.server.asked();
    let report = node.apply(2, &[version("a", 1), version("b", 1)]);
    assert_eq!(report.outcome, Outcome::Unchanged);
    assert!(node.server.asked().is_empty(), "what is whole is not fetched");
    let report = node.apply(3, &[version("a", 2), version("b", 1)]);
    assert_eq!(verdict(&report, "a"), &Verdict::Deploy(DeployReason::Changed));
    assert_eq!(node.root.live("a"), Some(version("a", 2).dir));
    let previous = node.root.0.lock().unwrap().places[&(Place::Previous, "a".to_owned())].clone();
    assert_eq!(previous, version("a", 1).dir, "the version before is kept");
}

#[test]
fn a_changed_archive_alone_is_fetched() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let mut repacked = version("a", 1);
    // The same files in another archive: Choria does not notice.
    repacked.archive = support::gzip(
        &[&support::tar(&[])[..0], &{
            let (archive, _) = support::machine_archive("a", &[]);
            let _ = archive;
            let dir = &repacked.dir;
            let mut members = Vec::new();
            for (path, entry) in dir {
                if let Some((content, _)) = entry {
                    members.push(support::file(&format!("a/{path}"), content));
                }
            }
            support::tar(&members)
        }]
        .concat(),
    );
    let report = node.apply(2, &[repacked.clone()]);
    assert_eq!(verdict(&report, "a"), &Verdict::Deploy(DeployReason::Changed));
    assert_eq!(node.root.state().placed["a"].archive, support::digest(&repacked.archive));
}

type Edit = fn(&mut simulated::Dir);

#[test]
fn what_drifted_is_mended() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let whole = version("a", 1).dir;
    let edits: [(&str, Edit); 7] = [
        ("a changed file", |dir| dir.get_mut("machine.yaml").unwrap().as_mut().unwrap().0.push(b'x')),
        ("a file too many", |dir| _ = dir.insert("extra".to_owned(), Some((b"x".to_vec(), 0o644)))),
        ("a file too few", |dir| _ = dir.remove("machine.yaml")),
        ("no list", |dir| _ = dir.remove("SHA256SUMS")),
        ("a list that lists less", |dir| {
            _ = dir.insert("SHA256SUMS".to_owned(), Some((support::sums_of(&[("machine.yaml", b"")]), 0o644)));
        }),
        ("a file that is setuid", |dir| dir.get_mut("bin/run.sh").unwrap().as_mut().unwrap().1 = 0o4755),
        ("a link", |dir| _ = dir.insert("link".to_owned(), Some((Vec::new(), 0)))),
    ];
    for (what, edit) in edits {
        let mut dir = whole.clone();
        edit(&mut dir);
        node.root.put(Place::Live, "a", Some(dir));
        let report = node.apply(1, &[version("a", 1)]);
        assert!(matches!(verdict(&report, "a"), Verdict::Deploy(DeployReason::Drifted(_))), "{what}: {report:?}");
        assert_eq!(node.root.live("a"), Some(whole.clone()), "{what}");
    }
    node.root.put(Place::Live, "a", None);
    assert_eq!(verdict(&node.apply(1, &[version("a", 1)]), "a"), &Verdict::Deploy(DeployReason::Missing));
    node.root.0.lock().unwrap().broken.insert((Place::Live, "a".to_owned()));
    let report = node.apply(1, &[version("a", 1)]);
    assert!(
        matches!(verdict(&report, "a"), Verdict::Error(reason) if reason.contains("input/output error")),
        "what cannot be read is left"
    );
}

#[test]
fn what_cannot_be_fetched_or_is_wrong_changes_nothing() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let next = version("a", 2);
    let cut = next.archive[..next.archive.len() / 2].to_vec();
    let longer = [&next.archive[..], b"x"].concat();
    let (other, _) = support::machine_archive("b", &[("x", b"x")]);
    for (what, answer) in [
        ("404", Answer::Refused),
        ("a connection that breaks", Answer::Breaks(cut.clone())),
        ("less than all, as if it were all", Answer::Archive(cut)),
        ("more than all", Answer::Archive(longer)),
        ("another file", Answer::Archive(version("a", 1).archive)),
        ("another machine", Answer::Archive(other)),
        ("a page", Answer::Archive(b"<html>not found</html>".to_vec())),
        ("nothing", Answer::Archive(Vec::new())),
    ] {
        node.server.serve(&next.url, answer);
        let report = node.pass(&spec(2, std::slice::from_ref(&next), false)).unwrap();
        assert_eq!(report.outcome, Outcome::Error, "{what}");
        assert!(matches!(verdict(&report, "a"), Verdict::Error(_)), "{what}");
        assert_eq!(node.root.live("a"), Some(version("a", 1).dir), "{what}");
        let disk = node.root.0.lock().unwrap();
        assert!(!disk.places.keys().any(|(place, _)| *place == Place::Staged), "{what}: nothing is left behind");
    }
    assert_eq!(node.apply(2, &[next]).outcome, Outcome::Updated);
}

/// What was unpacked may have filled the disk: it goes before anything else is written, and so does what an earlier run has left.
#[test]
fn what_could_not_be_unpacked_is_cleared_away_before_anything_is_remembered() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let (broken, other, before) = (version("a", 2), version("b", 1), node.root.calls());
    let versions = [broken.clone(), other];
    node.serve(&versions);
    node.server.serve(&broken.url, Answer::Breaks(broken.archive[..broken.archive.len() / 2].to_vec()));
    node.pass(&spec(2, &versions, false)).unwrap();
    let log = node.root.0.lock().unwrap().log[before..].to_vec();
    let first = |what: &str| log.iter().position(|call| call.starts_with(what)).unwrap_or_else(|| panic!("{what}: {log:?}"));
    let is_cleared = |from: usize, to: usize| log[from..to].iter().any(|call| call == "empty the trash");
    assert!(is_cleared(0, first("keep the document")), "{log:?}");
    assert!(is_cleared(first("stage a"), first("stage b")), "{log:?}");
}

#[test]
fn a_failed_health_command_brings_the_version_before_back() {
    let node = Node::default();
    node.apply(1, &[version("a", 1), version("b", 1)]);
    node.sick.0.lock().unwrap().insert("a".to_owned());
    let report = node.apply(2, &[version("a", 2), version("b", 2), version("c", 1)]);
    assert!(matches!(verdict(&report, "a"), Verdict::Error(reason) if reason.contains("exit status 1")), "{report:?}");
    assert_eq!(node.root.live("a"), Some(version("a", 1).dir));
    assert_eq!(node.root.live("b"), Some(version("b", 2).dir), "the others are updated");
    // It is not tried again at once, but after a while, and another version at once.
    node.server.asked();
    assert!(matches!(verdict(&node.apply(2, &[version("a", 2), version("b", 2), version("c", 1)]), "a"), Verdict::Error(_)));
    assert!(node.server.asked().is_empty());
    node.sick.0.lock().unwrap().clear();
    assert_eq!(
        verdict(&node.apply(3, &[version("a", 3), version("b", 2), version("c", 1)]), "a"),
        &Verdict::Deploy(DeployReason::Changed)
    );
    assert_eq!(node.root.live("a"), Some(version("a", 3).dir));
    // A machine that never worked goes.
    node.sick.0.lock().unwrap().insert("d".to_owned());
    node.apply(4, &[version("a", 3), version("b", 2), version("c", 1), version("d", 1)]);
    assert_eq!(node.root.live("d"), None);
    node.sick.0.lock().unwrap().clear();
    node.advance(3600);
    node.apply(4, &[version("a", 3), version("b", 2), version("c", 1), version("d", 1)]);
    assert!(in_place(&node, "d"));
}

/// A directory that somebody makes while the machine of that name is on its way is not replaced.
#[test]
fn what_comes_into_a_new_machines_place_meanwhile_is_left_there() {
    let node = Node::default();
    let theirs = version("x", 1).dir;
    node.root.0.lock().unwrap().squatter = Some(("seal a".to_owned(), "a".to_owned(), theirs.clone()));
    for serial in 1..=3 {
        let report = node.apply(serial, &[version("a", 1)]);
        assert!(matches!(verdict(&report, "a"), Verdict::Error(reason) if reason.contains("not placed here")), "{report:?}");
        assert_eq!(node.root.live("a"), Some(theirs.clone()));
        let disk = node.root.0.lock().unwrap();
        assert!(!disk.places.keys().any(|(place, _)| *place != Place::Live), "nothing is left behind");
    }
    node.root.put(Place::Live, "a", None);
    assert_eq!(node.apply(3, &[version("a", 1)]).outcome, Outcome::Updated);
}

/// Whoever signed is known to sign envelopes before the root's memory says that it was taken: a pass that dies right behind that is
/// not told again.
#[test]
fn s1_every_signer_is_remembered_whenever_the_power_goes() {
    let start = Node::default();
    start.apply(1, &[version("a", 1)]);
    start.root.0.lock().unwrap().signers.clear();
    let payload = simulated::list(&[version("a", 1)]);
    let hand_over = |serial: u64, to: u8, by: &[u8]| {
        let mut statement = envelope_support::statement(serial, &payload);
        (statement.name, statement.next) = ("fleet".parse().unwrap(), envelope_support::keys(&[to], 1));
        envelope_support::signed(statement, by)
    };
    let change = hand_over(2, 2, &[1, 2]);
    let document = envelope_support::sealed(&payload, hand_over(3, 3, &[2, 3]), vec![change]).into_bytes();
    let whole = Node { root: start.root.copy(), ..start.clone() };
    let report = whole.pass(&document).unwrap();
    let all = BTreeSet::from([1, 2, 3].map(|number| key(number).verifying_key()));
    assert_eq!((report.serial, &report.signers), (Some(3), &all));
    for number in 0..whole.root.calls() {
        let node = Node { root: start.root.copy(), ..start.clone() };
        node.root.cut_at(Some((number, simulated::Cut::After)));
        let _ = node.pass(&document);
        node.root.cut_at(None);
        let what = node.root.0.lock().unwrap().log.last().cloned();
        node.pass(&document).unwrap();
        assert_eq!(node.root.0.lock().unwrap().signers, all, "cut at call {number}, {what:?}");
    }
}

/// A no is nothing that is still to be done, where nobody asked for a removal.
#[test]
fn a_no_is_held_for_good_where_removing_is_off() {
    let mut node = Node::default();
    node.settings.purge = false;
    let keep = version("keep", 1);
    node.apply(1, &[version("a", 1), keep.clone()]);
    for _ in 0..4 {
        let report = node.apply(2, &[version("a", 1).matching("identity('^db')"), keep.clone()]);
        assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.ends_with(REMOVING_IS_OFF)), "{report:?}");
        node.advance(60);
    }
}

#[test]
fn s1_s3_an_old_or_a_stripped_document_changes_nothing() {
    let mut node = Node::default();
    node.admission.plain = PlainPolicy::AcceptSigned;
    let old = spec(1, &[version("a", 1)], false);
    let list = simulated::list(&[version("a", 1)]);
    node.serve(&[version("a", 1)]);
    let plain = pack(Format::Machines, &list, Some(&key(1))).unwrap();
    assert_eq!(node.pass(plain.as_bytes()).unwrap().serial, None, "Choria's own, as long as there is no envelope");
    node.pass(&old).unwrap();
    node.apply(2, &[version("a", 2)]);
    let before = (node.root.live("a"), node.root.state());
    for (what, document) in [("old", old), ("plain", plain.into_bytes()), ("none", b"{}".to_vec())] {
        assert!(matches!(node.pass(&document), Err(PassError::Admission(_))), "{what}");
        assert_eq!((node.root.live("a"), node.root.state()), before, "{what}");
    }
}

#[test]
fn s3_a_root_without_its_memory_fails_closed() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let document = spec(2, &[version("a", 2)], false);
    node.serve(&[version("a", 2)]);
    let lost = Node { root: node.root.copy(), ..node.clone() };
    lost.root.0.lock().unwrap().copies = [None, None];
    assert!(matches!(lost.pass(&document), Err(PassError::State(StateError::Lost))));
    assert_eq!(lost.root.live("a"), Some(version("a", 1).dir));
    // One of two is mended and told.
    for copy in StateCopy::BOTH {
        let half = Node { root: node.root.copy(), ..node.clone() };
        half.root.0.lock().unwrap().copies[usize::from(copy == StateCopy::Second)] = Some(b"torn".to_vec());
        let report = half.pass(&document).unwrap();
        assert!(report.mended_state && report.outcome == Outcome::Updated);
        let copies = half.root.0.lock().unwrap().copies.clone();
        assert_eq!(copies[0], copies[1]);
    }
}

#[test]
fn looking_changes_nothing() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let places = node.root.0.lock().unwrap().places.clone();
    let before = (places, node.root.state());
    let plan = node.reconciler().look(&spec(2, &[version("a", 2), version("b", 1)], false), &node.facts).unwrap();
    assert_eq!(plan.actions.len(), 2);
    let places = node.root.0.lock().unwrap().places.clone();
    assert_eq!((places, node.root.state()), before);
}

#[test]
fn an_unchanged_pass_writes_nothing() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let document = spec(1, &[version("a", 1)], false);
    let writes = |node: &Node| node.root.0.lock().unwrap().log.iter().filter(|call| call.starts_with("write")).count();
    node.root.cut_at(None);
    for _ in 0..30 {
        node.advance(60);
        node.pass(&document).unwrap();
    }
    assert_eq!(writes(&node), 0);
    node.advance(3600);
    node.pass(&document).unwrap();
    assert_eq!(writes(&node), 2, "the highest time, once an hour");
}

#[test]
fn a_governor_lets_so_many_nodes_update_at_once() {
    let store = MemoryStore::default();
    let node = |holder: &str, limit| {
        let Node { root, server, sick, clock, facts, settings, admission, .. } = Node::default();
        let governors = StoreGovernors {
            store: store.clone(),
            clock: clock.clone(),
            holder: holder.to_owned(),
            limits: BTreeMap::from([("deploys".to_owned(), limit)]),
            lease: Duration::from_secs(900),
        };
        let node = Node { root, server, sick, clock, facts, settings, admission, governors };
        node.serve(&[version("a", 1)]);
        node
    };
    let document = spec(1, &[version("a", 1).governed("deploys")], false);
    let slot = |number: u32| Key::new(["slot", "deploys", &number.to_string()]).unwrap();
    // Two others are at it.
    let first = node("n1", 2);
    for number in 0..2 {
        let other = SlotRecord { holder: format!("other{number}"), until: envelope_support::at(600) };
        toehold_core::testing::block_on(toehold_core::Stored::create(&store, slot(number), other)).unwrap();
    }
    let report = first.pass(&document).unwrap();
    assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("deploys")), "{report:?}");
    assert!(first.root.live("a").is_none());
    // Their time is up; the slot is taken over and given back.
    first.advance(600);
    assert_eq!(first.pass(&document).unwrap().outcome, Outcome::Updated);
    let entries = toehold_core::testing::block_on(store.list(&Key::new(["slot"]).unwrap())).unwrap();
    assert_eq!(entries.len(), 1, "its own slot is given back");
    // A slot of one's own, left over from a run that died, is no obstacle.
    let second = node("n2", 1);
    let own = SlotRecord { holder: "n2".to_owned(), until: envelope_support::at(100_000) };
    toehold_core::testing::block_on(toehold_core::Stored::create(&store, slot(0), own)).unwrap();
    assert_eq!(second.pass(&document).unwrap().outcome, Outcome::Updated);
    // Without a store, a machine with a governor waits, and it is said for what.
    let alone = Node::default();
    alone.serve(&[version("a", 1)]);
    let report = alone.pass(&document).unwrap();
    assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("this node has none")), "{report:?}");
}

/// One that is a mount point, or held open, is its own error.
#[test]
fn a_machine_that_cannot_be_moved_is_its_own_error_and_the_others_go_on() {
    let node = Node::default();
    node.apply(1, &[version("a", 1), version("b", 1), version("c", 1)]);
    let busy = |names: &[&str]| node.root.0.lock().unwrap().busy = names.iter().map(|&name| name.to_owned()).collect();
    busy(&["a"]);
    let report = node.apply(2, &[version("a", 2), version("b", 2)]);
    assert!(matches!(verdict(&report, "a"), Verdict::Error(reason) if reason.contains("into place")), "{report:?}");
    assert!(matches!(verdict(&report, "c"), Verdict::Held(reason) if reason.contains("not everything")), "{report:?}");
    assert_eq!((node.root.live("a"), node.root.live("b")), (Some(version("a", 1).dir), Some(version("b", 2).dir)));
    let again = node.apply(2, &[version("a", 2), version("b", 2)]);
    assert_eq!((again.outcome, verdict(&again, "a")), (Outcome::Error, verdict(&report, "a")));
    busy(&["c"]);
    let report = node.apply(3, &[version("a", 2), version("d", 1)]);
    assert!(matches!(verdict(&report, "c"), Verdict::Error(reason) if reason.contains("removing it")), "{report:?}");
    assert_eq!(verdict(&report, "b"), &Verdict::Purge(PurgeReason::NotListed));
    assert_eq!((node.root.live("a"), node.root.live("d")), (Some(version("a", 2).dir), Some(version("d", 1).dir)));
    assert!(in_place(&node, "c") && !in_place(&node, "b"));
    busy(&[]);
    assert_eq!(verdict(&node.apply(3, &[version("a", 2), version("d", 1)]), "c"), &Verdict::Purge(PurgeReason::NotListed));
    assert!(!node.root.0.lock().unwrap().places.keys().any(|(place, _)| *place == Place::Staged), "nothing is left behind");
}

#[test]
fn what_was_put_in_a_machines_place_since_is_not_removed() {
    let node = Node::default();
    let keep = version("keep", 1);
    node.apply(1, &[version("a", 1), keep.clone()]);
    let mut theirs = version("a", 1).dir;
    theirs.insert("notes".to_owned(), Some((b"of a person's".to_vec(), 0o644)));
    node.root.put(Place::Live, "a", Some(theirs.clone()));
    let document = spec(2, std::slice::from_ref(&keep), false);
    let plan = node.reconciler().look(&document, &node.facts).unwrap();
    assert!(plan.actions.is_empty(), "{plan:?}");
    for _ in 0..2 {
        let report = node.pass(&document).unwrap();
        assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("not what was placed")), "{report:?}");
        assert_eq!(node.root.live("a"), Some(theirs.clone()));
    }
    node.root.put(Place::Live, "a", Some(version("a", 1).dir));
    assert_eq!(verdict(&node.pass(&document).unwrap(), "a"), &Verdict::Purge(PurgeReason::NotListed));
}

#[test]
fn mending_keeps_the_version_before() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    node.apply(2, &[version("a", 2)]);
    let previous = || node.root.0.lock().unwrap().places.get(&(Place::Previous, "a".to_owned())).cloned();
    let mut drifted = version("a", 2).dir;
    drifted.insert("extra".to_owned(), Some((b"x".to_vec(), 0o644)));
    for there in [Some(drifted.clone()), None] {
        node.root.put(Place::Live, "a", there);
        assert_eq!(node.apply(2, &[version("a", 2)]).outcome, Outcome::Updated);
        assert_eq!((node.root.live("a"), previous()), (Some(version("a", 2).dir), Some(version("a", 1).dir)));
    }
    // Where it does not work any more, what was there is there again.
    node.sick.0.lock().unwrap().insert("a".to_owned());
    node.root.put(Place::Live, "a", Some(drifted.clone()));
    assert_eq!(node.apply(2, &[version("a", 2)]).outcome, Outcome::Error);
    assert_eq!((node.root.live("a"), previous()), (Some(drifted), Some(version("a", 1).dir)));
    assert!(!node.root.0.lock().unwrap().places.contains_key(&(Place::Staged, "a".to_owned())));
}

#[test]
fn modes_and_owners_drift_too() {
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let whole = version("a", 1).dir;
    for mode in [0o600, 0o640, 0o755, 0o744] {
        let mut dir = whole.clone();
        dir.get_mut("bin/run.sh").unwrap().as_mut().unwrap().1 = mode;
        node.root.put(Place::Live, "a", Some(dir));
        let report = node.apply(1, &[version("a", 1)]);
        assert!(matches!(verdict(&report, "a"), Verdict::Deploy(DeployReason::Drifted(_))), "{mode:o}: {report:?}");
        assert_eq!(node.root.live("a"), Some(whole.clone()));
    }
    node.root.0.lock().unwrap().foreign.insert("bin/run.sh".to_owned());
    let report = node.apply(1, &[version("a", 1)]);
    assert!(
        matches!(verdict(&report, "a"), Verdict::Deploy(DeployReason::Drifted(reason)) if reason.contains("another user")),
        "{report:?}"
    );
}

/// What a run that died has put into place waits for a slot as well.
#[test]
fn a_run_that_goes_on_asks_for_a_slot() {
    let store = MemoryStore::default();
    let Node { root, server, sick, clock, facts, settings, admission, .. } = Node::default();
    let (holder, limits) = ("n1".to_owned(), BTreeMap::from([("deploys".to_owned(), 1)]));
    let governors =
        StoreGovernors { store: store.clone(), clock: clock.clone(), holder, limits, lease: Duration::from_secs(900) };
    let node = Node { root, server, sick, clock, facts, settings, admission, governors };
    node.apply(1, &[version("a", 1).governed("deploys")]);
    node.serve(&[version("a", 2)]);
    let document = spec(2, &[version("a", 2).governed("deploys")], false);
    let whole = Node { root: node.root.copy(), ..node.clone() };
    whole.pass(&document).unwrap();
    let exchanged = whole.root.0.lock().unwrap().log.iter().position(|call| call == "exchange a Staged Live").unwrap();
    node.root.cut_at(Some((exchanged, simulated::Cut::After)));
    node.pass(&document).unwrap_err();
    node.root.cut_at(None);
    assert_eq!(node.root.live("a"), Some(version("a", 2).dir));
    // Whoever asks it now brings the version before back.
    node.sick.0.lock().unwrap().insert("a".to_owned());
    let slot = Key::new(["slot", "deploys", "0"]).unwrap();
    assert!(toehold_core::testing::block_on(store.get(&slot)).unwrap().is_none());
    let other = SlotRecord { holder: "other".to_owned(), until: envelope_support::at(600) };
    toehold_core::testing::block_on(toehold_core::Stored::create(&store, slot, other)).unwrap();
    let report = node.pass(&document).unwrap();
    assert!(matches!(verdict(&report, "a"), Verdict::Held(reason) if reason.contains("deploys")), "{report:?}");
    assert_eq!(node.root.live("a"), Some(version("a", 2).dir), "nobody was asked");
    node.advance(600);
    assert!(matches!(verdict(&node.pass(&document).unwrap(), "a"), Verdict::Error(_)));
    assert_eq!(node.root.live("a"), Some(version("a", 1).dir));
}

/// The same node at another time.
fn at_time(node: &Node, seconds: i64) -> Node {
    Node { clock: toehold_core::testing::ManualClock::new(envelope_support::at(seconds)), ..node.clone() }
}

#[test]
fn s3_a_time_that_ended_a_document_is_remembered_at_once() {
    const END: i64 = 23 * 3600;
    let node = Node::default();
    node.apply(1, &[version("a", 1)]);
    let (first, second) = (spec(1, &[version("a", 1)], false), spec(2, &[version("a", 2)], false));
    node.serve(&[version("a", 2)]);
    // A refused document is no reason to forget the time.
    at_time(&node, 7200).pass(b"{}").unwrap_err();
    assert_eq!(node.root.state().highest_time, envelope_support::at(7200));
    let shortly_before = at_time(&node, END - 300);
    shortly_before.pass(&first).unwrap();
    for (what, document) in [("held", &first), ("new", &second)] {
        let ended = Node { root: node.root.copy(), ..at_time(&node, END + 300) };
        let _ = ended.pass(document);
        let set_back = Node { root: ended.root.clone(), ..at_time(&node, END - 200) };
        let error = set_back.pass(&second).unwrap_err();
        assert!(matches!(error, PassError::Admission(AdmissionError::ExpiredBefore { .. })), "{what}: {error}");
        assert!(matches!(set_back.pass(&first).unwrap().freshness, Freshness::Stale { .. }), "{what}");
    }
}

#[test]
fn s3_a_clock_that_was_wrong_once_can_be_mended() {
    let node = Node::default();
    node.apply(1, &[version("a", 1), version("keep", 1)]);
    let first = spec(1, &[version("a", 1), version("keep", 1)], false);
    let second = spec(2, &[version("a", 2), version("keep", 1)], false);
    node.serve(&[version("a", 2)]);
    at_time(&node, 70 * 365 * 86_400).pass(&first).unwrap();
    let mut mended = at_time(&node, 60);
    let error = mended.pass(&second).unwrap_err();
    assert!(error.to_string().contains("--trust-clock"), "{error}");
    assert!(mended.pass(&first).unwrap().clock_behind.is_some());
    mended.admission.trust_clock = true;
    assert_eq!(mended.pass(&second).unwrap().freshness, Freshness::Fresh);
    mended.admission.trust_clock = false;
    let report = mended.pass(&second).unwrap();
    assert_eq!((report.freshness, report.clock_behind), (Freshness::Fresh, None));
    assert_eq!(mended.root.live("a"), Some(version("a", 2).dir));
}

#[test]
fn s3_a_floor_outside_outlives_the_memory_of_a_root() {
    let node = Node::default();
    node.apply(3, &[version("a", 1)]);
    let wiped = |with_machines: bool| {
        let wiped = Node { root: node.root.copy(), ..node.clone() };
        let mut disk = wiped.root.0.lock().unwrap();
        (disk.copies, disk.journal, disk.document) = ([None, None], None, None);
        disk.places.retain(|(place, _), _| with_machines && *place == Place::Live);
        drop(disk);
        wiped
    };
    let (old, current) = (spec(2, &[version("a", 2)], false), spec(3, &[version("a", 1)], false));
    node.serve(&[version("a", 2)]);
    for with_machines in [true, false] {
        let wiped = wiped(with_machines);
        let error = wiped.pass(&old).unwrap_err();
        let is_old = matches!(error, PassError::Admission(AdmissionError::Rollback { floor: 3, got: 2 }));
        assert!(is_old, "{error}");
        assert_eq!(wiped.pass(&current).unwrap().outcome, Outcome::Updated);
        assert_eq!(wiped.root.live("a"), Some(version("a", 1).dir));
        assert!(matches!(wiped.pass(&old), Err(PassError::Admission(AdmissionError::Rollback { .. }))));
    }
    // Nor does a document come back that had ended, with the memory gone and the clock set back.
    let held = Node { root: node.root.copy(), ..at_time(&node, 3 * 86_400) };
    assert!(matches!(held.pass(&current).unwrap().freshness, Freshness::Stale { .. }));
    let mut disk = held.root.0.lock().unwrap();
    (disk.copies, disk.journal, disk.document) = ([None, None], None, None);
    drop(disk);
    let set_back = Node { root: held.root, ..at_time(&node, 60) };
    assert!(matches!(set_back.pass(&current).unwrap().freshness, Freshness::Stale { .. }));
    // Without either, machines that lie there say that there was one; or something else does that looks like one.
    let mut lost = wiped(true);
    lost.root.0.lock().unwrap().floor = Some(b"torn".to_vec());
    assert!(matches!(lost.pass(&old), Err(PassError::State(StateError::FloorLost))));
    lost.root.0.lock().unwrap().floor = None;
    let error = lost.pass(&old).unwrap_err();
    assert!(matches!(error, PassError::State(StateError::Unremembered)), "{error}");
    let words = error.to_string();
    assert!(words.contains("SHA256SUMS") && words.contains("--begin-anew") && !words.contains("damaged"), "{words}");
    lost.admission.begin_anew = true;
    lost.admission.min_serial = 3;
    assert!(matches!(lost.pass(&old), Err(PassError::Admission(AdmissionError::Rollback { .. }))));
    assert_eq!(verdict(&lost.pass(&current).unwrap(), "a"), &Verdict::Adopt);
    // A damaged one is written anew from what the root remembers, and is no floor where it remembers nothing.
    let damaged = wiped(false);
    damaged.root.0.lock().unwrap().floor = Some(b"torn".to_vec());
    assert!(matches!(damaged.pass(&current), Err(PassError::State(StateError::FloorLost))));
    node.root.0.lock().unwrap().floor = Some(b"torn".to_vec());
    node.pass(&current).unwrap();
    let floor = node.root.0.lock().unwrap().floor.clone().unwrap();
    assert_ne!(floor, b"torn");
    // Copies that were put back, both of them, do not lower it either.
    let before = node.root.copy();
    node.apply(4, &[version("a", 2)]);
    let mut disk = before.0.lock().unwrap();
    disk.floor.clone_from(&node.root.0.lock().unwrap().floor);
    drop(disk);
    let restored = Node { root: before, ..node.clone() };
    assert!(matches!(restored.pass(&current), Err(PassError::Admission(AdmissionError::Rollback { floor: 4, got: 3 }))));
}
