//! Looks that will be asked for next, so that they can be sent together.

use std::collections::VecDeque;

use toehold_core::{FileError, HostFiles, Look, Seen};

use super::machine::{Event, MAX_LOCK, Replacement, State, length};
use super::plan::{KeyFile, Paths};
use crate::authorized_keys::MAX_AUTHORIZED_KEYS;

impl Replacement {
    /// What will be looked at after the action that [`action`](Replacement::action) names, in this order and before anything
    /// else is changed, if all is as it should be. A wrong guess costs an answer that nobody asks for.
    ///
    /// The order is that of the states: who asks for all of it at once learns what who asks one by one would.
    pub(super) fn ahead(&self) -> Vec<Look> {
        let first = self.paths.of(KeyFile::AuthorizedKeys);
        let second = self.paths.of(KeyFile::AuthorizedKeys2);
        let stat = |path: &str| Look::Stat(path.to_owned());
        let read = |path: &str, limit: u64| Look::Read { path: path.to_owned(), limit };
        let lock = || read(&self.paths.lock, MAX_LOCK);
        let target = &self.target;
        let target_limit = MAX_AUTHORIZED_KEYS.max(length(&target.document));
        let keys = |path: &str| read(path, MAX_AUTHORIZED_KEYS);
        let seconds = |look: Look| self.plan.second_file.then_some(look);
        match self.state {
            State::RealHome => {
                // An absolute path is most often what the server makes of it; another one is looked at anew.
                let home = &self.plan.home;
                if !home.starts_with('/') {
                    return Vec::new();
                }
                let paths = Paths::in_home(home);
                let files = [stat(home), stat(&paths.directory), stat(&paths.of(KeyFile::AuthorizedKeys))];
                files.into_iter().chain(seconds(stat(&paths.of(KeyFile::AuthorizedKeys2)))).collect()
            }
            State::LookAtHome => [stat(&self.paths.directory), stat(&first)].into_iter().chain(seconds(stat(&second))).collect(),
            State::LookAtDirectory => [stat(&first)].into_iter().chain(seconds(stat(&second))).collect(),
            State::Lock => {
                let looks = [stat(&self.paths.lock), Look::List(self.paths.directory.clone()), stat(&first), keys(&first)];
                looks.into_iter().chain(seconds(keys(&second))).collect()
            }
            State::LookAtLock => {
                let looks = [Look::List(self.paths.directory.clone()), stat(&first), keys(&first)];
                looks.into_iter().chain(seconds(keys(&second))).collect()
            }
            State::Look if target.file == KeyFile::AuthorizedKeys => {
                [keys(&first)].into_iter().chain(seconds(keys(&second))).collect()
            }
            // It is most often not there.
            State::Look => vec![lock()],
            State::Stage => self.after_staging(true),
            State::Sync => self.after_staging(false),
            State::LookAtStaged => self.after_staging(false).split_off(1),
            State::CheckLock => vec![stat(&target.path), keys(&target.path)],
            State::LookAgain => vec![keys(&target.path)],
            State::Replace => {
                let mut looks = vec![stat(&target.path), read(&target.path, target_limit)];
                looks.extend(self.waiting.iter().map(|file| stat(&self.paths.of(*file))));
                looks.push(lock());
                looks
            }
            _ => Vec::new(),
        }
    }

    fn after_staging(&self, sync: bool) -> Vec<Look> {
        let (staged, target) = (self.staged_path().to_owned(), &self.target);
        let sync = (sync && self.capabilities.sync).then(|| Look::Sync(staged.clone()));
        let compare = [
            Look::Stat(staged.clone()),
            Look::Read { path: staged, limit: length(&target.document) },
            Look::Read { path: self.paths.lock.clone(), limit: MAX_LOCK },
            Look::Stat(target.path.clone()),
            Look::Read { path: target.path.clone(), limit: MAX_AUTHORIZED_KEYS },
        ];
        let missing = usize::from(target.before().is_none());
        sync.into_iter().chain(compare.into_iter().take(5 - missing)).collect()
    }
}

/// Answers that are at hand before they are asked for; those of before a change are dropped with it.
#[derive(Debug, Default)]
pub(super) struct Ahead(VecDeque<(Look, Seen)>);

impl Ahead {
    /// What came of the look: from what is at hand, or from the host, which is asked for `more` along with it.
    pub(super) async fn look<F: HostFiles>(&mut self, files: &mut F, look: Look, more: Vec<Look>) -> Seen {
        if !self.0.iter().any(|(known, _)| *known == look) {
            let looks: Vec<Look> = [look.clone()].into_iter().chain(more).collect();
            let seen = files.look(&looks).await;
            self.0 = looks.into_iter().zip(seen).collect();
        }
        // What is passed over is older than what is used now.
        while let Some((known, seen)) = self.0.pop_front() {
            if known == look {
                return seen;
            }
        }
        unanswered(look)
    }

    /// Keeps what was seen right after a change that has been made.
    pub(super) fn after(&mut self, changed: bool, looks: Vec<Look>, seen: Vec<Seen>) {
        self.0 = looks.into_iter().zip(seen).filter(|_| changed).collect();
    }

    /// Forgets what was seen before a change.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// An implementation of [`HostFiles::look`] left the question without an answer.
fn unanswered(look: Look) -> Seen {
    let failed = |doing, path| FileError::Failed { doing, path, message: "there was no answer".to_owned() };
    match look {
        Look::RealPath(path) => Seen::RealPath(Err(failed("resolving", path))),
        Look::Stat(path) => Seen::Stat(Err(failed("looking at", path))),
        Look::Read { path, .. } => Seen::Read(Err(failed("reading", path))),
        Look::List(path) => Seen::List(Err(failed("listing", path))),
        Look::Sync(path) => Seen::Sync(Err(failed("syncing", path))),
    }
}

/// What the machine is told of what was seen.
pub(super) fn event(seen: Seen) -> Event {
    match seen {
        Seen::RealPath(found) => Event::RealPath(found),
        Seen::Stat(found) => Event::Stat(found),
        Seen::Read(found) => Event::Read(found),
        Seen::List(found) => Event::Listed(found),
        Seen::Sync(done) => Event::Done(done),
    }
}
