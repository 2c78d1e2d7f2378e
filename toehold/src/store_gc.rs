//! What a store need not keep any longer, and taking it away.
//!
//! Only what is over and known to be: a record that cannot be read stays, and so does whatever is owed or open. Grants are not here:
//! the record of one that has ended goes when its line was seen gone (`grant sweep`), not when time has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use toehold_core::{
    AuditLog, AuditReport, AuditWriter, Checkpoint, Key, Revision, Store, StoreAudit, StoreError, Stored, Timestamp,
};
use toehold_session::LongClosed;

/// The beginnings of audit chains that may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPlan {
    /// Up to which entry of which chain. These have to be on record before the first entry goes.
    pub checkpoints: Vec<Checkpoint>,
    /// Which of them are on record by an entry that stays.
    recorded: Vec<bool>,
    /// How many entries go, by writer.
    pub entries: BTreeMap<String, usize>,
}

impl AuditPlan {
    /// What of `log`, in which nothing is wrong, is older than `limit`: of every chain the beginning up to the first entry that is not. The
    /// last entry of a chain stays, whatever its age.
    pub fn of(log: &AuditLog, report: &AuditReport, limit: Timestamp) -> Self {
        let mut plan = Self::default();
        let mut through: BTreeMap<&str, u64> = BTreeMap::new();
        for chain in &report.chains {
            let Some(head) = &chain.head else { continue };
            let old = (chain.first..head.number)
                .take_while(|number| matches!(log.find(&chain.writer, *number), Some(Ok(entry)) if entry.event.at < limit));
            through.insert(&chain.writer, old.last().unwrap_or(chain.first - 1));
        }
        for chain in &report.chains {
            let writer = chain.writer.as_str();
            let Some(last) = through.get(writer).copied().filter(|last| *last > 0) else { continue };
            let Some(Ok(next)) = log.find(writer, last + 1) else { continue };
            let head = toehold_core::AuditHead { number: last, hash: next.previous.clone() };
            let checkpoint = Checkpoint { writer: writer.to_owned(), through: head };
            let stays = |by: &str, number: u64| through.get(by).is_none_or(|gone| number > *gone);
            let is_recorded = log.places().any(|(by, number, found)| {
                let checkpoint_there = found.as_ref().ok().and_then(|entry| Checkpoint::of(&entry.event));
                stays(by, number) && checkpoint_there.as_ref() == Some(&checkpoint)
            });
            if last >= chain.first {
                plan.entries.insert(writer.to_owned(), usize::try_from(last - chain.first + 1).unwrap_or(usize::MAX));
            }
            plan.recorded.push(is_recorded);
            plan.checkpoints.push(checkpoint);
        }
        plan
    }

    /// Whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts the checkpoints on record in the chain of `audit`, then removes the entries, those of each chain from the front. Cut off in
    /// between, the log verifies, and another plan goes on. `goes_on` is asked before every entry. Returns how many went.
    ///
    /// # Errors
    /// What the store says.
    pub async fn carry_out<S: Store>(
        &self,
        store: &S,
        audit: &StoreAudit<&S>,
        now: Timestamp,
        goes_on: impl Fn() -> bool,
    ) -> Result<usize, StoreError> {
        for (checkpoint, _) in self.checkpoints.iter().zip(&self.recorded).filter(|(_, recorded)| !**recorded) {
            audit.record_with_all_heads(checkpoint.event(now)).await?;
        }
        let mut removed = 0;
        for checkpoint in self.checkpoints.iter().filter(|checkpoint| self.entries.contains_key(&checkpoint.writer)) {
            begin_at(store, &checkpoint.writer, checkpoint.through.number + 1).await?;
            for entry in store.list(&Key::new(["audit", &checkpoint.writer])?).await? {
                let is_old = entry.key.name().parse::<u64>().is_ok_and(|number| number <= checkpoint.through.number);
                if !is_old {
                    continue;
                }
                if !goes_on() {
                    return Ok(removed);
                }
                removed += usize::from(delete(store, &entry.key, entry.revision).await?);
            }
        }
        Ok(removed)
    }
}

/// Says where a chain begins, so that nobody looks for its end from an entry that is about to go.
async fn begin_at<S: Store>(store: &S, writer: &str, first: u64) -> Result<(), StoreError> {
    let key = AuditWriter::key(writer)?;
    let written = match Stored::<AuditWriter>::read(store, &key).await? {
        Some(stored) if stored.body.first >= first => Ok(()),
        Some(mut stored) => {
            stored.body.first = first;
            stored.save(store).await
        }
        None => Stored::create(store, key, AuditWriter { first }).await.map(drop),
    };
    match written {
        // It spares a search, no more.
        Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes a record as it was read. `false`: somebody has changed it, and it stays.
///
/// # Errors
/// What the store says.
pub async fn delete<S: Store>(store: &S, key: &Key, revision: Revision) -> Result<bool, StoreError> {
    match store.delete(key, revision).await {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The records of sessions that were closed longer ago than `kept`.
///
/// # Errors
/// What the store says.
pub async fn closed_sessions<S: Store>(store: &S, kept: Duration, now: Timestamp) -> Result<LongClosed, StoreError> {
    toehold_session::long_closed(store, kept, now).await
}
