//! The replacement as a machine: it says what to do on the host, and is told what came of it.

use std::collections::VecDeque;

use toehold_core::{Capabilities, FileError, FileStat, Source, Timestamp};

use super::error::ReplaceError;
use super::plan::{FileChange, KeyFile, Paths, Plan, Replaced};
use crate::authorized_keys::{AuthorizedKeys, Digest, MAX_AUTHORIZED_KEYS};

/// The most bytes of a lock file that are looked at.
pub(super) const MAX_LOCK: u64 = 4096;

/// Something to be done on the host. Paths are the host's; the methods of
/// [`HostFiles`](toehold_core::HostFiles) have the same names.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver has to do them all")]
pub enum Action<'a> {
    /// Find the absolute form of a path. Answer: [`Event::RealPath`].
    RealPath(&'a str),
    /// Look at what is there, without following a link. Answer: [`Event::Stat`].
    Stat(&'a str),
    /// Read a file. Answer: [`Event::Read`].
    Read {
        /// The file.
        path: &'a str,
        /// The most bytes that it may have.
        limit: u64,
    },
    /// Create a file. Answer: [`Event::Done`].
    Stage {
        /// The file; nothing may be there.
        path: &'a str,
        /// What is to be in it.
        content: &'a [u8],
        /// Its permission bits.
        mode: u32,
    },
    /// Make a file durable. Answer: [`Event::Done`].
    Sync(&'a str),
    /// Rename a file over another one in one step. Answer: [`Event::Done`].
    Rename {
        /// The file.
        from: &'a str,
        /// Its new name.
        to: &'a str,
    },
    /// Remove a file. Answer: [`Event::Done`].
    Remove(&'a str),
    /// List the names in a directory. Answer: [`Event::Listed`].
    List(&'a str),
    /// Edit the document, which is what the host has at this moment. It may have to be edited again, from other bytes, if
    /// somebody else writes the file meanwhile. Answer: [`Event::Edited`].
    Edit {
        /// Which file it is.
        file: KeyFile,
        /// Its content.
        document: &'a mut AuthorizedKeys,
    },
    /// Nothing more: [`Replacement::into_result`].
    Finish,
}

/// What came of an [`Action`].
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "each is the answer to actions")]
pub enum Event {
    /// Of [`Action::RealPath`].
    RealPath(Result<String, FileError>),
    /// Of [`Action::Stat`].
    Stat(Result<Option<FileStat>, FileError>),
    /// Of [`Action::Read`].
    Read(Result<Vec<u8>, FileError>),
    /// Of [`Action::Stage`], [`Action::Sync`], [`Action::Rename`] and [`Action::Remove`].
    Done(Result<(), FileError>),
    /// Of [`Action::List`].
    Listed(Result<Vec<String>, FileError>),
    /// Of [`Action::Edit`]: an error leaves the file alone and ends the replacement.
    Edited(Result<(), Source>),
}

impl Event {
    fn kind(&self) -> &'static str {
        match self {
            Self::RealPath(_) => "a path",
            Self::Stat(_) => "the look of a file",
            Self::Read(_) => "the content of a file",
            Self::Done(_) => "the end of an operation",
            Self::Listed(_) => "a list of names",
            Self::Edited(_) => "the end of an edit",
        }
    }

    fn is_lost(&self) -> bool {
        match self {
            Self::RealPath(Err(error))
            | Self::Stat(Err(error))
            | Self::Read(Err(error))
            | Self::Done(Err(error))
            | Self::Listed(Err(error)) => error.is_lost(),
            _ => false,
        }
    }
}

/// Where a replacement stands: named for what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    // Nothing has been changed on the host.
    RealHome,
    LookAtHome,
    LookAtDirectory,
    LookAtFile(KeyFile),
    // The lock is being taken.
    Lock,
    ReadContender,
    LookAtContender,
    StageProbe,
    LookAtProbe,
    DropProbe,
    BreakLock,
    // The lock is ours.
    LookAtLock,
    List,
    Sweep,
    Look,
    Read,
    Edit,
    Stage,
    Sync,
    LookAtStaged,
    ReadStaged,
    CheckLock,
    CheckSwept,
    LookAgain,
    ReadAgain,
    Replace,
    LookAtResult,
    ReadResult,
    DropStaged,
    // Cleaning up, after success and failure alike.
    CleanStaged,
    CheckLockLast,
    Unlock,
    End,
}

