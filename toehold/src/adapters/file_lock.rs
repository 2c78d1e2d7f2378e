//! Who on this machine is working on what: a lock on a file that the kernel lets go of when its holder dies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use toehold_core::SessionId;

/// Something that this process alone works on. Dropping it, or dying, lets go.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    _file: File,
}

impl FileLock {
    /// Takes a session; `None` where another process has it.
    ///
    /// # Errors
    /// Where the lock file cannot be made.
    pub fn of_session(state_directory: &Path, session: SessionId) -> io::Result<Option<Self>> {
        Self::take(state_directory.join(format!("session-{session}.lock")))
    }

    /// Whether a process of this directory worked on a session and died at it: its file is left, whoever else has the session by now.
    pub fn was_left(state_directory: &Path, session: SessionId) -> bool {
        state_directory.join(format!("session-{session}.lock")).exists()
    }

    /// Takes whatever this file stands for; `None` where another process has it. The file is there only while it is taken.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn take(path: PathBuf) -> io::Result<Option<Self>> {
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

    /// As [`FileLock::take`] for what others hold for a moment only, as while they write a file; `None` where they still have it after
    /// `patience`. The thread waits.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn take_within(path: &Path, patience: Duration) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::take(path.to_owned())? {
                None if Instant::now() < deadline => std::thread::sleep(AGAIN),
                taken => return Ok(taken),
            }
        }
    }
}

/// How often it is tried again to take what another process has.
const AGAIN: Duration = Duration::from_millis(5);

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let ours = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok(ours.dev() == there.dev() && ours.ino() == there.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Drop for FileLock {
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
        let lock = FileLock::of_session(directory.path(), id).unwrap().unwrap();
        assert!(FileLock::of_session(directory.path(), id).unwrap().is_none());
        drop(lock);
        assert!(FileLock::of_session(directory.path(), id).unwrap().is_some());
    }
}
