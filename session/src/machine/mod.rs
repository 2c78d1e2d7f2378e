//! The session as a state machine: no IO, no clock, no randomness.
//!
//! [`Onboarding::open`] begins a session and [`Onboarding::recover`] takes one up from its record. Each gives the first
//! [`Action`]; [`Onboarding::handle`] takes what came of it, as an [`Event`], and gives the next, until there is
//! [`Action::Finish`]. There is never more than one action under way, and an event that does not answer it changes nothing.

mod action;
mod forward;
mod recovery;
mod state;
mod undo;

use std::time::Duration;

use toehold_core::{HostKeyPolicy, ManagedKey, PublicKey, SessionId, Timestamp};
use toehold_keygen::install::ProofSecret;

pub use action::{Action, Credential, End, Event, LoginFailure};
pub(crate) use forward::managed_elsewhere;

use self::state::State;
use crate::claim::DeadKey;
use crate::record::{Closed, Evidence, HostKeyCheck, SessionRecord};
use crate::status::Status;

/// The machine's own times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// Between two tries of any step that failed (default 2 s). Also before the second try to log in while nobody has pasted the
    /// command yet; then twice, and from there on three times as long: sshd from OpenSSH 9.8 on shuts out for a while whoever
    /// fails to log in more often than every 5 s (`PerSourcePenalties`), and the operator with them, who comes from the same
    /// address to paste.
    pub poll: Duration,
    /// What must be left of the temporary key's life when the first managed line is written (default 60 s, and at most a
    /// quarter of that life): several times
    /// what the rest takes, so that the key outlives it.
    pub margin: Duration,
    /// How far a host's clock may be behind ours before we would take a key for ended that is not (default 5 min).
    pub clock_error: Duration,
    /// How long the lock of another Toehold on the account's files is waited for, each time (default 30 s).
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            margin: Duration::from_mins(1),
            clock_error: Duration::from_mins(5),
            patience: Duration::from_secs(30),
        }
    }
}

/// How often a step is tried before it counts as failed.
const TRIES: u32 = 3;

/// How many times [`Pace::poll`] the pauses between two knocks get long.
const LONGEST_PAUSE: u32 = 3;

/// How many conflicts a run takes from a store that shows nobody else's writing.
const MAX_CONFLICTS: u32 = 16;

/// An event that does not answer the action that is under way; the machine is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} does not answer what the session is waiting for ({state})")]
pub struct OutOfTurn {
    /// The state's name.
    pub state: &'static str,
    /// The event's name.
    pub event: &'static str,
}

/// One run over a session: from the first record to managed, or from a record that a crash left to a clean end.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a run")]
pub struct Onboarding {
    record: SessionRecord,
    /// Gone once it was used.
    secret: Option<ProofSecret>,
    pace: Pace,
    state: State,
    /// Whether the temporary private half is at hand.
    temporary: bool,
    /// Whether this run has a connection by this credential.
    connected_temporary: bool,
    connected_master: bool,
    /// The host key of the latest connection with the temporary key.
    seen_host_key: Option<PublicKey>,
    /// Whether the proof, or that there is none, was read from there.
    proof_read: bool,
    /// Whether the master key has logged in during this run.
    master_works: bool,
    /// Whether the claim on the account says that the host is managed: then nothing is undone any more.
    settled: bool,
    /// Keys of closed sessions that may still be in the file.
    dead: Vec<DeadKey>,
    /// Whether a connection was lost while lines were being taken away.
    cut_off: bool,
    interrupted: bool,
    /// How often a login may still fail; without end while nobody knows whether the command was run.
    tries_left: Option<u32>,
    /// How often a login with the temporary key was waited for.
    knocks: u32,
    /// Until when the lock of another Toehold is waited for.
    patient_until: Option<Timestamp>,
    /// Why the last login with the temporary key failed.
    last_failure: Option<String>,
    conflicts: u32,
    /// How far the host's clock was seen to be behind ours.
    clock_behind: Duration,
    /// Whether this is a recovery that is to end with a managed host.
    leads_on: bool,
    /// Whether the run leads away from the host.
    undoing: bool,
    /// Why.
    reason: Option<String>,
}

impl Onboarding {
    /// A new session. `record` is active and not yet stored; `secret` is the one in the command.
    #[must_use]
    pub fn open(record: SessionRecord, secret: ProofSecret, pace: Pace) -> (Self, Action) {
        let mut machine = Self::with(record, Some(secret), true, pace, State::Opening { tries: 1 });
        let action = machine.go(State::Opening { tries: 1 });
        (machine, action)
    }

    fn with(record: SessionRecord, secret: Option<ProofSecret>, temporary: bool, mut pace: Pace, state: State) -> Self {
        // A short life has a short end.
        pace.margin = pace.margin.min(record.expires_at.saturating_since(record.created_at) / 4);
        Self {
            record,
            secret,
            pace,
            state,
            temporary,
            connected_temporary: false,
            connected_master: false,
            seen_host_key: None,
            proof_read: false,
            master_works: false,
            settled: false,
            dead: Vec::new(),
            cut_off: false,
            interrupted: false,
            tries_left: None,
            knocks: 0,
            patient_until: None,
            last_failure: None,
            conflicts: 0,
            clock_behind: Duration::ZERO,
            leads_on: false,
            undoing: false,
            reason: None,
        }
    }

