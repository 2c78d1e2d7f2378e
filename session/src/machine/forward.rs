//! The way from the first record to a managed host.

use toehold_core::{Account, HostKeyTrust, PublicKey, Route, SessionId, Timestamp};
use toehold_keygen::install::ProofFile;

use super::action::{Action, Credential, End, Event, LoginFailure};
use super::state::{AfterProof, State};
use super::{LONGEST_PAUSE, Onboarding, TRIES};
use crate::record::{Evidence, HostKeyCheck, TrustedHostKey};
use crate::status::Status;

impl Onboarding {
    pub(super) fn on_way_forward(&mut self, now: Timestamp, state: State, event: Event) -> Option<Action> {
        Some(match (state, event) {
            (State::Opening { .. }, Event::Saved) => self.go(State::TakingAccount { tries: 1 }),
            // Nothing was shown: if the record did reach the store after all, recovery finds a key that no host has.
            (state @ State::Opening { .. }, Event::StoreFailed(why)) => {
                self.again(now, state).unwrap_or_else(|| self.let_go(why))
            }
            (State::TakingAccount { .. }, Event::AccountTaken { adding, dead, .. }) => {
                self.record.adding = adding;
                self.dead = dead;
                if self.interrupted { self.never_shown(now, "interrupted".to_owned()) } else { self.go(State::Showing) }
            }
            (State::TakingAccount { .. }, Event::AccountHeld { by }) => {
                let why = already_open(by, &self.record.route.account);
                self.never_shown(now, why)
            }
            (State::TakingAccount { .. }, Event::AccountElsewhere { managed }) => {
                let why = managed_elsewhere(&managed, &self.record.route);
                self.never_shown(now, why)
            }
            (state @ State::TakingAccount { .. }, Event::StoreFailed(why)) => {
                self.again(now, state).unwrap_or_else(|| self.never_shown(now, why))
            }
            (State::Showing, Event::CommandShown { ran }) => {
                self.record.installed |= ran;
                self.tries_left = ran.then_some(TRIES);
                self.refresh(now)
            }
            (State::Showing, Event::CommandFailed(why)) => self.undo(&why),
            // A store that is away for a moment must not end the wait: the next write decides.
            (State::Refreshing, Event::Unchanged | Event::StoreFailed(_)) => self.go(State::Knocking),
            (State::Knocking, Event::LoggedIn { host_key }) => {
                // Only a command that was run lets the key in.
                self.tries_left.get_or_insert(TRIES);
                self.connected(host_key.clone());
                self.judge(now, host_key)
            }
            (State::Knocking, Event::LoginFailed(failure)) => self.not_yet(now, &failure),
            (State::Pausing { .. }, Event::Woke) => self.refresh(now),
            (State::CheckingProof { host_key }, Event::ProofRead(content)) => self.check_proof(now, host_key, content.as_deref()),
            (State::CheckingProof { .. } | State::Inspecting, Event::FilesFailed { reason, lost: true, .. }) => {
                // Nothing has been changed yet.
                self.lose(Credential::Temporary, true);
                self.pause(now, &reason)
            }
            (state @ State::Inspecting, Event::FilesFailed { reason, busy: true, .. }) => {
                self.wait_for_lock(now, state).unwrap_or_else(|| self.undo(&reason))
            }
            (State::CheckingProof { .. } | State::Inspecting, Event::FilesFailed { reason, .. })
            | (State::Inspecting, Event::LinesRefused { reason }) => self.undo(&reason),
            (State::Asking { host_key }, Event::Answered(true)) => self.trust(now, host_key, Some(HostKeyTrust::Asked)),
            (State::Asking { .. }, Event::Answered(false)) => self.undo("the operator did not take the host's key"),
            (State::Inspecting, Event::Inspected { present }) => self.inspected(now, &present),
            (State::Burning { then, .. }, Event::Saved) => self.after_proof(now, then),
            (state @ State::Burning { .. }, Event::StoreFailed(why)) => self.not_burnt(now, state, &why),
            (
                state @ (State::Opening { .. } | State::Refreshing | State::Burning { .. } | State::Committing { .. }),
                Event::Superseded(latest),
            ) => self.superseded(state, &latest),
            (state, event) => return self.on_commit(now, state, event),
        })
    }

