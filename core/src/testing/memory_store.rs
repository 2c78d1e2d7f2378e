//! A store in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};

use super::{ManualClock, lock};
use crate::store::{Entry, Expect, Key, Revision, Store, StoreError, Watch};
use crate::time::Clock;

/// A [`Store`] in memory. Clones are handles of one store; nothing outlives the last of them.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
    clock: Arc<dyn Clock>,
    max_value: usize,
}

#[derive(Default)]
struct Shared {
    entries: BTreeMap<Key, Entry>,
    /// One counter for all keys, so that a key that comes back never gets an old revision.
    revision: u64,
    watches: Vec<(Key, Weak<Mutex<Changes>>)>,
}

#[derive(Default)]
struct Changes {
    keys: VecDeque<Key>,
    waker: Option<Waker>,
}

impl Shared {
    fn notify(&mut self, key: &Key) {
        self.watches.retain(|(prefix, changes)| {
            let Some(changes) = changes.upgrade() else { return false };
            if key.is_below(prefix) {
                let mut changes = lock(&changes);
                if !changes.keys.contains(key) {
                    changes.keys.push_back(key.clone());
                }
                if let Some(waker) = changes.waker.take() {
                    waker.wake();
                }
            }
            true
        });
    }

    fn is_as_expected(&self, key: &Key, expect: Expect) -> bool {
        match expect {
            Expect::Absent => !self.entries.contains_key(key),
            Expect::Revision(revision) => self.entries.get(key).is_some_and(|entry| entry.revision == revision),
        }
    }

    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }
}

impl MemoryStore {
    /// An empty store that takes values of up to 1 MiB and dates them by a clock of its own, which stands still.
    pub fn new() -> Self {
        Self::with_clock(ManualClock::default())
    }

    /// An empty store that dates its values by `clock`.
    pub fn with_clock(clock: impl Clock + 'static) -> Self {
        Self { shared: Arc::default(), clock: Arc::new(clock), max_value: 1024 * 1024 }
    }

    /// The same with another largest value, in bytes.
    #[must_use]
    pub fn with_max_value(mut self, bytes: usize) -> Self {
        self.max_value = bytes;
        self
    }

    /// Everything that is in the store, in the order of the keys.
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.shared).entries.values().cloned().collect()
    }

    /// Puts back what [`MemoryStore::entries`] returned earlier, as somebody does who restores a backup: revisions included,
    /// everything written since is gone. Watches hear of nothing.
    pub fn restore(&self, entries: Vec<Entry>) {
        let mut shared = lock(&self.shared);
        shared.revision = entries.iter().map(|entry| entry.revision.0).max().unwrap_or(0);
        shared.entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("entries", &lock(&self.shared).entries.len()).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    type Watch = MemoryWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(lock(&self.shared).entries.get(key).cloned())
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        if value.len() > self.max_value {
            return Err(StoreError::TooLarge { key: key.clone(), got: value.len(), limit: self.max_value });
        }
        let mut shared = lock(&self.shared);
        if !shared.is_as_expected(key, expect) {
            return Err(StoreError::Conflict { key: key.clone() });
        }
        let revision = shared.next_revision();
        let entry = Entry { key: key.clone(), value: value.to_vec(), revision, written_at: self.clock.now() };
        shared.entries.insert(key.clone(), entry);
        shared.notify(key);
        Ok(revision)
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        let mut shared = lock(&self.shared);
        if !shared.is_as_expected(key, Expect::Revision(revision)) {
            return Err(StoreError::Conflict { key: key.clone() });
        }
        shared.next_revision();
        shared.entries.remove(key);
        shared.notify(key);
        Ok(())
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        Ok(lock(&self.shared).entries.values().filter(|entry| entry.key.is_below(prefix)).cloned().collect())
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        let kinds: BTreeSet<Key> = lock(&self.shared).entries.keys().map(Key::kind).collect();
        Ok(kinds.into_iter().collect())
    }

    async fn watch(&self, prefix: &Key) -> Result<MemoryWatch, StoreError> {
        let changes = Arc::default();
        lock(&self.shared).watches.push((prefix.clone(), Arc::downgrade(&changes)));
        Ok(MemoryWatch { changes, _shared: self.shared.clone() })
    }

    fn max_value(&self) -> usize {
        self.max_value
    }
}

/// The changes below a prefix of a [`MemoryStore`].
pub struct MemoryWatch {
    changes: Arc<Mutex<Changes>>,
    /// A watch keeps its store alive.
    _shared: Arc<Mutex<Shared>>,
}

impl fmt::Debug for MemoryWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryWatch").finish_non_exhaustive()
    }
}

impl Watch for MemoryWatch {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        poll_fn(|context| {
            let mut changes = lock(&self.changes);
            if let Some(key) = changes.keys.pop_front() {
                return Poll::Ready(Ok(key));
            }
            changes.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
