//! Taking up a session from its record: the same steps, entered where the record says.

use toehold_core::{HostKeyPolicy, Timestamp};
use toehold_keygen::install::ProofSecret;

use super::{Action, Credential, Event, LoginFailure, Onboarding, OutOfTurn, Pace, State, describe};
use crate::record::SessionRecord;
use crate::status::Status;

impl Onboarding {
    /// Takes up an open session. `secret` and `temporary` are given where they were sealed and could be opened.
    ///
    /// A session that had begun to write is led to its end, with the master key where it works; one that had not, or was
    /// cancelled, is undone.
    #[must_use]
    pub fn recover(record: SessionRecord, secret: Option<ProofSecret>, temporary: bool, pace: Pace) -> (Self, Action) {
        let mut machine = Self::with(record, secret, temporary, pace, State::Reclaiming);
        machine.undoing = machine.record.cancelled || !machine.had_begun_to_write();
        machine.reason = machine.record.reason.clone();
        // The number fences off whoever had the session before: their next write to the store conflicts.
        machine.record.attempt += 1;
        machine.record.status = Status::Orphaned;
        machine.record.reason.get_or_insert_with(|| "interrupted".to_owned());
        let action = machine.save(State::Reclaiming);
        (machine, action)
    }

    fn had_begun_to_write(&self) -> bool {
        self.record.host_key.is_some()
    }

    fn reclaimed(&mut self) -> Action {
        match self.policy() {
            HostKeyPolicy::CallerDecides => self.undo("interrupted before the host was proven".to_owned()),
            host_key => self.go(State::RecoveringMaster, Action::LogIn { with: Credential::Master, host_key }),
        }
    }

    fn without_master(&mut self, now: Timestamp) -> Action {
        let lives = now.saturating_add(self.pace.margin) <= self.record.expires_at;
        if self.temporary && !self.undoing && lives {
            let host_key = self.policy();
            self.go(State::RecoveringTemporary, Action::LogIn { with: Credential::Temporary, host_key })
        } else {
            self.undo("interrupted before the master key could log in".to_owned())
        }
    }

    pub(super) fn handle_recovery(&mut self, now: Timestamp, state: State, event: Event) -> Option<Result<Action, OutOfTurn>> {
        Some(Ok(match (state, event) {
            (State::Reclaiming, Event::Saved) => self.reclaimed(),
            (State::Reclaiming, Event::StoreFailed(why)) => {
                self.reason = Some(why);
                self.finish(super::End::LetGo)
            }
            (State::RecoveringMaster, Event::LoggedIn { .. }) => {
                self.connected_master = true;
                self.go(State::RecoveringInspection, Action::Inspect { over: Credential::Master })
            }
            (State::RecoveringMaster, Event::LoginFailed(LoginFailure::KeyRefused)) => self.without_master(now),
            (State::RecoveringMaster, Event::LoginFailed(failure)) => {
                self.reason = Some(describe(&failure));
                self.orphan()
            }
            (State::RecoveringInspection, Event::Inspected { present }) => {
                if self.undoing {
                    return Some(Ok(self.undo("interrupted before anything was added".to_owned())));
                }
                self.reason = None;
                self.claim(self.missing(&present), Credential::Master)
            }
            (State::RecoveringInspection, Event::FilesFailed { reason, lost }) => {
                self.lose(Credential::Master, lost);
                self.reason = Some(reason);
                self.orphan()
            }
            (State::RecoveringTemporary, Event::LoggedIn { .. }) => {
                self.connected_temporary = true;
                self.reason = None;
                self.inspect()
            }
            (State::RecoveringTemporary, Event::LoginFailed(LoginFailure::KeyRefused)) => {
                self.undo("interrupted, and the host accepts neither key".to_owned())
            }
            (State::RecoveringTemporary, Event::LoginFailed(failure)) => {
                self.reason = Some(describe(&failure));
                self.orphan()
            }
            _ => return None,
        }))
    }
}
