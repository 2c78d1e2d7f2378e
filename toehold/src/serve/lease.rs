//! Who of several processes on one store does a job: a value `lease/<name>` that its holder renews by compare-and-swap.
//!
//! A lease saves work, and nothing rests on it: whatever is done under it is guarded by a revision or by a host's fence, for a holder
//! that was held up may go on for a while beside the next one. No clock is compared with another one: a lease that was not renewed while
//! we looked on for as long as its holder has promised is given up, by our own monotonic clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toehold_core::{Key, KeyError, Record, Store, StoreError, Stored};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cli::chain;

/// A lease: `lease/<name>`. It is deleted when it is given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Who holds it: another name for every process.
    pub holder: String,
    /// For how many seconds it is good after each renewal.
    pub seconds: u64,
    /// How often it was renewed. So no two renewals write the same.
    pub beat: u64,
}

impl Record for LeaseRecord {}

impl LeaseRecord {
    /// `lease/<name>`.
    ///
    /// # Errors
    /// [`KeyError`] for a name that is no segment of a key.
    pub fn key(name: &str) -> Result<Key, KeyError> {
        Key::new(["lease", name])
    }
}

/// How it stands with a lease that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Somebody else has it.
    Elsewhere {
        /// Who.
        holder: String,
    },
    /// The store does not say.
    Unknown {
        /// Why, in words.
        reason: String,
    },
}

/// Why a lease is ours no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// It could not be renewed in time, so that somebody else may have it by now.
    #[error("the lease could not be renewed: {0}")]
    NotRenewed(String),
    /// Somebody else has it.
    #[error("the lease was taken over")]
    Taken,
}

/// A lease to compete for.
#[derive(Clone, Debug)]
pub struct Lease<S> {
    store: S,
    key: Key,
    holder: String,
    length: Duration,
}

impl<S: Store> Lease<S> {
    /// The lease `name`, for `holder`, whom nobody else is called. `length`: for how long it is good after each renewal (default of
    /// `serve`: 30 s); whole seconds, at least one.
    ///
    /// # Errors
    /// [`KeyError`] for a name that is no segment of a key.
    pub fn new(store: S, name: &str, holder: impl Into<String>, length: Duration) -> Result<Self, KeyError> {
        let length = Duration::from_secs(length.as_secs().max(1));
        Ok(Self { store, key: LeaseRecord::key(name)?, holder: holder.into(), length })
    }

    /// Waits until it is ours; `report` is told of every look that found it otherwise. Dropping the future leaves no lease behind that
    /// was not ours before, but perhaps one that ends by itself.
    pub async fn acquire(&self, mut report: impl FnMut(Standing)) -> Held<'_, S> {
        let mut seen: Option<(Stored<LeaseRecord>, Instant)> = None;
        loop {
            match self.try_once(&mut seen).await {
                Ok(Some(held)) => return held,
                Ok(None) => {
                    if let Some((stored, _)) = &seen {
                        report(Standing::Elsewhere { holder: stored.body.holder.clone() });
                    }
                }
                Err(error) => report(Standing::Unknown { reason: chain(&error) }),
            }
            sleep(self.length / 6).await;
        }
    }

    async fn try_once(&self, seen: &mut Option<(Stored<LeaseRecord>, Instant)>) -> Result<Option<Held<'_, S>>, StoreError> {
        let begun = Instant::now();
        let found = Stored::<LeaseRecord>::read(&self.store, &self.key).await?;
        let written = match found {
            None => Stored::create(&self.store, self.key.clone(), self.record(0)).await,
            Some(mut stored) => {
                // Written by us, and nobody heard that it was.
                let is_ours = stored.body.holder == self.holder;
                let since = match seen.take() {
                    Some((before, since)) if before.revision == stored.revision => since,
                    _ => begun,
                };
                if !is_ours && since.elapsed() < Duration::from_secs(stored.body.seconds.max(1)) {
                    *seen = Some((stored, since));
                    return Ok(None);
                }
                stored.body = self.record(stored.body.beat.wrapping_add(1));
                stored.save(&self.store).await.map(|()| stored)
            }
        };
        match written {
            Ok(stored) => Ok(Some(Held { lease: self, stored, good_until: begun + self.length, due: begun + self.length / 3 })),
            // Somebody else was faster, or its holder is alive.
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn record(&self, beat: u64) -> LeaseRecord {
        LeaseRecord { holder: self.holder.clone(), seconds: self.length.as_secs(), beat }
    }
}

/// A lease that is ours.
#[derive(Debug)]
pub struct Held<'l, S> {
    lease: &'l Lease<S>,
    stored: Stored<LeaseRecord>,
    /// Others may have it from then on.
    good_until: Instant,
    /// When it is to be renewed. Here and not in [`Held::keep`], which is left and begun anew with every turn.
    due: Instant,
}

