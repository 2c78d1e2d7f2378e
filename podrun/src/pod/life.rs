//! The life of one pod: recorded, created, ready or failed with a reason, deleted, seen gone.

use std::time::Duration;

use toehold_core::Timestamp;

use super::events::{Action, Event, LATE, OutOfTurn, Phase, Retry, Timing};
use super::manifest::Identity;
use crate::kubernetes::{ApiFailure, Availability, FailureKind, PodTrouble};
use crate::name::Uid;

/// The longest wait between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The life of one pod. Feed it [`Event`]s, do what [`Life::handle`] says.
///
/// Whatever happens, it leads to [`Phase::Closed`] once the connection is gone and the cluster and the store can be reached: through
/// a deletion that was seen, or the certainty that nothing was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    phase: Phase,
    timing: Timing,
    uid: Option<Uid>,
    /// Somebody still waits at the other end.
    wanted: bool,
    started: Timestamp,
    last_traffic: Timestamp,
    /// The last time when a creation was asked for without an answer.
    uncertain: Option<Timestamp>,
    doubt: Option<(Timestamp, PodTrouble)>,
    last_problem: Option<String>,
    tries: u32,
}

impl Life {
    /// Before the handshake.
    pub fn new(timing: Timing) -> Self {
        Self {
            phase: Phase::AwaitHandshake,
            timing,
            uid: None,
            wanted: true,
            started: Timestamp::UNIX_EPOCH,
            last_traffic: Timestamp::UNIX_EPOCH,
            uncertain: None,
            doubt: None,
            last_problem: None,
            tries: 0,
        }
    }

    /// From a record that was found: its pod is to go. `owner_lives` says whether the owner is still there; without it a creation
    /// that comes late is collected by the cluster itself. The first actions come with the machine.
    pub fn recover(timing: Timing, owner_lives: bool, now: Timestamp) -> (Self, Vec<Action>) {
        let mut life = Self::new(timing);
        life.phase = Phase::Finding;
        life.wanted = false;
        life.uncertain = owner_lives.then_some(now);
        (life, vec![Action::LookUp])
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// When to send [`Event::Tick`], if ever.
    pub fn deadline(&self) -> Option<Timestamp> {
        let add = |from: Timestamp, by: Duration| from.saturating_add(by);
        let mut deadlines = Vec::new();
        match &self.phase {
            Phase::Pausing(until, _) => deadlines.push(*until),
            // A watch that says nothing is no sign of life.
            Phase::AwaitGone => deadlines.push(add(self.last_traffic, MAX_PAUSE)),
            Phase::Ready => {
                deadlines.extend(self.timing.session.map(|session| add(self.started, session)));
                deadlines.extend(self.timing.idle.map(|idle| add(self.last_traffic, idle)));
            }
            _ => {}
        }
        if self.wanted && matches!(self.phase, Phase::AwaitReady | Phase::Pausing(_, Retry::Create | Retry::Identify)) {
            deadlines.push(add(self.started, self.timing.ready_within));
            deadlines.extend(self.doubt.as_ref().map(|(since, _)| add(*since, self.timing.patience)));
        }
        deadlines.into_iter().min()
    }

    /// Takes an event; what comes back is to be done in this order.
    ///
    /// # Errors
    /// [`OutOfTurn`] for an answer to what was not asked; nothing has changed.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Result<Vec<Action>, OutOfTurn> {
        match event {
            Event::Disconnected => Ok(self.leave(None)),
            Event::OwnerLost => {
                let words = "the cluster has taken the gateway for dead and is removing its pods; connect again";
                Ok(self.leave(Some(trouble("OwnerLost", words))))
            }
            Event::Traffic => {
                if self.phase == Phase::Ready {
                    self.last_traffic = now;
                }
                Ok(Vec::new())
            }
            Event::Tick => Ok(self.tick(now)),
            Event::Observed(uid, availability) => Ok(self.observed(now, &uid, availability)),
            Event::Gone => Ok(self.gone()),
            event => self.answered(now, event),
        }
    }

