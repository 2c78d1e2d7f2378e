//! The audit log in a store: dense, chained, and broken wherever somebody has been at it.

use std::collections::BTreeMap;
use std::time::Duration;

use toehold_core::testing::{Crashing, Fault, Faults, ManualClock, MemoryStore, block_on, join_all};
use toehold_core::{
    AuditEntry, AuditEvent, AuditFault, AuditFlaw, AuditLog, AuditSink as _, Clock as _, Expect, Key, Store as _, StoreAudit,
    StoreError, Stored,
};

fn event(number: usize) -> AuditEvent {
    let at = ManualClock::default().now().saturating_add(Duration::from_secs(number as u64));
    AuditEvent::new(at, "session.completed", format!("deploy@web{number}")).with("fingerprint", "SHA256:…")
}

fn chain_of(entries: usize) -> MemoryStore {
    let store = MemoryStore::new();
    let audit = StoreAudit::new(&store, "laptop");
    for number in 0..entries {
        block_on(audit.record(event(number))).unwrap();
    }
    store
}

fn log_of(store: &MemoryStore) -> AuditLog {
    block_on(AuditLog::read(store)).unwrap()
}

fn entries_of(store: &MemoryStore, writer: &str) -> Vec<AuditEntry> {
    let log = log_of(store);
    log.places().filter(|(of, ..)| *of == writer).map(|(_, _, found)| found.clone().unwrap()).collect()
}

fn verify(store: &MemoryStore) -> Result<Vec<AuditEntry>, AuditFault> {
    match log_of(store).verify(&BTreeMap::new()).faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(entries_of(store, "laptop")),
    }
}

fn broken_at(store: &MemoryStore) -> u64 {
    let broken = verify(store).unwrap_err();
    assert_eq!(broken.writer, "laptop");
    broken.number
}

fn keys(store: &MemoryStore) -> Vec<Key> {
    store.entries().into_iter().map(|entry| entry.key).filter(|key| key.as_str().starts_with("audit/")).collect()
}

fn replace(store: &MemoryStore, key: &Key, change: impl FnOnce(&mut AuditEntry)) {
    let mut stored = block_on(Stored::<AuditEntry>::read(store, key)).unwrap().unwrap();
    change(&mut stored.body);
    block_on(stored.save(store)).unwrap();
}

#[test]
fn entries_are_dense_chained_and_in_order() {
    for length in [0, 1, 2, 3, 7, 8, 9, 33] {
        let store = chain_of(length);
        let entries = verify(&store).unwrap();
        assert_eq!(entries.len(), length);
        for (index, entry) in entries.iter().enumerate() {
            assert_eq!((entry.number, &entry.event), (index as u64 + 1, &event(index)));
            let before = index.checked_sub(1).map_or_else(|| "0".repeat(64), |before| entries[before].hash());
            assert_eq!(entry.previous, before);
        }
    }
}

#[test]
fn the_hash_is_what_its_documentation_says() {
    let entry = AuditEntry {
        number: 1,
        previous: "0".repeat(64),
        event: AuditEvent::new(ManualClock::default().now(), "a.b", "c"),
        heads: BTreeMap::new(),
    };
    // printf '%s' '{"number":1,"previous":"000…","event":{"at":"2026-11-23T01:00:00Z","what":"a.b","subject":"c"}}' | sha256sum
    assert_eq!(entry.hash(), "48bba2a92448e97ddb450bef49cbb34deb05b2f1e322434e4eadaea2cdb068ed");
}

#[test]
fn writers_of_one_chain_that_meet_lose_no_entry() {
    let store = MemoryStore::new();
    let faults = Faults::new();
    faults.take_turns(true);
    let audits: Vec<_> = (0..5).map(|_| StoreAudit::new(Crashing::new(store.clone(), faults.clone()), "laptop")).collect();
    let results = block_on(join_all(audits.iter().enumerate().map(|(writer, audit)| async move {
        for round in 0..4 {
            audit.record(event(writer * 10 + round)).await?;
        }
        Ok::<(), StoreError>(())
    })));
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let mut subjects: Vec<String> = verify(&store).unwrap().into_iter().map(|entry| entry.event.subject).collect();
    subjects.sort();
    let mut wanted: Vec<String> = (0..5).flat_map(|writer| (0..4).map(move |round| event(writer * 10 + round).subject)).collect();
    wanted.sort();
    assert_eq!(subjects, wanted);
}

