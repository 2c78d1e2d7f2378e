//! Taking up a session from its record: the same steps, entered where the record says.

use toehold_core::{HostKeyPolicy, Timestamp};
use toehold_keygen::install::ProofSecret;

use super::action::{Action, Credential, Event, LoginFailure};
use super::forward::{already_open, managed_elsewhere};
use super::state::State;
use super::{Onboarding, Pace};
use crate::record::SessionRecord;
use crate::status::Status;

impl Onboarding {
    /// Takes up an open session. `secret` and `temporary` are given where they were sealed and could be opened.
    ///
    /// A session that had begun to write is led to its end, with the master key where it works; one that had not, or was
    /// cancelled before the master key had logged in, is undone.
    #[must_use]
    pub fn recover(record: SessionRecord, secret: Option<ProofSecret>, temporary: bool, pace: Pace) -> (Self, Action) {
        let state = State::Reclaiming { tries: 1 };
        let mut machine = Self::with(record, secret, temporary, pace, state.clone());
        machine.undoing = machine.record.cancelled || machine.record.host_key.is_none();
        machine.reason = machine.record.reason.clone();
        // The number fences off whoever had the session before: their next write to the store conflicts.
        machine.record.attempt += 1;
        machine.record.status = Status::Orphaned;
        machine.record.reason.get_or_insert_with(|| "interrupted".to_owned());
        let action = machine.go(state);
        (machine, action)
    }

    pub(super) fn on_recovery(&mut self, now: Timestamp, state: State, event: Event) -> Option<Action> {
        Some(match (state, event) {
            (State::Reclaiming { .. }, Event::Saved) => self.go(State::RetakingAccount { tries: 1 }),
            (state @ State::Reclaiming { .. }, Event::Superseded(latest)) => self.superseded(state, &latest),
            (state @ (State::Reclaiming { .. } | State::RetakingAccount { .. }), Event::StoreFailed(why)) => {
                self.again(now, state).unwrap_or_else(|| self.let_go(why))
            }
            (State::RetakingAccount { .. }, Event::AccountTaken { adding, managed, dead }) => {
                self.record.adding = adding;
                self.dead = dead;
                // Only a host whose key was settled can have been managed by this session.
                self.settled = managed && self.record.host_key.is_some();
                self.undoing &= !self.settled;
                self.leads_on = !self.undoing;
                self.reclaimed()
            }
            (State::RetakingAccount { .. }, Event::AccountHeld { by }) if by == self.record.id => {
                self.let_go("somebody else has taken this session up".to_owned())
            }
            (State::RetakingAccount { .. }, Event::AccountHeld { by }) => {
                let why = already_open(by, &self.record.route.account);
                self.without_account(why)
            }
            (State::RetakingAccount { .. }, Event::AccountElsewhere { managed }) => {
                let why = managed_elsewhere(&managed, &self.record.route);
                self.without_account(why)
            }
            (State::RecoveringMaster { .. }, Event::LoggedIn { .. }) => {
                self.connected_master = true;
                self.master_works = true;
                if self.undoing {
                    self.undo("interrupted before anything was added")
                } else {
                    self.go(State::RecoveringInspection)
                }
            }
            (State::RecoveringMaster { tries }, Event::LoginFailed(LoginFailure::KeyRefused)) => self.without_master(now, tries),
            (State::RecoveringInspection, Event::Inspected { present }) => {
                self.reason = None;
                self.commit(&present, Credential::Master)
            }
            (State::RecoveringInspection, Event::LinesRefused { reason }) => {
                self.reason = None;
                self.undo(&reason)
            }
            (state @ State::RecoveringInspection, Event::FilesFailed { reason, lost, busy }) => {
                self.lose(Credential::Master, lost);
                let waiting = busy.then(|| self.wait_for_lock(now, state)).flatten();
                waiting.unwrap_or_else(|| {
                    self.reason = Some(reason);
                    self.orphan()
                })
            }
            (State::RecoveringTemporary, Event::LoggedIn { host_key }) => {
                self.connected(host_key);
                self.reason = None;
                self.inspect(now)
            }
            (State::RecoveringTemporary, Event::LoginFailed(LoginFailure::KeyRefused)) => {
                self.undo("interrupted, and the host accepts neither key")
            }
            (State::RecoveringMaster { .. } | State::RecoveringTemporary, Event::LoginFailed(failure)) => {
                self.reason = Some(failure.to_string());
                self.orphan()
            }
            _ => return None,
        })
    }

    /// The account is somebody else's, and so is what this session has added; the temporary key is still ours to take away.
    fn without_account(&mut self, why: String) -> Action {
        self.record.adding.clear();
        self.undoing = true;
        self.reason.get_or_insert(why);
        self.reclaimed()
    }

    fn reclaimed(&mut self) -> Action {
        match self.policy() {
            HostKeyPolicy::CallerDecides => self.undo("interrupted before the host was proven"),
            _ => self.go(State::RecoveringMaster { tries: 1 }),
        }
    }

    fn without_master(&mut self, now: Timestamp, tries: u32) -> Action {
        let lives = now.saturating_add(self.pace.margin) <= self.record.expires_at;
        if self.temporary && !self.undoing && lives {
            self.go(State::RecoveringTemporary)
        } else if self.settled {
            self.undo_from(tries, "the master key had logged in, and is refused now")
        } else {
            self.undo_from(tries, "interrupted before the master key could log in")
        }
    }
}