    fn answered(&mut self, now: Timestamp, event: Event) -> Result<Vec<Action>, OutOfTurn> {
        match (&self.phase, event) {
            (Phase::AwaitHandshake, Event::HandshakeSucceeded) => {
                (self.started, self.last_traffic) = (now, now);
                Ok(self.go(Phase::Recording, Action::SaveRecord))
            }
            (Phase::Recording, Event::RecordSaved) if self.wanted => Ok(self.go(Phase::Creating, Action::Create)),
            (Phase::Recording, Event::RecordSaved) => Ok(self.go(Phase::Forgetting, Action::RemoveRecord)),
            (Phase::Recording, Event::RecordFailed(reason)) => {
                // Nothing was created; if the record is there after all, it is one of a pod that is not, and goes now or later.
                let failure = self.fail(trouble("RecordFailed", &format!("the gateway's store failed: {reason}")));
                Ok(failure.into_iter().chain(self.go(Phase::Forgetting, Action::RemoveRecord)).collect())
            }
            (Phase::Creating, Event::Created(uid, availability)) => Ok(self.there(now, &uid, availability)),
            (Phase::Creating, Event::CreateRefused(failure)) => Ok(self.refused(now, &failure)),
            (Phase::Creating, Event::CreateUncertain(reason)) => {
                self.uncertain = Some(now);
                self.last_problem = Some(reason);
                Ok(self.retry(now, Retry::Create, None))
            }
            (Phase::Identifying, Event::LookedUp(found)) => Ok(self.identified(now, found.as_ref())),
            (Phase::Identifying, Event::LookUpFailed(reason)) => {
                self.last_problem = Some(reason);
                Ok(self.retry(now, Retry::Identify, None))
            }
            (Phase::Finding, Event::LookedUp(found)) => Ok(self.found(now, found.as_ref())),
            (Phase::Finding, Event::LookUpFailed(_)) => Ok(self.pause(now, Retry::Find, None)),
            (Phase::Deleting, Event::DeleteAccepted) => {
                self.tries = 0;
                self.last_traffic = now;
                Ok(self.go(Phase::AwaitGone, Action::Watch))
            }
            // A UID never comes back.
            (Phase::Deleting, Event::DeleteMissing) => Ok(self.forget()),
            (Phase::Deleting, Event::DeleteFailed(_)) => Ok(self.pause(now, Retry::Delete, None)),
            (Phase::AwaitGone, Event::LookedUp(found)) => Ok(match found {
                Some((uid, _, _)) if Some(&uid) == self.uid.as_ref() => {
                    self.last_traffic = now;
                    Vec::new()
                }
                _ => self.forget(),
            }),
            (Phase::AwaitGone, Event::LookUpFailed(_)) => {
                self.last_traffic = now;
                Ok(Vec::new())
            }
            // Asked by a driver whose watch broke.
            (Phase::AwaitReady | Phase::Ready, Event::LookedUp(found)) => Ok(match found {
                Some((uid, _, availability)) => self.observed(now, &uid, availability),
                None => self.gone(),
            }),
            (Phase::AwaitReady | Phase::Ready, Event::LookUpFailed(reason)) => {
                self.last_problem = Some(reason);
                Ok(Vec::new())
            }
            (Phase::Forgetting, Event::RecordRemoved) => {
                self.phase = Phase::Closed;
                Ok(Vec::new())
            }
            (Phase::Forgetting, Event::RecordRemoveFailed(_)) => Ok(self.pause(now, Retry::Forget, None)),
            (phase, event) => Err(OutOfTurn { phase: phase.clone(), event }),
        }
    }

    fn go(&mut self, phase: Phase, action: Action) -> Vec<Action> {
        self.phase = phase;
        vec![action]
    }

    /// Tells the person once, and wants nothing more.
    fn fail(&mut self, trouble: PodTrouble) -> Option<Action> {
        std::mem::replace(&mut self.wanted, false).then_some(Action::Fail(trouble))
    }

    fn pause(&mut self, now: Timestamp, retry: Retry, at_least: Option<Duration>) -> Vec<Action> {
        self.tries = self.tries.saturating_add(1);
        let growing = Duration::from_secs(1_u64 << self.tries.saturating_sub(1).min(3)).min(MAX_PAUSE);
        // What the server asks for counts, within reason.
        let pause = at_least.unwrap_or_default().max(growing).min(Duration::from_secs(30));
        self.phase = Phase::Pausing(now.saturating_add(pause), retry);
        Vec::new()
    }

    /// Tries to have a pod again, or gives up where nobody waits or the time is over.
    fn retry(&mut self, now: Timestamp, retry: Retry, at_least: Option<Duration>) -> Vec<Action> {
        if !self.wanted {
            return self.end();
        }
        if now >= self.started.saturating_add(self.timing.ready_within) {
            return self.give_up();
        }
        self.pause(now, retry, at_least)
    }