    /// Events from the moment at which the host is the right one.
    fn on_commit(&mut self, now: Timestamp, state: State, event: Event) -> Option<Action> {
        Some(match (state, event) {
            (State::Committing { missing, over, .. }, Event::Saved) => self.committed(now, missing, over),
            (state @ State::Committing { over, .. }, Event::StoreFailed(why)) => {
                self.again(now, state).unwrap_or_else(|| self.not_added(over, &why))
            }
            (State::Adding { over, .. }, Event::LinesAdded { added }) => {
                self.note_added(&added);
                self.added(over)
            }
            (state @ State::Adding { over, .. }, Event::LinesInDoubt { added, reason, lost }) => {
                self.note_added(&added);
                self.lose(over, lost);
                // Somebody else has written the file in that moment: what is missing now is added once more.
                let again = (!lost).then(|| self.wait_for_lock(now, state)).flatten();
                again.unwrap_or_else(|| self.not_added(over, &reason))
            }
            (state @ State::Adding { over, .. }, Event::FilesFailed { reason, lost, busy }) => {
                self.lose(over, lost);
                let waiting = busy.then(|| self.wait_for_lock(now, state)).flatten();
                waiting.unwrap_or_else(|| self.not_added(over, &reason))
            }
            (State::Adding { .. } | State::Settling { .. }, Event::AccountLost { by }) => self.account_lost(by),
            (State::Clearing { .. }, Event::AccountLost { by }) if !self.record.adding.is_empty() => self.account_lost(by),
            (State::ProvingMaster { .. }, Event::LoggedIn { .. }) => {
                self.connected_master = true;
                self.master_works = true;
                self.go(State::Settling { tries: 1 })
            }
            (state @ State::ProvingMaster { .. }, Event::LoginFailed(failure)) => {
                let passing = matches!(failure, LoginFailure::Unreachable(_));
                passing
                    .then(|| self.again(now, state))
                    .flatten()
                    .unwrap_or_else(|| self.undo(&format!("the master key cannot log in: {failure}")))
            }
            (State::Settling { .. }, Event::Settled) => {
                self.settled = true;
                let wanted = &self.record.keys;
                self.record.adding.retain(|key| !wanted.iter().any(|line| line.public_key == *key));
                self.go(State::Clearing { tries: 1 })
            }
            (State::Settling { .. }, Event::MasterKeyGone) => self.undo(
                "the master key was replaced before this session was on record, and nobody holds the former one any more; run it again, with the current one",
            ),
            (state @ State::Settling { .. }, Event::StoreFailed(why)) => {
                // Undoing would need the store as well; the master key works, so that a recovery leads this to its end.
                self.again(now, state).unwrap_or_else(|| self.not_added(Credential::Master, &why))
            }
            (State::Clearing { .. }, Event::Cleared { still_present, .. }) if still_present.is_empty() => {
                self.patient_until = None;
                self.go(State::RecordingHost { tries: 1 })
            }
            (State::Clearing { tries }, Event::Cleared { .. }) => {
                self.clear_again(now, tries, "the temporary key is still on the host after its removal".to_owned())
            }
            (state @ State::Clearing { tries }, Event::FilesFailed { reason, lost, busy }) => {
                self.lose(Credential::Master, lost);
                let waiting = busy.then(|| self.wait_for_lock(now, state)).flatten();
                waiting.unwrap_or_else(|| self.clear_again(now, tries, reason))
            }
            (State::ReconnectingMaster { tries }, Event::LoggedIn { .. }) => {
                self.connected_master = true;
                self.go(State::Clearing { tries })
            }
            (State::ReconnectingMaster { tries }, Event::LoginFailed(failure)) => {
                self.clear_again(now, tries, failure.to_string())
            }
            (State::RecordingHost { .. }, Event::HostRecorded) => self.close(now, End::Completed, Evidence::SeenGone),
            (state @ State::RecordingHost { .. }, Event::StoreFailed(why)) => self
                .again(now, state)
                .unwrap_or_else(|| self.let_go(format!("the host is managed, but that could not be recorded: {why}"))),
            _ => return None,
        })
    }

    /// Takes up what a rest interrupted.
    pub(super) fn resume(&mut self, now: Timestamp, then: State) -> Action {
        let blocked = match &then {
            State::Committing { over, .. } | State::Adding { over, .. } => self.may_begin(now, *over).err(),
            _ => None,
        };
        match (blocked, then) {
            (Some(why), _) => self.undo(why),
            (None, State::Opening { .. } | State::TakingAccount { .. }) if self.interrupted => {
                self.never_shown(now, "interrupted".to_owned())
            }
            (None, then) => self.go(then),
        }
    }

