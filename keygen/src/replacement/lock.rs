//! From the first look at the home directory to a lock that is ours.

use std::time::Duration;

use toehold_core::{FileError, FileKind, Timestamp};

use super::error::ReplaceError;
use super::examine::{check, check_owner, check_owner_by_home};
use super::machine::{Event, Replacement, State, answer, failed};
use super::plan::{KeyFile, Paths, STALE_LOCK, STALE_NAMELESS_LOCK, is_staged, lock_holder};

/// How often the lock is tried for while others come and go.
const LOCK_TRIES: u32 = 5;

/// How a holder is named whose lock file does not name one.
const UNKNOWN: &str = "somebody unknown";

impl Replacement {
    /// Events while nothing has been changed.
    pub(super) fn examined(&mut self, event: Event) -> Result<State, ReplaceError> {
        match self.state {
            State::LookAtHome => {
                let path = &self.paths.home;
                let stat = answer!(event, Stat).map_err(failed("looking at", path))?;
                let stat = stat.ok_or_else(|| ReplaceError::Missing { path: path.clone() })?;
                check(path, &stat, FileKind::Directory)?;
                self.home_owner = stat.uid;
                Ok(State::LookAtDirectory)
            }
            State::LookAtDirectory => {
                let path = &self.paths.directory;
                let stat = answer!(event, Stat).map_err(failed("looking at", path))?;
                let stat = stat.ok_or_else(|| ReplaceError::Missing { path: path.clone() })?;
                check(path, &stat, FileKind::Directory)?;
                check_owner_by_home(path, &stat, self.home_owner)?;
                self.owners.push((path.clone(), stat));
                Ok(self.look_at_file(KeyFile::AuthorizedKeys))
            }
            State::LookAtFile(file) => {
                let path = &self.target.path;
                if let Some(stat) = answer!(event, Stat).map_err(failed("looking at", path))? {
                    check(path, &stat, FileKind::Regular)?;
                    check_owner_by_home(path, &stat, self.home_owner)?;
                    self.owners.push((path.clone(), stat));
                }
                let next = self.waiting.iter().copied().find(|other| *other > file);
                Ok(next.map_or(State::Lock, |next| self.look_at_file(next)))
            }
            _ => {
                let home = answer!(event, RealPath).map_err(failed("finding", &self.plan.home))?;
                self.paths = Paths::in_home(&home);
                Ok(State::LookAtHome)
            }
        }
    }

    fn look_at_file(&mut self, file: KeyFile) -> State {
        self.target.path = self.paths.of(file);
        State::LookAtFile(file)
    }

