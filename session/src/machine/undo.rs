//! The way back: the host ends as it was, and a session closes only on what was seen.

use toehold_core::{HostKeyTrust, PublicKey, Timestamp};

use super::Onboarding;
use super::action::{Action, Credential, End, Event, LoginFailure};
use super::state::{AfterProof, State};
use crate::record::{Evidence, HostKeyCheck, TrustedHostKey};

impl Onboarding {
    /// Leaves the way to a managed host; the first reason stands.
    pub(super) fn undo(&mut self, why: &str) -> Action {
        self.undo_from(1, why)
    }

    pub(super) fn undo_from(&mut self, tries: u32, why: &str) -> Action {
        self.undoing = true;
        self.patient_until = None;
        self.reason.get_or_insert_with(|| why.to_owned());
        let step = self.undo_step(tries);
        self.go(step)
    }

    /// The next step of the way back: over a connection that is there, else over one that can be had, else by asking.
    fn undo_step(&self, tries: u32) -> State {
        if self.connected_temporary {
            match &self.seen_host_key {
                // Is it the right host? Its word on what is gone counts only then. Nothing of value is sent either way.
                Some(host_key) if self.wants_proof() => State::UndoProof { host_key: host_key.clone(), tries },
                _ => State::Undoing { over: Credential::Temporary, tries },
            }
        } else if self.connected_master {
            State::Undoing { over: Credential::Master, tries }
        } else if self.temporary {
            State::UndoLogin { with: Credential::Temporary, tries }
        } else {
            self.undo_without_temporary(tries)
        }
    }

    fn undo_without_temporary(&self, tries: u32) -> State {
        if self.master_works { State::UndoLogin { with: Credential::Master, tries } } else { State::UndoQuery { tries } }
    }

    /// The way back once more, after a rest, unless it was tried often enough.
    fn undo_again(&mut self, now: Timestamp, tries: u32, why: &str) -> Action {
        let step = self.undo_step(tries);
        self.again(now, step).unwrap_or_else(|| {
            self.note(why);
            self.orphan()
        })
    }

    pub(super) fn on_undo(&mut self, now: Timestamp, state: State, event: Event) -> Option<Action> {
        Some(match (state, event) {
            (State::UndoLogin { with: Credential::Temporary, tries }, Event::LoggedIn { host_key }) => {
                self.connected(host_key.clone());
                self.undo_over(host_key, tries)
            }
            (State::UndoLogin { with: Credential::Master, tries }, Event::LoggedIn { .. }) => {
                self.connected_master = true;
                self.go(State::Undoing { over: Credential::Master, tries })
            }
            (State::UndoLogin { with, tries }, Event::LoginFailed(LoginFailure::KeyRefused)) => {
                let next = match with {
                    Credential::Temporary => self.undo_without_temporary(tries),
                    Credential::Master => State::UndoQuery { tries },
                };
                self.go(next)
            }
            (State::UndoLogin { tries, .. }, Event::LoginFailed(LoginFailure::Unreachable(why))) => {
                self.undo_again(now, tries, &why)
            }
            (State::UndoQuery { tries }, Event::LoginFailed(LoginFailure::Unreachable(why))) => {
                self.again(now, State::UndoQuery { tries }).unwrap_or_else(|| {
                    self.note(&why);
                    self.orphan()
                })
            }
            (State::UndoLogin { .. } | State::UndoQuery { .. }, Event::LoginFailed(failure)) => {
                self.note(&failure.to_string());
                self.orphan()
            }
            (State::UndoProof { host_key, tries }, Event::ProofRead(content)) => {
                // Good or not, what was begun is undone.
                drop(self.judge_proof(host_key, content.as_deref()));
                self.burn(now, AfterProof::Undo { tries })
            }
            (State::UndoProof { tries, .. }, Event::FilesFailed { lost, reason, .. }) => {
                self.lose(Credential::Temporary, lost);
                self.undo_again(now, tries, &reason)
            }
            (State::Undoing { .. }, Event::Cleared { still_present, found }) if still_present.is_empty() => {
                self.patient_until = None;
                self.record.installed |= found;
                self.record.adding.clear();
                self.gone(now, Evidence::SeenGone)
            }
            (State::Undoing { tries, .. }, Event::Cleared { .. }) => {
                self.undo_again(now, tries, "a key of this session is still on the host after its removal")
            }
            (state @ State::Undoing { over, tries }, Event::FilesFailed { lost, reason, busy }) => {
                self.lose(over, lost);
                self.cut_off |= lost;
                let waiting = busy.then(|| self.wait_for_lock(now, state)).flatten();
                waiting.unwrap_or_else(|| self.undo_again(now, tries, &reason))
            }
            (State::Undoing { .. }, Event::AccountLost { by }) if !self.record.adding.is_empty() => self.account_lost(by),
            (State::UndoQuery { tries }, Event::Queried { accepted }) if !accepted.is_empty() => {
                self.still_accepted(now, tries, &accepted)
            }
            (State::UndoQuery { .. }, Event::Queried { .. }) => {
                if self.cut_off {
                    self.note("the connection was lost, and a lock or an empty file of ours may have stayed in .ssh");
                }
                self.gone(now, Evidence::Refused)
            }
            _ => return None,
        })
    }

