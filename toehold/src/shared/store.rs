//! A store in which every value is signed, over one that keeps what it is given.

mod history;
mod looking;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use toehold_core::{Entry, Expect, Key, KeyError, Revision, Source, Store, StoreError};
use toehold_specsign::SigningKey;

use super::chain::{Chain, ChainError, OperatorSet, Verified};
use super::envelope::{Distrust, Envelope, MAX_OVERHEAD, Origin};
use super::marks::{Marks, MarksError};
use super::member::{MemberId, StoreId};
use super::sealed;

pub use looking::Backing;
use looking::{Looked, Looks};

/// How old the list of members may be that is judged by. Whoever was removed is believed no longer than that by a process that runs.
const FRESH: Duration = Duration::from_secs(5);

/// Of how many keys is kept in mind what was seen of them.
const MAX_KNOWN: usize = 100_000;

/// Records that never go back: their revisions are remembered.
const KEPT: [&str; 2] = ["masterkey/current", "gateway/current"];

/// Who signs what this process writes.
pub trait Signer: Send + Sync {
    /// Whose signatures they will be.
    fn id(&self) -> MemberId;

    /// Signs; may have to unlock an identity first.
    fn sign(
        &self,
        store: &StoreId,
        key: &Key,
        origin: Origin,
        value: &[u8],
    ) -> impl Future<Output = Result<Envelope, Source>> + Send;

    /// The same value with what is sealed in it sealed to these members; `None` where it is so already, or nothing is.
    fn reseal(
        &self,
        key: &Key,
        value: &[u8],
        members: &OperatorSet,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, Source>> + Send;
}

impl Signer for SigningKey {
    fn id(&self) -> MemberId {
        MemberId::of(&self.verifying_key())
    }

    async fn sign(&self, store: &StoreId, key: &Key, origin: Origin, value: &[u8]) -> Result<Envelope, Source> {
        Ok(Envelope::seal(self, store, key, origin, value))
    }

    async fn reseal(&self, _: &Key, _: &[u8], _: &OperatorSet) -> Result<Option<Vec<u8>>, Source> {
        Ok(None)
    }
}

/// Why a shared store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// The lists of members do not hold together.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// They are others than those that were seen.
    #[error(
        "list {number} of this store's members is another one than this machine has seen: it is not the same store, or somebody has forked it; nothing is read from it and nothing written. If a backup was restored and others have gone on from that: toehold store accept-rollback --members FINGERPRINT, with the one that they see (operator ls)"
    )]
    Forked {
        /// The first that is another.
        number: usize,
    },
    /// There are none.
    #[error("the store has no members; make it with: toehold init --store")]
    NoMembers,
    /// What this machine remembers cannot be used.
    #[error(transparent)]
    Marks(#[from] MarksError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<KeyError> for SignedError {
    fn from(error: KeyError) -> Self {
        Self::Store(error.into())
    }
}

/// A value as it stands in the store, and what is to be thought of it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// With its signature.
    pub entry: Entry,
    /// What was signed, or why it is not taken.
    pub verdict: Result<Envelope, Distrust>,
}

/// A store whose values are signed by its members. Clones are handles of one.
///
/// What is not signed by a member who may write it is not handed out: a `get` fails, and a `list` has an [`Entry::unreadable`] in its
/// place. The lists of members themselves are not among its values.
pub struct SignedStore<S, K> {
    inner: Arc<Inner<S, K>>,
}

impl<S, K> Clone for SignedStore<S, K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<S, K> {
    store: S,
    signer: K,
    members: Mutex<Members>,
    /// What this process has seen of each key.
    known: Mutex<HashMap<Key, Known>>,
    marks: Marks,
    /// Why nothing is written.
    read_only: Mutex<Option<String>>,
    /// When it was looked at last whether the store is still what was seen of it.
    looked: Mutex<Looked>,
    /// Held by the one that looks.
    looking: tokio::sync::Mutex<()>,
    looks: Mutex<Looks>,
}

