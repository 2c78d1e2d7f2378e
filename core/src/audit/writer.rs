//! Appending to a chain in a store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    AuditEntry, AuditEvent, AuditHead, AuditSink, AuditWriter, NOTHING, chain_key, chain_prefix, place_of, unusable_writer,
};
use crate::record::Stored;
use crate::store::{Key, Store, StoreError};

/// How often a place that is taken and yet empty is tried again.
const TRIES: u32 = 8;

/// An audit log in a [`Store`], one chain for each writer.
#[derive(Debug)]
pub struct StoreAudit<S> {
    store: S,
    writer: String,
    known: Mutex<Known>,
}

/// What need not be read again. All of it may be out of date.
#[derive(Debug, Default)]
struct Known {
    /// The last entry of each chain that was seen.
    heads: BTreeMap<String, AuditHead>,
    /// How far this chain has named the others, as far as this process knows.
    named: BTreeMap<String, u64>,
}

impl<S: Store> StoreAudit<S> {
    /// The log of `writer`, which is one segment of a store key.
    pub fn new(store: S, writer: impl Into<String>) -> Self {
        Self { store, writer: writer.into(), known: Mutex::default() }
    }

    /// Whose chain it is.
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// Appends `event` with the last entries of all other chains, and not only of those that have grown.
    ///
    /// # Errors
    /// As [`AuditSink::record`].
    pub async fn record_with_all_heads(&self, event: AuditEvent) -> Result<(), StoreError> {
        self.append(event, true).await
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn entry(&self, writer: &str, number: u64) -> Result<Option<AuditEntry>, StoreError> {
        let stored = Stored::read(&self.store, &chain_key(writer, number)?).await?;
        stored.map(|stored| in_its_place(stored, number)).transpose()
    }

    /// The last entry of a chain, which is dense from its first entry on, beginning where it is thought to be.
    async fn last(&self, writer: &str, first: u64) -> Result<Option<AuditEntry>, StoreError> {
        let known = self.known().heads.get(writer).map(|head| head.number);
        if let Some(number) = known
            // In this order: entries go from the front, so that one that is still there was the last when the next was not.
            && self.entry(writer, number.saturating_add(1)).await?.is_none()
            && let Some(entry) = self.entry(writer, number).await?
        {
            return Ok(Some(entry));
        }
        let last = match self.entry(writer, known.unwrap_or(first)).await? {
            Some(entry) => self.climb(writer, entry).await?,
            None => None,
        };
        match last {
            Some(last) => Ok(Some(last)),
            None => self.listed_last(writer).await,
        }
    }

    /// From an entry of a chain to its last: steps that double, then halve. `None` where entries went away meanwhile.
    async fn climb(&self, writer: &str, mut last: AuditEntry) -> Result<Option<AuditEntry>, StoreError> {
        let mut step = 1;
        let mut absent = last.number.saturating_add(step);
        while let Some(entry) = self.entry(writer, absent).await? {
            last = entry;
            step = step.saturating_mul(2);
            absent = last.number.saturating_add(step);
        }
        while absent - last.number > 1 {
            let middle = last.number + (absent - last.number) / 2;
            match self.entry(writer, middle).await? {
                Some(entry) => last = entry,
                None => absent = middle,
            }
        }
        self.entry(writer, last.number).await
    }

    async fn listed_last(&self, writer: &str) -> Result<Option<AuditEntry>, StoreError> {
        let entries = self.store.list(&chain_prefix(writer)?).await?;
        let last = entries.iter().rev().find_map(|entry| place_of(&entry.key).map(|(_, number)| (entry, number)));
        last.map(|(entry, number)| in_its_place(Stored::decode(entry)?, number)).transpose()
    }

    /// Where each chain begins. A writer that is not among them is put there; the first one to do so puts the chains of earlier
    /// releases there, too.
    async fn firsts(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let writers = self.store.list(&AuditWriter::prefix()).await?;
        let mut firsts: BTreeMap<String, u64> = writers
            .iter()
            .filter_map(|entry| Stored::<AuditWriter>::decode(entry).ok())
            .map(|stored| (stored.key.name().to_owned(), stored.body.first))
            .collect();
        if firsts.contains_key(&self.writer) {
            return Ok(firsts);
        }
        let mut missing = BTreeMap::from([(self.writer.clone(), 1)]);
        for entry in self.store.list(&Key::literal("audit")).await?.iter().rev() {
            if let Some((writer, number)) = place_of(&entry.key).filter(|(writer, _)| !firsts.contains_key(*writer)) {
                missing.insert(writer.to_owned(), number);
            }
        }
        for (writer, first) in missing {
            let key = AuditWriter::key(&writer).map_err(|error| unusable_writer(&writer, error))?;
            match Stored::create(&self.store, key, AuditWriter { first }).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => firsts.insert(writer, first),
                // Where each may write only what is his own, somebody else says where that chain begins.
                Err(StoreError::Refused { .. }) if writer != self.writer => firsts.insert(writer, first),
                Err(error) => return Err(error),
            };
        }
        Ok(firsts)
    }

