//! Looking without changing anything, and taking away what was left behind.

use toehold_core::{FileError, FileKind, FileStat, HostFiles, PublicKey};

use super::error::ReplaceError;
use super::examine::{check, check_owner_by_home};
use super::lock::gone;
use super::machine::failed;
use super::plan::{KeyFile, Paths, check_holder, is_staged, lock_holder};
use crate::authorized_keys::{AuthorizedKeys, MAX_AUTHORIZED_KEYS};

/// What a host has, looked at without changing anything.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The home directory by the server's own reckoning.
    pub home: String,
    /// The files that exist, in the order in which sshd reads them.
    pub files: Vec<InspectedFile>,
    /// What sshd's `StrictModes` or a replacement would object to: a missing or loose `.ssh`, a link, a foreign owner.
    pub objections: Vec<ReplaceError>,
    /// The lock on the account, if one is there.
    pub lock: Option<LockSeen>,
    /// Files in `.ssh` that replacements have staged and not removed.
    pub staged: Vec<String>,
}

/// A file that was looked at.
#[derive(Debug)]
#[non_exhaustive]
pub struct InspectedFile {
    /// Which.
    pub file: KeyFile,
    /// Where.
    pub path: String,
    /// How it looks; a link is looked at itself.
    pub stat: FileStat,
    /// What is in it; for a link, what is in the file that it leads to. Empty where it is no file.
    pub document: AuthorizedKeys,
}

/// A lock that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockSeen {
    /// The lock file.
    pub path: String,
    /// Whose it is; `None` where the file does not say.
    pub holder: Option<String>,
    /// Since when, in seconds since 1970 by the host's clock.
    pub since: i64,
}

impl Inspection {
    /// The content of one file; `None` where it does not exist.
    pub fn document(&self, file: KeyFile) -> Option<&AuthorizedKeys> {
        self.files.iter().find(|found| found.file == file).map(|found| &found.document)
    }

    /// The lines that hold `key`, with their numbers from 1, in whichever file.
    pub fn copies(&self, key: &PublicKey) -> Vec<(KeyFile, usize)> {
        let in_file =
            |found: &InspectedFile| found.document.find(key).map(|entry| (found.file, entry.number())).collect::<Vec<_>>();
        self.files.iter().flat_map(in_file).collect()
    }
}

/// Looks at an account's files without changing anything. Works without `posix-rename@openssh.com` as well.
///
/// # Errors
/// [`ReplaceError::Missing`] for a home that is not there and [`ReplaceError::File`] where the host cannot be read. What is
/// merely not as it should be is among [`Inspection::objections`].
pub async fn inspect<F: HostFiles>(files: &mut F, home: &str) -> Result<Inspection, ReplaceError> {
    let home = files.real_path(home).await.map_err(failed("finding", home))?;
    let paths = Paths::in_home(&home);
    let stat = look(files, &home).await?.ok_or_else(|| ReplaceError::Missing { path: home.clone() })?;
    let owner = stat.uid;
    let mut found = Inspection { objections: Vec::new(), files: Vec::new(), lock: None, staged: Vec::new(), home };
    found.objections.extend(check(&found.home, &stat, FileKind::Directory).err());

    let directory = &paths.directory;
    let Some(stat) = look(files, directory).await? else {
        found.objections.push(ReplaceError::Missing { path: directory.clone() });
        return Ok(found);
    };
    found.objections.extend(check(directory, &stat, FileKind::Directory).err());
    found.objections.extend(check_owner_by_home(directory, &stat, owner).err());

    for file in KeyFile::ALL {
        let path = paths.of(file);
        let Some(stat) = look(files, &path).await? else { continue };
        found.objections.extend(check(&path, &stat, FileKind::Regular).err());
        found.objections.extend(check_owner_by_home(&path, &stat, owner).err());
        let bytes = match stat.kind {
            FileKind::Regular | FileKind::Link => read(files, &path, MAX_AUTHORIZED_KEYS).await?.unwrap_or_default(),
            FileKind::Directory | FileKind::Other => Vec::new(),
        };
        found.files.push(InspectedFile { file, path, stat, document: AuthorizedKeys::parse(bytes) });
    }
    if let Some(stat) = look(files, &paths.lock).await? {
        let holder = holder_of_lock(files, &paths.lock).await?;
        found.lock = Some(LockSeen { path: paths.lock.clone(), holder, since: stat.modified });
    }
    found.staged = staged(files, &paths, None).await?;
    Ok(found)
}

/// Takes away what replacements by `holder` have left on the host: its staged files, and the lock if it is this holder's.
/// Returns what was removed. Nothing is removed of other holders, or where nothing of this one is there.
///
/// A replacement does this by itself; this is for when nothing is left to be replaced.
///
/// # Errors
/// [`ReplaceError::File`] where something cannot be read or removed.
pub async fn sweep<F: HostFiles>(files: &mut F, home: &str, holder: &str) -> Result<Vec<String>, ReplaceError> {
    let home = files.real_path(home).await.map_err(failed("finding", home))?;
    let paths = Paths::in_home(&home);
    if check_holder(holder).is_err() || look(files, &paths.directory).await?.is_none() {
        return Ok(Vec::new());
    }
    // The lock goes first: should a late writer of this holder still be alive, it finds its lock gone or its file swept.
    let mut ours = Vec::new();
    if holder_of_lock(files, &paths.lock).await?.is_some_and(|found| found == holder) {
        ours.push(paths.lock.clone());
    }
    ours.extend(staged(files, &paths, Some(holder)).await?);
    for path in &ours {
        gone(files.remove(path).await).map_err(failed("removing", path))?;
    }
    Ok(ours)
}

async fn look<F: HostFiles>(files: &mut F, path: &str) -> Result<Option<FileStat>, ReplaceError> {
    files.stat(path).await.map_err(failed("looking at", path))
}

/// The content, or `None` where nothing is there (any more).
async fn read<F: HostFiles>(files: &mut F, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ReplaceError> {
    match files.read(path, limit).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed("reading", path)(error)),
    }
}

async fn holder_of_lock<F: HostFiles>(files: &mut F, lock: &str) -> Result<Option<String>, ReplaceError> {
    let content = match files.read(lock, super::machine::MAX_LOCK).await {
        Ok(content) => content,
        Err(FileError::NotFound { .. } | FileError::TooLarge { .. }) => return Ok(None),
        Err(error) => return Err(failed("reading", lock)(error)),
    };
    Ok(lock_holder(&content).map(str::to_owned))
}

async fn staged<F: HostFiles>(files: &mut F, paths: &Paths, holder: Option<&str>) -> Result<Vec<String>, ReplaceError> {
    let names = files.list(&paths.directory).await.map_err(failed("listing", &paths.directory))?;
    let mut staged: Vec<_> = names.iter().filter(|name| is_staged(name, holder)).map(|name| paths.in_directory(name)).collect();
    staged.sort();
    Ok(staged)
}