/// What was seen of a key.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The last revision.
    revision: u64,
    /// The last signature that was good: whoever reads the same value again has it verified once.
    verified: Option<Verified>,
}

struct Members {
    chain: Chain,
    looked_at: Instant,
}

impl<S, K> Drop for Inner<S, K> {
    fn drop(&mut self) {
        self.save_marks(Marks::save);
    }
}

impl<S, K> Inner<S, K> {
    fn save_marks(&self, save: impl FnOnce(&Marks) -> Result<(), MarksError>) {
        if let Err(error) = save(&self.marks) {
            tracing::warn!("what was seen of the store is not remembered: {}", crate::cli::chain(&error));
        }
    }
}

impl<S, K> fmt::Debug for SignedStore<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedStore").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prefix() -> Result<Key, KeyError> {
    Key::new(["operator"])
}

/// Whether a key is that of the lists of members.
fn is_of_members(key: &Key) -> bool {
    key.segments().next() == Some("operator")
}

/// Whether somebody may have come since, or got another role.
fn may_be_news(distrust: &Distrust) -> bool {
    matches!(distrust, Distrust::Stranger(_) | Distrust::Removed { .. } | Distrust::Role { .. })
}

/// The lists of a store's members, verified; `None` where there are none.
///
/// # Errors
/// [`SignedError`].
pub async fn read_chain<S: Store>(store: &S) -> Result<Option<Chain>, SignedError> {
    let entries = store.list(&prefix()?).await?;
    let mut entries = entries.iter();
    let Some(first) = entries.next() else { return Ok(None) };
    let in_place = |number: u64, entry: &Entry| -> Result<(), SignedError> {
        if OperatorSet::key(number)? == entry.key { Ok(()) } else { Err(ChainError::Broken { number }.into()) }
    };
    in_place(0, first)?;
    let mut chain = Chain::begin(first)?;
    for entry in entries {
        in_place(chain.members().number.saturating_add(1), entry)?;
        chain.extend(entry)?;
    }
    Ok(Some(chain))
}

/// Sees that these lists continue those that were seen, or end before the last one that was.
///
/// # Errors
/// [`SignedError::Forked`] and [`MarksError::OtherStore`].
pub fn check_continues(chain: &Chain, marks: &Marks) -> Result<(), SignedError> {
    let seen = marks.seen();
    if seen.store != *chain.store() {
        let path = marks.path().map(ToOwned::to_owned).unwrap_or_default();
        return Err(MarksError::OtherStore { path, remembered: seen.store, found: chain.store().clone() }.into());
    }
    match chain.hashes().iter().zip(&seen.sets).position(|(there, seen)| there != seen) {
        Some(number) => Err(SignedError::Forked { number }),
        None => Ok(()),
    }
}