    /// The last entries of the other chains. What cannot be read is left out: an event without them is better than none.
    async fn others(&self, firsts: &BTreeMap<String, u64>) -> BTreeMap<String, AuditHead> {
        let mut heads = BTreeMap::new();
        for (writer, first) in firsts.iter().filter(|(writer, _)| **writer != self.writer) {
            if let Ok(Some(last)) = self.last(writer, *first).await {
                self.known().heads.insert(writer.clone(), last.head());
                heads.insert(writer.clone(), last.head());
            }
        }
        heads
    }

    async fn append(&self, event: AuditEvent, all: bool) -> Result<(), StoreError> {
        let firsts = self.firsts().await.unwrap_or_default();
        let others = self.others(&firsts).await;
        let mut last = self.last(&self.writer, firsts.get(&self.writer).copied().unwrap_or(1)).await?;
        let mut tries = 0;
        loop {
            if let Some(last) = &last {
                self.note(last);
            }
            let heads = {
                let named = &self.known().named;
                let has_grown = |writer: &str, head: &AuditHead| named.get(writer).is_none_or(|named| *named < head.number);
                others
                    .iter()
                    .filter(|(writer, head)| all || has_grown(writer, head))
                    .map(|(w, h)| (w.clone(), h.clone()))
                    .collect()
            };
            let entry = AuditEntry {
                number: last.as_ref().map_or(1, |last| last.number.saturating_add(1)),
                previous: last.as_ref().map_or_else(|| NOTHING.to_owned(), AuditEntry::hash),
                event: event.clone(),
                heads,
            };
            match Stored::create(&self.store, chain_key(&self.writer, entry.number)?, entry.clone()).await {
                Ok(_) => {
                    self.note(&entry);
                    return Ok(());
                }
                Err(error @ StoreError::Conflict { .. }) => match self.entry(&self.writer, entry.number).await? {
                    // Another process of the same writer was faster; its entry is the one to follow.
                    Some(faster) => last = Some(faster),
                    None if tries == TRIES => return Err(error),
                    None => tries += 1,
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps in mind what an entry of this chain says.
    fn note(&self, entry: &AuditEntry) {
        let mut known = self.known();
        known.heads.insert(self.writer.clone(), entry.head());
        for (writer, head) in &entry.heads {
            let named = known.named.entry(writer.clone()).or_default();
            *named = head.number.max(*named);
        }
    }
}

impl<S: Store> AuditSink for StoreAudit<S> {
    async fn record(&self, event: AuditEvent) -> Result<(), StoreError> {
        self.append(event, false).await
    }
}

/// An entry that says the number that its key has. Another one leads nowhere: who followed it would never come to the chain's end.
fn in_its_place(stored: Stored<AuditEntry>, number: u64) -> Result<AuditEntry, StoreError> {
    if stored.body.number == number && number < u64::MAX {
        return Ok(stored.body);
    }
    Err(StoreError::Corrupt { key: stored.key, reason: format!("it says that it is entry {}", stored.body.number) })
}