/// What is being done to one file.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: KeyFile,
    pub(super) path: String,
    /// What was there when it was read, with its digest.
    pub(super) original: Option<(FileStat, Digest)>,
    pub(super) document: AuthorizedKeys,
    /// What the document's digest is after the edit; `None` where the file is to be removed.
    pub(super) after: Option<Digest>,
    pub(super) tries: u32,
}

impl Target {
    /// The permission bits of the new file: those of the old one.
    pub(super) fn mode(&self) -> u32 {
        self.original.as_ref().map_or(0o600, |(stat, _)| stat.mode & 0o777)
    }

    pub(super) fn before(&self) -> Option<Digest> {
        self.original.as_ref().map(|(_, digest)| *digest)
    }
}

/// A replacement under way: ask [`action`](Replacement::action) what to do, do it, tell [`handle`](Replacement::handle) what came
/// of it, until there is [`Action::Finish`].
///
/// It has no clock, no connection and no randomness, and it does one thing at a time. It can be dropped at any point: the
/// next replacement by the same holder cleans up. [`replace`](super::replace) is the loop around it.
#[derive(Debug)]
pub struct Replacement {
    pub(super) plan: Plan,
    pub(super) capabilities: Capabilities,
    pub(super) state: State,
    pub(super) paths: Paths,
    pub(super) lock_content: String,
    pub(super) home_owner: Option<u32>,
    pub(super) own_uid: Option<u32>,
    /// The owners of `.ssh` and of the files, as long as ours is not known.
    pub(super) owners: Vec<(String, FileStat)>,
    /// Whether a lock of ours may be on the host.
    pub(super) lock_taken: bool,
    pub(super) lock_tries: u32,
    /// The holder of the lock that is in the way, and when it was written by the host's clock.
    pub(super) contender: String,
    pub(super) contender_since: i64,
    pub(super) contender_age: u64,
    /// A file of ours that may be on the host.
    pub(super) staged: Option<String>,
    pub(super) to_sweep: VecDeque<String>,
    pub(super) waiting: VecDeque<KeyFile>,
    pub(super) target: Target,
    pub(super) changes: Vec<FileChange>,
    pub(super) host_time: Timestamp,
    pub(super) leftovers: Vec<String>,
    pub(super) lost: bool,
    pub(super) failure: Option<ReplaceError>,
}

impl Replacement {
    /// A replacement on a host whose SFTP server has these capabilities. Without an atomic rename it has already failed.
    pub fn new(plan: Plan, capabilities: Capabilities) -> Self {
        let failure = (!capabilities.atomic_rename)
            .then(|| ReplaceError::NoAtomicRename { path: format!(".ssh/{}", KeyFile::AuthorizedKeys) });
        let second = plan.second_file.then_some(KeyFile::AuthorizedKeys2);
        Self {
            state: if failure.is_some() { State::End } else { State::RealHome },
            lock_content: plan.lock_content(),
            waiting: [KeyFile::AuthorizedKeys].into_iter().chain(second).collect(),
            plan,
            capabilities,
            paths: Paths::default(),
            home_owner: None,
            own_uid: None,
            owners: Vec::new(),
            lock_taken: false,
            lock_tries: 0,
            contender: String::new(),
            contender_since: 0,
            contender_age: 0,
            staged: None,
            to_sweep: VecDeque::new(),
            target: Target {
                file: KeyFile::AuthorizedKeys,
                path: String::new(),
                original: None,
                document: AuthorizedKeys::default(),
                after: None,
                tries: 0,
            },
            changes: Vec::new(),
            host_time: Timestamp::UNIX_EPOCH,
            leftovers: Vec::new(),
            lost: false,
            failure,
        }
    }

