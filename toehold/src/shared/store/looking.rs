//! Whether the store is still what was seen of it, looked at again and again by a process that goes on (N3).

use std::time::{Duration, Instant};

use toehold_core::{Key, Revision, Store, StoreError};

use super::{SignedError, SignedStore, Signer, lock};
use crate::shared::marks::Behind;

/// How long a look counts, on one connection.
const LOOK: Duration = Duration::from_secs(30);
/// How often it is seen whether a look is due.
const TICK: Duration = Duration::from_secs(1);
/// How often a store that seems to be behind is looked at until it is taken to be: for as long as an operation may take. Servers that have
/// only just chosen a leader, and a leader that was cut off, may know less than all.
const LOOKS: u32 = 40;
/// How often a connection that is made anew in the middle of a look has it taken again.
const AGAIN: u32 = 5;

/// What is being done.
const LOOKING: &str = "seeing whether the store is still what was seen of it";

/// What a shared store is kept in, beyond what any store is.
pub trait Backing: Store {
    /// How often it was connected to: more, whenever a connection was made anew, behind which may be an earlier state.
    fn connections(&self) -> u64 {
        0
    }

    /// The last revision that it has given out; `None` where it does not tell.
    ///
    /// # Errors
    /// Where it does not answer.
    fn last_revision(&self) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// As [`Store::delete`]; the revision that the deletion was given, where the store gives it one and tells.
    ///
    /// # Errors
    /// As [`Store::delete`].
    fn remove(&self, key: &Key, revision: Revision) -> impl Future<Output = Result<Option<Revision>, StoreError>> + Send {
        let removing = self.delete(key, revision);
        async { removing.await.map(|()| None) }
    }

    /// Waits a moment, in which a server that has only just begun to lead learns what it leads.
    fn settle(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A look that was taken.
pub(super) struct Looked {
    connections: u64,
    at: Instant,
}

impl Looked {
    pub(super) fn now(store: &impl Backing) -> Self {
        Self { connections: store.connections(), at: Instant::now() }
    }
}

/// The looks that were begun, and how the last one ended. Whoever waited for it from before it was begun would learn nothing else by one of his
/// own; and of many who write while nobody answers, each would wait for all before him.
#[derive(Default)]
pub(super) struct Looks {
    begun: u64,
    /// Which one, and why it failed where it did.
    ended: Option<(u64, Result<(), String>)>,
}

/// Who wants a look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Whoever is content with one that still counts.
    Due,
    /// Whoever wants one from now.
    Now,
}

/// That a store is behind, and what to do about it.
fn words(behind: &[Behind]) -> String {
    let words: Vec<String> = behind.iter().map(ToString::to_string).collect();
    format!(
        "the store is behind what this machine has seen of it ({}); it may have been restored from a backup. Find out why, and then: toehold store accept-rollback",
        words.join("; ")
    )
}

/// That another process has taken the store as it is, which this one has seen otherwise.
const ACCEPTED: &str = "the store was behind what this machine had seen of it, and was taken as it is (toehold store accept-rollback) after this process had begun, which writes nothing to it any more; start it anew";

impl<S: Backing, K: Signer> SignedStore<S, K> {
    fn is_due(&self) -> bool {
        let looked = lock(&self.inner.looked);
        looked.connections != self.inner.store.connections() || looked.at.elapsed() >= LOOK
    }

    /// Looks whether the store is behind what this machine has seen of it, and in what; writes nothing from then on where it is.
    ///
    /// # Errors
    /// As [`SignedStore::behind`].
    pub async fn look(&self) -> Result<Vec<Behind>, SignedError> {
        let begun = Looked::now(&self.inner.store);
        if self.is_outdated() {
            self.forbid_writes(ACCEPTED.to_owned());
            *lock(&self.inner.looked) = begun;
            return Ok(Vec::new());
        }
        let mut behind = self.behind().await?;
        for _ in 1..LOOKS {
            if behind.is_empty() {
                break;
            }
            self.inner.store.settle().await;
            behind = self.behind().await?;
        }
        if !behind.is_empty() {
            self.forbid_writes(words(&behind));
        }
        *lock(&self.inner.looked) = begun;
        Ok(behind)
    }

