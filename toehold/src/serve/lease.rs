//! Who of several processes on one store does a job: a value `lease/<name>` that its holder renews by compare-and-swap.
//!
//! A lease saves work, and nothing rests on it: whatever is done under it is guarded by a revision or by a host's fence, for a holder
//! that was held up may go on for a while beside the next one. No clock is compared with another one: a lease that was not renewed while
//! we looked on for as long as its holder has promised is given up, by our own monotonic clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toehold_core::{Key, KeyError, Record, Revision, Store, StoreError, Stored};
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
    ///
    /// A record that is not a lease that anybody can read is nobody's promise: where it stays as it is for as long as a lease of ours is
    /// good, it makes room.
    pub async fn acquire(&self, mut report: impl FnMut(Standing)) -> Held<'_, S> {
        let mut seen: Option<(Revision, Instant)> = None;
        loop {
            match self.try_once(&mut seen).await {
                Ok(Look::Ours(held)) => return held,
                Ok(Look::Not(standing)) => report(standing),
                Ok(Look::Changed) => {}
                Err(error) => report(Standing::Unknown { reason: chain(&error) }),
            }
            sleep(self.length / 6).await;
        }
    }

    async fn try_once(&self, seen: &mut Option<(Revision, Instant)>) -> Result<Look<'_, S>, StoreError> {
        let begun = Instant::now();
        let mut waits = |revision: Revision, good_for: Duration| {
            let since = seen.take().filter(|(before, _)| *before == revision).map_or(begun, |(_, since)| since);
            let waits = since.elapsed() < good_for;
            *seen = waits.then_some((revision, since));
            waits
        };
        let written = match self.find().await? {
            Found::Nothing => Stored::create(&self.store, self.key.clone(), self.record(0)).await,
            Found::Record(mut stored) => {
                // Written by us, and nobody heard that it was.
                let is_ours = stored.body.holder == self.holder;
                if !is_ours && waits(stored.revision, Duration::from_secs(stored.body.seconds.max(1))) {
                    return Ok(Look::Not(Standing::Elsewhere { holder: stored.body.holder }));
                }
                stored.body = self.record(stored.body.beat.wrapping_add(1));
                stored.save(&self.store).await.map(|()| stored)
            }
            Found::Refused { revision, why } => {
                if waits(revision, self.length) {
                    return Ok(Look::Not(Standing::Unknown { reason: chain(&why) }));
                }
                match self.store.delete(&self.key, revision).await {
                    Ok(()) => Stored::create(&self.store, self.key.clone(), self.record(0)).await,
                    Err(error) => Err(error),
                }
            }
        };
        match written {
            Ok(stored) => {
                Ok(Look::Ours(Held { lease: self, stored, good_until: begun + self.length, due: begun + self.length / 3 }))
            }
            // Somebody else was faster, or its holder is alive.
            Err(StoreError::Conflict { .. }) => Ok(Look::Changed),
            Err(error) => Err(error),
        }
    }

    /// What is there. Only a list tells the revision of what the store does not vouch for.
    async fn find(&self) -> Result<Found, StoreError> {
        let why = match Stored::<LeaseRecord>::read(&self.store, &self.key).await {
            Ok(found) => return Ok(found.map_or(Found::Nothing, Found::Record)),
            Err(error @ StoreError::Corrupt { .. }) => error,
            Err(error) => return Err(error),
        };
        let entries = self.store.list(&Key::new(["lease"])?).await?;
        let Some(entry) = entries.into_iter().find(|entry| entry.key == self.key) else { return Err(why) };
        match Stored::decode(&entry) {
            // It was changed meanwhile.
            Ok(stored) => Ok(Found::Record(stored)),
            Err(why @ StoreError::Corrupt { .. }) => Ok(Found::Refused { revision: entry.revision, why }),
            Err(error) => Err(error),
        }
    }

    fn record(&self, beat: u64) -> LeaseRecord {
        LeaseRecord { holder: self.holder.clone(), seconds: self.length.as_secs(), beat }
    }
}

