//! The session as a state machine: no IO, no clock, no randomness.

mod action;
mod recovery;
mod undo;

use std::time::Duration;

use toehold_core::{HostKeyPolicy, HostKeyTrust, PublicKey, Timestamp};
use toehold_keygen::install::{ProofFile, ProofSecret};

pub use action::{Action, Credential, End, Event, LoginFailure};

use crate::record::{Closed, Evidence, HostKeyCheck, SessionRecord, TrustedHostKey};
use crate::status::Status;

/// The machine's own times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// Between two tries to log in while nobody has pasted the command yet (default 2 s).
    pub poll: Duration,
    /// What must be left of the temporary key's life when the first managed line is written (default 60 s): several times
    /// what the rest takes, so that the key outlives it.
    pub margin: Duration,
    /// How far a host's clock may be behind ours before we would take a key for ended that is not (default 5 min).
    pub clock_error: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { poll: Duration::from_secs(2), margin: Duration::from_secs(60), clock_error: Duration::from_secs(300) }
    }
}

/// How often a step on the host is tried again over a new connection.
const TRIES: u32 = 3;

/// An event that does not answer the action that is under way; the machine is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} does not answer what the session is waiting for ({state})")]
pub struct OutOfTurn {
    /// The state's name.
    pub state: &'static str,
    /// The event's name.
    pub event: &'static str,
}

/// Where the machine stands; each state has exactly one action under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Opening,
    Showing,
    Refreshing,
    Knocking,
    Pausing,
    CheckingProof { host_key: PublicKey },
    Asking { host_key: PublicKey },
    Inspecting,
    Claiming { missing: Vec<PublicKey>, over: Credential },
    Adding { over: Credential },
    ProvingMaster { tries: u32 },
    Clearing { tries: u32 },
    ReconnectingMaster { tries: u32 },
    RecordingHost,
    Completing,
    // Undoing.
    UndoLogin { tries: u32 },
    UndoProof { host_key: PublicKey, tries: u32 },
    Undoing { over: Credential, tries: u32 },
    UndoQuery,
    Closing { end: End },
    // Recovery.
    Reclaiming,
    RecoveringMaster,
    RecoveringInspection,
    RecoveringTemporary,
    Done,
}

impl State {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Showing => "showing the command",
            Self::Refreshing => "reading the record again",
            Self::Knocking => "logging in with the temporary key",
            Self::Pausing => "waiting for the command to be run",
            Self::CheckingProof { .. } => "reading the proof",
            Self::Asking { .. } => "asking the operator",
            Self::Inspecting => "reading authorized_keys",
            Self::Claiming { .. } => "recording what will be added",
            Self::Adding { .. } => "adding lines",
            Self::ProvingMaster { .. } => "logging in with the master key",
            Self::Clearing { .. } => "removing the temporary key",
            Self::ReconnectingMaster { .. } => "logging in with the master key again",
            Self::RecordingHost => "recording the host",
            Self::Completing => "closing as completed",
            Self::UndoLogin { .. } => "logging in to undo",
            Self::UndoProof { .. } => "reading the proof to undo",
            Self::Undoing { .. } => "undoing",
            Self::UndoQuery => "asking whether the key is refused",
            Self::Closing { .. } => "closing",
            Self::Reclaiming => "taking the session up",
            Self::RecoveringMaster => "logging in with the master key to recover",
            Self::RecoveringInspection => "reading authorized_keys to recover",
            Self::RecoveringTemporary => "logging in with the temporary key to recover",
            Self::Done => "done",
        }
    }
}

/// One run over a session: from the first record to managed, or from a record that a crash left to a clean end.
///
/// Every call takes what came of the last [`Action`] and returns the next. See the crate's documentation for the order of
/// things and what holds in between.
#[derive(Debug)]
pub struct Onboarding {
    record: SessionRecord,
    secret: Option<ProofSecret>,
    pace: Pace,
    state: State,
    /// Whether the temporary private half is at hand.
    temporary: bool,
    /// Whether this run has a connection by this credential.
    connected_temporary: bool,
    connected_master: bool,
    interrupted: bool,
    /// How often the host may still refuse the key; without end while nobody knows whether the command was run.
    refusals_left: Option<u32>,
    /// Whether the run leads away from the host.
    undoing: bool,
    /// Why.
    reason: Option<String>,
}