    /// The time to become ready is over.
    fn give_up(&mut self) -> Vec<Action> {
        let seconds = self.timing.ready_within.as_secs();
        let why = match (&self.doubt, &self.last_problem) {
            (Some((_, trouble)), _) => format!(": {}", trouble.words),
            (None, Some(problem)) => format!(": {problem}"),
            (None, None) => String::new(),
        };
        let failure = self.fail(trouble("TimedOut", &format!("no pod was ready within {seconds} s{why}")));
        failure.into_iter().chain(self.end()).collect()
    }

    /// From any phase: towards a pod that is seen gone.
    fn end(&mut self) -> Vec<Action> {
        match (&self.phase, self.uid.clone()) {
            (Phase::AwaitHandshake, _) => {
                self.phase = Phase::Closed;
                Vec::new()
            }
            // An answer is under way; it goes on from there.
            (
                Phase::Recording
                | Phase::Finding
                | Phase::Deleting
                | Phase::AwaitGone
                | Phase::Forgetting
                | Phase::Closed
                | Phase::Pausing(_, Retry::Find | Retry::Delete | Retry::Forget),
                _,
            ) => Vec::new(),
            (_, Some(uid)) => {
                self.tries = 0;
                self.go(Phase::Deleting, Action::Delete(uid))
            }
            (_, None) => {
                self.tries = 0;
                self.go(Phase::Finding, Action::LookUp)
            }
        }
    }

    fn leave(&mut self, why: Option<PodTrouble>) -> Vec<Action> {
        let failure = why.and_then(|why| self.fail(why));
        self.wanted = false;
        // What is being asked of the cluster at this moment is answered first.
        let waits = matches!(self.phase, Phase::Creating | Phase::Identifying);
        let end = if waits { Vec::new() } else { self.end() };
        failure.into_iter().chain(end).collect()
    }

    fn forget(&mut self) -> Vec<Action> {
        self.tries = 0;
        self.go(Phase::Forgetting, Action::RemoveRecord)
    }

    fn there(&mut self, now: Timestamp, uid: &Uid, availability: Availability) -> Vec<Action> {
        self.uid = Some(uid.clone());
        self.uncertain = None;
        self.tries = 0;
        self.last_problem = None;
        if !self.wanted {
            return self.end();
        }
        self.phase = Phase::AwaitReady;
        let mut actions = vec![Action::Watch];
        actions.extend(self.observed(now, uid, availability));
        actions
    }

    fn refused(&mut self, now: Timestamp, failure: &ApiFailure) -> Vec<Action> {
        if failure.kind == FailureKind::AlreadyExists {
            return self.go(Phase::Identifying, Action::LookUp);
        }
        self.last_problem = Some(failure.words());
        // Many creations at once can trip over each other where they are counted.
        if failure.is_passing() || failure.kind == FailureKind::Conflict {
            return self.retry(now, Retry::Create, failure.retry_after);
        }
        let told = self.fail(trouble(&format!("{:?}", failure.kind), &format!("no pod can be made: {}", failure.words())));
        // Nothing was created this time; an earlier try without an answer may yet be carried out.
        let then = if self.uncertain.is_some() { self.end() } else { self.forget() };
        told.into_iter().chain(then).collect()
    }

    fn identified(&mut self, now: Timestamp, found: Option<&(Uid, Identity, Availability)>) -> Vec<Action> {
        match found {
            Some((uid, Identity::Ours, availability)) => self.there(now, uid, availability.clone()),
            Some((uid, Identity::OursAltered, _)) => {
                self.uid = Some(uid.clone());
                let told = self.fail(trouble("Altered", "the pod was changed by somebody else before it could be used"));
                told.into_iter().chain(self.end()).collect()
            }
            Some((_, Identity::Foreign, _)) => {
                // As long as it is there, no pod of ours can be.
                let told =
                    self.fail(trouble("NameTaken", "a pod of that name is there that is not the gateway's; connect again"));
                told.into_iter().chain(self.forget()).collect()
            }
            None => self.retry(now, Retry::Create, None),
        }
    }