impl<S: Backing, K: Signer> SignedStore<S, K> {
    /// Over a store that has members.
    ///
    /// # Errors
    /// [`SignedError`].
    pub async fn open(store: S, signer: K, marks: Marks) -> Result<Self, SignedError> {
        let chain = read_chain(&store).await?.ok_or(SignedError::NoMembers)?;
        check_continues(&chain, &marks)?;
        let known = marks.seen().revisions.into_iter();
        let known =
            known.filter_map(|(key, revision)| Some((Key::parse(&key).ok()?, Known { revision, verified: None }))).collect();
        let inner = Inner {
            looked: Mutex::new(Looked::now(&store)),
            looking: tokio::sync::Mutex::default(),
            known: Mutex::new(known),
            looks: Mutex::default(),
            store,
            signer,
            members: Mutex::new(Members { chain, looked_at: Instant::now() }),
            marks,
            read_only: Mutex::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.note_members();
        Ok(store)
    }

    /// Makes the first list of members in an empty store. `false`: somebody else was faster.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn found(store: &S, first: &OperatorSet, signer: &SigningKey) -> Result<bool, StoreError> {
        match store.put(&OperatorSet::key(0)?, &first.sealed(signer)?, Expect::Absent).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The store below, whose values have their signatures before them.
    pub fn below(&self) -> &S {
        &self.inner.store
    }

    /// Who signs.
    pub fn signer(&self) -> &K {
        &self.inner.signer
    }

    /// What this machine remembers of the store.
    pub fn marks(&self) -> &Marks {
        &self.inner.marks
    }

    /// The lists of members, as they were seen last.
    pub fn chain(&self) -> Chain {
        lock(&self.inner.members).chain.clone()
    }

    /// From now on nothing is written, for this reason.
    pub fn forbid_writes(&self, reason: String) {
        *lock(&self.inner.read_only) = Some(reason);
    }

    /// Why nothing is written, where that is so.
    pub fn read_only(&self) -> Option<String> {
        lock(&self.inner.read_only).clone()
    }

    fn note_members(&self) {
        let hashes = lock(&self.inner.members).chain.hashes();
        self.inner.marks.note(|seen| {
            let is_longer = hashes.len() > seen.sets.len();
            if is_longer {
                seen.sets = hashes;
            }
            is_longer
        });
    }

    /// Reads the lists of members that have come since.
    ///
    /// # Errors
    /// As [`Store::get`]; a list that does not continue the last one is [`StoreError::Corrupt`].
    pub async fn refresh(&self) -> Result<(), StoreError> {
        loop {
            let next = lock(&self.inner.members).chain.members().number.saturating_add(1);
            let key = OperatorSet::key(next)?;
            let Some(entry) = self.inner.store.get(&key).await? else {
                lock(&self.inner.members).looked_at = Instant::now();
                return Ok(());
            };
            {
                let members = &mut *lock(&self.inner.members);
                // Another task may have been faster.
                if members.chain.members().number.saturating_add(1) == next {
                    members.chain.extend(&entry).map_err(|error| StoreError::Corrupt { key, reason: error.to_string() })?;
                }
            }
            self.note_members();
            // Before anything is done that rests on it.
            self.save_marks();
        }
    }

    async fn be_fresh(&self) -> Result<(), StoreError> {
        let is_fresh = lock(&self.inner.members).looked_at.elapsed() < FRESH;
        if is_fresh { Ok(()) } else { self.refresh().await }
    }

    fn save_marks(&self) {
        self.inner.save_marks(Marks::save);
    }

    /// The same, but no more than once in a second: a process that is killed forgets what it has seen in the last one.
    fn save_marks_at_times(&self) {
        self.inner.save_marks(Marks::save_at_times);
    }

    /// Whether this process may change a record.
    fn may(&self, key: &Key, delete: bool) -> Result<(), StoreError> {
        let refused = |reason: String| Err(StoreError::Refused { key: key.clone(), reason });
        if let Some(reason) = self.read_only() {
            return refused(reason);
        }
        if is_of_members(key) {
            return refused("who the members of the store are is changed with: toehold operator".to_owned());
        }
        let members = lock(&self.inner.members);
        let Some(own) = members.chain.members().member(&self.inner.signer.id()) else {
            return refused("this machine is no member of the store (any more)".to_owned());
        };
        let may = if delete { own.role.may_delete(key) } else { own.may_write(key) };
        if may {
            Ok(())
        } else {
            refused(format!("this machine is a member with the role {}, which may not change it", own.role))
        }
    }

    fn judge_now(&self, entry: &Entry) -> Result<Envelope, Distrust> {
        let verified = lock(&self.inner.known).get(&entry.key).and_then(|known| known.verified);
        let judged = lock(&self.inner.members).chain.judge_again(&entry.key, &entry.value, verified);
        let (envelope, verified) = judged?;
        let mut known = lock(&self.inner.known);
        if known.len() > MAX_KNOWN {
            known.retain(|key, _| KEPT.contains(&key.as_str()));
        }
        let seen = match known.get_mut(&entry.key) {
            Some(seen) => seen,
            None => known.entry(entry.key.clone()).or_default(),
        };
        // Whatever comes after the revision that was seen was written over that one, or over a later one.
        let is_older = |replaced: u64| entry.revision.0 > seen.revision && replaced < seen.revision;
        // These are never removed, so that one that was written as the first is one, too.
        let replaced = envelope.origin.replaces.or_else(|| KEPT.contains(&entry.key.as_str()).then_some(0));
        if replaced.is_some_and(is_older) {
            return Err(Distrust::PutBack);
        }
        seen.revision = seen.revision.max(entry.revision.0);
        seen.verified = Some(verified);
        drop(known);
        self.note(&entry.key, &envelope.value, entry.revision);
        Ok(envelope)
    }

    async fn judge(&self, entry: &Entry) -> Result<Result<Envelope, Distrust>, StoreError> {
        match self.judge_now(entry) {
            Err(distrust) if may_be_news(&distrust) => {
                self.refresh().await?;
                Ok(self.judge_now(entry))
            }
            verdict => Ok(verdict),
        }
    }

    /// Everything in the store, with what is to be thought of it.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn judged(&self) -> Result<Vec<Judged>, StoreError> {
        self.refresh().await?;
        let mut judged = Vec::new();
        for kind in self.inner.store.kinds().await?.into_iter().filter(|kind| !is_of_members(kind)) {
            let mut entries: Vec<Entry> = self.inner.store.get(&kind).await?.into_iter().collect();
            entries.extend(self.inner.store.list(&kind).await?);
            for entry in entries {
                let verdict = self.judge_now(&entry);
                judged.push(Judged { entry, verdict });
            }
        }
        Ok(judged)
    }

