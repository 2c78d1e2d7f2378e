//! Files and directories that only their owner may touch, and files that appear whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::adapters::identity::read_wiped;

/// What stands behind a file's name while it is being written.
const STAGED: &str = ".new-";

/// Why a file or directory is not one that may hold secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateError {
    /// Others than the owner may read or write it.
    #[error("{} can be used by others than its owner (mode {mode:04o}); run: chmod {wanted:o} {}", path.display(), quoted(path))]
    Loose {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It is somebody else's.
    #[error("{} belongs to user id {owner}, and this process runs as user id {us}", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// It is not of the kind that is wanted: a link, a device, a directory in place of a file.
    #[error("{} is not a {wanted}", path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// The system refused.
    #[error("{doing} {} failed", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl PrivateError {
    /// Whether the file or directory does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

pub(crate) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrivateError {
    let path = path.to_owned();
    move |source| PrivateError::Io { doing, path, source }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}

fn check(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), PrivateError> {
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(PrivateError::Foreign { path: path.to_owned(), owner: metadata.uid(), us });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateError::Loose { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

/// Sees to it that `path` is a directory of ours with no permissions for others.
pub(crate) fn check_directory(path: &Path) -> Result<(), PrivateError> {
    let metadata = fs::metadata(path).map_err(io_error("looking at", path))?;
    if !metadata.is_dir() {
        return Err(PrivateError::Kind { path: path.to_owned(), wanted: "directory" });
    }
    check(path, &metadata, 0o700)
}

/// Sees to it that `path` is a regular file of ours, not a link, with no permissions for others.
pub(crate) fn check_file(path: &Path) -> Result<(), PrivateError> {
    check_regular(path, &fs::symlink_metadata(path).map_err(io_error("looking at", path))?)
}

/// The same for what a link may lead to.
pub(crate) fn check_linked_file(path: &Path) -> Result<(), PrivateError> {
    check_regular(path, &fs::metadata(path).map_err(io_error("looking at", path))?)
}

fn check_regular(path: &Path, metadata: &fs::Metadata) -> Result<(), PrivateError> {
    if !metadata.is_file() {
        return Err(PrivateError::Kind { path: path.to_owned(), wanted: "regular file" });
    }
    check(path, metadata, 0o600)
}

/// Makes a directory, and those above it that are missing, with mode 0700; one that exists is checked.
pub(crate) fn create_directory(path: &Path) -> Result<(), PrivateError> {
    // What is above it, such as ~/.local/share, is not ours alone; XDG has it made with mode 0700 too.
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("making the directory", path))?;
    check_directory(path)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_directory(parent)?;
    }
    Ok(())
}

/// Makes a new empty file with mode 0600 beside `path`, under a name that nothing has yet.
pub(crate) fn create_beside(path: &Path) -> Result<(File, PathBuf), PrivateError> {
    create_beside_as(path, 0o600)
}

fn create_beside_as(path: &Path, mode: u32) -> Result<(File, PathBuf), PrivateError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io_error("choosing a name beside", path)(io::Error::other(error)))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{STAGED}{:016x}", u64::from_le_bytes(random)));
    let staged = path.with_file_name(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged).map_err(io_error("creating", &staged))?;
    Ok((file, staged))
}

/// Gives a finished file its name, unless something has that name already, which then stays as it is. The name is durable
/// on return. `false`: something has it.
pub(crate) fn publish(staged: &Path, path: &Path) -> Result<bool, PrivateError> {
    let renamed = match renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE) {
        // A file system without this kind of rename: a hard link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match fs::hard_link(staged, path) {
            Ok(()) => fs::remove_file(staged),
            Err(error) => Err(error),
        },
        other => other.map_err(io::Error::from),
    };
    match renamed {
        Ok(()) => {
            sync_directory(directory_of(path))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(staged).map_err(io_error("removing", staged))?;
            Ok(false)
        }
        Err(error) => Err(io_error("creating", path)(error)),
    }
}

/// Writes a file that was not there, for its owner alone. `false`: something has its name, and stays as it is.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<bool, PrivateError> {
    let staged = write_beside(path, bytes)?;
    publish(&staged, path)
}

/// Writes a file of ours with mode 0600, over what has that name: whole or not at all, and durable on return. A link, or somebody
/// else's file, is left alone and refused.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), PrivateError> {
    match check_file(path) {
        Err(error) if !error.is_absent() => return Err(error),
        _ => {}
    }
    put(&write_beside(path, content)?, path)
}

/// Writes a file that is not for its owner alone, over what has that name: whole or not at all, and durable on return. A new one has this mode
/// under the umask, and one that is there keeps its own, but for what others may do where that mode gives them nothing. A link, or somebody else's file, is left alone and refused.
pub(crate) fn replace_shown(path: &Path, content: &[u8], mode: u32) -> Result<(), PrivateError> {
    let kept = match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(PrivateError::Kind { path: path.to_owned(), wanted: "regular file" });
        }
        Ok(metadata) => {
            let (owner, us) = (metadata.uid(), rustix::process::geteuid().as_raw());
            if owner != us {
                return Err(PrivateError::Foreign { path: path.to_owned(), owner, us });
            }
            let for_others = mode & 0o077;
            let everybody = if for_others == 0 { 0o700 } else { 0o777 };
            Some(metadata.mode() & everybody)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error("looking at", path)(error)),
    };
    let (mut file, staged) = create_beside_as(path, kept.unwrap_or(mode))?;
    let as_before = |file: &File| kept.map_or(Ok(()), |mode| file.set_permissions(fs::Permissions::from_mode(mode)));
    let written = as_before(&file).and_then(|()| file.write_all(content)).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&staged);
        return Err(io_error("writing", path)(error));
    }
    put(&staged, path)
}

