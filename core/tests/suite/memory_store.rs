//! The store in memory is a store, and the suite that says so notices stores that are none.

use std::time::Duration;

use toehold_core::testing::{
    Crashing, Faults, ManualClock, MemoryStore, MemoryWatch, Process, block_on, run_until_stalled, store_conformance, yield_now,
};
use toehold_core::{Clock as _, Entry, Expect, Key, Revision, Store, StoreError, Watch as _};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

#[test]
fn no_lost_update_and_the_rest_of_the_contract() {
    block_on(store_conformance(&MemoryStore::new()));
    block_on(store_conformance(&MemoryStore::new().with_max_value(300_000)));
}

#[test]
fn no_lost_update_when_every_call_takes_turns_with_the_others() {
    let faults = Faults::new();
    faults.take_turns(true);
    block_on(store_conformance(&Crashing::new(MemoryStore::new(), faults)));
}

#[test]
fn values_are_dated_by_the_given_clock() {
    let clock = ManualClock::default();
    let store = MemoryStore::with_clock(clock.clone());
    clock.advance(Duration::from_secs(90));
    block_on(store.put(&key("a"), b"1", Expect::Absent)).unwrap();
    assert_eq!(block_on(store.get(&key("a"))).unwrap().unwrap().written_at, clock.now());
}

#[test]
fn clones_are_one_store_and_a_restored_backup_forgets_what_came_after() {
    let store = MemoryStore::new();
    let first = block_on(store.put(&key("a"), b"1", Expect::Absent)).unwrap();
    let backup = store.entries();
    block_on(store.clone().put(&key("a"), b"2", Expect::Revision(first))).unwrap();
    block_on(store.put(&key("b"), b"3", Expect::Absent)).unwrap();
    assert_eq!(store.entries().len(), 2);
    store.restore(backup.clone());
    assert_eq!(store.entries(), backup);
    block_on(store.put(&key("a"), b"4", Expect::Revision(first))).unwrap();
}

#[test]
fn a_watch_waits_until_something_changes() {
    let store = MemoryStore::new();
    let mut watch = block_on(store.watch(&key("session"))).unwrap();
    assert!(run_until_stalled(watch.changed()).is_none());
    let mut waiting = Process::new(watch.changed());
    assert!(waiting.run().is_none());
    block_on(store.put(&key("session/1"), b"", Expect::Absent)).unwrap();
    assert_eq!(waiting.run().unwrap().unwrap(), key("session/1"));
}

#[test]
fn what_is_over_the_limit_is_named_with_its_size() {
    let store = MemoryStore::new().with_max_value(3);
    let error = block_on(store.put(&key("a"), b"four", Expect::Absent)).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { got: 4, limit: 3, .. }), "{error}");
}

/// A store with one thing wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    BlindDelete,
    BlindPut,
    CheckThenWrite,
    NoLimit,
    PrefixByText,
    RevisionPerValue,
    Unordered,
    WatchOfEverything,
}

struct Flawed(MemoryStore, Flaw);

impl Store for Flawed {
    type Watch = MemoryWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let mut entry = self.0.get(key).await?;
        if let Some(entry) = entry.as_mut().filter(|_| self.1 == Flaw::RevisionPerValue) {
            entry.revision = Revision(1 + entry.value.len() as u64);
        }
        Ok(entry)
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let present = self.0.get(key).await?.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        match self.1 {
            Flaw::BlindPut => self.0.put(key, value, present).await,
            Flaw::CheckThenWrite if present == expect => {
                yield_now().await;
                let present = self.0.get(key).await?.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                self.0.put(key, value, present).await
            }
            Flaw::RevisionPerValue => {
                let seen = self.get(key).await?.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                if seen != expect {
                    return Err(StoreError::Conflict { key: key.clone() });
                }
                self.0.put(key, value, present).await?;
                Ok(Revision(1 + value.len() as u64))
            }
            _ => self.0.put(key, value, expect).await,
        }
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        let entry = self.get(key).await?.filter(|entry| entry.revision == revision || self.1 == Flaw::BlindDelete);
        let entry = entry.ok_or_else(|| StoreError::Conflict { key: key.clone() })?;
        let present = self.0.get(&entry.key).await?.map_or(revision, |entry| entry.revision);
        self.0.delete(key, present).await
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        let mut entries = match self.1 {
            Flaw::PrefixByText => {
                let all = self.0.entries().into_iter();
                all.filter(|entry| entry.key != *prefix && entry.key.as_str().starts_with(prefix.as_str())).collect()
            }
            _ => self.0.list(prefix).await?,
        };
        if self.1 == Flaw::Unordered {
            entries.reverse();
        }
        Ok(entries)
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        self.0.kinds().await
    }

    async fn watch(&self, prefix: &Key) -> Result<MemoryWatch, StoreError> {
        let everything = Key::parse("conformance").unwrap();
        self.0.watch(if self.1 == Flaw::WatchOfEverything { &everything } else { prefix }).await
    }

    fn max_value(&self) -> usize {
        if self.1 == Flaw::NoLimit { 64 * 1024 } else { self.0.max_value() }
    }
}

#[test]
fn the_suite_finds_every_flaw() {
    for (flaw, rule) in [
        (Flaw::BlindDelete, "an old revision does not delete"),
        (Flaw::BlindPut, "an absent key has no revision"),
        (Flaw::CheckThenWrite, "two writers were told"),
        (Flaw::NoLimit, "is too large"),
        (Flaw::PrefixByText, "by whole segments"),
        (Flaw::RevisionPerValue, "of an earlier life"),
        (Flaw::Unordered, "in the order of the keys"),
        (Flaw::WatchOfEverything, "the first report"),
    ] {
        let suite = || block_on(store_conformance(&Flawed(MemoryStore::new(), flaw)));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(suite)).expect_err(rule);
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(rule), "{rule}: {message}");
    }
}