    /// Whether what this process has seen of the store does not count any more. If it does, it has seen what other processes of this machine
    /// have written down.
    fn is_outdated(&self) -> bool {
        let is_current = self.inner.marks.catch_up().unwrap_or_else(|error| {
            tracing::warn!("what was seen of the store cannot be read: {}", crate::cli::chain(&error));
            true
        });
        !is_current
    }

    /// Looks, where the last look was long ago, or over another connection: nothing is written to a store that was put back meanwhile.
    pub(super) async fn be_current(&self) -> Result<(), StoreError> {
        for _ in 0..AGAIN {
            if !self.is_due() || self.read_only().is_some() {
                break;
            }
            // Apart, since it would make every write's future several times as large.
            Box::pin(self.look_in_turn(Wanted::Due)).await?;
        }
        Ok(())
    }

    /// Looks, after those who look already, and unless there is no need any more then.
    async fn look_in_turn(&self, wanted: Wanted) -> Result<(), StoreError> {
        let before = lock(&self.inner.looks).begun;
        let _one = self.inner.looking.lock().await;
        if wanted == Wanted::Due && !self.is_due() {
            return Ok(());
        }
        let number = {
            let mut looks = lock(&self.inner.looks);
            match &looks.ended {
                Some((number, Err(reason))) if *number > before => {
                    return Err(StoreError::Unavailable { doing: LOOKING.to_owned(), source: reason.clone().into() });
                }
                Some((number, Ok(()))) if *number > before && wanted == Wanted::Now => return Ok(()),
                _ => {}
            }
            looks.begun += 1;
            looks.begun
        };
        let looked = self.look_now().await;
        let ended = match &looked {
            Ok(()) => Some(Ok(())),
            Err(error @ StoreError::Unavailable { .. }) => Some(Err(crate::cli::chain(error))),
            Err(_) => None,
        };
        lock(&self.inner.looks).ended = ended.map(|ended| (number, ended));
        looked
    }

    async fn look_now(&self) -> Result<(), StoreError> {
        match self.look().await {
            Ok(_) => {
                self.save_marks();
                Ok(())
            }
            Err(SignedError::Store(error)) => Err(error),
            // A list that somebody has planted stops everything for as long as it is there.
            Err(error @ SignedError::Chain(_)) => {
                Err(StoreError::Unavailable { doing: "reading who the members are".to_owned(), source: Box::new(error) })
            }
            Err(error) => {
                self.forbid_writes(crate::cli::chain(&error));
                Ok(())
            }
        }
    }

    /// As if the last look had been taken so long ago that it does not count any more.
    #[cfg(test)]
    pub(in crate::shared) fn look_was_long_ago(&self) {
        let mut looked = lock(&self.inner.looked);
        looked.at = looked.at.checked_sub(LOOK).unwrap();
    }

    /// Why nothing is written, after a look where one is due.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn read_only_by_now(&self) -> Result<Option<String>, StoreError> {
        // Who asks again and again has what it wrote last written down by that.
        self.save_marks_at_times();
        self.be_current().await?;
        if self.read_only().is_some() && self.is_outdated() {
            self.forbid_writes(ACCEPTED.to_owned());
        }
        Ok(self.read_only())
    }

    /// Why nothing is written, after a look of now: for whoever is about to do something in the world that cannot be taken back, on the word of
    /// records that he reads after that. A write of its own before it, which looks only where a look is due, might find the store as it was
    /// half a minute ago.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn read_only_now(&self) -> Result<Option<String>, StoreError> {
        if self.read_only().is_none() {
            Box::pin(self.look_in_turn(Wanted::Now)).await?;
        }
        self.read_only_by_now().await
    }

    /// Looks from time to time, and whenever there is another connection; ends once nothing is to be written any more, and says why.
    /// Needs a tokio runtime.
    pub async fn until_read_only(&self) -> String {
        loop {
            match self.read_only_by_now().await {
                Ok(Some(reason)) => return reason,
                Ok(None) => {}
                // Whoever works with it finds out, too, and says so.
                Err(error) => tracing::debug!("whether the store is behind is not known: {}", crate::cli::chain(&error)),
            }
            tokio::time::sleep(TICK).await;
        }
    }
}
