//! The master key in a file.
//!
//! The one place in this crate that touches a file of this machine: the store is for people who use the crate alone, and a
//! trait between it and `std::fs` would only be in their way.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use toehold_core::SecretBytes;
use toehold_keygen::{KeyPair, MAX_PRIVATE_KEY_FILE, read_private_key_file};

use crate::key_store::{EmptyStoreError, MasterKeyStore, MasterKeyStoreError, Unfinished};

/// What others must not have on a private key, and what they must not have on its directory.
const ANY: u32 = 0o077;
const WRITE: u32 = 0o022;

/// The most bytes of two keys.
const MAX_FILE: usize = 2 * MAX_PRIVATE_KEY_FILE;
/// The last line of an `OpenSSH` private key file.
const END: &[u8] = b"-----END OPENSSH PRIVATE KEY-----\n";

/// Keeps the master key in a private key file: `OpenSSH` format, 0600, without passphrase.
///
/// Reads whatever [`read_private_key_file`] reads, so also the PKCS#1 and SEC1 files of Geofront (which made them with the
/// umask's permissions; `chmod 600` them). The file is replaced by a rename, after the new one is on the disk: at every moment
/// there is the old key or the new one. A file that others may read, and a directory in which others may put files, are
/// refused. The directory is not made.
///
/// Several processes may save at once; one comes last. The calls block on the file system, shortly.
///
/// The key lies there in the clear. Toehold's own store holds keys sealed.
#[derive(Clone, Debug)]
pub struct FileSystemMasterKeyStore {
    path: PathBuf,
}

/// What [`save`](MasterKeyStore::save) is about to do: where a crash can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    Truncate,
    Write,
    /// In the middle of the content.
    WriteRest,
    Sync,
    Rename,
    SyncDirectory,
    Done,
}

impl FileSystemMasterKeyStore {
    /// The store in the file at `path`, which has to end with a file's name. Nothing is looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// The file that is written first. Its name is always the same, so that what a crash leaves is taken by the next save.
    fn staged(&self) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".new");
        self.directory().join(name)
    }

    /// A file beside the master key's.
    fn beside(&self, extension: &str) -> Self {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(extension);
        Self { path: self.directory().join(name) }
    }

    /// The keys of an unfinished renewal, one behind the other.
    fn renewal(&self) -> Self {
        self.beside(".renewal")
    }

    fn read(&self) -> Result<KeyPair, MasterKeyStoreError> {
        let path = &self.path;
        let content = self.content()?.ok_or_else(|| EmptyStoreError { place: path.display().to_string() })?;
        self.parse(content.expose())
    }

    fn parse(&self, content: &[u8]) -> Result<KeyPair, MasterKeyStoreError> {
        read_private_key_file(content, None).map_err(|source| MasterKeyStoreError::Damaged { path: self.path.clone(), source })
    }

    fn content(&self) -> Result<Option<SecretBytes>, MasterKeyStoreError> {
        let path = &self.path;
        let file = match OpenOptions::new().read(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("opening", path)(error)),
        };
        let metadata = file.metadata().map_err(failed("looking at", path))?;
        if !metadata.is_file() {
            return Err(MasterKeyStoreError::NotAFile { path: path.clone() });
        }
        check(path, metadata.mode(), ANY, "read or written by others", "600")?;
        // Room for all of it at once, so that no half is left behind in freed memory.
        let mut content = Vec::with_capacity(MAX_FILE + 1);
        let limit = u64::try_from(MAX_FILE + 1).unwrap_or(u64::MAX);
        let read = file.take(limit).read_to_end(&mut content);
        let content = SecretBytes::new(content);
        read.map_err(failed("reading", path))?;
        Ok(Some(content))
    }

    fn write(&self, content: &SecretBytes, mut at: impl FnMut(Step) -> io::Result<()>) -> Result<(), MasterKeyStoreError> {
        let (path, staged) = (&self.path, self.staged());
        if path.file_name().is_none() {
            return Err(MasterKeyStoreError::NotAFile { path: path.clone() });
        }
        let (first, rest) = content.expose().split_at(content.len() / 2);

        let directory = File::open(self.directory()).map_err(failed("opening", self.directory()))?;
        let mode = directory.metadata().map_err(failed("looking at", self.directory()))?.mode();
        check(self.directory(), mode, WRITE, "written to by others", "go-w")?;
        if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(MasterKeyStoreError::NotAFile { path: path.clone() });
        }
        let mut step = |step: Step, doing, path: &Path| at(step).map_err(failed(doing, path));
        step(Step::Open, "opening", &staged)?;
        let mut file = Self::open_staged(&staged)?;
        step(Step::Truncate, "emptying", &staged)?;
        file.set_len(0).map_err(failed("emptying", &staged))?;
        step(Step::Write, "writing", &staged)?;
        file.write_all(first).map_err(failed("writing", &staged))?;
        step(Step::WriteRest, "writing", &staged)?;
        file.write_all(rest).map_err(failed("writing", &staged))?;
        step(Step::Sync, "syncing", &staged)?;
        file.sync_all().map_err(failed("syncing", &staged))?;
        step(Step::Rename, "renaming", &staged)?;
        fs::rename(&staged, path).map_err(failed("renaming", &staged))?;
        step(Step::SyncDirectory, "syncing", self.directory())?;
        directory.sync_all().map_err(failed("syncing", self.directory()))?;
        step(Step::Done, "leaving", path)
    }

    /// Opens the staged file for us alone. It is locked until it has its final name: whoever waits for the lock finds then
    /// that it holds another file than the one that bears the name, and opens anew.
    fn open_staged(staged: &Path) -> Result<File, MasterKeyStoreError> {
        loop {
            match fs::symlink_metadata(staged) {
                Ok(metadata) if !metadata.is_file() => return Err(MasterKeyStoreError::NotAFile { path: staged.to_owned() }),
                Ok(metadata) => check(staged, metadata.mode(), ANY, "read or written by others", "600")?,
                Err(_) => {}
            }
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(staged).map_err(failed("opening", staged))?;
            file.lock().map_err(failed("locking", staged))?;
            let ours = file.metadata().map_err(failed("looking at", staged))?;
            match fs::symlink_metadata(staged) {
                Ok(named) if named.ino() == ours.ino() && named.dev() == ours.dev() => return Ok(file),
                _ => {}
            }
        }
    }
}

