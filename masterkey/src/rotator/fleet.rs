//! The loop around the rules of the fleet.

use std::sync::Mutex;
use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{
    AuditSink, Connector, HostRecord, OnUnreachable, PublicKey, RotationPhase, RotationRecord, SessionGlance, Store, StoreError,
    Stored, Timer,
};

use super::Rotator;
use super::host_run::{Errand, SharedRng};
use super::keys::Keys;
use super::lead::{Lead, Saved};
use super::members::Members;
use super::shared::SharedFiles;
use super::stage::WaveEnd;
use crate::error::{RotationError, describe};
use crate::fleet::{FleetStep, Reason};
use crate::host::Goal;
use crate::observer::{Observer, Progress};
use crate::outcome::{End, Outcome};
use crate::vault::KeyVault;
use crate::wait::within;

/// What one run over a rotation holds.
struct Run<'a, 'r, R, O> {
    lead: Lead,
    keys: Keys,
    members: Members,
    shared: SharedFiles,
    current_is_new: bool,
    current_is_held: bool,
    /// Whether the new key was current when the rotation turned back, so that hosts may have it that this run did not touch.
    turned_after_switch: bool,
    rng: &'a SharedRng<'r, R>,
    observer: &'a O,
}

impl<R, O: Observer> Run<'_, '_, R, O> {
    fn is_backward(&self) -> bool {
        self.lead.record.body.phase == RotationPhase::RollingBack
    }

    fn toward(&self) -> &PublicKey {
        let record = &self.lead.record.body;
        if self.is_backward() { &record.old } else { &record.new }
    }

    fn tell_phase(&self) {
        let phase = self.lead.record.body.phase;
        let hosts = self.members.0.values().filter(|member| member.lacks(Goal::Remove)).count();
        self.observer.progress(Progress::Phase { phase, hosts });
    }

    fn outcome(&self, end: End, reason: Option<String>) -> Outcome {
        let hosts = self.members.0.values().map(super::members::Member::outcome).collect();
        let rotation = RotationRecord { sealed_key: None, ..self.lead.record.body.clone() };
        let reason = reason.or_else(|| rotation.reason.clone());
        Outcome { end, rotation, hosts, reason }
    }
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Leads the fleet until the rotation has ended, stands still, or is somebody else's. A failure leaves the rotation open.
    pub(super) async fn run<R: CryptoRng + Send, O: Observer>(
        &self,
        lead: Lead,
        rng: &mut R,
        observer: &O,
    ) -> Result<Outcome, RotationError> {
        let number = lead.record.body.number;
        let outcome = self.lead(lead, rng, observer).await;
        outcome.map_err(|source| RotationError::Unfinished { number, source: Box::new(source) })
    }

    async fn lead<R: CryptoRng + Send, O: Observer>(
        &self,
        lead: Lead,
        rng: &mut R,
        observer: &O,
    ) -> Result<Outcome, RotationError> {
        let record = &lead.record.body;
        self.keep_new_key(record).await?;
        let backward = record.phase == RotationPhase::RollingBack;
        let (old, new) = (record.old.fingerprint(), record.new.fingerprint());
        let (arriving, leaving) = if backward { (old, new) } else { (new, old) };
        let warn = |why| observer.progress(Progress::Warning(why));
        let keys = self.open_keys(arriving, Some(leaving), warn).await?;
        let current_is_new = self.current().await?.body.fingerprint == new;
        let rng = SharedRng(Mutex::new(rng));
        let mut run = Run {
            lead,
            keys,
            members: Members::default(),
            shared: SharedFiles::default(),
            current_is_new,
            current_is_held: false,
            turned_after_switch: current_is_new,
            rng: &rng,
            observer,
        };
        let (number, fresh) = (run.lead.record.body.number, run.lead.fresh);
        // What this rotation has found out so far, and what the one before it had, for hosts that this one cannot ask.
        if !fresh {
            self.remember_shared_files(number, &run.shared).await?;
        }
        if number > 1 {
            self.remember_shared_files(number - 1, &run.shared).await?;
        }
        self.list(&mut run).await?;
        run.tell_phase();
        loop {
            if let Some(outcome) = self.one_step(&mut run).await? {
                return Ok(outcome);
            }
        }
    }

