//! The audit log of several writers: bound to each other, cut short on purpose and not otherwise, and as a file.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use toehold_core::testing::{ManualClock, MemoryStore, block_on};
use toehold_core::{
    AuditEvent, AuditExport, AuditFlaw, AuditHead, AuditLog, AuditReport, AuditSink as _, AuditWriter, Checkpoint, Clock as _,
    Entry, Expect, ExportError, Key, Store as _, StoreAudit, Stored,
};

const WRITERS: [&str; 3] = ["age1ops", "gateway", "status"];

fn event(number: usize) -> AuditEvent {
    let at = ManualClock::default().now().saturating_add(Duration::from_secs(number as u64));
    AuditEvent::new(at, "session.completed", format!("deploy@web{number}"))
}

/// A log whose writers take turns as `turns` says.
fn log_by(turns: &[usize]) -> MemoryStore {
    let store = MemoryStore::new();
    let audits = WRITERS.map(|writer| StoreAudit::new(&store, writer));
    for (number, turn) in turns.iter().enumerate() {
        block_on(audits[*turn].record(event(number))).unwrap();
    }
    drop(audits);
    store
}

fn read(store: &MemoryStore) -> AuditLog {
    block_on(AuditLog::read(store)).unwrap()
}

fn verify(store: &MemoryStore) -> AuditReport {
    read(store).verify(&BTreeMap::new())
}

/// The entries of a writer, in the order of their numbers.
fn chain(store: &MemoryStore, writer: &str) -> Vec<Entry> {
    block_on(store.list(&Key::new(["audit", writer]).unwrap())).unwrap()
}

fn delete(store: &MemoryStore, entry: &Entry) {
    block_on(store.delete(&entry.key, entry.revision)).unwrap();
}

fn place(writer: &str, number: u64) -> Key {
    Key::new(["audit", writer, &format!("{number:020}")]).unwrap()
}

#[test]
fn each_writer_names_what_it_saw_of_the_others_once() {
    let store = log_by(&[0, 0, 1, 1, 0, 2, 0, 0]);
    let log = read(&store);
    let heads = |writer: &str, number| -> Vec<(String, u64)> {
        let entry = log.find(writer, number).unwrap().as_ref().unwrap();
        entry.heads.iter().map(|(writer, head)| (writer.clone(), head.number)).collect()
    };
    let (ops, gateway) = (|n| ("age1ops".to_owned(), n), |n| ("gateway".to_owned(), n));
    assert_eq!(heads("age1ops", 1), []);
    assert_eq!(heads("gateway", 1), [ops(2)]);
    assert_eq!(heads("gateway", 2), [], "it has said so");
    assert_eq!(heads("age1ops", 3), [gateway(2)]);
    assert_eq!(heads("status", 1), [ops(3), gateway(2)]);
    assert_eq!(heads("age1ops", 4), [("status".to_owned(), 1)]);
    assert_eq!(heads("age1ops", 5), []);
    let report = verify(&store);
    assert_eq!(report.faults, []);
    assert!(report.is_linked());
    assert_eq!(report.sound_heads().len(), 3);
    // Another process of the same writer does not know what the first has named; at worst it says it again.
    block_on(StoreAudit::new(&store, "age1ops").record(event(9))).unwrap();
    assert_eq!(verify(&store).faults, []);
}

#[test]
fn n4_a_chain_that_is_cut_off_or_gone_is_missed_by_the_others() {
    for kept in [0, 1] {
        let store = log_by(&[1, 1, 1, 0, 1]);
        for entry in &chain(&store, "gateway")[kept..] {
            delete(&store, entry);
        }
        let faults = verify(&store).faults;
        let flaw = AuditFlaw::CutOff { through: 3, by: "age1ops".to_owned(), at: 1 };
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!((faults[0].writer.as_str(), faults[0].number, &faults[0].flaw), ("gateway", kept as u64 + 1, &flaw));
    }
    // The last entry was seen by nobody.
    let store = log_by(&[1, 1, 1, 0, 1]);
    let seen = verify(&store).sound_heads();
    delete(&store, &chain(&store, "gateway")[3]);
    assert_eq!(verify(&store).faults, []);
    let faults = read(&store).verify(&seen).faults;
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].number, &faults[0].flaw), (4, &AuditFlaw::SeenMissing { through: 4 }));
}