impl Onboarding {
    /// A new session. `record` is active and not yet stored; `secret` is the one in the command.
    #[must_use]
    pub fn open(record: SessionRecord, secret: ProofSecret, pace: Pace) -> (Self, Action) {
        let machine = Self::with(record, Some(secret), true, pace, State::Opening);
        let action = Action::Save(Box::new(machine.record.clone()));
        (machine, action)
    }

    fn with(record: SessionRecord, secret: Option<ProofSecret>, temporary: bool, pace: Pace, state: State) -> Self {
        Self {
            record,
            secret,
            pace,
            state,
            temporary,
            connected_temporary: false,
            connected_master: false,
            interrupted: false,
            refusals_left: None,
            undoing: false,
            reason: None,
        }
    }

    /// The record as this run sees it.
    pub fn record(&self) -> &SessionRecord {
        &self.record
    }

    /// The secret that the installation command carries.
    pub fn secret(&self) -> Option<&ProofSecret> {
        self.secret.as_ref()
    }

    /// Why the run leads, or has led, away from a managed host.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// A word for what is under way, for people.
    pub fn step(&self) -> &'static str {
        self.state.name()
    }

    /// The operator wants out: what has begun is undone, unless the master key has already logged in; then it is finished.
    pub fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Takes the result of the last action and returns the next.
    ///
    /// # Errors
    /// [`OutOfTurn`] for an event that does not answer that action; nothing has changed then.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Result<Action, OutOfTurn> {
        let out_of_turn = OutOfTurn { state: self.state.name(), event: event.kind() };
        if let Some(action) = self.on_record(now, &event) {
            return Ok(action);
        }
        match (self.state.clone(), event) {
            (State::Opening, Event::Saved) => Ok(self.go(State::Showing, Action::ShowCommand)),
            (State::Opening, Event::StoreFailed(why)) => {
                // Nothing was shown: if the record did reach the store after all, recovery finds a key that no host has.
                self.reason = Some(why);
                Ok(self.finish(End::LetGo))
            }
            (State::Showing, Event::CommandShown { ran }) => {
                self.refusals_left = ran.then_some(TRIES);
                Ok(self.refresh(now))
            }
            (State::Showing, Event::CommandFailed(why)) => Ok(self.undo(why)),
            (State::Refreshing, Event::Unchanged) => Ok(self.knock()),
            // A store that is away for a moment must not end the wait: the next write decides.
            (State::Refreshing, Event::StoreFailed(_)) => Ok(self.knock()),
            (State::Knocking, Event::LoggedIn { host_key }) => {
                self.connected_temporary = true;
                Ok(self.judge(now, host_key))
            }
            (State::Knocking, Event::LoginFailed(failure)) => Ok(self.not_yet(now, failure)),
            (State::Pausing, Event::Woke) => Ok(self.refresh(now)),
            (State::CheckingProof { host_key }, Event::ProofRead(content)) => {
                Ok(self.check_proof(now, host_key, content.as_deref()))
            }
            (State::CheckingProof { .. } | State::Inspecting, Event::FilesFailed { reason, lost }) => {
                self.lose(Credential::Temporary, lost);
                Ok(self.undo(reason))
            }
            (State::Asking { host_key }, Event::Answered(true)) => Ok(self.settle(now, host_key, Some(HostKeyTrust::Asked))),
            (State::Asking { .. }, Event::Answered(false)) => {
                Ok(self.undo("the operator did not take the host's key".to_owned()))
            }
            (State::Inspecting, Event::Inspected { present }) => Ok(self.inspected(now, &present)),
            (State::Claiming { missing, over }, Event::Saved) => Ok(self.claimed(&missing, over)),
            (State::Adding { over }, Event::LinesAdded) => Ok(self.added(over)),
            (State::Adding { over }, Event::FilesFailed { reason, lost }) => {
                self.lose(over, lost);
                Ok(self.undo(reason))
            }
            (State::ProvingMaster { .. }, Event::LoggedIn { .. }) => {
                self.connected_master = true;
                Ok(self.clear(1))
            }
            (State::ProvingMaster { tries }, Event::LoginFailed(LoginFailure::Unreachable(_))) if tries < TRIES => {
                Ok(self.prove_master(tries + 1))
            }
            (State::ProvingMaster { .. }, Event::LoginFailed(failure)) => {
                Ok(self.undo(format!("the master key cannot log in: {}", describe(&failure))))
            }
            (State::Clearing { .. }, Event::Cleared { still_present }) if still_present.is_empty() => {
                Ok(self.go(State::RecordingHost, Action::RecordHost))
            }
            (State::Clearing { tries }, Event::Cleared { .. }) => {
                Ok(self.clear_again(tries, "the temporary key is still on the host after its removal".to_owned()))
            }
            (State::Clearing { tries }, Event::FilesFailed { reason, lost }) => {
                self.lose(Credential::Master, lost);
                Ok(self.clear_again(tries, reason))
            }
            (State::ReconnectingMaster { tries }, Event::LoggedIn { .. }) => {
                self.connected_master = true;
                Ok(self.clear(tries))
            }
            (State::ReconnectingMaster { tries }, Event::LoginFailed(failure)) => Ok(self.clear_again(tries, describe(&failure))),
            (State::RecordingHost, Event::HostRecorded) => {
                Ok(self.close(now, State::Completing, Status::Completed, Evidence::SeenGone))
            }
            (State::RecordingHost | State::Completing, Event::StoreFailed(why)) => {
                self.reason = Some(format!("the host is managed, but that could not be recorded: {why}"));
                Ok(self.finish(End::LetGo))
            }
            (State::Completing, Event::Saved) => Ok(self.finish(End::Completed)),
            (State::Claiming { .. }, Event::StoreFailed(why)) => Ok(self.undo(why)),
            (state, event) => self.handle_undo(now, state, event).unwrap_or(Err(out_of_turn)),
        }
    }

    /// What somebody else wrote over this run's record.
    fn on_record(&mut self, now: Timestamp, event: &Event) -> Option<Action> {
        let Event::Superseded(latest) = event else { return None };
        let answers_a_store_action = matches!(
            self.state,
            State::Opening
                | State::Refreshing
                | State::Claiming { .. }
                | State::Completing
                | State::Closing { .. }
                | State::Reclaiming
        );
        if !answers_a_store_action {
            return None;
        }
        if latest.attempt != self.record.attempt || !latest.status.is_open() || latest.id != self.record.id {
            self.reason = Some("somebody else has taken this session up".to_owned());
            return Some(self.finish(End::LetGo));
        }
        if self.state == State::Opening {
            self.reason = Some("a session of this name is stored already".to_owned());
            return Some(self.finish(End::LetGo));
        }
        // The only other writer of a session that is under way is a cancellation.
        self.record.cancelled = latest.cancelled;
        Some(match self.state.clone() {
            State::Completing => self.close(now, State::Completing, Status::Completed, Evidence::SeenGone),
            State::Closing { end } => self.save(State::Closing { end }),
            State::Reclaiming => self.save(State::Reclaiming),
            _ => self.undo("cancelled".to_owned()),
        })
    }

    fn go(&mut self, state: State, action: Action) -> Action {
        self.state = state;
        action
    }

    fn save(&mut self, state: State) -> Action {
        let record = Box::new(self.record.clone());
        self.go(state, Action::Save(record))
    }

    fn finish(&mut self, end: End) -> Action {
        self.go(State::Done, Action::Finish(end))
    }

    fn lose(&mut self, credential: Credential, lost: bool) {
        match credential {
            Credential::Temporary => self.connected_temporary &= !lost,
            Credential::Master => self.connected_master &= !lost,
        }
    }

    fn refresh(&mut self, now: Timestamp) -> Action {
        if self.interrupted {
            return self.undo("interrupted".to_owned());
        }
        if now.saturating_add(self.pace.margin) >= self.record.expires_at {
            return self.undo("the command was not run in time".to_owned());
        }
        self.go(State::Refreshing, Action::Refresh)
    }

    fn knock(&mut self) -> Action {
        let host_key = self.policy();
        self.go(State::Knocking, Action::LogIn { with: Credential::Temporary, host_key })
    }

    /// Which host keys a connection of this session may be made to.
    fn policy(&self) -> HostKeyPolicy {
        match (&self.record.host_key, &self.record.host_key_check) {
            (Some(trusted), _) => HostKeyPolicy::Exactly(trusted.public_key.clone()),
            (None, HostKeyCheck::Known(key)) => HostKeyPolicy::Exactly(key.clone()),
            (None, HostKeyCheck::Fingerprint(fingerprint)) => HostKeyPolicy::Fingerprint(*fingerprint),
            (None, HostKeyCheck::Proof | HostKeyCheck::AcceptNew | HostKeyCheck::Ask) => HostKeyPolicy::CallerDecides,
        }
    }

    /// Whether every connection that [`Self::policy`] lets through is to the right host.
    fn host_is_certain(&self) -> bool {
        !matches!(self.policy(), HostKeyPolicy::CallerDecides)
    }

    fn not_yet(&mut self, now: Timestamp, failure: LoginFailure) -> Action {
        if failure == LoginFailure::KeyRefused {
            match &mut self.refusals_left {
                Some(0) => {
                    return self.undo("the command ran on the host, and yet the host refuses the temporary key".to_owned());
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        match failure {
            LoginFailure::KeyRefused | LoginFailure::Unreachable(_) => {
                let until = now.saturating_add(self.pace.poll);
                self.go(State::Pausing, Action::WaitUntil(until))
            }
            failure @ (LoginFailure::HostKeyRefused(_) | LoginFailure::NoSftp(_)) => {
                self.reason = Some(describe(&failure));
                self.orphan()
            }
        }
    }

    fn judge(&mut self, now: Timestamp, host_key: PublicKey) -> Action {
        if self.record.host_key.is_some() {
            return self.inspect();
        }
        match &self.record.host_key_check {
            HostKeyCheck::Proof => self.go(State::CheckingProof { host_key }, Action::ReadProof),
            HostKeyCheck::Known(_) => self.settle(now, host_key, None),
            HostKeyCheck::Fingerprint(_) => self.settle(now, host_key, Some(HostKeyTrust::Fingerprint)),
            HostKeyCheck::AcceptNew => self.settle(now, host_key, Some(HostKeyTrust::AcceptNew)),
            HostKeyCheck::Ask => {
                let fingerprint = host_key.fingerprint();
                self.go(State::Asking { host_key }, Action::AskOperator(fingerprint))
            }
        }
    }

    /// The proof is good only if it holds the tag of the key of this very connection.
    fn check_proof(&mut self, now: Timestamp, host_key: PublicKey, content: Option<&[u8]>) -> Action {
        match self.verify_proof(&host_key, content) {
            Ok(()) => self.settle(now, host_key, Some(HostKeyTrust::Proof)),
            Err(why) => self.undo(why),
        }
    }

    fn verify_proof(&self, host_key: &PublicKey, content: Option<&[u8]>) -> Result<(), String> {
        let Some(secret) = &self.secret else {
            return Err("the secret that proves the host's key is gone".to_owned());
        };
        let Some(content) = content else {
            return Err(format!(
                "the host that answers with the key {} holds no proof of its key: it may be another machine, or somebody in the middle",
                host_key.fingerprint()
            ));
        };
        ProofFile::parse(content).and_then(|proof| proof.verify(secret, host_key)).map_err(|error| error.to_string())
    }

    fn settle(&mut self, now: Timestamp, host_key: PublicKey, trust: Option<HostKeyTrust>) -> Action {
        self.record.host_key = Some(TrustedHostKey { public_key: host_key, trust });
        // Asking the operator takes its time.
        if now.saturating_add(self.pace.margin) > self.record.expires_at {
            return self.undo("too little was left of the temporary key's life".to_owned());
        }
        self.inspect()
    }

    fn inspect(&mut self) -> Action {
        if self.interrupted {
            return self.undo("interrupted".to_owned());
        }
        self.go(State::Inspecting, Action::Inspect { over: Credential::Temporary })
    }

    fn missing(&self, present: &[PublicKey]) -> Vec<PublicKey> {
        self.record.keys.iter().map(|key| &key.public_key).filter(|key| !present.contains(key)).cloned().collect()
    }

    fn inspected(&mut self, now: Timestamp, present: &[PublicKey]) -> Action {
        if self.interrupted {
            return self.undo("interrupted".to_owned());
        }
        if !present.contains(&self.record.temporary_key) {
            return self.undo(
                "the host accepts the temporary key, but not because of the authorized_keys that was read: its server reads another file"
                    .to_owned(),
            );
        }
        if now.saturating_add(self.pace.margin) > self.record.expires_at {
            return self.undo("too little was left of the temporary key's life".to_owned());
        }
        self.claim(self.missing(present), Credential::Temporary)
    }

    /// Records what is about to be added before the first byte of it is on the host.
    fn claim(&mut self, missing: Vec<PublicKey>, over: Credential) -> Action {
        for key in &missing {
            if !self.record.adding.contains(key) {
                self.record.adding.push(key.clone());
            }
        }
        self.record.status = Status::Committing;
        self.save(State::Claiming { missing, over })
    }

    fn claimed(&mut self, missing: &[PublicKey], over: Credential) -> Action {
        if self.interrupted && over == Credential::Temporary {
            return self.undo("interrupted".to_owned());
        }
        if missing.is_empty() {
            return self.added(over);
        }
        let lines = self.record.keys.iter().filter(|key| missing.contains(&key.public_key)).cloned().collect();
        self.go(State::Adding { over }, Action::AddLines { over, lines })
    }

    fn added(&mut self, over: Credential) -> Action {
        match over {
            Credential::Temporary => self.prove_master(1),
            Credential::Master => self.clear(1),
        }
    }

    fn prove_master(&mut self, tries: u32) -> Action {
        let host_key = self.policy();
        self.go(State::ProvingMaster { tries }, Action::LogIn { with: Credential::Master, host_key })
    }

    /// Takes the temporary key away, over a connection that the master key made.
    fn clear(&mut self, tries: u32) -> Action {
        let keys = vec![self.record.temporary_key.clone()];
        self.go(State::Clearing { tries }, Action::Clear { over: Credential::Master, keys, restore: false })
    }

    fn clear_again(&mut self, tries: u32, why: String) -> Action {
        if tries >= TRIES {
            self.reason = Some(why);
            return self.orphan();
        }
        if self.connected_master {
            return self.clear(tries + 1);
        }
        let host_key = self.policy();
        self.go(State::ReconnectingMaster { tries: tries + 1 }, Action::LogIn { with: Credential::Master, host_key })
    }

    fn close(&mut self, now: Timestamp, state: State, status: Status, evidence: Evidence) -> Action {
        self.record.status = status;
        self.record.closed = Some(Closed { at: now, evidence });
        self.record.reason = if status == Status::Completed { None } else { self.reason.clone() };
        self.record.sealed_temporary_key = None;
        self.save(state)
    }
}

pub(crate) fn describe(failure: &LoginFailure) -> String {
    match failure {
        LoginFailure::KeyRefused => "the host refuses the key".to_owned(),
        LoginFailure::HostKeyRefused(why) | LoginFailure::NoSftp(why) | LoginFailure::Unreachable(why) => why.clone(),
    }
}
