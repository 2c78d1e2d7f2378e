//! Under the lock: one file after the other is read, edited, staged, compared and replaced.

use toehold_core::{FileError, FileKind, FileStat};

use super::error::ReplaceError;
use super::examine::{check, check_owner};
use super::lock::gone;
use super::machine::{Event, Replacement, State, Target, answer, failed};
use super::plan::{FileChange, IfEmpty, KeyFile};
use crate::authorized_keys::{AuthorizedKeys, Digest};

/// How often a file is edited anew because somebody else wrote it meanwhile.
const TRIES: u32 = 5;

impl Replacement {
    /// Events from the first look at a file until it has been read back.
    pub(super) fn written(&mut self, event: Event) -> Result<State, ReplaceError> {
        let path = self.target.path.clone();
        match self.state {
            State::Look => {
                self.target.original = None;
                self.target.document = AuthorizedKeys::default();
                match answer!(event, Stat).map_err(failed("looking at", &path))? {
                    None if self.target.file == KeyFile::AuthorizedKeys2 => Ok(self.next_target()),
                    None => Ok(State::Edit),
                    Some(stat) => {
                        self.check_target(&stat)?;
                        self.target.original = Some((stat, Digest::of(&[])));
                        Ok(State::Read)
                    }
                }
            }
            State::Read => match answer!(event, Read) {
                Ok(bytes) => {
                    self.target.document = AuthorizedKeys::parse(bytes);
                    let digest = self.target.document.digest();
                    self.target.original = self.target.original.take().map(|(stat, _)| (stat, digest));
                    Ok(State::Edit)
                }
                Err(FileError::NotFound { .. }) => self.start_over(),
                Err(error) => Err(failed("reading", &path)(error)),
            },
            State::Edit => {
                answer!(event, Edited).map_err(|source| ReplaceError::Refused { path, source })?;
                Ok(self.edited())
            }
            State::Stage => {
                answer!(event, Done).map_err(failed("writing", self.staged_path()))?;
                Ok(if self.capabilities.sync { State::Sync } else { State::LookAtStaged })
            }
            State::Sync => match answer!(event, Done) {
                Ok(()) | Err(FileError::Unsupported { .. }) => Ok(State::LookAtStaged),
                Err(FileError::NotFound { .. }) => Ok(self.swept_by_another()),
                Err(error) => Err(failed("making durable", self.staged_path())(error)),
            },
            State::LookAtStaged => {
                let Some(stat) = answer!(event, Stat).map_err(failed("looking at", self.staged_path()))? else {
                    return Ok(self.swept_by_another());
                };
                self.check_staged(&stat)?;
                Ok(State::ReadStaged)
            }
            State::ReadStaged => match answer!(event, Read) {
                Ok(bytes) if Some(Digest::of(&bytes)) == self.target.after => Ok(State::CheckLock),
                Ok(_) | Err(FileError::TooLarge { .. }) => Err(self.staged_differs("other bytes")),
                Err(FileError::NotFound { .. }) => Ok(self.swept_by_another()),
                Err(error) => Err(failed("reading back", self.staged_path())(error)),
            },
            State::CheckLock | State::CheckSwept => match answer!(event, Read) {
                Ok(content) if content != self.lock_content.as_bytes() => Err(self.lock_lost(Some(&content))),
                Ok(_) if self.state == State::CheckSwept => self.start_over(),
                Ok(_) => Ok(State::LookAgain),
                Err(FileError::NotFound { .. } | FileError::TooLarge { .. }) => Err(self.lock_lost(None)),
                Err(error) => Err(failed("reading", &self.paths.lock)(error)),
            },
            State::DropStaged => {
                gone(answer!(event, Done)).map_err(failed("removing", self.staged_path()))?;
                self.staged = None;
                self.start_over()
            }
            _ => self.replaced(event, &path),
        }
    }