    /// Puts the next list of members into its place; `false` where somebody else was faster, whose list was read.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn continue_chain(&self, next: &OperatorSet, signer: &SigningKey) -> Result<bool, StoreError> {
        let key = OperatorSet::key(next.number)?;
        self.be_current().await?;
        if let Some(reason) = self.read_only() {
            return Err(StoreError::Refused { key, reason });
        }
        // What nobody takes would stand in the way of all that come after.
        if let Err(error) = next.check() {
            return Err(StoreError::Refused { key, reason: error.to_string() });
        }
        let bytes = next.sealed(signer)?;
        let written = self.inner.store.put(&key, &bytes, Expect::Absent).await;
        match written {
            Ok(_) | Err(StoreError::Conflict { .. }) => self.refresh().await?,
            Err(error) => return Err(error),
        }
        // An answer may have been lost before: what is there tells.
        Ok(written.is_ok() || self.inner.store.get(&key).await?.is_some_and(|entry| entry.value == bytes))
    }

    /// Signs a value anew that somebody else has signed, who may not be a member for much longer. `false`: it was changed meanwhile.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn sign_anew(&self, key: &Key, value: &[u8], revision: Revision) -> Result<bool, StoreError> {
        match self.put(key, value, Expect::Revision(revision)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what is not taken, whatever it is; `false` where the record is good, or not there.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub async fn discard(&self, key: &Key) -> Result<bool, StoreError> {
        self.be_current().await?;
        self.may(key, true)?;
        if KEPT.contains(&key.as_str()) {
            let reason = "without it the store would take an older key for the current one: restore the store from a backup";
            return Err(StoreError::Refused { key: key.clone(), reason: reason.to_owned() });
        }
        let Some(entry) = self.inner.store.get(key).await? else { return Ok(false) };
        if self.judge(&entry).await?.is_ok() {
            return Ok(false);
        }
        self.remove(key, entry.revision).await.map(|()| true)
    }

    /// Removes a record, and remembers how far the store had come by that: it was written to.
    async fn remove(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        if let Some(given) = self.inner.store.remove(key, revision).await? {
            self.note_written(given);
        }
        Ok(())
    }

    async fn write(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let replaces = match expect {
            Expect::Absent => None,
            Expect::Revision(revision) => Some(revision.0),
        };
        let (store, set) = {
            let members = lock(&self.inner.members);
            (members.chain.store().clone(), members.chain.members().number)
        };
        let origin = Origin { signer: self.inner.signer.id(), set, replaces };
        let failed = |source: Source| StoreError::Unavailable { doing: format!("signing {key}"), source };
        let envelope = self.inner.signer.sign(&store, key, origin, value).await.map_err(failed)?;
        // Last: whatever was asked before may have waited for a connection, behind which is an earlier state.
        self.be_current().await?;
        self.may(key, false)?;
        let revision = self.inner.store.put(key, &envelope.to_bytes(), expect).await?;
        self.note_own(key, value, revision);
        Ok(revision)
    }

    /// Writes a value in which something may be sealed, to all who are members when it is there: whoever is added meanwhile either finds
    /// it, since he looks after he was added, or is found here, since this looks after it was written.
    async fn write_sealed(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        self.refresh().await?;
        let mut written: Option<Revision> = None;
        loop {
            let members = lock(&self.inner.members).chain.members().clone();
            let failed = |source: Source| StoreError::Unavailable { doing: format!("sealing {key}"), source };
            let anew = self.inner.signer.reseal(key, value, &members).await.map_err(failed)?;
            let expect = written.map_or(expect, Expect::Revision);
            let revision = match (self.write(key, anew.as_deref().unwrap_or(value), expect).await, written) {
                (Ok(revision), _) => revision,
                // Whoever added somebody has done it, or another has gone on from there; ours was written.
                (Err(StoreError::Conflict { .. }), Some(revision)) => return Ok(revision),
                (Err(error), _) => return Err(error),
            };
            self.refresh().await?;
            if lock(&self.inner.members).chain.members().number == members.number {
                return Ok(revision);
            }
            written = Some(revision);
        }
    }
}

