//! What this machine has seen of a shared store, kept in its state directory: a store that was put back to an earlier state, or whose
//! members are others all of a sudden, does not take this memory with it (N1, N3).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use toehold_core::AuditHead;

use super::member::{MemberId, StoreId};
use crate::adapters::file_lock::FileLock;
use crate::private::{self, PrivateError};

const FORMAT: u32 = 1;
/// The most bytes that the file may have.
const MAX: usize = 1024 * 1024;
/// How long another process may take to write the file.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often what is noted with every write is written down, at the most.
const REST: Duration = Duration::from_secs(1);

/// Why the memory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MarksError {
    /// It is not what was written.
    #[error("{} cannot be read: it is not what was written; without it nobody can tell whether the store was put back", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer release.
    #[error("{} was written by a newer release of Toehold (format {found}, this release reads format {FORMAT})", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is of another store.
    #[error("{} is the memory of the store {remembered}, and this is the store {found}", path.display())]
    OtherStore {
        /// The file.
        path: PathBuf,
        /// Which was seen.
        remembered: StoreId,
        /// Which is there.
        found: StoreId,
    },
    /// Another process holds the file for too long.
    #[error("another process holds {}", path.display())]
    Held {
        /// The file.
        path: PathBuf,
    },
    /// The file is not private, or the system refused.
    #[error(transparent)]
    Private(#[from] PrivateError),
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    v: u32,
    /// How often the store was taken as it was although it was behind what was seen before. What was seen before the last time does not count
    /// any more.
    #[serde(default)]
    epoch: u64,
    /// Which store.
    pub store: StoreId,
    /// Who this machine is in it.
    pub member: MemberId,
    /// Whose chain of the audit log this machine's is.
    pub writer: String,
    /// The hashes of the lists of members.
    pub sets: Vec<String>,
    /// The last entry of this machine's own chain of the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditHead>,
    /// The highest generation of the master key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The highest revision of what was written from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// The highest revisions of the records that must not go back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revisions: BTreeMap<String, u64>,
}

/// In what a store is behind what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Behind {
    /// The end of this machine's own chain of the audit log is missing.
    #[error("entry {number} of this machine's audit log is not there, or is another one")]
    Audit {
        /// Which was seen.
        number: u64,
    },
    /// The master key is of an earlier generation.
    #[error("the current master key is of generation {found}, and {seen} was seen")]
    Generation {
        /// Which was seen.
        seen: u64,
        /// Which is there.
        found: u64,
    },
    /// There were more lists of members.
    #[error("there are {found} lists of members, and {seen} were seen")]
    Members {
        /// How many were seen.
        seen: usize,
        /// How many are there.
        found: usize,
    },
    /// What was written from here was given a later revision than the store has come to.
    #[error("the store has come to revision {found}, and {seen} was written from here")]
    Revision {
        /// The highest that was given for a write.
        seen: u64,
        /// To which the store has come.
        found: u64,
    },
    /// A record is older than it was.
    #[error("{key} is older than it was")]
    Record {
        /// Its key.
        key: String,
    },
}

impl Seen {
    /// Of a store that is seen for the first time.
    pub fn first(store: StoreId, member: MemberId, writer: String, sets: Vec<String>) -> Self {
        let revisions = BTreeMap::new();
        Self { v: FORMAT, epoch: 0, store, member, writer, sets, audit: None, generation: None, written: None, revisions }
    }

    /// The same, with other lists of members.
    #[must_use]
    pub fn with_lists(self, sets: Vec<String>) -> Self {
        Self { sets, ..self }
    }

    /// Takes in what another process has seen meanwhile, since the store was last taken as it is.
    fn merge(&mut self, other: &Self) {
        if other.sets.len() > self.sets.len() {
            self.sets.clone_from(&other.sets);
        }
        self.generation = self.generation.max(other.generation);
        self.written = self.written.max(other.written);
        let number = |head: &Option<AuditHead>| head.as_ref().map(|head| head.number);
        if number(&other.audit) > number(&self.audit) {
            self.audit.clone_from(&other.audit);
        }
        for (key, revision) in &other.revisions {
            let own = self.revisions.entry(key.clone()).or_default();
            *own = (*own).max(*revision);
        }
    }

    /// Notes that something was written from here, and given this revision.
    pub fn note_written(&mut self, revision: u64) -> bool {
        let is_new = self.written < Some(revision);
        self.written = self.written.max(Some(revision));
        is_new
    }

    /// Notes that a record was seen with this revision.
    pub fn note_revision(&mut self, key: &str, revision: u64) -> bool {
        let own = self.revisions.entry(key.to_owned()).or_default();
        let is_new = revision > *own;
        *own = (*own).max(revision);
        is_new
    }
}

/// The memory of one store, in memory and, where it has a file, in that.
pub struct Marks {
    path: Option<PathBuf>,
    held: Mutex<Held>,
}

struct Held {
    seen: Seen,
    is_saved: bool,
    /// When this process was last at writing it down.
    saved_at: Option<Instant>,
    /// Whether the store was taken as it is since, by another process.
    is_outdated: bool,
}

impl Held {
    fn new(seen: Seen, is_saved: bool) -> Self {
        Self { seen, is_saved, saved_at: None, is_outdated: false }
    }