#[test]
fn a_chain_that_was_written_anew_is_not_what_the_others_saw() {
    let store = log_by(&[1, 1, 0]);
    let seen = verify(&store).sound_heads();
    for entry in chain(&store, "gateway") {
        delete(&store, &entry);
    }
    let forger = StoreAudit::new(&store, "gateway");
    for number in 10..13 {
        block_on(forger.record(event(number))).unwrap();
    }
    let faults = read(&store).verify(&seen).faults;
    let flaws: Vec<&AuditFlaw> = faults.iter().map(|fault| &fault.flaw).collect();
    assert!(flaws.contains(&&AuditFlaw::Differs { by: "age1ops".to_owned(), at: 1 }), "{flaws:?}");
    assert!(flaws.contains(&&AuditFlaw::SeenDiffers), "{flaws:?}");
    // What is wrong is not taken for what was seen.
    assert!(!read(&store).verify(&seen).sound_heads().contains_key("gateway"));
}

/// A log as releases before cross links wrote it.
fn old_log() -> MemoryStore {
    let store = log_by(&[]);
    let mut previous = "0".repeat(64);
    for number in 1..4 {
        let value = serde_json::json!({
            "v": 1, "readable_from": 1, "number": number, "previous": previous, "event": event(usize::try_from(number).unwrap()),
        });
        block_on(store.put(&place("laptop", number), value.to_string().as_bytes(), Expect::Absent)).unwrap();
        previous = read(&store).find("laptop", number).unwrap().as_ref().unwrap().hash();
    }
    store
}

#[test]
fn a_log_of_before_verifies_and_goes_on() {
    let store = old_log();
    let report = verify(&store);
    assert_eq!(report.faults, []);
    assert!(!report.is_linked());
    // Whoever writes next tells of it, and goes on in it.
    block_on(StoreAudit::new(&store, "gateway").record(event(7))).unwrap();
    block_on(StoreAudit::new(&store, "laptop").record(event(8))).unwrap();
    let report = verify(&store);
    assert_eq!(report.faults, []);
    assert!(report.is_linked());
    assert_eq!(chain(&store, "laptop").len(), 4);
    for entry in &chain(&store, "laptop")[2..] {
        delete(&store, entry);
    }
    assert!(matches!(verify(&store).faults[0].flaw, AuditFlaw::CutOff { through: 3, .. }));
}

/// Removes the first `count` entries of a writer, as `store gc` does, or somebody who stops after `deleted` of them.
fn prune(store: &MemoryStore, writer: &str, count: usize, deleted: usize) {
    let entries = chain(store, writer);
    let last: Stored<toehold_core::AuditEntry> = Stored::decode(&entries[count - 1]).unwrap();
    let checkpoint = Checkpoint { writer: writer.to_owned(), through: last.body.head() };
    block_on(StoreAudit::new(store, "age1ops").record_with_all_heads(checkpoint.event(event(99).at))).unwrap();
    let key = AuditWriter::key(writer).unwrap();
    let mut begin = block_on(Stored::<AuditWriter>::read(store, &key)).unwrap().unwrap();
    begin.body.first = count as u64 + 1;
    block_on(begin.save(store)).unwrap();
    for entry in &entries[..deleted] {
        delete(store, entry);
    }
}

#[test]
fn a_chain_whose_beginning_was_removed_on_purpose_verifies_and_goes_on() {
    for deleted in 0..=4 {
        let store = log_by(&[1, 1, 0, 1, 1, 1, 2]);
        prune(&store, "gateway", 4, deleted);
        let report = verify(&store);
        assert_eq!(report.faults, [], "after {deleted}");
        let gateway = report.chains.iter().find(|chain| chain.writer == "gateway").unwrap();
        assert_eq!((gateway.first, gateway.pruned_by.is_some()), (deleted as u64 + 1, deleted > 0));
        for writer in ["gateway", "status"] {
            block_on(StoreAudit::new(&store, writer).record(event(20))).unwrap();
        }
        let report = verify(&store);
        assert_eq!(report.faults, [], "after {deleted}");
        assert_eq!(report.chains.iter().find(|chain| chain.writer == "gateway").unwrap().head.as_ref().unwrap().number, 6);
    }
}

/// A checkpoint is a word of whoever can write to the store. What was seen here has to lead to what is there now.
#[test]
fn n4_what_was_removed_past_the_end_that_was_seen_is_told() {
    let store = log_by(&[1, 1, 1, 1, 1, 0]);
    let seen_up_to = |entry: &Entry| {
        let entry: Stored<toehold_core::AuditEntry> = Stored::decode(entry).unwrap();
        BTreeMap::from([("gateway".to_owned(), entry.body.head())])
    };
    let seen: Vec<_> = (1..=5).zip(chain(&store, "gateway").iter().map(seen_up_to)).collect();
    prune(&store, "gateway", 3, 3);
    for (number, seen) in seen {
        let report = block_on(AuditLog::read(&store)).unwrap().verify(&seen);
        let flaws: Vec<_> = report.faults.iter().map(|fault| (fault.number, fault.flaw.clone())).collect();
        // The first one that is left names the hash of the third.
        let expected = if number < 3 { vec![(4, AuditFlaw::SeenRemoved { through: number })] } else { Vec::new() };
        assert_eq!(flaws, expected, "seen up to {number}");
        assert_eq!(report.sound_heads().contains_key("gateway"), number >= 3);
    }
}

