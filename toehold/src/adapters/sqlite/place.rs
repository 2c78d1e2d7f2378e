//! Whether the database still lies where it was opened. SQLite goes on in a file that was moved away or removed, as every program does that
//! has it open: what it answers then is of no store any more, and what it writes is lost.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::error::SqliteError;

/// The file that was opened, as the kernel tells it from all others. As long as it is open, no other has the same numbers.
#[derive(Clone, Debug)]
pub(super) struct Place {
    path: Arc<Path>,
    device: u64,
    inode: u64,
}

impl Place {
    /// Of the file that is there.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { path: Arc::from(path), device: metadata.dev(), inode: metadata.ino() })
    }

    /// The database file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails where another file is there, or none.
    pub(super) fn check(&self) -> Result<(), SqliteError> {
        let is_there = match fs::metadata(&self.path) {
            Ok(metadata) => (metadata.dev(), metadata.ino()) == (self.device, self.inode),
            // What cannot be looked at for another reason is no sign of anything.
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        if is_there { Ok(()) } else { Err(SqliteError::Moved { path: self.path.to_path_buf() }) }
    }
}
