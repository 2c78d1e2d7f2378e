//! What a replacement is told beforehand, and what it tells afterwards.

use std::fmt;

use rand_core::CryptoRng;
use toehold_core::Timestamp;

use crate::authorized_keys::Digest;

/// How long the lock of another holder is respected, in seconds by the host's own clock; after that its holder counts as dead.
pub const STALE_LOCK: u64 = 600;

/// How long a lock that names no holder is respected, in seconds by the host's own clock. Its writer died between creating
/// the file and writing its name, which follow each other at once; a live one names itself long before this.
pub const STALE_NAMELESS_LOCK: u64 = 30;

/// The files in which sshd looks for keys by default (`AuthorizedKeysFile` of `sshd_config(5)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "an edit has to decide for each file")]
pub enum KeyFile {
    /// `.ssh/authorized_keys`; created where it is missing and a key is added.
    AuthorizedKeys,
    /// `.ssh/authorized_keys2`, which old hosts have and today's sshd still reads; never created.
    AuthorizedKeys2,
}

impl KeyFile {
    /// Both, in the order in which sshd reads them.
    pub const ALL: [Self; 2] = [Self::AuthorizedKeys, Self::AuthorizedKeys2];

    /// The file's name within `.ssh`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthorizedKeys => "authorized_keys",
            Self::AuthorizedKeys2 => "authorized_keys2",
        }
    }
}

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What becomes of a file that an edit has left without a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum IfEmpty {
    /// It stays, empty.
    #[default]
    Keep,
    /// It is removed. For a file that was not there before we came. A removal is the one step that sweeping does not
    /// fence: should the connection die while the request is on its way, it may hit a file that somebody wrote since.
    Remove,
}

/// A replacement to be made: whose files, and under what name.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) home: String,
    pub(super) holder: String,
    pub(super) predecessor: Option<String>,
    pub(super) run: String,
    pub(super) fence: Option<u64>,
    pub(super) if_empty: IfEmpty,
    pub(super) second_file: bool,
}

/// A name that cannot be part of a file's name on the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" cannot name the holder of a lock: 1 to 64 letters, digits, \"-\" and \"_\"")]
pub struct HolderError(String);

impl Plan {
    /// A replacement in the home directory `home` (absolute, or relative to where the SFTP server starts; `.` is usually the
    /// home itself) by `holder`, which names the piece of work: a session's id, say. A later replacement by the same holder
    /// takes over whatever an earlier one has left behind, at once.
    ///
    /// `rng` gives this one attempt a name of its own, so that two of one holder do not take each other's files for theirs.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn new<R: CryptoRng + ?Sized>(rng: &mut R, home: &str, holder: &str) -> Result<Self, HolderError> {
        check_holder(holder)?;
        let run = format!("{:016x}", rng.next_u64());
        let (home, holder) = (home.to_owned(), holder.to_owned());
        Ok(Self { home, holder, predecessor: None, run, fence: None, if_empty: IfEmpty::Keep, second_file: false })
    }

    /// Takes over from `holder` as well, at once: nothing that it has not renamed by now may come about any more. For a piece
    /// of work that has fenced off the one before it, whoever is at that and whether or not it is still alive.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn succeeds(mut self, holder: &str) -> Result<Self, HolderError> {
        check_holder(holder)?;
        self.predecessor = Some(holder.to_owned());
        Ok(self)
    }

    /// Edits `authorized_keys2` as well, where there is one: a removal has to, since sshd reads both.
    #[must_use]
    pub fn also_second_file(mut self) -> Self {
        self.second_file = true;
        self
    }

    /// What becomes of a file that the edit leaves empty; [`IfEmpty::Keep`] by default.
    #[must_use]
    pub fn if_empty(mut self, if_empty: IfEmpty) -> Self {
        self.if_empty = if_empty;
        self
    }

    /// Lets staged files carry a number that tells which turn of a shared job wrote them.
    #[must_use]
    pub fn fence(mut self, fence: u64) -> Self {
        self.fence = Some(fence);
        self
    }

    /// The holder's name.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// What the lock file holds: who has it, for programs, and what it is, for people.
    pub(super) fn lock_content(&self) -> String {
        format!(
            "{} {}\nToehold is changing authorized_keys. If no toehold is running, this file can be removed.\n",
            self.holder, self.run
        )
    }
}

pub(super) fn check_holder(holder: &str) -> Result<(), HolderError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if holder.is_empty() || holder.len() > 64 || !holder.bytes().all(valid) {
        return Err(HolderError(holder.to_owned()));
    }
    Ok(())
}

/// The holder that a lock file names; `None` where it is cut off or not one of ours.
pub(super) fn lock_holder(content: &[u8]) -> Option<&str> {
    let end = content.iter().position(|byte| *byte == b'\n')?;
    let (holder, _) = str::from_utf8(content.get(..end)?).ok()?.split_once(' ')?;
    check_holder(holder).ok().map(|()| holder)
}

/// A finished replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replaced {
    /// Each file that was looked at, in order; a second file that does not exist is not among them.
    pub files: Vec<FileChange>,
    /// The host's time while the lock was taken, read off the lock file: compare it with one's own clock of that moment.
    pub host_time: Timestamp,
    /// Files of ours that are not known to have been removed from the host in the end.
    pub leftovers: Vec<String>,
}

impl Replaced {
    /// Whether any file was written.
    pub fn changed(&self) -> bool {
        self.files.iter().any(FileChange::changed)
    }

    /// What became of one file; `None` where it was not looked at or does not exist.
    pub fn file(&self, file: KeyFile) -> Option<&FileChange> {
        self.files.iter().find(|change| change.file == file)
    }
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileChange {
    /// Which.
    pub file: KeyFile,
    /// Where it is on the host.
    pub path: String,
    /// What was in it; `None` where it did not exist.
    pub before: Option<Digest>,
    /// What is in it now, read back; `None` where it does not exist.
    pub after: Option<Digest>,
}

impl FileChange {
    /// Whether the file was written, created or removed.
    pub fn changed(&self) -> bool {
        self.before != self.after
    }
}

/// The names on the host.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    pub(super) home: String,
    pub(super) directory: String,
    pub(super) lock: String,
}

const LOCK: &str = "authorized_keys.toehold-lock";

impl Paths {
    pub(super) fn in_home(home: &str) -> Self {
        let directory = format!("{}/.ssh", home.trim_end_matches('/'));
        Self { home: home.to_owned(), lock: format!("{directory}/{LOCK}"), directory }
    }

    pub(super) fn of(&self, file: KeyFile) -> String {
        format!("{}/{}", self.directory, file.name())
    }

    pub(super) fn staged(&self, file: KeyFile, plan: &Plan) -> String {
        let fence = plan.fence.map(|fence| format!(".fence-{fence}")).unwrap_or_default();
        format!("{}/{}.toehold-{}.{}{fence}", self.directory, file.name(), plan.holder, plan.run)
    }

    pub(super) fn probe(&self, plan: &Plan) -> String {
        format!("{}.probe", self.staged(KeyFile::AuthorizedKeys, plan))
    }

    pub(super) fn in_directory(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }
}

/// Whether a name in `.ssh` is that of a file that some replacement has staged; of `holder`, if one is given.
pub(super) fn is_staged(name: &str, holder: Option<&str>) -> bool {
    let rest = KeyFile::ALL.iter().find_map(|file| name.strip_prefix(file.name())?.strip_prefix(".toehold-"));
    rest.filter(|_| name != LOCK).is_some_and(|rest| match holder {
        None => true,
        Some(holder) => rest.strip_prefix(holder).is_some_and(|run| run.starts_with('.')),
    })
}