    /// The command was shown to nobody, so that no host has the key and none will.
    fn never_shown(&mut self, now: Timestamp, why: String) -> Action {
        self.reason = Some(why);
        self.close(now, End::Failed, Evidence::NeverShown)
    }

    fn refresh(&mut self, now: Timestamp) -> Action {
        if self.interrupted {
            return self.undo("interrupted");
        }
        if now.saturating_add(self.pace.margin) >= self.record.expires_at {
            return match self.last_failure.take() {
                Some(why) => self.undo(&format!("nobody could log in before the key's end; at last: {why}")),
                None => self.undo("the command was not run in time"),
            };
        }
        self.go(State::Refreshing)
    }

    /// Waits for the command to be run; gives up where it was run and there is no use in waiting.
    fn pause(&mut self, now: Timestamp, why: &str) -> Action {
        match &mut self.tries_left {
            Some(0) => return self.undo(why),
            Some(left) => *left -= 1,
            None => {}
        }
        self.knocks = LONGEST_PAUSE.min(self.knocks + 1);
        self.go(State::Pausing { until: now.saturating_add(self.pace.poll * self.knocks) })
    }

    fn not_yet(&mut self, now: Timestamp, failure: &LoginFailure) -> Action {
        // A refusal is what is to be expected while nobody has run the command.
        self.last_failure = match failure {
            LoginFailure::Unreachable(why) => Some(why.clone()),
            _ => None,
        };
        match failure {
            LoginFailure::KeyRefused => {
                self.pause(now, "the command ran on the host, and yet the host refuses the temporary key")
            }
            LoginFailure::Unreachable(why) => {
                self.pause(now, &format!("the command ran on the host, and yet it cannot be logged in to: {why}"))
            }
            LoginFailure::HostKeyRefused(why) | LoginFailure::NoSftp(why) => {
                self.reason = Some(why.clone());
                self.orphan()
            }
        }
    }

    fn judge(&mut self, now: Timestamp, host_key: PublicKey) -> Action {
        if self.record.host_key.is_some() {
            return self.inspect(now);
        }
        match &self.record.host_key_check {
            HostKeyCheck::Proof => self.go(State::CheckingProof { host_key }),
            HostKeyCheck::Known(_) => self.trust(now, host_key, None),
            HostKeyCheck::Fingerprint(_) => self.trust(now, host_key, Some(HostKeyTrust::Fingerprint)),
            HostKeyCheck::AcceptNew => self.trust(now, host_key, Some(HostKeyTrust::AcceptNew)),
            HostKeyCheck::Ask => self.go(State::Asking { host_key }),
        }
    }

    fn check_proof(&mut self, now: Timestamp, host_key: PublicKey, content: Option<&[u8]>) -> Action {
        let then = match self.judge_proof(host_key, content) {
            Ok(()) => AfterProof::Inspect,
            Err(why) => AfterProof::Refuse(why),
        };
        self.burn(now, then)
    }

    /// The proof is good only if it holds the tag of the key of this very connection; then the host is the right one. Its
    /// secret is used up by being used, whatever comes of it.
    pub(super) fn judge_proof(&mut self, host_key: PublicKey, content: Option<&[u8]>) -> Result<(), String> {
        self.proof_read = true;
        let Some(secret) = self.secret.take() else {
            return Err("the secret that proves the host's key is gone".to_owned());
        };
        let Some(content) = content else {
            return Err(format!(
                "the host that answers with the key {} holds no proof of its key: it may be another machine, or somebody in the middle",
                host_key.fingerprint()
            ));
        };
        ProofFile::parse(content).and_then(|proof| proof.verify(&secret, &host_key)).map_err(|error| error.to_string())?;
        self.record.host_key = Some(TrustedHostKey { public_key: host_key, trust: Some(HostKeyTrust::Proof) });
        Ok(())
    }

    /// Writes, where the secret of the judged proof was kept, that it is gone, and what came of the judgement.
    pub(super) fn burn(&mut self, now: Timestamp, then: AfterProof) -> Action {
        if self.record.sealed_proof_secret.take().is_some() {
            self.go(State::Burning { then, tries: 1 })
        } else {
            self.after_proof(now, then)
        }
    }

    fn after_proof(&mut self, now: Timestamp, then: AfterProof) -> Action {
        match then {
            AfterProof::Inspect if self.record.cancelled => self.undo("cancelled"),
            AfterProof::Inspect => self.inspect(now),
            AfterProof::Refuse(why) => self.undo(&why),
            AfterProof::Undo { tries } => self.go(State::Undoing { over: Credential::Temporary, tries }),
        }
    }