    /// The record as this run sees it.
    pub fn record(&self) -> &SessionRecord {
        &self.record
    }

    /// What closed sessions may have left, and what every removal of this run takes away besides.
    pub(crate) fn dead(&self) -> &[DeadKey] {
        &self.dead
    }

    /// The secret that the installation command carries; `None` once a proof was judged by it.
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

    /// How the run has ended, if it has.
    pub fn end(&self) -> Option<End> {
        match self.state {
            State::Done { end } => Some(end),
            _ => None,
        }
    }

    /// The operator wants out: what has begun is undone, unless the master key is about to be tried or has logged in; then it
    /// is finished.
    pub fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// The host's clock was seen to be so many seconds ahead of ours, or behind where that is negative: its lines end then.
    pub fn clock_error(&mut self, seconds: i64) {
        self.clock_behind = Duration::from_secs(seconds.min(0).unsigned_abs());
    }

    /// Takes the result of the last action and returns the next.
    ///
    /// # Errors
    /// [`OutOfTurn`] for an event that does not answer that action; nothing has changed then.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Result<Action, OutOfTurn> {
        let out_of_turn = OutOfTurn { state: self.state.name(), event: event.kind() };
        let state = self.state.clone();
        match state {
            State::UndoLogin { .. } | State::UndoProof { .. } | State::Undoing { .. } | State::UndoQuery { .. } => {
                self.on_undo(now, state, event)
            }
            State::Reclaiming { .. }
            | State::RetakingAccount { .. }
            | State::RecoveringMaster { .. }
            | State::RecoveringInspection
            | State::RecoveringTemporary => self.on_recovery(now, state, event),
            State::Resting { .. } | State::Closing { .. } | State::Done { .. } => self.on_way_out(now, state, event),
            _ => self.on_way_forward(now, state, event),
        }
        .ok_or(out_of_turn)
    }

    /// Events that every run may meet: a rest is over, the session closes.
    fn on_way_out(&mut self, now: Timestamp, state: State, event: Event) -> Option<Action> {
        match (state, event) {
            (State::Resting { then, .. }, Event::Woke) => Some(self.resume(now, *then)),
            (State::Closing { end, .. }, Event::Saved) => Some(self.finish(end)),
            (state @ State::Closing { .. }, Event::Superseded(latest)) => Some(self.superseded(state, &latest)),
            (state @ State::Closing { .. }, Event::StoreFailed(why)) => {
                Some(self.again(now, state).unwrap_or_else(|| self.let_go(format!("how it ended could not be recorded: {why}"))))
            }
            _ => None,
        }
    }

    /// Goes to a state, and says what there is to do in it.
    fn go(&mut self, state: State) -> Action {
        let action = self.action_of(&state);
        self.state = state;
        action
    }

    fn action_of(&self, state: &State) -> Action {
        let log_in = |with| Action::LogIn { with, host_key: self.policy() };
        match state {
            State::Opening { .. }
            | State::Burning { .. }
            | State::Committing { .. }
            | State::Reclaiming { .. }
            | State::Closing { .. } => Action::Save(Box::new(self.record.clone())),
            State::TakingAccount { .. } | State::RetakingAccount { .. } => Action::TakeAccount,
            State::Showing => Action::ShowCommand,
            State::Refreshing => Action::Refresh,
            State::Knocking | State::RecoveringTemporary => log_in(Credential::Temporary),
            State::ProvingMaster { .. } | State::ReconnectingMaster { .. } | State::RecoveringMaster { .. } => {
                log_in(Credential::Master)
            }
            State::UndoLogin { with, .. } => log_in(*with),
            State::Pausing { until } => Action::WaitUntil(*until),
            State::Resting { until, .. } => Action::RestUntil(*until),
            State::CheckingProof { .. } | State::UndoProof { .. } => Action::ReadProof,
            State::Asking { host_key } => Action::AskOperator(host_key.fingerprint()),
            State::Inspecting => Action::Inspect { over: Credential::Temporary },
            State::RecoveringInspection => Action::Inspect { over: Credential::Master },
            State::Adding { missing, over } => Action::AddLines { over: *over, lines: self.lines_of(missing) },
            State::Settling { .. } => Action::Settle,
            State::Clearing { .. } => self.clear(Credential::Master, false),
            State::Undoing { over, .. } => self.clear(*over, true),
            State::UndoQuery { .. } => Action::Query { keys: self.to_ask(), host_key: self.policy() },
            State::RecordingHost { .. } => Action::RecordHost,
            State::Done { end } => Action::Finish(*end),
        }
    }

    fn clear(&self, over: Credential, restore: bool) -> Action {
        Action::Clear { over, keys: self.to_go(), dead: self.dead.clone(), restore }
    }

    fn lines_of(&self, keys: &[PublicKey]) -> Vec<ManagedKey> {
        self.record.keys.iter().filter(|key| keys.contains(&key.public_key)).cloned().collect()
    }

    /// Every key whose line is to leave the host: the temporary one, and what was added by this session or by those that it
    /// took the account over from. Once the host is managed, its managed keys are no longer among the latter.
    fn to_go(&self) -> Vec<PublicKey> {
        let mut keys = vec![self.record.temporary_key.clone()];
        keys.extend(self.record.adding.iter().cloned());
        keys
    }

    /// Those keys, and where the session is still to be led to a managed host, the master key.
    fn to_ask(&self) -> Vec<PublicKey> {
        let mut keys = self.to_go();
        let master = self.record.keys.first().map(|line| &line.public_key).filter(|_| self.leads_on);
        keys.extend(master.filter(|master| !keys.contains(master)).cloned());
        keys
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

    fn connected(&mut self, host_key: PublicKey) {
        self.connected_temporary = true;
        self.seen_host_key = Some(host_key);
        self.proof_read = false;
        self.record.installed = true;
    }

    fn lose(&mut self, credential: Credential, lost: bool) {
        match credential {
            Credential::Temporary => self.connected_temporary &= !lost,
            Credential::Master => self.connected_master &= !lost,
        }
    }

    /// The same state once more after a rest, unless it was tried often enough.
    fn again(&mut self, now: Timestamp, state: State) -> Option<Action> {
        (state.tries() < TRIES).then(|| self.rest(now, state.again()))
    }

    fn rest(&mut self, now: Timestamp, then: State) -> Action {
        let until = now.saturating_add(self.pace.poll);
        self.go(State::Resting { until, then: Box::new(then) })
    }

    /// Another Toehold has the account's files: the same state once more after a rest, as long as there is patience.
    fn wait_for_lock(&mut self, now: Timestamp, state: State) -> Option<Action> {
        let until = *self.patient_until.get_or_insert(now.saturating_add(self.pace.patience));
        (now < until).then(|| self.rest(now, state))
    }

    /// What somebody else wrote over this run's record, found while it was to be saved or read in `state`.
    fn superseded(&mut self, state: State, latest: &SessionRecord) -> Action {
        self.conflicts += 1;
        if latest.attempt != self.stored_attempt(&state) || !latest.status.is_open() || latest.id != self.record.id {
            return self.let_go("somebody else has taken this session up".to_owned());
        }
        if matches!(state, State::Opening { .. }) {
            return self.let_go("a session of this name is stored already".to_owned());
        }
        if self.conflicts > MAX_CONFLICTS {
            return self.let_go("the store does not take the session's record".to_owned());
        }
        // The only other writer of a session that is under way is a cancellation.
        let cancelled = latest.cancelled && !self.record.cancelled;
        self.record.cancelled |= latest.cancelled;
        match state {
            State::Refreshing if !cancelled => self.go(State::Knocking),
            State::Refreshing => self.undo("cancelled"),
            State::Committing { .. } if cancelled && !self.settled => self.undo("cancelled"),
            State::Reclaiming { .. } => {
                self.undoing |= cancelled;
                self.go(state)
            }
            state => self.go(state),
        }
    }

    /// The attempt that the store's record should show while the run is in `state`.
    fn stored_attempt(&self, state: &State) -> u32 {
        self.record.attempt - u32::from(matches!(state, State::Reclaiming { .. }))
    }

    /// The claim on the account is another session's: its managed lines are that one's business from here on.
    fn account_lost(&mut self, by: SessionId) -> Action {
        if by == self.record.id {
            return self.let_go("somebody else has taken this session up".to_owned());
        }
        self.record.adding.clear();
        if self.settled && !self.undoing {
            return self.go(State::Clearing { tries: 1 });
        }
        self.undo(&format!("session {by} has taken the account over"))
    }

    fn close(&mut self, now: Timestamp, end: End, evidence: Evidence) -> Action {
        self.record.status = if end == End::Completed { Status::Completed } else { Status::Failed };
        self.record.closed = Some(Closed { at: now, evidence });
        self.record.reason = if end == End::Completed { None } else { self.reason.clone() };
        self.record.sealed_temporary_key = None;
        self.record.sealed_proof_secret = None;
        self.go(State::Closing { end, tries: 1 })
    }

    /// Stays on the list: the temporary key, or a line that was added, may still be there.
    fn orphan(&mut self) -> Action {
        self.record.status = Status::Orphaned;
        self.record.cancelled |= self.undoing && self.interrupted;
        self.record.reason.clone_from(&self.reason);
        self.go(State::Closing { end: End::Orphaned, tries: 1 })
    }

    fn let_go(&mut self, why: String) -> Action {
        self.reason = Some(why);
        self.finish(End::LetGo)
    }

    fn finish(&mut self, end: End) -> Action {
        self.go(State::Done { end })
    }

    /// Adds to the reason what went wrong besides.
    fn note(&mut self, what: &str) {
        self.reason = Some(match self.reason.take() {
            Some(first) if first.contains(what) => first,
            Some(first) => format!("{first}; then {what}"),
            None => what.to_owned(),
        });
    }
}
