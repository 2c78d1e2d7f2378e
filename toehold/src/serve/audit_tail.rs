//! The last entries of the audit log, without reading all of it.

use std::collections::BTreeMap;

use toehold_core::{AuditEntry, AuditWriter, Key, Store, StoreError, Stored};

use crate::cli::chain;

/// Finds the last entries again and again; what it found before it need not look for.
#[derive(Clone, Debug, Default)]
pub struct AuditTail {
    /// The last entry of each chain that was seen.
    last: BTreeMap<String, u64>,
}

/// The end of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tail {
    /// The last entries of all chains, the newest first, each with its writer.
    pub entries: Vec<(String, AuditEntry)>,
    /// What cannot be read of the ends of the chains, and why. `audit verify` tells of the rest.
    pub faults: Vec<String>,
}

impl AuditTail {
    /// The last `count` entries of all chains. Something in an entry's place that cannot be read is named, and keeps none of the others
    /// from being shown.
    ///
    /// # Errors
    /// What the store says.
    pub async fn read<S: Store + ?Sized>(&mut self, store: &S, count: usize) -> Result<Tail, StoreError> {
        let mut tail = Tail::default();
        for writer in Stored::<AuditWriter>::list(store, &AuditWriter::prefix()).await? {
            let writer = match writer {
                Ok(writer) => writer,
                Err(error) => {
                    tail.faults.push(chain(&error));
                    continue;
                }
            };
            let name = writer.key.name().to_owned();
            let first = writer.body.first.max(1);
            let begin = self.last.remove(&name).unwrap_or(first).max(first);
            let last = match last(store, &name, begin).await? {
                // What was there may have been no entry, and was thrown away.
                None if begin > first => last(store, &name, first).await?,
                found => found,
            };
            let Some(last) = last else { continue };
            self.last.insert(name.clone(), last);
            let oldest = last.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)).max(first.saturating_sub(1));
            for number in (oldest + 1..=last).rev() {
                match Stored::<AuditEntry>::read(store, &key(&name, number)?).await {
                    Ok(stored) => tail.entries.extend(stored.map(|stored| (name.clone(), stored.body))),
                    Err(error @ (StoreError::Corrupt { .. } | StoreError::Newer { .. })) => tail.faults.push(chain(&error)),
                    Err(error) => return Err(error),
                }
            }
        }
        // The newest first.
        tail.entries.sort_by_key(|(writer, entry)| std::cmp::Reverse((entry.event.at, writer.clone(), entry.number)));
        tail.entries.truncate(count);
        Ok(tail)
    }
}

fn key(writer: &str, number: u64) -> Result<Key, StoreError> {
    Ok(Key::new(["audit", writer, &format!("{number:020}")])?)
}

/// Whether something is in an entry's place, be it one or not.
async fn is_there<S: Store + ?Sized>(store: &S, writer: &str, number: u64) -> Result<bool, StoreError> {
    match store.get(&key(writer, number)?).await {
        Ok(found) => Ok(found.is_some()),
        Err(StoreError::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The number of a chain's last entry: steps that double, then halve. `None` where there is none at `begin`.
async fn last<S: Store + ?Sized>(store: &S, writer: &str, begin: u64) -> Result<Option<u64>, StoreError> {
    if !is_there(store, writer, begin).await? {
        return Ok(None);
    }
    let (mut last, mut step) = (begin, 1_u64);
    let mut absent = last.saturating_add(step);
    while is_there(store, writer, absent).await? {
        last = absent;
        step = step.saturating_mul(2);
        absent = last.saturating_add(step);
        if absent == last {
            break;
        }
    }
    while absent - last > 1 {
        let middle = last + (absent - last) / 2;
        if is_there(store, writer, middle).await? {
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
    use toehold_core::{AuditEvent, AuditSink as _, Expect, StoreAudit, Timestamp};

    use super::*;

    #[tokio::test]
    async fn the_last_entries_of_all_chains_come_newest_first() {
        let store = MemoryStore::new();
        let (one, two) = (StoreAudit::new(&store, "one"), StoreAudit::new(&store, "two"));
        let event = |second: i64| AuditEvent::new(Timestamp::from_unix_seconds(second), "host.seen", format!("host {second}"));
        let mut tail = AuditTail::default();
        assert_eq!(tail.read(&store, 5).await.unwrap(), Tail::default());
        for second in 0..40 {
            let audit = if second % 3 == 0 { &two } else { &one };
            audit.record(event(second)).await.unwrap();
            if second % 7 == 0 {
                tail.read(&store, 5).await.unwrap();
            }
        }
        let subjects = |tail: Tail| -> Vec<String> {
            assert_eq!(tail.faults, [""; 0]);
            tail.entries.into_iter().map(|(writer, entry)| format!("{writer}: {}", entry.event.subject)).collect()
        };
        let wanted = ["two: host 39", "one: host 38", "one: host 37", "two: host 36", "one: host 35"];
        assert_eq!(subjects(tail.read(&store, 5).await.unwrap()), wanted);
        assert_eq!(subjects(AuditTail::default().read(&store, 5).await.unwrap()), wanted);
    }

    #[tokio::test]
    async fn n4_what_is_no_entry_is_named_and_hides_no_other_while_it_is_there_and_after() {
        let store = MemoryStore::new();
        let audit = StoreAudit::new(&store, "one");
        for second in 0..3 {
            let event = AuditEvent::new(Timestamp::from_unix_seconds(second), "host.seen", format!("host {second}"));
            audit.record(event).await.unwrap();
        }
        let mut tail = AuditTail::default();
        let before = tail.read(&store, 5).await.unwrap();
        assert_eq!((before.entries.len(), before.faults.len()), (3, 0));
        let next = key("one", 4).unwrap();
        let planted = store.put(&next, b"planted", Expect::Absent).await.unwrap();
        let found = tail.read(&store, 5).await.unwrap();
        assert_eq!(found.entries, before.entries);
        assert!(matches!(&found.faults[..], [fault] if fault.contains(next.as_str())), "{:?}", found.faults);
        store.delete(&next, planted).await.unwrap();
        assert_eq!(tail.read(&store, 5).await.unwrap(), before);
    }
}