    /// The store still has the secret. No line is added on the strength of it; that the host is to end as it was cannot wait,
    /// and takes the proof away.
    fn not_burnt(&mut self, now: Timestamp, state: State, why: &str) -> Action {
        let then = match &state {
            State::Burning { then: AfterProof::Inspect, .. } => AfterProof::Refuse(why.to_owned()),
            State::Burning { then, .. } => then.clone(),
            _ => AfterProof::Refuse(why.to_owned()),
        };
        self.again(now, state).unwrap_or_else(|| self.after_proof(now, then))
    }

    /// The host is the right one, without a proof: that one's secret is of no use any more.
    fn trust(&mut self, now: Timestamp, host_key: PublicKey, trust: Option<HostKeyTrust>) -> Action {
        self.secret = None;
        self.record.sealed_proof_secret = None;
        self.record.host_key = Some(TrustedHostKey { public_key: host_key, trust });
        self.inspect(now)
    }

    /// Looks at the host's file over the temporary key's connection, if there is time for the rest.
    pub(super) fn inspect(&mut self, now: Timestamp) -> Action {
        match self.may_begin(now, Credential::Temporary) {
            Ok(()) => self.go(State::Inspecting),
            Err(why) => self.undo(why),
        }
    }

    /// Whether lines may still be added over this connection.
    fn may_begin(&self, now: Timestamp, over: Credential) -> Result<(), &'static str> {
        if over == Credential::Master {
            // It has logged in: what began is led to its end.
            Ok(())
        } else if self.interrupted {
            Err("interrupted")
        } else if now.saturating_add(self.pace.margin) > self.record.expires_at {
            Err("too little was left of the temporary key's life")
        } else {
            Ok(())
        }
    }

    fn inspected(&mut self, now: Timestamp, present: &[PublicKey]) -> Action {
        if let Err(why) = self.may_begin(now, Credential::Temporary) {
            return self.undo(why);
        }
        if !present.contains(&self.record.temporary_key) {
            return self.undo(
                "the host accepts the temporary key, but not because of the authorized_keys that was read: its server reads another file",
            );
        }
        self.commit(present, Credential::Temporary)
    }

    /// Records where this leads before the first byte of it is on the host.
    pub(super) fn commit(&mut self, present: &[PublicKey], over: Credential) -> Action {
        let keys = self.record.keys.iter().map(|key| &key.public_key);
        let missing = keys.filter(|key| !present.contains(key)).cloned().collect();
        self.record.status = Status::Committing;
        self.go(State::Committing { missing, over, tries: 1 })
    }

    fn committed(&mut self, now: Timestamp, missing: Vec<PublicKey>, over: Credential) -> Action {
        if let Err(why) = self.may_begin(now, over) {
            return self.undo(why);
        }
        if missing.is_empty() {
            return self.added(over);
        }
        self.go(State::Adding { missing, over })
    }

    fn note_added(&mut self, added: &[PublicKey]) {
        // Lines that were gone and are there again are to be undone until the master key has logged in by them.
        self.settled &= added.is_empty();
        for key in added {
            if !self.record.adding.contains(key) {
                self.record.adding.push(key.clone());
            }
        }
    }

    fn added(&mut self, over: Credential) -> Action {
        self.patient_until = None;
        match over {
            Credential::Temporary => self.go(State::ProvingMaster { tries: 1 }),
            Credential::Master => self.go(State::Settling { tries: 1 }),
        }
    }

    /// The lines are not in the file, or that is not known.
    fn not_added(&mut self, over: Credential, why: &str) -> Action {
        match over {
            Credential::Temporary => self.undo(why),
            // The master key works; what is missing can be added at the next contact.
            Credential::Master => {
                self.note(why);
                self.orphan()
            }
        }
    }

    fn clear_again(&mut self, now: Timestamp, tries: u32, why: String) -> Action {
        let next = if self.connected_master { State::Clearing { tries } } else { State::ReconnectingMaster { tries } };
        self.again(now, next).unwrap_or_else(|| {
            self.reason = Some(why);
            self.orphan()
        })
    }
}

/// Why a second session does not begin.
pub(crate) fn already_open(by: SessionId, account: &Account) -> String {
    format!("session {by} for {account} is still open; wait for it, or cancel it")
}

/// Why a session over another route than the managed one comes to nothing.
pub(crate) fn managed_elsewhere(managed: &Route, asked: &Route) -> String {
    format!("{} is managed {}, and this session leads there {}", managed.account, managed.way(), asked.way())
}