    fn wants_proof(&self) -> bool {
        let can = self.secret.is_some() && !self.proof_read;
        can && self.record.host_key.is_none() && self.record.host_key_check == HostKeyCheck::Proof
    }

    /// A connection with the temporary key is there to undo over.
    fn undo_over(&mut self, host_key: PublicKey, tries: u32) -> Action {
        let trust = match (&self.record.host_key, &self.record.host_key_check) {
            (None, HostKeyCheck::Known(_)) => Some(None),
            (None, HostKeyCheck::Fingerprint(_)) => Some(Some(HostKeyTrust::Fingerprint)),
            (None, HostKeyCheck::AcceptNew) => Some(Some(HostKeyTrust::AcceptNew)),
            (None, HostKeyCheck::Ask | HostKeyCheck::Proof) | (Some(_), _) => None,
        };
        if let Some(trust) = trust {
            self.record.host_key = Some(TrustedHostKey { public_key: host_key, trust });
        }
        let step = self.undo_step(tries);
        self.go(step)
    }

    /// A refusal at the login, and yet the key is accepted: whichever of our keys can log in does so once more.
    fn still_accepted(&mut self, now: Timestamp, tries: u32, accepted: &[PublicKey]) -> Action {
        let accepts_master = self.record.keys.first().is_some_and(|line| accepted.contains(&line.public_key));
        let next = if self.leads_on && accepts_master {
            self.undoing = false;
            Some(State::RecoveringMaster { tries })
        } else if self.temporary && accepted.contains(&self.record.temporary_key) {
            Some(State::UndoLogin { with: Credential::Temporary, tries })
        } else {
            self.master_works.then_some(State::UndoLogin { with: Credential::Master, tries })
        };
        next.and_then(|next| self.again(now, next)).unwrap_or_else(|| {
            self.note("the host still accepts a key of this session");
            self.orphan()
        })
    }

    /// Whoever answered says that the keys are gone, or refuses them. Only the right host's word closes a session, and only
    /// once the command cannot be run any more, or is known to have been run.
    fn gone(&mut self, now: Timestamp, evidence: Evidence) -> Action {
        let late = self.pace.clock_error.max(self.clock_behind);
        let over = now >= self.record.expires_at.saturating_add(late);
        if self.host_is_certain() {
            if self.record.installed || over {
                return self.close(now, End::Failed, evidence);
            }
            self.note("nobody knows whether the command will still be run");
        } else if over && evidence == Evidence::Refused && !self.record.without_expiry {
            return self.close(now, End::Failed, Evidence::RefusedAfterExpiry);
        }
        self.orphan()
    }
}
