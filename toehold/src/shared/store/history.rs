//! What a store was seen to be, and whether it still is (N3).

use toehold_core::{AuditEntry, AuditWriter, CurrentMasterKey, Entry, Key, Revision, Store as _, StoreError, Stored, Timestamp};

use super::{Backing, KEPT, SignedError, SignedStore, Signer, check_continues, lock, read_chain};
use crate::shared::envelope::Distrust;
use crate::shared::marks::{Behind, Seen};

impl<S: Backing, K: Signer> SignedStore<S, K> {
    /// Remembers what must not go back.
    pub(super) fn note(&self, key: &Key, value: &[u8], revision: Revision) {
        if !KEPT.contains(&key.as_str()) {
            return;
        }
        let entry = Entry { key: key.clone(), value: value.to_vec(), revision, written_at: Timestamp::UNIX_EPOCH };
        let generation = Stored::<CurrentMasterKey>::decode(&entry).ok().map(|current| current.body.generation);
        self.inner.marks.note(|seen| {
            let is_later = generation > seen.generation;
            if is_later {
                seen.generation = generation;
            }
            seen.note_revision(key.as_str(), revision.0) || is_later
        });
    }

    pub(super) fn note_own(&self, key: &Key, value: &[u8], revision: Revision) {
        {
            let mut known = lock(&self.inner.known);
            let seen = known.entry(key.clone()).or_default();
            seen.revision = seen.revision.max(revision.0);
        }
        if key.segments().next() == Some("audit") {
            self.note_audit(key, value, revision);
        }
        self.note_written(revision);
        if KEPT.contains(&key.as_str()) {
            self.note(key, value, revision);
            // The next process may be the first to look after the store was put back.
            self.save_marks();
        }
    }

    /// Remembers how far the store had come when it was written to from here.
    pub(super) fn note_written(&self, revision: Revision) {
        self.inner.marks.note(|seen| seen.note_written(revision.0));
        self.save_marks_at_times();
    }

    /// Remembers the end of this machine's own chain of the audit log.
    fn note_audit(&self, key: &Key, value: &[u8], revision: Revision) {
        let entry = Entry { key: key.clone(), value: value.to_vec(), revision, written_at: Timestamp::UNIX_EPOCH };
        let Ok(entry) = Stored::<AuditEntry>::decode(&entry) else { return };
        let head = entry.body.head();
        self.inner.marks.note(|seen| {
            let is_own = key.segments().nth(1) == Some(seen.writer.as_str());
            let is_later = seen.audit.as_ref().is_none_or(|last| last.number < head.number);
            if is_own && is_later {
                seen.audit = Some(head);
            }
            is_own && is_later
        });
    }

    /// In what the store is behind what this machine has seen of it (N3).
    ///
    /// # Errors
    /// As [`Store::get`](toehold_core::Store::get); [`SignedError::Forked`] and the like where its lists of members are others.
    pub async fn behind(&self) -> Result<Vec<Behind>, SignedError> {
        // Before anything is read: what others add meanwhile is seen by the next look.
        let seen = self.inner.marks.seen();
        let mut behind = Vec::new();
        // Not those that were read before: the store may have been put back since.
        let there = match read_chain(&self.inner.store).await? {
            Some(chain) => {
                check_continues(&chain, &self.inner.marks)?;
                chain.hashes().len()
            }
            None => 0,
        };
        if let (Some(written), Some(last)) = (seen.written, self.inner.store.last_revision().await?)
            && last < written
        {
            behind.push(Behind::Revision { seen: written, found: last });
        }
        if there < seen.sets.len() {
            behind.push(Behind::Members { seen: seen.sets.len(), found: there });
        }
        for (key, revision) in &seen.revisions {
            let key = Key::parse(key)?;
            let is_behind = match self.inner.store.get(&key).await? {
                None => true,
                Some(entry) => entry.revision.0 < *revision || self.judge(&entry).await?.err() == Some(Distrust::PutBack),
            };
            if is_behind {
                behind.push(Behind::Record { key: key.to_string() });
            }
        }
        let current = Stored::<CurrentMasterKey>::read(self, &CurrentMasterKey::key()?).await;
        if let (Some(seen), Ok(Some(current))) = (seen.generation, current)
            && current.body.generation < seen
        {
            behind.push(Behind::Generation { seen, found: current.body.generation });
        }
        if let Some(head) = &seen.audit {
            let key = Key::new(["audit", &seen.writer, &format!("{:020}", head.number)])?;
            let entry = match Stored::<AuditEntry>::read(self, &key).await {
                Err(error @ StoreError::Unavailable { .. }) => return Err(error.into()),
                read => read,
            };
            let is_there = match &entry {
                Ok(Some(entry)) => entry.body.head() == *head,
                Ok(None) => false,
                // Somebody has put something there that nobody takes, and whoever reads it is told so: no backup has that.
                Err(_) => true,
            };
            let is_pruned = matches!(entry, Ok(None)) && self.is_pruned(&seen.writer, head.number).await?;
            if !is_there && !is_pruned {
                behind.push(Behind::Audit { number: head.number });
            }
        }
        Ok(behind)
    }

    /// Whether the beginning of a chain was removed, up to this entry.
    async fn is_pruned(&self, writer: &str, number: u64) -> Result<bool, StoreError> {
        let first = Stored::<AuditWriter>::read(self, &AuditWriter::key(writer)?).await?;
        Ok(first.is_some_and(|first| first.body.first > number))
    }

    /// Takes the store as it is: what was seen before does not count any more. Writes are taken again.
    ///
    /// # Errors
    /// [`SignedError`].
    pub async fn accept_as_it_is(&self) -> Result<(), SignedError> {
        let before = self.inner.marks.seen();
        let seen = Seen::first(before.store, before.member, before.writer.clone(), self.chain().hashes());
        lock(&self.inner.known).clear();
        self.inner.marks.reset(seen)?;
        *lock(&self.inner.read_only) = None;
        for key in KEPT {
            drop(self.get(&Key::parse(key)?).await?);
        }
        let entries = self.list(&Key::new(["audit", &before.writer])?).await?;
        let last = entries.iter().rev().find_map(|entry| Some(Stored::<AuditEntry>::decode(entry).ok()?.body.head()));
        self.inner.marks.note(|seen| {
            seen.audit = last;
            true
        });
        self.inner.marks.save()?;
        Ok(())
    }
}
