//! The way back: the host ends as it was, and a session closes only on what was seen.

use toehold_core::{HostKeyTrust, PublicKey, Timestamp};

use super::{Action, Credential, End, Event, LoginFailure, Onboarding, OutOfTurn, State, TRIES, describe};
use crate::record::{Evidence, HostKeyCheck, TrustedHostKey};
use crate::status::Status;

impl Onboarding {
    /// Leaves the way to a managed host; the first reason stands.
    pub(super) fn undo(&mut self, why: String) -> Action {
        self.undoing = true;
        self.reason.get_or_insert(why);
        self.undo_from(1)
    }

    fn undo_from(&mut self, tries: u32) -> Action {
        if self.connected_temporary {
            self.take_away(Credential::Temporary, tries)
        } else if self.connected_master {
            self.take_away(Credential::Master, tries)
        } else if self.temporary {
            let host_key = self.policy();
            self.go(State::UndoLogin { tries }, Action::LogIn { with: Credential::Temporary, host_key })
        } else {
            self.ask_for_refusal()
        }
    }

    /// Every key whose line this session may have put on the host.
    fn ours(&self) -> Vec<PublicKey> {
        let mut keys = vec![self.record.temporary_key.clone()];
        keys.extend(self.record.adding.iter().cloned());
        keys
    }

    fn take_away(&mut self, over: Credential, tries: u32) -> Action {
        let keys = self.ours();
        self.go(State::Undoing { over, tries }, Action::Clear { over, keys, restore: true })
    }

    pub(super) fn ask_for_refusal(&mut self) -> Action {
        let (keys, host_key) = (self.ours(), self.policy());
        self.go(State::UndoQuery, Action::Query { keys, host_key })
    }

    fn undo_again(&mut self, tries: u32) -> Action {
        if tries < TRIES { self.undo_from(tries + 1) } else { self.orphan() }
    }

    /// Stays on the list: the temporary key, or a line that was added, may still be there.
    pub(super) fn orphan(&mut self) -> Action {
        self.record.status = Status::Orphaned;
        self.record.cancelled |= self.undoing;
        self.record.reason.clone_from(&self.reason);
        self.save(State::Closing { end: End::Orphaned })
    }

    fn fail(&mut self, now: Timestamp, evidence: Evidence) -> Action {
        self.close(now, State::Closing { end: End::Failed }, Status::Failed, evidence)
    }

    /// A connection with the temporary key is there to undo over: is the host the right one? Its word on what is gone
    /// counts only then. Nothing of value is sent either way.
    fn undo_over(&mut self, host_key: PublicKey, tries: u32) -> Action {
        self.connected_temporary = true;
        if self.record.host_key.is_some() {
            return self.undo_from(tries);
        }
        let trust = match self.record.host_key_check {
            HostKeyCheck::Proof => return self.go(State::UndoProof { host_key, tries }, Action::ReadProof),
            HostKeyCheck::Known(_) => None,
            HostKeyCheck::Fingerprint(_) => Some(HostKeyTrust::Fingerprint),
            HostKeyCheck::AcceptNew => Some(HostKeyTrust::AcceptNew),
            HostKeyCheck::Ask => return self.undo_from(tries),
        };
        self.record.host_key = Some(TrustedHostKey { public_key: host_key, trust });
        self.undo_from(tries)
    }

    pub(super) fn handle_undo(&mut self, now: Timestamp, state: State, event: Event) -> Option<Result<Action, OutOfTurn>> {
        Some(Ok(match (state, event) {
            (State::UndoLogin { tries }, Event::LoggedIn { host_key }) => self.undo_over(host_key, tries),
            (State::UndoLogin { .. }, Event::LoginFailed(LoginFailure::KeyRefused)) => self.ask_for_refusal(),
            (State::UndoLogin { tries }, Event::LoginFailed(LoginFailure::Unreachable(_))) => self.undo_again(tries),
            (State::UndoLogin { .. } | State::UndoQuery, Event::LoginFailed(failure)) => {
                self.reason = Some(match &self.reason {
                    Some(reason) => format!("{reason}; then {}", describe(&failure)),
                    None => describe(&failure),
                });
                self.orphan()
            }
            (State::UndoProof { host_key, tries }, Event::ProofRead(content)) => {
                if self.verify_proof(&host_key, content.as_deref()).is_ok() {
                    self.record.host_key = Some(TrustedHostKey { public_key: host_key, trust: Some(HostKeyTrust::Proof) });
                }
                self.undo_from(tries)
            }
            (State::UndoProof { tries, .. }, Event::FilesFailed { lost, .. }) => {
                self.lose(Credential::Temporary, lost);
                self.undo_again(tries)
            }
            (State::Undoing { .. }, Event::Cleared { still_present }) if still_present.is_empty() => {
                if self.host_is_certain() {
                    self.fail(now, Evidence::SeenGone)
                } else {
                    // Whoever answers here says that the key is gone; only the right host's word would close the session.
                    self.orphan()
                }
            }
            (State::Undoing { tries, .. }, Event::Cleared { .. }) => self.undo_again(tries),
            (State::Undoing { over, tries }, Event::FilesFailed { lost, reason }) => {
                self.lose(over, lost);
                self.reason = Some(match self.reason.take() {
                    Some(first) if first != reason && !first.contains(&reason) => format!("{first}; undoing it: {reason}"),
                    Some(first) => first,
                    None => reason,
                });
                if lost { self.undo_again(tries) } else { self.orphan() }
            }
            (State::UndoQuery, Event::Queried { accepted }) => self.refused(now, &accepted),
            (State::Closing { end }, Event::Saved) => self.finish(end),
            (State::Closing { .. }, Event::StoreFailed(why)) => {
                self.reason.get_or_insert(why);
                self.finish(End::LetGo)
            }
            (state, event) => return self.handle_recovery(now, state, event),
        }))
    }

    fn refused(&mut self, now: Timestamp, accepted: &[PublicKey]) -> Action {
        if !accepted.is_empty() {
            self.reason.get_or_insert_with(|| "the host still accepts a key of this session".to_owned());
            self.orphan()
        } else if self.host_is_certain() {
            self.fail(now, Evidence::Refused)
        } else if now >= self.record.expires_at.saturating_add(self.pace.clock_error) {
            self.fail(now, Evidence::RefusedAfterExpiry)
        } else {
            self.orphan()
        }
    }
}