/// Gives a finished file its name, over what has that.
fn put(staged: &Path, path: &Path) -> Result<(), PrivateError> {
    fs::rename(staged, path).map_err(|error| {
        // The error that counts is the first one.
        let _ = fs::remove_file(staged);
        io_error("replacing", path)(error)
    })?;
    sync_directory(directory_of(path))
}

/// Reads a file of ours into a buffer that is wiped; a link, somebody else's file, or one that others may use is refused, and so is
/// one of over `limit` bytes. `None`: there is none.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, PrivateError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(PrivateError::Kind { path: path.to_owned(), wanted: "regular file" }),
        Err(error) => return Err(io_error("reading", path)(error.into())),
    };
    // Of the file that is open, not of whatever has its name by now.
    let metadata = file.metadata().map_err(io_error("looking at", path))?;
    if !metadata.is_file() {
        return Err(PrivateError::Kind { path: path.to_owned(), wanted: "regular file" });
    }
    check(path, &metadata, 0o600)?;
    let content = read_wiped(file, limit.saturating_add(1)).map_err(io_error("reading", path))?;
    if content.len() > limit {
        return Err(io_error("reading", path)(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has over {limit} bytes"))));
    }
    Ok(Some(content))
}

/// Removes a file, if it is there, durably.
pub(crate) fn remove(path: &Path) -> Result<(), PrivateError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(directory_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("removing", path)(error)),
    }
}

/// Removes what writers that died have left beside `path` ([`create_beside`]); to be called by whoever alone writes there.
pub(crate) fn sweep_beside(path: &Path) -> Result<(), PrivateError> {
    let directory = directory_of(path);
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(STAGED);
    for entry in fs::read_dir(directory).map_err(io_error("listing", directory))? {
        let entry = entry.map_err(io_error("listing", directory))?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The directory of a file; a bare name is in the one that we are in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_beside(path: &Path, bytes: &[u8]) -> Result<PathBuf, PrivateError> {
    let (mut file, staged) = create_beside(path)?;
    match file.write_all(bytes).and_then(|()| file.sync_all()) {
        Ok(()) => Ok(staged),
        Err(error) => {
            let _ = fs::remove_file(&staged);
            Err(io_error("writing", path)(error))
        }
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), PrivateError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("syncing", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_replaced_is_whole_and_private_and_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keyring");
        assert_eq!(read(&path, 16).unwrap(), None);
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path, 16).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(matches!(read(&path, 2), Err(PrivateError::Io { .. })));

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path, 16), Err(PrivateError::Loose { mode: 0o640, .. })));
        assert!(matches!(replace(&path, b"three"), Err(PrivateError::Loose { .. })));

        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "theirs").unwrap();
        let link = directory.path().join("link");
        symlink(&elsewhere, &link).unwrap();
        assert!(matches!(read(&link, 16), Err(PrivateError::Kind { .. })));
        assert!(matches!(replace(&link, b"ours"), Err(PrivateError::Kind { .. })));
        assert_eq!(fs::read(&elsewhere).unwrap(), b"theirs");
        assert!(matches!(read(directory.path(), 16), Err(PrivateError::Kind { .. })));
    }

    #[test]
    fn what_is_shown_keeps_its_mode_and_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (path, secret) = (directory.path().join("fleet.json"), directory.path().join("secret.json"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        replace_shown(&path, b"one", 0o644).unwrap();
        replace_shown(&secret, b"one", 0o600).unwrap();
        // The umask of whoever tests may take some of it away.
        assert_eq!((mode(&path) & 0o600, mode(&path) & !0o644, mode(&secret)), (0o600, 0, 0o600));
        for kept in [0o640, 0o444, 0o600, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
            replace_shown(&path, b"two", 0o644).unwrap();
            assert_eq!((mode(&path), fs::read(&path).unwrap()), (kept, b"two".to_vec()));
        }
        // What was for everybody is to hold a secret now.
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o664)).unwrap();
        replace_shown(&secret, b"two", 0o600).unwrap();
        assert_eq!(mode(&secret), 0o600);
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(replace_shown(&link, b"three", 0o644), Err(PrivateError::Kind { .. })));
        assert_eq!((fs::read(&path).unwrap(), fs::read_dir(directory.path()).unwrap().count()), (b"two".to_vec(), 3));
    }

    #[test]
    fn what_a_writer_that_died_has_left_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keyring");
        let (_, staged) = create_beside(&path).unwrap();
        let (_, other) = create_beside(&directory.path().join("other")).unwrap();
        sweep_beside(&path).unwrap();
        assert!(!staged.exists() && other.exists());
    }
}
