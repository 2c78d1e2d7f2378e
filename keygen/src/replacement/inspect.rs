//! Looking without changing anything, and taking away what was left behind.

use toehold_core::{FileError, FileKind, FileStat, HostFiles, Look, PublicKey, Seen};

use super::error::ReplaceError;
use super::examine::{check, check_owner_by_home};
use super::lock::gone;
use super::machine::{MAX_LOCK, failed};
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
    let directory = &paths.directory;
    let stats = [&home, directory, &paths.of(KeyFile::AuthorizedKeys), &paths.of(KeyFile::AuthorizedKeys2), &paths.lock];
    let looks = stats.map(|path| Look::Stat(path.clone())).into_iter().chain([Look::List(directory.clone())]);
    let mut answers = Answers::to(files, looks.collect()).await;

    let stat = answers.stat(&home)?.ok_or_else(|| ReplaceError::Missing { path: home.clone() })?;
    let owner = stat.uid;
    let mut found = Inspection { objections: Vec::new(), files: Vec::new(), lock: None, staged: Vec::new(), home: home.clone() };
    found.objections.extend(check(&found.home, &stat, FileKind::Directory).err());
    let Some(stat) = answers.stat(directory)? else {
        found.objections.push(ReplaceError::Missing { path: directory.clone() });
        return Ok(found);
    };
    found.objections.extend(check(directory, &stat, FileKind::Directory).err());
    found.objections.extend(check_owner_by_home(directory, &stat, owner).err());

    let mut looks = Vec::new();
    for file in KeyFile::ALL {
        let path = paths.of(file);
        let Some(stat) = answers.stat(&path)? else { continue };
        found.objections.extend(check(&path, &stat, FileKind::Regular).err());
        found.objections.extend(check_owner_by_home(&path, &stat, owner).err());
        // Nothing else is opened: whoever reads a named pipe may wait for ever.
        if matches!(stat.kind, FileKind::Regular | FileKind::Link) {
            looks.push(Look::Read { path: path.clone(), limit: MAX_AUTHORIZED_KEYS });
        }
        found.files.push(InspectedFile { file, path, stat, document: AuthorizedKeys::default() });
    }
    let lock = answers.stat(&paths.lock)?;
    found.staged = staged(&answers.list(directory)?, &paths, None);
    if lock.is_some() {
        looks.push(Look::Read { path: paths.lock.clone(), limit: MAX_LOCK });
    }

    let mut answers = Answers::to(files, looks).await;
    for InspectedFile { path, stat, document, .. } in &mut found.files {
        if matches!(stat.kind, FileKind::Regular | FileKind::Link) {
            *document = AuthorizedKeys::parse(answers.read(path)?.unwrap_or_default());
        }
    }
    if let Some(stat) = lock {
        let holder = answers.lock_holder(&paths.lock)?;
        found.lock = Some(LockSeen { path: paths.lock.clone(), holder, since: stat.modified });
    }
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
    if check_holder(holder).is_err() {
        return Ok(Vec::new());
    }
    let looks = vec![
        Look::Stat(paths.directory.clone()),
        Look::Read { path: paths.lock.clone(), limit: MAX_LOCK },
        Look::List(paths.directory.clone()),
    ];
    let mut answers = Answers::to(files, looks).await;
    if answers.stat(&paths.directory)?.is_none() {
        return Ok(Vec::new());
    }
    // The lock goes first: should a late writer of this holder still be alive, it finds its lock gone or its file swept.
    let mut ours = Vec::new();
    if answers.lock_holder(&paths.lock)?.is_some_and(|found| found == holder) {
        ours.push(paths.lock.clone());
    }
    ours.extend(staged(&answers.list(&paths.directory)?, &paths, Some(holder)));
    for path in &ours {
        gone(files.remove(path).await).map_err(failed("removing", path))?;
    }
    Ok(ours)
}

/// What came of several looks, to be taken in their order.
struct Answers(std::vec::IntoIter<Seen>);

impl Answers {
    async fn to<F: HostFiles>(files: &mut F, looks: Vec<Look>) -> Self {
        Self(files.look(&looks).await.into_iter())
    }

    fn stat(&mut self, path: &str) -> Result<Option<FileStat>, ReplaceError> {
        match self.0.next() {
            Some(Seen::Stat(found)) => found.map_err(failed("looking at", path)),
            _ => Err(unanswered("looking at", path)),
        }
    }

    /// The content, or `None` where nothing is there (any more).
    fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, ReplaceError> {
        match self.0.next() {
            Some(Seen::Read(Ok(bytes))) => Ok(Some(bytes)),
            Some(Seen::Read(Err(FileError::NotFound { .. }))) => Ok(None),
            Some(Seen::Read(Err(error))) => Err(failed("reading", path)(error)),
            _ => Err(unanswered("reading", path)),
        }
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, ReplaceError> {
        match self.0.next() {
            Some(Seen::List(names)) => names.map_err(failed("listing", path)),
            _ => Err(unanswered("listing", path)),
        }
    }

    fn lock_holder(&mut self, lock: &str) -> Result<Option<String>, ReplaceError> {
        let content = match self.read(lock) {
            Err(ReplaceError::File { source, .. }) if matches!(*source, FileError::TooLarge { .. }) => return Ok(None),
            content => content?,
        };
        Ok(content.as_deref().and_then(lock_holder).map(str::to_owned))
    }
}

/// An implementation of [`HostFiles::look`] left the question without an answer.
fn unanswered(doing: &'static str, path: &str) -> ReplaceError {
    failed(doing, path)(FileError::Unsupported { what: "answers to several questions at once" })
}

fn staged(names: &[String], paths: &Paths, holder: Option<&str>) -> Vec<String> {
    let mut staged: Vec<_> = names.iter().filter(|name| is_staged(name, holder)).map(|name| paths.in_directory(name)).collect();
    staged.sort();
    staged
}