    async fn one_step<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
    ) -> Result<Option<Outcome>, RotationError> {
        if run.lead.joined {
            self.list(run).await?;
        }
        match self.next(run) {
            FleetStep::Enter(phase) => self.enter(run, phase).await,
            FleetStep::Lead(goal) => self.lead_wave(run, goal).await,
            FleetStep::Switch => self.pass_the_barrier(run).await,
            FleetStep::Hold => {
                // Written as it is: a late write of another leader, who had read it before, fails from now on.
                let current = self.current().await?;
                let same = current.body.fingerprint;
                run.current_is_held = self.switch(current, same).await?;
                run.current_is_new = self.current().await?.body.fingerprint == run.lead.record.body.new.fingerprint();
                run.turned_after_switch |= run.current_is_new;
                Ok(None)
            }
            FleetStep::BeginGrace => {
                let end = self.timer.now().saturating_add(Duration::from_secs(run.lead.record.body.policy.grace));
                let saved = self.save_anyway(&mut run.lead, |record| record.retire_at = Some(end)).await?;
                Ok((saved == Saved::LetGo).then(|| run.outcome(End::LetGo, None)))
            }
            FleetStep::AwaitGrace => self.await_grace(run).await,
            FleetStep::TurnBack(reason) => self.turn_back(run, reason).await,
            FleetStep::Stop(reason) => self.stop(run, reason).await,
            FleetStep::End => Ok(Some(run.outcome(End::LetGo, None))),
        }
    }

    fn next<R, O: Observer>(&self, run: &Run<'_, '_, R, O>) -> FleetStep {
        let record = &run.lead.record.body;
        let mut view = run.members.view(record);
        view.current_is_new = run.current_is_new;
        view.current_is_held = run.current_is_held;
        view.grace_over = record.retire_at.map(|end| self.timer.now() >= end);
        view.next()
    }

    /// Takes in which hosts there are by now.
    async fn list<R, O: Observer>(&self, run: &mut Run<'_, '_, R, O>) -> Result<(), RotationError> {
        run.lead.joined = false;
        let mut hosts = Vec::new();
        // One that cannot be read may be any host: without it nothing is known to be everywhere.
        for host in Stored::<HostRecord>::list(&self.store, &HostRecord::prefix()).await? {
            hosts.push(host?);
        }
        let toward = run.toward().clone();
        let fresh = run.lead.fresh;
        run.members.refresh(hosts, &run.lead.record.body, &toward, fresh);
        run.shared.refresh(run.members.0.iter().map(|(account, member)| (account, member.reached.is_some())));
        Ok(())
    }

    async fn enter<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
        phase: RotationPhase,
    ) -> Result<Option<Outcome>, RotationError> {
        let now = self.timer.now();
        if phase == RotationPhase::Switching || phase.is_closed() {
            self.list(run).await?;
            if self.next(run) != FleetStep::Enter(phase) {
                return Ok(None);
            }
        }
        if phase.is_closed() {
            let session = self.wait_for_sessions(run).await?;
            // The wait may have brought hosts in.
            self.list(run).await?;
            if self.next(run) != FleetStep::Enter(phase) {
                return Ok(None);
            }
            if let Some(session) = session
                && phase == RotationPhase::Done
                && run.lead.record.body.policy.on_unreachable == OnUnreachable::Abort
            {
                let why = format!("session {} is putting the old key on {}", session.id, session.route);
                return self.rest(run, End::Stopped, Some(why)).await.map(Some);
            }
        }
        let change = |record: &mut RotationRecord| {
            record.phase = phase;
            if phase.is_closed() {
                record.closed_at = Some(now);
                record.at_rest = true;
            }
        };
        match self.save(&mut run.lead, change).await? {
            Saved::Yes => {}
            Saved::Joined => return Ok(None),
            Saved::LetGo => return Ok(Some(run.outcome(End::LetGo, None))),
        }
        run.tell_phase();
        if !phase.is_closed() {
            return Ok(None);
        }
        let record = run.lead.record.body.clone();
        self.finish_closing(&record).await?;
        let done = phase == RotationPhase::Done;
        let what = if done { "rotation.done" } else { "rotation.rolled_back" };
        self.audit_rotation(what, &record, run.observer).await;
        let current = if done { record.new.fingerprint() } else { record.old.fingerprint() };
        let warn = |why| run.observer.progress(Progress::Warning(why));
        if let Err(error) = self.drop_unneeded(&[current], warn).await {
            run.observer.progress(Progress::Warning(format!("retired keys are still held: {}", describe(&error))));
        }
        Ok(Some(run.outcome(if done { End::Done } else { End::RolledBack }, None)))
    }

    async fn lead_wave<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
        goal: Goal,
    ) -> Result<Option<Outcome>, RotationError> {
        let record = run.lead.record.body.clone();
        // Before anything goes from a file that several have, the key that is to stay is proven on each of them (R9).
        let unproven = if goal == Goal::Prepare { Vec::new() } else { run.members.unproven_of(&run.shared) };
        let (goal, accounts) =
            if unproven.is_empty() { (goal, run.members.wave(goal, record.policy.wave)) } else { (Goal::Prepare, unproven) };
        let backward = run.is_backward();
        let errand = Errand {
            number: record.number,
            public: run.keys.public(),
            keys: &run.keys,
            goal,
            grace: Duration::from_secs(if backward { 0 } else { record.policy.grace }),
            provisional: Duration::from_secs(record.policy.provisional_for),
            fresh: run.lead.fresh,
            touched_only: backward && !run.turned_after_switch,
            maybe_proven: backward || run.current_is_new,
            shared: &run.shared,
            rng: run.rng,
            observer: run.observer,
        };
        let end = self.wave(&mut run.lead, &mut run.members, &errand, accounts).await?;
        self.fail_those_with_one_file(run).await;
        match end {
            WaveEnd::Over => Ok(None),
            WaveEnd::LetGo => Ok(Some(run.outcome(End::LetGo, None))),
            WaveEnd::Leaving => self.rest(run, End::Stopped, Some("it was interrupted".to_owned())).await.map(Some),
        }
    }

    async fn fail_those_with_one_file<R: CryptoRng + Send, O: Observer>(&self, run: &mut Run<'_, '_, R, O>) {
        for (account, reason) in self.fail_together(&mut run.members.0, &run.shared, run.observer).await {
            self.audit_failure(&run.lead, &account, &reason, run.observer).await;
        }
    }

    /// The barrier: the current key is read before the lead is confirmed by a write, so that the change fails if somebody took
    /// the lead in between and wrote it.
    async fn pass_the_barrier<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
    ) -> Result<Option<Outcome>, RotationError> {
        self.look_again(&run.keys, &run.shared, &run.members.0).await;
        self.fail_those_with_one_file(run).await;
        if let Err(why) = self.write_shared_files(&mut run.members.0).await {
            return self.rest(run, End::Stopped, Some(why)).await.map(Some);
        }
        if self.next(run) != FleetStep::Switch {
            return Ok(None);
        }
        let current = self.current().await?;
        match self.save(&mut run.lead, |_| {}).await? {
            Saved::Yes => {}
            Saved::Joined => return Ok(None),
            Saved::LetGo => return Ok(Some(run.outcome(End::LetGo, None))),
        }
        let toward = run.toward().fingerprint();
        if self.switch(current, toward).await? {
            self.audit_rotation("rotation.switched", &run.lead.record.body, run.observer).await;
        }
        run.current_is_new = self.current().await?.body.fingerprint == run.lead.record.body.new.fingerprint();
        run.current_is_held = true;
        Ok(None)
    }

    async fn await_grace<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
    ) -> Result<Option<Outcome>, RotationError> {
        let Some(end) = run.lead.record.body.retire_at else { return Ok(None) };
        run.observer.progress(Progress::Grace(end));
        if !self.pace.wait_for_grace {
            return self.rest(run, End::Grace, None).await.map(Some);
        }
        while self.timer.now() < end {
            let beat = self.next_beat(&run.lead).min(end);
            if run.observer.is_leaving() || within(run.observer.wants_out(), self.timer.sleep_until(beat)).await.is_some() {
                return self.rest(run, End::Grace, None).await.map(Some);
            }
            if self.beat(&mut run.lead).await? == Saved::LetGo {
                return Ok(Some(run.outcome(End::LetGo, None)));
            }
            if run.lead.joined {
                // A host that came in with the old key is not left for the end of the grace.
                self.list(run).await?;
                if self.next(run) != FleetStep::AwaitGrace {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    async fn turn_back<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
        reason: Reason,
    ) -> Result<Option<Outcome>, RotationError> {
        let words = words(reason, &run.members);
        let change = |record: &mut RotationRecord| {
            record.phase = RotationPhase::RollingBack;
            record.reason = Some(words.clone());
        };
        if self.save_anyway(&mut run.lead, change).await? == Saved::LetGo {
            return Ok(Some(run.outcome(End::LetGo, None)));
        }
        self.audit_rotation("rotation.turned_back", &run.lead.record.body, run.observer).await;
        run.keys.turn_back();
        let toward = run.toward().clone();
        run.members.turn_back(&toward);
        run.shared.turn_back();
        run.tell_phase();
        Ok(None)
    }

    /// Stands still, unless somebody has joined: a session that put a key on a host while this run looked at it explains what
    /// went wrong there, and the host is seen anew.
    async fn stop<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
        reason: Reason,
    ) -> Result<Option<Outcome>, RotationError> {
        match self.save(&mut run.lead, |_| {}).await? {
            Saved::Joined => Ok(None),
            Saved::LetGo => Ok(Some(run.outcome(End::LetGo, None))),
            Saved::Yes => {
                let words = words(reason, &run.members);
                self.rest(run, End::Stopped, Some(words)).await.map(Some)
            }
        }
    }

    /// Leaves the rotation open, and says so.
    async fn rest<R: CryptoRng + Send, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
        end: End,
        reason: Option<String>,
    ) -> Result<Outcome, RotationError> {
        let change = |record: &mut RotationRecord| {
            record.at_rest = true;
            record.reason = reason.clone().or_else(|| record.reason.clone());
        };
        match self.save_anyway(&mut run.lead, change).await? {
            Saved::LetGo => Ok(run.outcome(End::LetGo, None)),
            _ => Ok(run.outcome(end, reason)),
        }
    }

    /// Waits a while for sessions that are putting the leaving key on a host; returns one that still is.
    async fn wait_for_sessions<R, O: Observer>(
        &self,
        run: &mut Run<'_, '_, R, O>,
    ) -> Result<Option<SessionGlance>, RotationError> {
        let record = &run.lead.record.body;
        let leaving = if run.is_backward() { record.new.clone() } else { record.old.clone() };
        let patience = self.timer.now().saturating_add(self.pace.wait_for_sessions);
        loop {
            let committing = self.committing(&leaving).await?;
            let now = self.timer.now();
            if committing.is_none() || now >= patience || run.observer.is_leaving() {
                return Ok(committing);
            }
            self.timer.sleep_until(now.saturating_add(Duration::from_secs(1)).min(patience)).await;
            // Whether somebody else has the lead by now, the next write tells.
            self.beat(&mut run.lead).await?;
        }
    }

    async fn committing(&self, leaving: &PublicKey) -> Result<Option<SessionGlance>, StoreError> {
        for session in Stored::<SessionGlance>::list(&self.store, &SessionGlance::prefix()).await? {
            let session = session?.body;
            if session.is_committing() && session.keys.iter().any(|key| key.public_key == *leaving) {
                return Ok(Some(session));
            }
        }
        Ok(None)
    }
}

fn words(reason: Reason, members: &Members) -> String {
    let failed = members.0.values().filter_map(|member| Some((&member.host.route.account, member.failed.as_ref()?)));
    let failed: Vec<String> = failed.map(|(account, why)| format!("{account}: {why}")).collect();
    let first = failed.first().cloned().unwrap_or_default();
    match reason {
        Reason::HostFailed if failed.len() > 1 => format!("{first} (and {} more hosts)", failed.len() - 1),
        Reason::HostFailed => first,
        Reason::CanaryFailed => format!("one of the first hosts failed: {first}"),
        Reason::TooManyFailures => format!("{} hosts failed, more than may; the first: {first}", failed.len()),
        Reason::NoneProven if members.0.is_empty() => "no host is managed any more that could prove the key".to_owned(),
        Reason::NoneProven => format!("no host has proven the key; {first}"),
        Reason::OldKeyLeft => format!("{} hosts may still take the old key; the first: {first}", failed.len()),
    }
}