    /// What is to be done now; the same until [`handle`](Replacement::handle) was told what came of it.
    pub fn action(&mut self) -> Action<'_> {
        let staged = self.staged.as_deref().unwrap_or_default();
        let target = &mut self.target;
        match self.state {
            State::RealHome => Action::RealPath(&self.plan.home),
            State::LookAtHome => Action::Stat(&self.paths.home),
            State::LookAtDirectory => Action::Stat(&self.paths.directory),
            State::LookAtFile(_) | State::Look | State::LookAgain | State::LookAtResult => Action::Stat(&target.path),
            State::Lock => Action::Stage { path: &self.paths.lock, content: self.lock_content.as_bytes(), mode: 0o600 },
            State::ReadContender | State::CheckLock | State::CheckSwept | State::CheckLockLast => {
                Action::Read { path: &self.paths.lock, limit: MAX_LOCK }
            }
            State::LookAtContender | State::LookAtLock => Action::Stat(&self.paths.lock),
            State::StageProbe => Action::Stage { path: staged, content: &[], mode: 0o600 },
            State::LookAtProbe | State::LookAtStaged => Action::Stat(staged),
            State::DropProbe | State::DropStaged | State::CleanStaged => Action::Remove(staged),
            State::BreakLock | State::Unlock => Action::Remove(&self.paths.lock),
            State::List => Action::List(&self.paths.directory),
            State::Sweep => Action::Remove(self.to_sweep.front().map(String::as_str).unwrap_or_default()),
            State::Read | State::ReadAgain => Action::Read { path: &target.path, limit: MAX_AUTHORIZED_KEYS },
            State::Edit => Action::Edit { file: target.file, document: &mut target.document },
            State::Stage => Action::Stage { path: staged, content: target.document.as_bytes(), mode: target.mode() },
            State::Sync => Action::Sync(staged),
            State::ReadStaged => Action::Read { path: staged, limit: length(&target.document) },
            State::Replace if target.after.is_none() => Action::Remove(&target.path),
            State::Replace => Action::Rename { from: staged, to: &target.path },
            State::ReadResult => Action::Read { path: &target.path, limit: MAX_AUTHORIZED_KEYS.max(length(&target.document)) },
            State::End => Action::Finish,
        }
    }

    /// Takes what came of the action that [`action`](Replacement::action) named.
    pub fn handle(&mut self, event: Event) {
        self.lost |= event.is_lost();
        let next = match self.state {
            State::RealHome | State::LookAtHome | State::LookAtDirectory | State::LookAtFile(_) => self.examined(event),
            State::Lock
            | State::ReadContender
            | State::LookAtContender
            | State::StageProbe
            | State::LookAtProbe
            | State::DropProbe
            | State::BreakLock
            | State::LookAtLock
            | State::List
            | State::Sweep => self.locked(event),
            State::Look
            | State::Read
            | State::Edit
            | State::Stage
            | State::Sync
            | State::LookAtStaged
            | State::ReadStaged
            | State::CheckLock
            | State::CheckSwept
            | State::LookAgain
            | State::ReadAgain
            | State::Replace
            | State::LookAtResult
            | State::ReadResult
            | State::DropStaged => self.written(event),
            State::CleanStaged | State::CheckLockLast | State::Unlock => Ok(self.cleaned(event)),
            State::End => Ok(State::End),
        };
        self.state = next.unwrap_or_else(|error| self.fail(error));
    }

    /// The host's time while the lock was taken; `None` before that. An edit that sets an end to something counts from it.
    pub fn host_time(&self) -> Option<Timestamp> {
        (self.host_time != Timestamp::UNIX_EPOCH).then_some(self.host_time)
    }

    /// What came of it all, once there is [`Action::Finish`]; before that, [`ReplaceError::OutOfTurn`].
    ///
    /// # Errors
    /// [`ReplaceError`].
    pub fn into_result(self) -> Result<Replaced, ReplaceError> {
        match self.failure {
            Some(failure) => Err(failure),
            None if self.state == State::End => {
                Ok(Replaced { files: self.changes, host_time: self.host_time, leftovers: self.leftovers })
            }
            None => Err(ReplaceError::OutOfTurn { expected: "the end of its work", got: "the end of its driver" }),
        }
    }

    /// Gives up for this reason: takes away what was put on the host, as far as the connection is there.
    fn fail(&mut self, error: ReplaceError) -> State {
        self.failure = Some(error);
        if self.lost {
            State::End
        } else if self.staged.is_some() {
            State::CleanStaged
        } else {
            self.after_staged()
        }
    }

    pub(super) fn after_staged(&self) -> State {
        if self.lock_taken { State::CheckLockLast } else { State::End }
    }
}

pub(super) fn length(document: &AuthorizedKeys) -> u64 {
    u64::try_from(document.as_bytes().len()).unwrap_or(u64::MAX)
}

/// The answer that a state waits for, or the error that it is another one.
macro_rules! answer {
    ($event:expr, $kind:ident) => {
        match $event {
            $crate::replacement::machine::Event::$kind(answer) => answer,
            other => return Err($crate::replacement::machine::out_of_turn(stringify!($kind), &other)),
        }
    };
}
pub(super) use answer;

pub(super) fn out_of_turn(expected: &'static str, event: &Event) -> ReplaceError {
    ReplaceError::OutOfTurn { expected, got: event.kind() }
}

/// Makes a [`FileError`] the source of an error that says what was being done to what.
pub(super) fn failed(doing: &'static str, path: &str) -> impl FnOnce(FileError) -> ReplaceError {
    let path = path.to_owned();
    move |source| ReplaceError::File { doing, path, source: Box::new(source) }
}