    /// What the file has.
    fn take_in(&mut self, path: &Path, there: &Seen) -> Result<(), MarksError> {
        if there.store != self.seen.store {
            let (path, remembered) = (path.to_owned(), there.store.clone());
            return Err(MarksError::OtherStore { path, remembered, found: self.seen.store.clone() });
        }
        match there.epoch.cmp(&self.seen.epoch) {
            Ordering::Greater => self.is_outdated = true,
            Ordering::Equal => self.seen.merge(there),
            // Of before the last time, written back by a release that knows of no times.
            Ordering::Less => {}
        }
        Ok(())
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where the memory of the store in this bucket is.
fn file(directory: &Path, bucket: &str) -> PathBuf {
    directory.join(format!("shared-{bucket}.json"))
}

fn read(path: &Path) -> Result<Option<Seen>, MarksError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Some(bytes) = private::read(path, MAX)? else { return Ok(None) };
    let damaged = |_| MarksError::Damaged { path: path.to_owned() };
    match serde_json::from_slice::<Version>(&bytes).map_err(damaged)? {
        Version { v: FORMAT } => serde_json::from_slice(&bytes).map(Some).map_err(damaged),
        Version { v } => Err(MarksError::Newer { path: path.to_owned(), found: v }),
    }
}

impl Marks {
    /// What is remembered of the store in this bucket; `None` where it was never seen from here.
    ///
    /// # Errors
    /// [`MarksError`].
    pub fn read(directory: &Path, bucket: &str) -> Result<Option<Self>, MarksError> {
        let path = file(directory, bucket);
        Ok(read(&path)?.map(|seen| Self { path: Some(path), held: Mutex::new(Held::new(seen, true)) }))
    }

    /// Begins to remember; durable on return.
    ///
    /// # Errors
    /// [`MarksError`].
    pub fn begin(directory: &Path, bucket: &str, seen: Seen) -> Result<Self, MarksError> {
        let marks = Self { path: Some(file(directory, bucket)), held: Mutex::new(Held::new(seen, false)) };
        marks.save()?;
        Ok(marks)
    }

    /// A memory that is kept in memory alone.
    pub fn in_memory(seen: Seen) -> Self {
        Self { path: None, held: Mutex::new(Held::new(seen, true)) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen.
    pub fn seen(&self) -> Seen {
        self.held().seen.clone()
    }

    /// Where it is kept.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Notes something; `change` says whether it was new. Not durable before [`Marks::save`].
    pub fn note(&self, change: impl FnOnce(&mut Seen) -> bool) {
        let mut held = self.held();
        if change(&mut held.seen) {
            held.is_saved = false;
        }
    }

    /// Takes in what other processes of this machine have seen and written down meanwhile. `false`: one of them has taken the store as it is
    /// ([`Marks::reset`]) after this one had begun. What this one has seen is of before that then, and is written down no more; whoever
    /// starts anew begins with what was seen since.
    ///
    /// # Errors
    /// [`MarksError`].
    pub fn catch_up(&self) -> Result<bool, MarksError> {
        let there = match &self.path {
            Some(path) => read(path)?.map(|there| (path, there)),
            None => None,
        };
        let mut held = self.held();
        if let Some((path, there)) = there {
            held.take_in(path, &there)?;
        }
        Ok(!held.is_outdated)
    }

    /// Writes what was noted; together with what other processes of this machine have noted. Writes nothing where it is outdated.
    ///
    /// # Errors
    /// [`MarksError`].
    pub fn save(&self) -> Result<(), MarksError> {
        {
            let held = self.held();
            if held.is_saved || held.is_outdated {
                return Ok(());
            }
        }
        let Some(path) = &self.path else { return Ok(()) };
        let _lock = lock(path)?;
        let there = read(path)?;
        let mut held = self.held();
        if let Some(there) = there {
            held.take_in(path, &there)?;
        }
        if held.is_outdated {
            return Ok(());
        }
        write(path, &mut held)
    }

    /// As [`Marks::save`], where the last time was at least a second ago: a write of the store costs no write of a file.
    ///
    /// # Errors
    /// [`MarksError`].
    pub fn save_at_times(&self) -> Result<(), MarksError> {
        {
            let mut held = self.held();
            if held.saved_at.is_some_and(|saved_at| saved_at.elapsed() < REST) {
                return Ok(());
            }
            // Also where it fails, as on a disk that is full.
            held.saved_at = Some(Instant::now());
        }
        self.save()
    }

    /// As if the last time had been long ago.
    #[cfg(test)]
    pub(in crate::shared) fn saved_long_ago(&self) {
        self.held().saved_at = None;
    }

    /// As if the last time had been this moment, however long a test takes.
    #[cfg(test)]
    pub(in crate::shared) fn saved_just_now(&self) {
        self.held().saved_at = Some(Instant::now() + 1_000 * REST);
    }

    /// Remembers this from now on, and nothing else: what was seen before does not count any more, here and with every other process that
    /// has this memory.
    ///
    /// # Errors
    /// [`MarksError`].
    pub fn reset(&self, seen: Seen) -> Result<(), MarksError> {
        let guard = self.path.as_deref().map(lock).transpose()?;
        let there = self.path.as_deref().map(read).transpose()?.flatten();
        let mut held = self.held();
        let last = there.map_or(0, |there| there.epoch).max(held.seen.epoch);
        *held = Held::new(Seen { epoch: last.saturating_add(1), ..seen }, false);
        if let Some(path) = &self.path {
            write(path, &mut held)?;
        }
        drop(guard);
        Ok(())
    }
}

fn write(path: &Path, held: &mut Held) -> Result<(), MarksError> {
    let bytes = serde_json::to_vec(&held.seen).map_err(|_| MarksError::Damaged { path: path.to_owned() })?;
    private::replace(path, &bytes)?;
    held.is_saved = true;
    held.saved_at = Some(Instant::now());
    Ok(())
}

/// Held only while the file is written.
fn lock(path: &Path) -> Result<FileLock, MarksError> {
    let place = path.with_extension("lock");
    let taken = FileLock::take_within(&place, PATIENCE).map_err(private::io_error("locking", &place))?;
    taken.ok_or_else(|| MarksError::Held { path: path.to_owned() })
}
