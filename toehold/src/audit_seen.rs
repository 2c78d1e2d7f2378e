//! What this machine has seen of the audit log, kept beside the store and not in it: a store that was put back to an earlier state,
//! or whose log somebody has cut off, does not take this memory with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toehold_core::AuditHead;

use crate::adapters::file_lock::FileLock;
use crate::private::{self, PrivateError};

/// The file in the state directory.
pub const FILE_NAME: &str = "audit-seen.json";

/// The format that this release writes and reads.
const FORMAT: u32 = 1;

/// The most bytes that it may have.
const MAX: usize = 16 * 1024 * 1024;

/// How long another process may take to write it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the memory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditSeenError {
    /// It is not what was written.
    #[error("{} cannot be read: it is not what was written", path.display())]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditSeen {
    /// How often the log was taken as it was, whatever had been seen before.
    epoch: u64,
    /// The last entries that were seen and found good, by writer.
    pub heads: BTreeMap<String, AuditHead>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    v: u32,
    #[serde(default)]
    epoch: u64,
    heads: BTreeMap<String, AuditHead>,
}

fn file(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

/// What was seen before; nothing where nobody has looked yet.
///
/// # Errors
/// [`AuditSeenError`].
pub fn read(directory: &Path) -> Result<AuditSeen, AuditSeenError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let path = file(directory);
    let Some(bytes) = private::read(&path, MAX)? else { return Ok(AuditSeen::default()) };
    match serde_json::from_slice::<Version>(&bytes) {
        Ok(Version { v: FORMAT }) => {}
        Ok(Version { v }) => return Err(AuditSeenError::Newer { path, found: v }),
        Err(_) => return Err(AuditSeenError::Damaged { path }),
    }
    let Document { epoch, heads, .. } = serde_json::from_slice(&bytes).map_err(|_| AuditSeenError::Damaged { path })?;
    Ok(AuditSeen { epoch, heads })
}

/// Remembers what was found good since `seen` was read. Others may have looked meanwhile, and earlier or later than we: `found` is told what is
/// remembered now, and says which ends of the log are good where that has to be in it; of the other writers what is remembered stays. Where
/// somebody has taken the log as it is meanwhile, nothing is remembered, since what was seen before does not count any more.
///
/// # Errors
/// [`AuditSeenError`].
pub fn remember(
    directory: &Path,
    seen: &AuditSeen,
    found: impl Fn(&BTreeMap<String, AuditHead>) -> BTreeMap<String, AuditHead>,
) -> Result<(), AuditSeenError> {
    let with_found = |there: &AuditSeen| {
        let mut next = there.clone();
        next.heads.extend(found(&there.heads));
        next
    };
    if with_found(seen) == *seen {
        return Ok(());
    }
    let _lock = lock(directory)?;
    let there = read(directory)?;
    if there.epoch != seen.epoch {
        return Ok(());
    }
    let next = with_found(&there);
    if next == there { Ok(()) } else { write(directory, next) }
}

/// Remembers these and nothing else: the log is taken as it is.
///
/// # Errors
/// [`AuditSeenError`].
pub fn accept(directory: &Path, heads: BTreeMap<String, AuditHead>) -> Result<(), AuditSeenError> {
    let _lock = lock(directory)?;
    let epoch = match read(directory) {
        Ok(seen) => seen.epoch,
        Err(AuditSeenError::Damaged { .. }) => 0,
        Err(error) => return Err(error),
    };
    write(directory, AuditSeen { epoch: epoch.saturating_add(1), heads })
}

fn write(directory: &Path, AuditSeen { epoch, heads }: AuditSeen) -> Result<(), AuditSeenError> {
    let path = file(directory);
    let bytes = serde_json::to_vec(&Document { v: FORMAT, epoch, heads });
    let bytes = bytes.map_err(|_| AuditSeenError::Damaged { path: path.clone() })?;
    Ok(private::replace(&path, &bytes)?)
}

/// Held only while the file is written.
fn lock(directory: &Path) -> Result<FileLock, AuditSeenError> {
    let place = file(directory).with_extension("lock");
    let taken = FileLock::take_within(&place, PATIENCE).map_err(private::io_error("locking", &place))?;
    taken.ok_or_else(|| AuditSeenError::Held { path: file(directory) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(numbers: &[(&str, u64)]) -> BTreeMap<String, AuditHead> {
        let head = |number: u64| AuditHead { number, hash: format!("{number:064x}") };
        numbers.iter().map(|(writer, number)| ((*writer).to_owned(), head(*number))).collect()
    }

    /// Of two looks at a log that grows, the earlier one may come last.
    #[test]
    fn who_looked_earlier_and_writes_later_puts_nothing_back() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        remember(directory, &read(directory).unwrap(), |_| heads(&[("a", 1), ("b", 1)])).unwrap();
        let (early, late) = (read(directory).unwrap(), read(directory).unwrap());
        // In what the earlier one has read, the end that the later one has seen is missing.
        let found = |there: &BTreeMap<String, AuditHead>| {
            let is_missing = there.get("a").is_some_and(|head| head.number > 2);
            if is_missing { heads(&[("c", 1)]) } else { heads(&[("a", 2), ("c", 1)]) }
        };
        remember(directory, &late, |_| heads(&[("a", 5)])).unwrap();
        remember(directory, &early, found).unwrap();
        assert_eq!(read(directory).unwrap().heads, heads(&[("a", 5), ("b", 1), ("c", 1)]));
    }

    #[test]
    fn what_was_seen_before_the_log_was_taken_as_it_is_does_not_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        remember(directory, &read(directory).unwrap(), |_| heads(&[("a", 4)])).unwrap();
        let before = read(directory).unwrap();
        accept(directory, heads(&[("a", 3)])).unwrap();
        remember(directory, &before, |_| heads(&[("a", 5)])).unwrap();
        assert_eq!(read(directory).unwrap().heads, heads(&[("a", 3)]));
        remember(directory, &read(directory).unwrap(), |_| heads(&[("a", 4)])).unwrap();
        assert_eq!(read(directory).unwrap().heads, heads(&[("a", 4)]));
    }

    #[test]
    fn nothing_new_writes_nothing_and_waits_for_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        remember(directory, &read(directory).unwrap(), |_| heads(&[("a", 4)])).unwrap();
        let _held = lock(directory).unwrap();
        remember(directory, &read(directory).unwrap(), |_| heads(&[("a", 4)])).unwrap();
    }
}
