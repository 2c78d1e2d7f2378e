//! The last entries of the audit log, without reading all of it.

use std::collections::BTreeMap;

use toehold_core::{AuditEntry, AuditWriter, Key, Store, StoreError, Stored};

/// Finds the last entries again and again; what it found before it need not look for.
#[derive(Clone, Debug, Default)]
pub struct AuditTail {
    /// The last entry of each chain that was seen.
    last: BTreeMap<String, u64>,
}

impl AuditTail {
    /// The last `count` entries of all chains, the newest first, each with its writer. An entry that cannot be read is left out: `audit
    /// verify` tells of it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn read<S: Store + ?Sized>(&mut self, store: &S, count: usize) -> Result<Vec<(String, AuditEntry)>, StoreError> {
        let mut entries = Vec::new();
        for writer in Stored::<AuditWriter>::list(store, &AuditWriter::prefix()).await?.into_iter().flatten() {
            let name = writer.key.name().to_owned();
            let first = writer.body.first.max(1);
            let begin = self.last.get(&name).copied().unwrap_or(first).max(first);
            let Some(last) = last(store, &name, begin).await? else { continue };
            self.last.insert(name.clone(), last);
            let oldest = last.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)).max(first.saturating_sub(1));
            for number in (oldest + 1..=last).rev() {
                if let Ok(Some(entry)) = entry(store, &name, number).await {
                    entries.push((name.clone(), entry));
                }
            }
        }
        // The newest first.
        entries.sort_by_key(|(writer, entry)| std::cmp::Reverse((entry.event.at, writer.clone(), entry.number)));
        entries.truncate(count);
        Ok(entries)
    }
}

fn key(writer: &str, number: u64) -> Result<Key, StoreError> {
    Ok(Key::new(["audit", writer, &format!("{number:020}")])?)
}

async fn entry<S: Store + ?Sized>(store: &S, writer: &str, number: u64) -> Result<Option<AuditEntry>, StoreError> {
    Ok(Stored::read(store, &key(writer, number)?).await?.map(|stored| stored.body))
}

/// The number of a chain's last entry: steps that double, then halve. `None` where there is none at `begin`.
async fn last<S: Store + ?Sized>(store: &S, writer: &str, begin: u64) -> Result<Option<u64>, StoreError> {
    let is_there = async |number: u64| Ok::<_, StoreError>(store.get(&key(writer, number)?).await?.is_some());
    if !is_there(begin).await? {
        return Ok(None);
    }
    let (mut last, mut step) = (begin, 1_u64);
    let mut absent = last.saturating_add(step);
    while is_there(absent).await? {
        last = absent;
        step = step.saturating_mul(2);
        absent = last.saturating_add(step);
        if absent == last {
            break;
        }
    }
    while absent - last > 1 {
        let middle = last + (absent - last) / 2;
        if is_there(middle).await? {
            last = middle;
        } else {
            absent = middle;
        }
    }
    Ok(Some(last))
}

#[cfg(test)]
mod tests {
    use toehold_core::testing::MemoryStore;
    use toehold_core::{AuditEvent, AuditSink as _, StoreAudit, Timestamp};

    use super::*;

    #[tokio::test]
    async fn the_last_entries_of_all_chains_come_newest_first() {
        let store = MemoryStore::new();
        let (one, two) = (StoreAudit::new(&store, "one"), StoreAudit::new(&store, "two"));
        let event = |second: i64| AuditEvent::new(Timestamp::from_unix_seconds(second), "host.seen", format!("host {second}"));
        let mut tail = AuditTail::default();
        assert_eq!(tail.read(&store, 5).await.unwrap(), []);
        for second in 0..40 {
            let audit = if second % 3 == 0 { &two } else { &one };
            audit.record(event(second)).await.unwrap();
            if second % 7 == 0 {
                tail.read(&store, 5).await.unwrap();
            }
        }
        let subjects = |entries: Vec<(String, AuditEntry)>| -> Vec<String> {
            entries.into_iter().map(|(writer, entry)| format!("{writer}: {}", entry.event.subject)).collect()
        };
        let wanted = ["two: host 39", "one: host 38", "one: host 37", "two: host 36", "one: host 35"];
        assert_eq!(subjects(tail.read(&store, 5).await.unwrap()), wanted);
        assert_eq!(subjects(AuditTail::default().read(&store, 5).await.unwrap()), wanted);
    }
}