impl MasterKeyStore for FileSystemMasterKeyStore {
    async fn load(&self) -> Result<KeyPair, MasterKeyStoreError> {
        self.read()
    }

    async fn save(&self, key: &KeyPair) -> Result<(), MasterKeyStoreError> {
        self.write(&openssh(key)?, |_| Ok(()))
    }

    type Hold = File;

    async fn hold(&self) -> Result<File, MasterKeyStoreError> {
        let lock = self.beside(".renewal-lock").path;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&lock).map_err(failed("opening", &lock))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(MasterKeyStoreError::Held { place: lock.display().to_string() }),
            Err(TryLockError::Error(error)) => Err(failed("locking", &lock)(error)),
        }
    }

    async fn load_unfinished(&self) -> Result<Option<Unfinished>, MasterKeyStoreError> {
        let renewal = self.renewal();
        let Some(content) = renewal.content()? else { return Ok(None) };
        let content = content.expose();
        // The second begins where the first, which we wrote, has ended.
        let ends = content.windows(END.len()).position(|window| window == END).map_or(content.len(), |at| at + END.len());
        let (old, new) = content.split_at(ends);
        Ok(Some(Unfinished { old: renewal.parse(old)?, new: renewal.parse(new)? }))
    }

    async fn save_unfinished(&self, keys: Option<(&KeyPair, &KeyPair)>) -> Result<(), MasterKeyStoreError> {
        let renewal = self.renewal();
        let Some((old, new)) = keys else {
            return match fs::remove_file(&renewal.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &renewal.path)(error)),
                _ => Ok(()),
            };
        };
        let (old, new) = (openssh(old)?, openssh(new)?);
        let mut both = Vec::with_capacity(old.len() + new.len());
        both.extend_from_slice(old.expose());
        both.extend_from_slice(new.expose());
        renewal.write(&SecretBytes::new(both), |_| Ok(()))
    }
}

fn openssh(key: &KeyPair) -> Result<SecretBytes, MasterKeyStoreError> {
    key.to_openssh("toehold-master").map_err(MasterKeyStoreError::Unwritable)
}

fn check(path: &Path, mode: u32, forbidden: u32, what: &'static str, wanted: &'static str) -> Result<(), MasterKeyStoreError> {
    let mode = mode & 0o7777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(MasterKeyStoreError::Loose { path: path.to_owned(), what, mode, wanted })
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MasterKeyStoreError {
    let path = path.to_owned();
    move |source| MasterKeyStoreError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng as _;
    use toehold_core::PublicKey;
    use toehold_core::testing::block_on;
    use toehold_keygen::KeyAlgorithm;

    use super::*;

    const STEPS: [Step; 8] =
        [Step::Open, Step::Truncate, Step::Write, Step::WriteRest, Step::Sync, Step::Rename, Step::SyncDirectory, Step::Done];

    fn key(seed: u8) -> KeyPair {
        KeyPair::generate(&mut ChaCha20Rng::from_seed([seed; 32]), KeyAlgorithm::Ed25519).unwrap()
    }

    fn stored(store: &FileSystemMasterKeyStore) -> PublicKey {
        block_on(store.load()).unwrap().public_key().clone()
    }

    #[test]
    fn a_save_that_stops_anywhere_leaves_the_old_key_or_the_new_one() {
        let (old, new, third) = (key(1), key(2), key(3));
        for stop in STEPS {
            let directory = tempfile::tempdir().unwrap();
            let store = FileSystemMasterKeyStore::new(directory.path().join("master"));
            block_on(store.save(&old)).unwrap();
            let stopped = store
                .write(&openssh(&new).unwrap(), |step| if step == stop { Err(io::Error::other("the crash")) } else { Ok(()) });
            assert!(stopped.is_err());
            let renamed = matches!(stop, Step::SyncDirectory | Step::Done);
            assert_eq!(stored(&store), if renamed { &new } else { &old }.public_key().clone(), "{stop:?}");
            // What it left is in nobody's way, and does not stay.
            block_on(store.save(&third)).unwrap();
            assert_eq!(stored(&store), *third.public_key());
            let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["master"], "{stop:?}");
        }
    }

    #[test]
    fn the_content_is_on_the_disk_before_it_gets_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileSystemMasterKeyStore::new(directory.path().join("master"));
        let mut steps = Vec::new();
        store
            .write(&openssh(&key(1)).unwrap(), |step| {
                steps.push(step);
                Ok(())
            })
            .unwrap();
        assert_eq!(steps, STEPS);
        assert_eq!(fs::metadata(store.path()).unwrap().mode() & 0o7777, 0o600);
    }
}