    fn found(&mut self, now: Timestamp, found: Option<&(Uid, Identity, Availability)>) -> Vec<Action> {
        match found {
            Some((uid, Identity::Ours | Identity::OursAltered, _)) => {
                self.uid = Some(uid.clone());
                self.uncertain = None;
                self.phase = Phase::Pausing(now, Retry::Delete);
                self.tick(now)
            }
            Some((_, Identity::Foreign, _)) => self.forget(),
            None => match self.uncertain.map(|asked| asked.saturating_add(LATE)).filter(|late| *late > now) {
                // It may come at any moment, and is not left alone for as long as it may take.
                Some(late) => {
                    self.phase = Phase::Pausing(late.min(now.saturating_add(MAX_PAUSE)), Retry::Find);
                    Vec::new()
                }
                None => self.forget(),
            },
        }
    }

    fn observed(&mut self, now: Timestamp, uid: &Uid, availability: Availability) -> Vec<Action> {
        if self.uid.as_ref() != Some(uid) {
            // Another pod of that name: ours is gone.
            return if self.uid.is_some() { self.gone() } else { Vec::new() };
        }
        match (&self.phase, availability) {
            (Phase::AwaitReady, Availability::Ready) => {
                self.doubt = None;
                self.last_traffic = now;
                self.go(Phase::Ready, Action::Ready(uid.clone()))
            }
            (Phase::AwaitReady, Availability::Doubtful(trouble)) => {
                let since = self.doubt.take().map_or(now, |(since, _)| since);
                self.doubt = Some((since, trouble));
                Vec::new()
            }
            (Phase::AwaitReady, Availability::Pending) => {
                self.doubt = None;
                Vec::new()
            }
            (Phase::AwaitReady | Phase::Ready, Availability::Failed(trouble) | Availability::Ended(trouble)) => {
                let told = self.fail(trouble);
                told.into_iter().chain(self.end()).collect()
            }
            // Ready is a probe's opinion; whoever works in it is not thrown out for that.
            _ => Vec::new(),
        }
    }

    fn gone(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::AwaitReady | Phase::Ready => {
                let told = self.fail(trouble("Deleted", "the pod was deleted by somebody else, or the cluster collected it"));
                told.into_iter().chain(self.forget()).collect()
            }
            Phase::AwaitGone => self.forget(),
            // An answer is under way.
            _ => Vec::new(),
        }
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        let over = |from: Timestamp, limit: Option<Duration>| limit.is_some_and(|limit| now >= from.saturating_add(limit));
        match self.phase.clone() {
            Phase::AwaitReady | Phase::Pausing(_, Retry::Create | Retry::Identify) if !self.wanted => self.end(),
            Phase::AwaitReady | Phase::Pausing(_, Retry::Create | Retry::Identify)
                if over(self.started, Some(self.timing.ready_within)) =>
            {
                self.give_up()
            }
            Phase::AwaitReady => match self.doubt.take_if(|(since, _)| over(*since, Some(self.timing.patience))) {
                Some((_, trouble)) => {
                    let told = self.fail(trouble);
                    told.into_iter().chain(self.end()).collect()
                }
                None => Vec::new(),
            },
            Phase::Ready => {
                let words = if over(self.started, self.timing.session) {
                    "the connection has reached its time limit"
                } else if over(self.last_traffic, self.timing.idle) {
                    "the connection was idle for too long"
                } else {
                    return Vec::new();
                };
                let told = self.fail(trouble("Limit", words));
                told.into_iter().chain(self.end()).collect()
            }
            Phase::AwaitGone if over(self.last_traffic, Some(MAX_PAUSE)) => {
                self.last_traffic = now;
                vec![Action::LookUp]
            }
            Phase::Pausing(until, retry) if now >= until => match (retry, self.uid.clone()) {
                (Retry::Create, _) => self.go(Phase::Creating, Action::Create),
                (Retry::Identify, _) => self.go(Phase::Identifying, Action::LookUp),
                (Retry::Forget, _) => self.go(Phase::Forgetting, Action::RemoveRecord),
                (Retry::Delete, Some(uid)) => self.go(Phase::Deleting, Action::Delete(uid)),
                (Retry::Find | Retry::Delete, _) => self.go(Phase::Finding, Action::LookUp),
            },
            _ => Vec::new(),
        }
    }
}

fn trouble(reason: &str, words: &str) -> PodTrouble {
    PodTrouble { reason: reason.to_owned(), words: words.to_owned() }
}