#[test]
fn chains_of_other_writers_are_apart() {
    let store = chain_of(3);
    for writer in ["laptop2", "lap", "root@[::1]:22"] {
        block_on(StoreAudit::new(&store, writer).record(event(9))).unwrap();
        assert_eq!(entries_of(&store, writer).len(), 1);
    }
    assert_eq!(verify(&store).unwrap().len(), 3);
    let error = block_on(StoreAudit::new(&store, "a/b").record(event(0))).unwrap_err();
    assert!(error.to_string().contains("a/b"), "{error}");
}

#[test]
fn a_changed_entry_is_seen_by_the_next_one() {
    for number in 0..4 {
        let store = chain_of(5);
        replace(&store, &keys(&store)[number], |entry| entry.event.subject.push('x'));
        assert_eq!(broken_at(&store), number as u64 + 2);
    }
}

#[test]
fn a_missing_entry_is_seen() {
    for number in 0..4 {
        let store = chain_of(5);
        let entry = store.entries().remove(number);
        block_on(store.delete(&entry.key, entry.revision)).unwrap();
        // Where the first one is missing, the chain begins with the second.
        assert_eq!(broken_at(&store), (number as u64 + 1).max(2));
    }
}

#[test]
fn entries_that_changed_places_are_seen() {
    let store = chain_of(5);
    let bodies: Vec<AuditEntry> = verify(&store).unwrap();
    let keys = keys(&store);
    replace(&store, &keys[1], |entry| *entry = bodies[2].clone());
    replace(&store, &keys[2], |entry| *entry = bodies[1].clone());
    assert_eq!(broken_at(&store), 2);
    // Renumbered as well, so that only the hashes tell.
    replace(&store, &keys[1], |entry| entry.number = 2);
    replace(&store, &keys[2], |entry| entry.number = 3);
    assert_eq!(broken_at(&store), 2);
}

#[test]
fn an_entry_put_in_between_is_seen() {
    let store = chain_of(2);
    let mut forged = verify(&store).unwrap().remove(1);
    forged.number = 3;
    let key = Key::new(["audit", "laptop", "00000000000000000003"]).unwrap();
    block_on(Stored::create(&store, key, forged)).unwrap();
    assert_eq!(broken_at(&store), 3);
}

#[test]
fn a_failing_store_is_told_and_the_chain_stays_whole() {
    let store = chain_of(3);
    let calls = {
        let faults = Faults::new();
        block_on(StoreAudit::new(Crashing::new(store.clone(), faults.clone()), "laptop").record(event(3))).unwrap();
        faults.log()
    };
    for call in calls {
        for fault in call.kind.faults().iter().filter(|fault| **fault != Fault::Hang) {
            let store = chain_of(3);
            let faults = Faults::new();
            faults.fail_at(call.number, *fault);
            let result = block_on(StoreAudit::new(Crashing::new(store.clone(), faults), "laptop").record(event(3)));
            let written = verify(&store).unwrap().len();
            match fault {
                // An event that is told as lost may be there.
                Fault::UnavailableAfter if result.is_err() => assert_eq!(written, 4, "{result:?} at {call}"),
                _ => assert_eq!(written, if result.is_ok() { 4 } else { 3 }, "{result:?} at {call}"),
            }
        }
    }
}

#[test]
fn what_is_no_entry_is_an_error() {
    let store = chain_of(1);
    let key = Key::new(["audit", "laptop", "00000000000000000002"]).unwrap();
    block_on(store.put(&key, b"{}", Expect::Absent)).unwrap();
    let fault = verify(&store).unwrap_err();
    assert_eq!(fault.number, 2);
    assert!(matches!(fault.flaw, AuditFlaw::Unreadable { .. }), "{fault}");
}

/// An entry that says another number than its key would lead whoever follows it round and round.
#[test]
fn an_entry_with_another_number_holds_no_writer_up() {
    for said in [0, 1, 3, 9, 40, u64::MAX] {
        for at in [2, 5, 9] {
            let store = chain_of(9);
            let other = StoreAudit::new(&store, "phone");
            block_on(other.record(event(1))).unwrap();
            replace(&store, &keys(&store)[at - 1], |entry| entry.number = said);
            // By one that remembers, one that comes new, and one whose own chain it is.
            block_on(other.record(event(2))).unwrap();
            block_on(StoreAudit::new(&store, "tablet").record(event(3))).unwrap();
            let own = block_on(StoreAudit::new(&store, "laptop").record(event(4)));
            assert!(matches!(own, Ok(()) | Err(StoreError::Corrupt { .. })), "{at} says {said}: {own:?}");
        }
    }
}