    /// Events from the last comparison on.
    fn replaced(&mut self, event: Event, path: &str) -> Result<State, ReplaceError> {
        match self.state {
            State::LookAgain => {
                let stat = answer!(event, Stat).map_err(failed("looking at", path))?;
                match (stat, &self.target.original) {
                    (None, None) => Ok(State::Replace),
                    (Some(now), Some((then, _))) => {
                        let same = now.mode == then.mode && now.size == then.size;
                        self.check_target(&now)?;
                        if same { Ok(State::ReadAgain) } else { self.overtaken() }
                    }
                    _ => self.overtaken(),
                }
            }
            State::ReadAgain => match answer!(event, Read) {
                Ok(bytes) if Some(Digest::of(&bytes)) == self.target.before() => Ok(State::Replace),
                Ok(_) | Err(FileError::NotFound { .. } | FileError::TooLarge { .. }) => self.overtaken(),
                Err(error) => Err(failed("reading", path)(error)),
            },
            State::Replace => {
                let removed = self.target.after.is_none();
                match answer!(event, Done) {
                    Ok(()) => {
                        self.staged = None;
                        Ok(State::LookAtResult)
                    }
                    Err(FileError::NotFound { .. }) if removed => Ok(State::LookAtResult),
                    Err(FileError::NotFound { .. }) => Ok(self.swept_by_another()),
                    Err(source) if source.is_lost() => {
                        let (path, before, after) = (path.to_owned(), self.target.before(), self.target.after);
                        Err(ReplaceError::OutcomeUnknown { path, before, after, source: Box::new(source) })
                    }
                    Err(error) => Err(failed("replacing", path)(error)),
                }
            }
            State::LookAtResult => {
                let stat = answer!(event, Stat).map_err(|source| self.unverified(source))?;
                match (stat, self.target.after) {
                    (None, None) => Ok(self.done()),
                    (Some(stat), Some(_)) if stat.kind == FileKind::Regular => Ok(State::ReadResult),
                    _ => Err(self.not_as_written(None)),
                }
            }
            _ => match answer!(event, Read) {
                Ok(bytes) => {
                    let found = Some(Digest::of(&bytes));
                    if found == self.target.after { Ok(self.done()) } else { Err(self.not_as_written(found)) }
                }
                Err(FileError::NotFound { .. } | FileError::TooLarge { .. }) => Err(self.not_as_written(None)),
                Err(source) => Err(self.unverified(source)),
            },
        }
    }

    /// The next file, or the way out where there is none.
    pub(super) fn next_target(&mut self) -> State {
        match self.waiting.pop_front() {
            None => self.after_staged(),
            Some(file) => {
                let path = self.paths.of(file);
                let document = AuthorizedKeys::default();
                self.target = Target { file, path, original: None, document, after: None, tries: 0 };
                State::Look
            }
        }
    }

    fn edited(&mut self) -> State {
        let target = &mut self.target;
        let empty = target.document.is_empty();
        let remove = empty && (target.original.is_none() || self.plan.if_empty == IfEmpty::Remove);
        target.after = (!remove).then(|| target.document.digest());
        let before = target.before();
        if target.after == before {
            return self.done();
        }
        if target.after.is_none() {
            return State::CheckLock;
        }
        self.staged = Some(self.paths.staged(target.file, &self.plan));
        State::Stage
    }

    /// Notes what became of the file, and goes on to the next.
    fn done(&mut self) -> State {
        let (before, after) = (self.target.before(), self.target.after);
        self.changes.push(FileChange { file: self.target.file, path: self.target.path.clone(), before, after });
        self.next_target()
    }

    fn check_target(&self, stat: &FileStat) -> Result<(), ReplaceError> {
        check(&self.target.path, stat, FileKind::Regular)?;
        check_owner(&self.target.path, stat, self.own_uid)
    }

    fn check_staged(&self, stat: &FileStat) -> Result<(), ReplaceError> {
        if stat.kind != FileKind::Regular {
            return Err(self.staged_differs("no regular file"));
        }
        if stat.mode & 0o7777 != self.target.mode() {
            return Err(self.staged_differs("other permission bits"));
        }
        check_owner(self.staged_path(), stat, self.own_uid)
    }

    /// The staged file is gone: either the lock is somebody else's by now, or somebody swept who has lost it to us.
    fn swept_by_another(&mut self) -> State {
        self.staged = None;
        State::CheckSwept
    }

    /// Somebody else wrote the file meanwhile: what was staged is of no use.
    fn overtaken(&mut self) -> Result<State, ReplaceError> {
        if self.staged.is_some() { Ok(State::DropStaged) } else { self.start_over() }
    }

    fn start_over(&mut self) -> Result<State, ReplaceError> {
        self.target.tries += 1;
        if self.target.tries < TRIES {
            Ok(State::Look)
        } else {
            Err(ReplaceError::KeepsChanging { path: self.target.path.clone(), tries: self.target.tries })
        }
    }

    fn staged_differs(&self, found: &'static str) -> ReplaceError {
        ReplaceError::StagedDiffers { path: self.staged_path().to_owned(), found }
    }

    fn unverified(&self, source: FileError) -> ReplaceError {
        ReplaceError::Unverified { path: self.target.path.clone(), source: Box::new(source) }
    }

    fn not_as_written(&self, found: Option<Digest>) -> ReplaceError {
        ReplaceError::NotAsWritten { path: self.target.path.clone(), expected: self.target.after, found }
    }
}