/// What is in a lease's place.
enum Found {
    Nothing,
    Record(Stored<LeaseRecord>),
    /// Something that is no lease, or that the store does not vouch for.
    Refused {
        revision: Revision,
        why: StoreError,
    },
}

/// What came of a look.
enum Look<'l, S> {
    Ours(Held<'l, S>),
    Not(Standing),
    /// Somebody has changed it just now.
    Changed,
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
    use toehold_core::testing::{MemoryStore, MemoryWatch};
    use toehold_core::{Entry, Expect};

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

    /// It vouches for no value that begins so.
    const PLANTED: &[u8] = b"planted";

    /// A store that hands out nothing that it does not vouch for, as one whose values are signed.
    struct Vouching(MemoryStore);

    impl Store for Vouching {
        type Watch = MemoryWatch;

        async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
            match self.0.get(key).await? {
                Some(entry) if entry.value.starts_with(PLANTED) => {
                    Err(StoreError::Corrupt { key: key.clone(), reason: "nobody signed it".to_owned() })
                }
                found => Ok(found),
            }
        }

        async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
            self.0.put(key, value, expect).await
        }

        async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
            self.0.delete(key, revision).await
        }

        async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
            let told = |entry: Entry| {
                if entry.value.starts_with(PLANTED) {
                    Entry::unreadable(entry.key, "nobody signed it", entry.revision, entry.written_at)
                } else {
                    entry
                }
            };
            Ok(self.0.list(prefix).await?.into_iter().map(told).collect())
        }

        async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
            self.0.kinds().await
        }

        async fn watch(&self, prefix: &Key) -> Result<MemoryWatch, StoreError> {
            self.0.watch(prefix).await
        }

        fn max_value(&self) -> usize {
            self.0.max_value()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn n5_a_record_that_is_refused_stops_nobody_for_longer_than_a_lease() {
        let place = LeaseRecord::key("job").unwrap();
        for planted in [PLANTED, b"{}", b"{\"v\":1,\"readable_from\":1,\"holder\":7}"] {
            let store = Vouching(MemoryStore::new());
            let planting = |expect| store.0.put(&place, planted, expect);
            let mut revision = planting(Expect::Absent).await.unwrap();
            let lease = Lease::new(&store, "job", "one", LENGTH).unwrap();
            let begun = Instant::now();
            let says_why = |standing| assert!(matches!(standing, Standing::Unknown { .. }), "{standing:?}");
            let mut acquiring = std::pin::pin!(lease.acquire(says_why));
            // Somebody writes it, whom only others can read.
            for _ in 0..6 {
                assert!(timeout(LENGTH / 2, acquiring.as_mut()).await.is_err(), "it is taken over while it changes");
                revision = planting(Expect::Revision(revision)).await.unwrap();
            }
            let mut held = timeout(LENGTH * 3, acquiring).await.expect("it is never taken over");
            let waited = begun.elapsed().checked_sub(LENGTH / 2 * 6).unwrap();
            assert!(waited >= LENGTH && waited <= LENGTH * 4 / 3, "{waited:?}");
            assert_eq!(holder(&store.0).await.as_deref(), Some("one"));
            assert!(timeout(LENGTH * 3, held.keep()).await.is_err(), "it is kept as any other");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_a_newer_release_is_left_alone() {
        let store = MemoryStore::new();
        let newer = b"{\"v\":99,\"readable_from\":99}";
        store.put(&LeaseRecord::key("job").unwrap(), newer, Expect::Absent).await.unwrap();
        let lease = lease(&store, "one");
        let mut told = None;
        assert!(timeout(LENGTH * 3, lease.acquire(|standing| told = Some(standing))).await.is_err());
        assert!(matches!(told, Some(Standing::Unknown { .. })), "{told:?}");
    }
}
