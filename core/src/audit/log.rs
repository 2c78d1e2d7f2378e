//! The audit log of all writers, as it was read.

use std::collections::BTreeMap;

use super::{AuditEntry, AuditFault, AuditFlaw, place_of};
use crate::record::Stored;
use crate::store::{Key, Store, StoreError};

/// What stands in a place of a chain: an entry, or why it cannot be read.
pub type FoundEntry = Result<AuditEntry, AuditFlaw>;

/// The audit log of all writers, as it was read: nothing in it has been verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLog {
    pub(super) chains: BTreeMap<String, BTreeMap<u64, FoundEntry>>,
    /// What has no place in a chain.
    pub(super) strays: Vec<AuditFault>,
}

impl AuditLog {
    /// Reads all of it. An entry that cannot be read hides no other.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn read<S: Store + ?Sized>(store: &S) -> Result<Self, StoreError> {
        let mut log = Self::default();
        for entry in store.list(&Key::literal("audit")).await? {
            let Some((writer, number)) = place_of(&entry.key) else {
                let writer = entry.key.segments().nth(1).unwrap_or_default().to_owned();
                let flaw = AuditFlaw::Stray { key: entry.key.to_string() };
                log.strays.push(AuditFault { writer, number: 0, flaw });
                continue;
            };
            let found = match Stored::<AuditEntry>::decode(&entry) {
                Ok(stored) if stored.says_more_than_its_body(&entry) => Err(AuditFlaw::Extended),
                Ok(stored) => Ok(stored.body),
                Err(error) => Err(AuditFlaw::Unreadable { why: error.to_string() }),
            };
            log.put(writer, number, found);
        }
        Ok(log)
    }

    /// Puts something into a place of a chain; gives back what was there.
    pub fn put(&mut self, writer: &str, number: u64, found: FoundEntry) -> Option<FoundEntry> {
        self.chains.entry(writer.to_owned()).or_default().insert(number, found)
    }

    /// Whose chains there are.
    pub fn writers(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// All that there is, by writer and number.
    pub fn places(&self) -> impl Iterator<Item = (&str, u64, &FoundEntry)> {
        self.chains.iter().flat_map(|(writer, chain)| chain.iter().map(move |(number, found)| (writer.as_str(), *number, found)))
    }

    /// What stands in one place.
    pub fn find(&self, writer: &str, number: u64) -> Option<&FoundEntry> {
        self.chains.get(writer)?.get(&number)
    }

    /// The entries that can be read, of all writers, by the time of their events; those of one writer stay in the order of their
    /// numbers where their times are the same.
    pub fn by_time(&self) -> Vec<(&str, &AuditEntry)> {
        let mut entries: Vec<_> = self.places().filter_map(|(writer, _, found)| Some((writer, found.as_ref().ok()?))).collect();
        entries.sort_by_key(|(writer, entry)| (entry.event.at, *writer, entry.number));
        entries
    }
}
