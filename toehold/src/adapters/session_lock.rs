//! Who on this machine is working on which session: a lock on a file that the kernel lets go of when its holder dies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use toehold_core::SessionId;

/// A session that this process works on. Dropping it, or dying, lets go.
#[derive(Debug)]
pub struct SessionLock {
    path: PathBuf,
    _file: File,
}

impl SessionLock {
    /// Takes the session; `None` where another process has it.
    ///
    /// # Errors
    /// Where the lock file cannot be made.
    pub fn take(state_directory: &Path, session: SessionId) -> io::Result<Option<Self>> {
        let path = state_directory.join(format!("session-{session}.lock"));
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // The one before us may have taken the file away between our open and our lock: then ours is nobody's.
            if is_same_file(&file, &path)? {
                return Ok(Some(Self { path, _file: file }));
            }
        }
    }
}

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let ours = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok(ours.dev() == there.dev() && ours.ino() == there.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // While the lock is still held, so that nobody else's file goes.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let id = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let lock = SessionLock::take(directory.path(), id).unwrap().unwrap();
        assert!(SessionLock::take(directory.path(), id).unwrap().is_none());
        drop(lock);
        assert!(SessionLock::take(directory.path(), id).unwrap().is_some());
    }
}