impl<S: Backing, K: Signer> Store for SignedStore<S, K> {
    type Watch = S::Watch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        if is_of_members(key) {
            return Ok(None);
        }
        self.be_fresh().await?;
        let Some(entry) = self.inner.store.get(key).await? else { return Ok(None) };
        match self.judge(&entry).await? {
            Ok(envelope) => Ok(Some(Entry { value: envelope.value, ..entry })),
            Err(distrust) => Err(distrust.at(key)),
        }
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let limit = self.max_value();
        if value.len() > limit {
            return Err(StoreError::TooLarge { key: key.clone(), got: value.len(), limit });
        }
        self.be_fresh().await?;
        self.may(key, false)?;
        if sealed::may_hold(key) { self.write_sealed(key, value, expect).await } else { self.write(key, value, expect).await }
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        self.be_fresh().await?;
        self.be_current().await?;
        self.may(key, true)?;
        self.remove(key, revision).await
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        if is_of_members(prefix) {
            return Ok(Vec::new());
        }
        self.be_fresh().await?;
        let entries = self.inner.store.list(prefix).await?;
        let mut verdicts: Vec<_> = entries.iter().map(|entry| self.judge_now(entry)).collect();
        if verdicts.iter().any(|verdict| verdict.as_ref().is_err_and(may_be_news)) {
            self.refresh().await?;
            verdicts = entries.iter().map(|entry| self.judge_now(entry)).collect();
        }
        let told = entries.into_iter().zip(verdicts).map(|(entry, verdict)| match verdict {
            Ok(envelope) => Entry { value: envelope.value, ..entry },
            Err(distrust) => Entry::unreadable(entry.key, &distrust.advice(), entry.revision, entry.written_at),
        });
        Ok(told.collect())
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        let kinds = self.inner.store.kinds().await?;
        Ok(kinds.into_iter().filter(|kind| !is_of_members(kind)).collect())
    }

    async fn watch(&self, prefix: &Key) -> Result<S::Watch, StoreError> {
        self.inner.store.watch(prefix).await
    }

    fn max_value(&self) -> usize {
        self.inner.store.max_value().saturating_sub(MAX_OVERHEAD)
    }
}