impl<S: Store> Held<'_, S> {
    /// Renews it again and again, and ends when it is ours no longer. Cancel-safe: however often it is left and begun anew, the next
    /// renewal is due when the last one says.
    pub async fn keep(&mut self) -> Lost {
        let length = self.lease.length;
        loop {
            sleep_until(self.due).await;
            // So that whoever works under it can stop before the next one begins.
            let last = self.good_until - length / 6;
            let begun = Instant::now();
            let left = last.saturating_duration_since(begun);
            let failed = match timeout(left, self.renew()).await {
                Ok(Ok(true)) => {
                    (self.good_until, self.due) = (begun + length, begun + length / 3);
                    continue;
                }
                Ok(Ok(false)) => return Lost::Taken,
                Ok(Err(error)) => chain(&error),
                Err(_) => "the store does not answer".to_owned(),
            };
            if Instant::now() >= last {
                return Lost::NotRenewed(failed);
            }
            self.due = Instant::now() + length / 12;
        }
    }

    async fn renew(&mut self) -> Result<bool, StoreError> {
        let mut next = self.stored.clone();
        next.body.beat = next.body.beat.wrapping_add(1);
        match next.save(&self.lease.store).await {
            Ok(()) => {
                self.stored = next;
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => match Stored::<LeaseRecord>::read(&self.lease.store, &self.lease.key).await? {
                // A write of ours that took place although nobody heard of it.
                Some(stored) if stored.body.holder == self.lease.holder => {
                    self.stored = stored;
                    Ok(true)
                }
                _ => Ok(false),
            },
            Err(error) => Err(error),
        }
    }

    /// Gives it back, so that nobody has to wait for its end.
    ///
    /// # Errors
    /// What the store says; then it ends by itself.
    pub async fn release(self) -> Result<(), StoreError> {
        match self.lease.store.delete(&self.lease.key, self.stored.revision).await {
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use toehold_core::Expect;
    use toehold_core::testing::MemoryStore;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);

    fn lease<'s>(store: &'s MemoryStore, holder: &str) -> Lease<&'s MemoryStore> {
        Lease::new(store, "job", holder, LENGTH).unwrap()
    }

    async fn holder(store: &MemoryStore) -> Option<String> {
        let stored = Stored::<LeaseRecord>::read(store, &LeaseRecord::key("job").unwrap()).await.unwrap();
        stored.map(|stored| stored.body.holder)
    }

    #[tokio::test(start_paused = true)]
    async fn one_has_it_while_it_lives_and_another_after_its_death_by_its_own_clock() {
        let store = MemoryStore::new();
        let (one, two) = (lease(&store, "one"), lease(&store, "two"));
        let mut held = one.acquire(|_| panic!("nobody has it")).await;
        let mut told = Vec::new();
        {
            let mut waiting = std::pin::pin!(two.acquire(|standing| told.push(standing)));
            tokio::select! {
                _ = waiting.as_mut() => panic!("it is taken over while its holder lives"),
                lost = held.keep() => panic!("{lost}"),
                () = sleep(LENGTH * 20) => {}
            }
            // Its holder dies.
            let died = Instant::now();
            waiting.await;
            let waited = died.elapsed();
            assert!(waited >= LENGTH * 2 / 3 && waited <= LENGTH * 2, "{waited:?}");
        }
        assert_eq!(told.first(), Some(&Standing::Elsewhere { holder: "one".to_owned() }));
        assert_eq!(holder(&store).await.as_deref(), Some("two"));
        // Back from the dead, it finds out at its next renewal.
        assert_eq!(held.keep().await, Lost::Taken);
    }

    /// Whoever keeps it may leave off at any time, for a turn that ends or a pause that is over: no renewal is forgotten for that.
    #[tokio::test(start_paused = true)]
    async fn n5_kept_piece_by_piece_it_is_renewed_as_if_it_were_kept_in_one_piece() {
        for pieces in
            [&[LENGTH / 6][..], &[LENGTH / 30, LENGTH / 4], &[LENGTH * 2, LENGTH * 3 / 10], &[LENGTH * 5 / 3, LENGTH / 5]]
        {
            let store = MemoryStore::new();
            let (one, two) = (lease(&store, "one"), lease(&store, "two"));
            let mut held = one.acquire(|_| {}).await;
            let begun = Instant::now();
            let mut waiting = std::pin::pin!(two.acquire(|_| {}));
            for piece in pieces.iter().cycle().take_while(|_| begun.elapsed() < LENGTH * 20) {
                tokio::select! {
                    _ = waiting.as_mut() => panic!("{pieces:?}: it is taken over after {:?}", begun.elapsed()),
                    lost = held.keep() => panic!("{pieces:?}: {lost}, after {:?}", begun.elapsed()),
                    () = sleep(*piece) => {}
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn given_back_it_is_the_next_ones_at_once() {
        let store = MemoryStore::new();
        let (one, two) = (lease(&store, "one"), lease(&store, "two"));
        one.acquire(|_| {}).await.release().await.unwrap();
        let begun = Instant::now();
        two.acquire(|_| {}).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_ours_any_more_is_not_given_back() {
        let store = MemoryStore::new();
        let (one, two) = (lease(&store, "one"), lease(&store, "two"));
        let held = one.acquire(|_| {}).await;
        two.acquire(|_| {}).await;
        held.release().await.unwrap();
        assert_eq!(holder(&store).await.as_deref(), Some("two"));
    }

    /// Of two that take over at the same moment, one does.
    #[tokio::test(start_paused = true)]
    async fn n5_two_that_come_at_once_do_not_both_have_it() {
        for _ in 0..100 {
            let store = MemoryStore::new();
            let (one, two) = (lease(&store, "one"), lease(&store, "two"));
            let both = async { tokio::join!(one.acquire(|_| {}), two.acquire(|_| {})) };
            assert!(timeout(LENGTH / 2, both).await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_nobody_reads_is_nobodys_lease() {
        let store = MemoryStore::new();
        store.put(&LeaseRecord::key("job").unwrap(), b"{}", Expect::Absent).await.unwrap();
        let lease = lease(&store, "one");
        let mut told = None;
        assert!(timeout(LENGTH * 3, lease.acquire(|standing| told = Some(standing))).await.is_err());
        assert!(matches!(told, Some(Standing::Unknown { .. })), "{told:?}");
    }
}
