//! What SQLite says, in words for the person who reads them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::ErrorCode;
use toehold_core::StoreError;

use crate::private::PrivateError;

/// Why the database file could not be used. The source of a [`StoreError::Unavailable`] from [`super::SqliteStore`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// There is no database.
    #[error("there is no {}; run: toehold init", path.display())]
    Absent {
        /// The database file.
        path: PathBuf,
    },
    /// Another process did not end its transaction in time.
    #[error("another process has kept {} locked for {} s", path.display(), limit.as_secs_f32())]
    Busy {
        /// The database file.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The file is not a database, is cut short, or contradicts itself.
    #[error("{} is damaged ({reason}); it was left as it is, restore it from a backup", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What SQLite or we found.
        reason: String,
    },
    /// Anything else that SQLite reports, such as a disk that fails.
    #[error("{} cannot be used: {reason}", path.display())]
    Engine {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The file is an SQLite database of another program.
    #[error("{} is a database, but not one of Toehold's; it was left as it is", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// The file that was opened lies there no longer: it was moved, removed or replaced while it was in use.
    #[error(
        "{} is no longer the file that this process has open: somebody has moved, removed or replaced it; the last writes are in that file \
         and in {}-wal: put it back, or move both away before another one takes its place",
        path.display(),
        path.display()
    )]
    Moved {
        /// The database file.
        path: PathBuf,
    },
    /// No room is left for what was to be written.
    #[error("the disk that holds {} is full; nothing was written and nothing is lost", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// A write-ahead log lies there without its database: using the name for a new store would mix the two.
    #[error("{} is gone, but {} is there and may hold its last writes; restore the database, or move the log away", path.display(), log.display())]
    LogWithoutDatabase {
        /// The database file.
        path: PathBuf,
        /// The write-ahead log.
        log: PathBuf,
    },
    /// The file or its directory is not private, not ours, or cannot be made.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The file or its directory may not be written.
    #[error("{} cannot be written: its file system or directory is read-only", path.display())]
    ReadOnly {
        /// The database file.
        path: PathBuf,
    },
    /// The store's own thread has ended; the process is shutting down, or it panicked.
    #[error("the thread that uses {} has ended", path.display())]
    Stopped {
        /// The database file.
        path: PathBuf,
    },
    /// More was written than the database keeps the names of before the watch could look, or it could not look.
    #[error("changes in {} were missed; watch anew and list", path.display())]
    WatchBroken {
        /// The database file.
        path: PathBuf,
    },
}

impl SqliteError {
    /// Reads what SQLite reported about `path`; `limit` is how long a lock was waited for.
    pub(super) fn from_engine(path: &Path, limit: Duration, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, limit },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::NotADatabase) => Self::Damaged { path, reason: "it is not an SQLite database".to_owned() },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, reason: error.to_string() },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            // Even a reader has to make the log's index beside the database.
            Some(ErrorCode::CannotOpen) if !may_write_beside(&path) => Self::ReadOnly { path },
            // What lies beside the database is mapped into memory, and SQLite does not say that there was no room for it.
            Some(ErrorCode::SystemIoFailure) if no_room_beside(&path) => Self::Full { path },
            _ => Self::Engine { path, reason: error.to_string() },
        }
    }

    /// As the error of a store that was `doing` something.
    pub(super) fn while_doing(self, doing: impl Into<String>) -> StoreError {
        StoreError::Unavailable { doing: doing.into(), source: Box::new(self) }
    }
}

/// Whether the file system of the database has no block left.
fn no_room_beside(path: &Path) -> bool {
    path.parent().and_then(|directory| rustix::fs::statvfs(directory).ok()).is_some_and(|system| system.f_bavail == 0)
}

fn may_write_beside(path: &Path) -> bool {
    path.parent().is_none_or(|directory| rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok())
}
