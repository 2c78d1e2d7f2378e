//! Files and directories that only their owner may touch, and files that appear whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

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
    let metadata = fs::symlink_metadata(path).map_err(io_error("looking at", path))?;
    if !metadata.is_file() {
        return Err(PrivateError::Kind { path: path.to_owned(), wanted: "regular file" });
    }
    check(path, &metadata, 0o600)
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
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io_error("choosing a name beside", path)(io::Error::other(error)))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{:016x}", u64::from_le_bytes(random)));
    let staged = path.with_file_name(name);
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged).map_err(io_error("creating", &staged))?;
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
            sync_directory(path.parent().unwrap_or(Path::new("/")))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(staged).map_err(io_error("removing", staged))?;
            Ok(false)
        }
        Err(error) => Err(io_error("creating", path)(error)),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), PrivateError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("syncing", path))
}