#[test]
fn a_beginning_that_nobody_has_vouched_for_is_a_fault() {
    let store = log_by(&[1, 1, 1, 1, 0]);
    prune(&store, "gateway", 2, 2);
    assert_eq!(verify(&store).faults, []);
    // More is gone than the checkpoint says.
    delete(&store, &chain(&store, "gateway")[0]);
    let faults = verify(&store).faults;
    assert_eq!((faults[0].number, &faults[0].flaw), (4, &AuditFlaw::NoCheckpoint));

    let store = log_by(&[1, 1, 1, 1, 0]);
    prune(&store, "gateway", 2, 2);
    let event =
        Checkpoint { writer: "gateway".to_owned(), through: AuditHead { number: 2, hash: "f".repeat(64) } }.event(event(9).at);
    let checkpoint = block_on(store.get(&place("age1ops", 2))).unwrap().unwrap();
    let mut stored: Stored<toehold_core::AuditEntry> = Stored::decode(&checkpoint).unwrap();
    stored.body.event = event;
    block_on(stored.save(&store)).unwrap();
    let faults = verify(&store).faults;
    assert!(faults.iter().any(|fault| matches!(fault.flaw, AuditFlaw::CheckpointDiffers { .. })), "{faults:?}");
}

#[test]
fn what_no_hash_covers_and_what_has_no_place_is_told() {
    let store = log_by(&[0, 0]);
    let entry = block_on(store.get(&place("age1ops", 2))).unwrap().unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    value["event"]["note"] = "it was somebody else".into();
    block_on(store.put(&entry.key, value.to_string().as_bytes(), Expect::Revision(entry.revision))).unwrap();
    block_on(store.put(&Key::parse("audit/age1ops/7").unwrap(), b"{}", Expect::Absent)).unwrap();
    let faults = verify(&store).faults;
    assert!(matches!(faults[0].flaw, AuditFlaw::Stray { .. }), "{faults:?}");
    assert_eq!((faults[1].number, &faults[1].flaw), (2, &AuditFlaw::Extended));
}

#[test]
fn another_process_that_was_faster_by_far_is_found_up_to_its_end() {
    let store = log_by(&[]);
    let slow = StoreAudit::new(&store, "gateway");
    block_on(slow.record(event(0))).unwrap();
    let fast = StoreAudit::new(&store, "gateway");
    for number in 1..40 {
        block_on(fast.record(event(number))).unwrap();
    }
    // What the slow one knows is gone, too.
    prune(&store, "gateway", 30, 30);
    block_on(slow.record(event(41))).unwrap();
    let report = verify(&store);
    assert_eq!(report.faults, []);
    assert_eq!(report.sound_heads()["gateway"].number, 41);
}

fn file_of(store: &MemoryStore) -> Vec<u8> {
    AuditExport { made_at: event(50).at, log: read(store) }.to_bytes().unwrap()
}

#[test]
fn a_file_that_is_not_as_it_was_written_is_told() {
    let store = log_by(&[0, 1, 0, 2]);
    let file = file_of(&store);
    let read_back = AuditExport::parse(&file).unwrap();
    assert_eq!(read_back.log, read(&store));
    let text = String::from_utf8(file).unwrap();
    let error = |text: &str| AuditExport::parse(text.as_bytes()).unwrap_err().1;
    assert_eq!(error(""), ExportError::CutOff);
    let cut = text.lines().take(3).map(|line| format!("{line}\n")).collect::<String>();
    let (found, why) = AuditExport::parse(cut.as_bytes()).unwrap_err();
    assert_eq!((why, found.unwrap().log.places().count()), (ExportError::CutOff, 2));
    let (found, why) = AuditExport::parse(text.replace("web2", "web7").as_bytes()).unwrap_err();
    assert_eq!(why, ExportError::Changed);
    assert_eq!(found.unwrap().log.verify(&BTreeMap::new()).faults[0].number, 2, "the entry is named, too");
    assert_eq!(error(&text.replace("audit_export\":1", "audit_export\":2")), ExportError::Newer(2));
    assert!(matches!(error(&format!("{text}{{}}\n")), ExportError::Line { line: 7, .. }));
    assert!(matches!(error(&text.replacen("\"writer\":\"gateway\"", "\"writer\":\"a/b\"", 1)), ExportError::Line { .. }));
    let second = text.lines().nth(1).unwrap();
    assert!(matches!(error(&text.replacen(second, &format!("{second}\n{second}"), 1)), ExportError::Line { line: 3, .. }));
}