    /// Events from the lock's creation until it is ours and everybody else's staged files are gone.
    pub(super) fn locked(&mut self, event: Event) -> Result<State, ReplaceError> {
        let lock = self.paths.lock.clone();
        match self.state {
            State::Lock => match answer!(event, Done) {
                Ok(()) => {
                    self.lock_taken = true;
                    Ok(State::LookAtLock)
                }
                Err(FileError::AlreadyExists { .. }) => Ok(State::ReadContender),
                Err(error) => {
                    // An empty or cut-off lock of ours may be there.
                    self.lock_taken = true;
                    Err(failed("creating", &lock)(error))
                }
            },
            State::ReadContender => match answer!(event, Read) {
                Ok(content) => {
                    lock_holder(&content).unwrap_or(UNKNOWN).clone_into(&mut self.contender);
                    let ours = self.contender == self.plan.holder || self.plan.predecessor.as_ref() == Some(&self.contender);
                    Ok(if ours { State::BreakLock } else { State::LookAtContender })
                }
                Err(FileError::NotFound { .. }) => self.lock_again(),
                Err(FileError::TooLarge { .. }) => {
                    UNKNOWN.clone_into(&mut self.contender);
                    Ok(State::LookAtContender)
                }
                Err(error) => Err(failed("reading", &lock)(error)),
            },
            State::LookAtContender => match answer!(event, Stat).map_err(failed("looking at", &lock))? {
                Some(stat) => {
                    self.contender_since = stat.modified;
                    self.staged = Some(self.paths.probe(&self.plan));
                    Ok(State::StageProbe)
                }
                None => self.lock_again(),
            },
            State::StageProbe => {
                answer!(event, Done).map_err(failed("asking the host for its time with", self.staged_path()))?;
                Ok(State::LookAtProbe)
            }
            State::LookAtProbe => {
                let probe = answer!(event, Stat).map_err(failed("looking at", self.staged_path()))?;
                // Whoever swept it has the lock.
                let now = probe.map_or(self.contender_since, |stat| stat.modified);
                self.contender_age = u64::try_from(now.saturating_sub(self.contender_since)).unwrap_or(0);
                Ok(State::DropProbe)
            }
            State::DropProbe => {
                gone(answer!(event, Done)).map_err(failed("removing", self.staged_path()))?;
                self.staged = None;
                let stale = if self.contender == UNKNOWN { STALE_NAMELESS_LOCK } else { STALE_LOCK };
                if self.contender_age < stale { Err(self.contended()) } else { Ok(State::BreakLock) }
            }
            State::BreakLock => {
                gone(answer!(event, Done)).map_err(failed("removing", &lock))?;
                self.lock_again()
            }
            State::List => {
                let names = answer!(event, Listed).map_err(failed("listing", &self.paths.directory))?;
                self.to_sweep =
                    names.iter().filter(|name| is_staged(name, None)).map(|name| self.paths.in_directory(name)).collect();
                Ok(self.swept())
            }
            State::Sweep => {
                let path = self.to_sweep.pop_front().unwrap_or_default();
                gone(answer!(event, Done)).map_err(failed("removing", &path))?;
                Ok(self.swept())
            }
            _ => {
                let stat = answer!(event, Stat).map_err(failed("looking at", &lock))?;
                let stat = stat.ok_or_else(|| self.lock_lost(None))?;
                self.host_time = Timestamp::from_unix_seconds(stat.modified);
                self.own_uid = stat.uid;
                self.owners.iter().try_for_each(|(path, stat)| check_owner(path, stat, self.own_uid))?;
                Ok(State::List)
            }
        }
    }

    fn swept(&mut self) -> State {
        if self.to_sweep.is_empty() { self.next_target() } else { State::Sweep }
    }

    fn lock_again(&mut self) -> Result<State, ReplaceError> {
        self.lock_tries += 1;
        if self.lock_tries < LOCK_TRIES { Ok(State::Lock) } else { Err(self.contended()) }
    }

    fn contended(&self) -> ReplaceError {
        let holder = if self.contender.is_empty() { UNKNOWN } else { &self.contender };
        let age = Duration::from_secs(self.contender_age);
        ReplaceError::Locked { path: self.paths.lock.clone(), holder: holder.to_owned(), age }
    }

    /// The lock has gone, or is somebody else's by its content.
    pub(super) fn lock_lost(&self, content: Option<&[u8]>) -> ReplaceError {
        let holder = content.and_then(lock_holder).unwrap_or(UNKNOWN).to_owned();
        ReplaceError::LockLost { path: self.paths.lock.clone(), holder }
    }

    pub(super) fn staged_path(&self) -> &str {
        self.staged.as_deref().unwrap_or_default()
    }

    /// Events while leaving: what cannot be removed is noted, and nothing hides the reason for which we leave.
    pub(super) fn cleaned(&mut self, event: Event) -> State {
        match (self.state, event) {
            (State::CleanStaged, Event::Done(result)) => {
                let path = self.staged.take().unwrap_or_default();
                if gone(result).is_err() {
                    self.leftovers.push(path);
                }
                if self.lost { State::End } else { self.after_staged() }
            }
            (State::CheckLockLast, Event::Read(Ok(content))) => {
                // A lock that could not be written to its end is ours as well; somebody else's is not touched.
                let ours = self.lock_content.as_bytes().starts_with(&content);
                if ours { State::Unlock } else { State::End }
            }
            (State::CheckLockLast, Event::Read(Err(FileError::NotFound { .. }))) => State::End,
            (State::Unlock, Event::Done(result)) => {
                if gone(result).is_err() {
                    self.leftovers.push(self.paths.lock.clone());
                }
                State::End
            }
            _ => {
                self.leftovers.extend(self.staged.take());
                self.leftovers.push(self.paths.lock.clone());
                State::End
            }
        }
    }
}

/// A removal of something that is not there has done its work.
pub(super) fn gone(result: Result<(), FileError>) -> Result<(), FileError> {
    match result {
        Err(FileError::NotFound { .. }) => Ok(()),
        other => other,
    }
}
