//! Everything in a store, into another one: from the embedded store to a file and back, and from one engine to another.
//!
//! What is copied are keys and values, as they are: what is sealed stays sealed. Revisions and times are each store's own, and no record
//! names one. A copy that was interrupted goes on where it was, since all that it may find in the place where it goes is what it would
//! write. Whoever copies sees to it that nobody writes meanwhile; that somebody did is found and told.

use std::collections::BTreeMap;

use futures_util::{TryStreamExt as _, stream};
use toehold_core::{CurrentMasterKey, Entry, Expect, ExportedValue, Key, Store, StoreError, StoreExport, Timestamp};

/// How many writes are on their way at once: an embedded store commits them together, a shared one answers from afar.
const AT_ONCE: usize = 64;

/// How often a store is read until two readings are the same.
const READINGS: usize = 8;

/// Why a store was not copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The place where the copy goes holds something that the copy does not, so it is another store. Nothing was written.
    #[error("it holds {key}, which is not in what is to be copied there")]
    Occupied {
        /// The first such key.
        key: Key,
    },
    /// The place where the copy goes holds another value. Nothing was written by this run, unless somebody else writes there now.
    #[error("it holds another {key} than the one that is to be copied there")]
    Differs {
        /// The first such key.
        key: Key,
    },
    /// What was copied is not what is there by now: somebody writes to one of the two.
    #[error(
        "{key} was changed while it was copied; see to it that nothing else uses the store, and begin anew with an empty one"
    )]
    Changed {
        /// The first such key.
        key: Key,
    },
    /// The store is written to all the time.
    #[error("the store is being written to; stop what uses it, and try again")]
    Busy,
    /// A value is too large for the place where the copy goes. Nothing was written.
    #[error("{key} has {got} bytes, and the place where it is to go takes {limit}")]
    TooLarge {
        /// Its key.
        key: Key,
        /// Its size.
        got: usize,
        /// What that store takes.
        limit: usize,
    },
    /// The store that is copied failed.
    #[error("the store that is copied cannot be read")]
    Source(#[source] StoreError),
    /// The place where the copy goes failed. What was written stays, and another run goes on.
    #[error("the store that is copied to failed")]
    Target(#[source] StoreError),
}

/// What was copied, and found to be the same afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// How many values there are.
    pub values: usize,
    /// How many of them this run wrote; the others were there.
    pub written: usize,
    /// The digest of all of it ([`StoreExport::digest`]).
    pub digest: String,
}

/// Everything in a store, one kind of record after the other.
///
/// # Errors
/// As [`Store::list`]. A value that the store does not vouch for is in the list as one ([`Entry::fault`]).
pub async fn everything<S: Store + ?Sized>(store: &S) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    for kind in store.kinds().await? {
        entries.extend(store.get(&kind).await?);
        entries.extend(store.list(&kind).await?);
    }
    Ok(entries)
}

/// The same; an error where the store does not vouch for one of them.
async fn vouched<S: Store + ?Sized>(store: &S) -> Result<Vec<Entry>, StoreError> {
    let entries = everything(store).await?;
    match entries.iter().find_map(Entry::fault) {
        Some(fault) => Err(fault),
        None => Ok(entries),
    }
}

/// Everything in a store at one moment: it is read until nothing has changed between two readings.
///
/// # Errors
/// [`CopyError::Busy`] and [`CopyError::Source`].
pub async fn snapshot<S: Store + ?Sized>(store: &S, now: Timestamp) -> Result<StoreExport, CopyError> {
    let mut before = vouched(store).await.map_err(CopyError::Source)?;
    for _ in 0..READINGS {
        let entries = vouched(store).await.map_err(CopyError::Source)?;
        if entries == before {
            return Ok(StoreExport::new(now, entries.into_iter().map(ExportedValue::from)));
        }
        before = entries;
    }
    Err(CopyError::Busy)
}