#[test]
fn a_file_that_another_program_made_is_read_as_it_says() {
    let file = include_bytes!("../vectors/audit_export_v1.jsonl");
    let export = AuditExport::parse(file).unwrap();
    let report = export.log.verify(&BTreeMap::new());
    let told: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["entry 2 of gateway: the entries from it up to entry 2 are missing", "entry 3 of gateway: not a record"]);
    assert!(report.is_linked());
    assert_eq!(export.to_bytes().unwrap(), file);
}

/// What somebody does to a log.
#[derive(Clone, Debug)]
enum Attack {
    Change,
    Remove,
    Swap,
    CutOff,
    Insert,
}

fn attack(store: &MemoryStore, attack: &Attack, which: usize, other: usize) -> bool {
    let log: Vec<Entry> = WRITERS.iter().flat_map(|writer| chain(store, writer)).collect();
    let entry = &log[which % log.len()];
    let writer = entry.key.segments().nth(1).unwrap();
    let replace = |entry: &Entry, value: &[u8]| {
        block_on(store.put(&entry.key, value, Expect::Revision(entry.revision))).unwrap();
    };
    match attack {
        Attack::Change => {
            let mut value: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
            match other % 4 {
                0 => value["event"]["subject"] = "somebody@else".into(),
                1 => value["event"]["at"] = "2020-01-01T00:00:00Z".into(),
                2 => value["event"]["details"] = serde_json::json!({ "more": "" }),
                _ => value["previous"] = "1".repeat(64).into(),
            }
            replace(entry, value.to_string().as_bytes());
        }
        Attack::Remove => delete(store, entry),
        Attack::Swap => {
            let with = &log[other % log.len()];
            if with.key == entry.key || with.value == entry.value {
                return false;
            }
            replace(entry, &with.value);
            replace(with, &entry.value);
        }
        Attack::CutOff => {
            let number: u64 = entry.key.name().parse().unwrap();
            for entry in chain(store, writer).iter().filter(|entry| entry.key.name().parse::<u64>().unwrap() >= number) {
                delete(store, entry);
            }
        }
        Attack::Insert => {
            let next = chain(store, writer).len() as u64 + 1;
            block_on(store.put(&place(writer, next), &entry.value, Expect::Absent)).unwrap();
        }
    }
    true
}

fn attacks() -> impl Strategy<Value = Attack> {
    prop_oneof![Just(Attack::Change), Just(Attack::Remove), Just(Attack::Swap), Just(Attack::CutOff), Just(Attack::Insert)]
}

proptest! {
    #[test]
    fn n4_whoever_has_seen_the_log_finds_every_change(
        turns in prop::collection::vec(0_usize..3, 1..24), how in attacks(), which: usize, other: usize,
    ) {
        let store = log_by(&turns);
        let report = verify(&store);
        prop_assert_eq!(&report.faults, &[]);
        let seen = report.sound_heads();
        prop_assert_eq!(&read(&store).verify(&seen).faults, &[]);
        prop_assume!(attack(&store, &how, which, other));
        let faults = read(&store).verify(&seen).faults;
        prop_assert!(!faults.is_empty());
    }

    #[test]
    fn n4_whoever_sees_it_for_the_first_time_finds_all_that_the_others_have_seen(
        turns in prop::collection::vec(0_usize..3, 1..24), how in attacks(), which: usize, other: usize,
    ) {
        // The last word has somebody who is left alone.
        let store = log_by(&turns);
        block_on(StoreAudit::new(&store, "last").record_with_all_heads(event(99))).unwrap();
        prop_assert_eq!(&verify(&store).faults, &[]);
        prop_assume!(attack(&store, &how, which, other));
        prop_assert!(!verify(&store).faults.is_empty());
    }

    #[test]
    fn a_file_says_what_was_written_to_it(turns in prop::collection::vec(0_usize..3, 0..12), at in 0_usize..4_000, to: u8) {
        let store = log_by(&turns);
        let mut file = file_of(&store);
        let read_back = AuditExport::parse(&file).map_err(|(_, error)| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&read_back.log, &read(&store));
        prop_assert_eq!(&read_back.to_bytes().unwrap(), &file);
        let at = at % file.len();
        prop_assume!(file[at] != to);
        file[at] = to;
        if let Ok(other) = AuditExport::parse(&file) {
            // White space in the last line is the most that it can be.
            prop_assert_eq!(&other.log, &read_back.log);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,200}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Ok(export) = AuditExport::parse(bytes) {
                prop_assert_eq!(AuditExport::parse(&export.to_bytes().unwrap()).unwrap(), export);
            }
        }
    }
}