/// Copies everything from one store to another, which is empty or holds a part of the same copy, and compares the two afterwards.
///
/// # Errors
/// [`CopyError`].
pub async fn copy<F: Store + ?Sized, T: Store + ?Sized>(from: &F, to: &T) -> Result<Copied, CopyError> {
    let export = snapshot(from, Timestamp::UNIX_EPOCH).await?;
    let copied = fill(&export, to).await?;
    let after = snapshot(from, Timestamp::UNIX_EPOCH).await?;
    match first_difference(&export, &after, |_, one, other| one == other) {
        Some(key) => Err(CopyError::Changed { key }),
        None => Ok(copied),
    }
}

/// Fills a store, which is empty or holds a part of the same, and reads it back. The name of the current master key comes last: without
/// it nobody takes the store for a whole one.
///
/// # Errors
/// [`CopyError`].
pub async fn fill<T: Store + ?Sized>(export: &StoreExport, to: &T) -> Result<Copied, CopyError> {
    fill_alike(export, to, |_, one, other| one == other).await
}

/// The same, where a value that is there counts as the one that is copied if they are `alike`.
///
/// # Errors
/// [`CopyError`].
pub async fn fill_alike<T: Store + ?Sized>(
    export: &StoreExport,
    to: &T,
    alike: impl Fn(&Key, &[u8], &[u8]) -> bool + Send + Sync,
) -> Result<Copied, CopyError> {
    let limit = to.max_value();
    if let Some(value) = export.values().iter().find(|value| value.value.len() > limit) {
        return Err(CopyError::TooLarge { key: value.key.clone(), got: value.value.len(), limit });
    }
    let wanted: BTreeMap<&Key, &[u8]> = export.values().iter().map(|value| (&value.key, value.value.as_slice())).collect();
    let there = vouched(to).await.map_err(CopyError::Target)?;
    for entry in &there {
        match wanted.get(&entry.key) {
            None => return Err(CopyError::Occupied { key: entry.key.clone() }),
            Some(value) if !alike(&entry.key, value, &entry.value) => return Err(CopyError::Differs { key: entry.key.clone() }),
            Some(_) => {}
        }
    }
    let there: std::collections::BTreeSet<&Key> = there.iter().map(|entry| &entry.key).collect();
    let current = CurrentMasterKey::key().map_err(|error| CopyError::Target(error.into()))?;
    let (last, missing): (Vec<_>, Vec<_>) =
        wanted.iter().filter(|(key, _)| !there.contains(*key)).partition(|(key, _)| ***key == current);
    let written = missing.len() + last.len();
    for group in [missing, last] {
        stream::iter(group.into_iter().map(Ok)).try_for_each_concurrent(AT_ONCE, |(key, value)| put(to, key, value)).await?;
    }
    let read_back = snapshot(to, export.made_at()).await.map_err(|error| match error {
        CopyError::Source(error) => CopyError::Target(error),
        other => other,
    })?;
    match first_difference(export, &read_back, alike) {
        Some(key) => Err(CopyError::Changed { key }),
        None => Ok(Copied { values: export.values().len(), written, digest: export.digest() }),
    }
}

async fn put<T: Store + ?Sized>(to: &T, key: &Key, value: &[u8]) -> Result<(), CopyError> {
    match to.put(key, value, Expect::Absent).await {
        Ok(_) => Ok(()),
        // Another run of the same copy was faster, or an answer was lost.
        Err(StoreError::Conflict { .. }) => match to.get(key).await.map_err(CopyError::Target)? {
            Some(entry) if entry.value == value => Ok(()),
            _ => Err(CopyError::Differs { key: key.clone() }),
        },
        Err(error) => Err(CopyError::Target(error)),
    }
}

/// The first key that has no such value in both that they are alike.
fn first_difference(one: &StoreExport, other: &StoreExport, alike: impl Fn(&Key, &[u8], &[u8]) -> bool) -> Option<Key> {
    let of = |export: &StoreExport| -> BTreeMap<Key, Vec<u8>> {
        export.values().iter().map(|value| (value.key.clone(), value.value.clone())).collect()
    };
    let (one, other) = (of(one), of(other));
    let differs = |key: &&Key| match (one.get(*key), other.get(*key)) {
        (Some(one), Some(other)) => !alike(key, one, other),
        _ => true,
    };
    one.keys().chain(other.keys()).find(differs).cloned()
}
