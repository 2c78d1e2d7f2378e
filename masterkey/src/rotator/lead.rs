//! Having the lead of a rotation: getting it, keeping it, and what is done when it ends.

use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{
    AuditEvent, AuditSink, Connector, CurrentMasterKey, Fingerprint, HostRecord, MasterKeyRecord, RetiredKey, RotationPhase,
    RotationRecord, Store, StoreError, Stored, Timer, Timestamp,
};
use toehold_keygen::KeyPair;

use super::Rotator;
use super::journal::MAX_CONFLICTS;
use crate::error::{RotationError, describe};
use crate::observer::{Observer, Progress};
use crate::request::{RotationRequest, TakeUp};
use crate::rotator::members::is_canary;
use crate::vault::KeyVault;

/// The lead of a rotation, as long as nobody takes it.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) record: Stored<RotationRecord>,
    /// Whether this run has begun the rotation, so that nobody else can have written for it.
    pub(super) fresh: bool,
    /// Whether somebody has joined since the hosts were listed.
    pub(super) joined: bool,
}

impl Lead {
    pub(super) fn new(record: Stored<RotationRecord>, fresh: bool) -> Self {
        Self { record, fresh, joined: false }
    }
}

/// What became of a write of the rotation's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// It is written.
    Yes,
    /// Somebody has joined since it was last read; nothing is written, the record is read anew, and [`Lead::joined`] says so.
    Joined,
    /// Somebody else has the lead.
    LetGo,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Which key is current.
    pub(super) async fn current(&self) -> Result<Stored<CurrentMasterKey>, RotationError> {
        let current = Stored::<CurrentMasterKey>::read(&self.store, &CurrentMasterKey::key()?).await?;
        current.ok_or(RotationError::NoMasterKey)
    }

    /// The rotation that is open, if one is. One that has ended without all that belongs to it is ended first.
    pub(super) async fn open_rotation(
        &self,
    ) -> Result<(Stored<CurrentMasterKey>, Option<Stored<RotationRecord>>), RotationError> {
        for _ in 0..MAX_CONFLICTS {
            let current = self.current().await?;
            let key = RotationRecord::key(current.body.generation.saturating_add(1))?;
            let Some(record) = Stored::<RotationRecord>::read(&self.store, &key).await? else { return Ok((current, None)) };
            if !record.body.phase.is_closed() {
                return Ok((current, Some(record)));
            }
            self.finish_closing(&record.body).await?;
        }
        Err(RotationError::Store(StoreError::Conflict { key: CurrentMasterKey::key()? }))
    }

    /// Makes the key and the record of a new rotation.
    pub(super) async fn begin<R: CryptoRng + Send>(&self, request: RotationRequest, rng: &mut R) -> Result<Lead, RotationError> {
        let (current, open) = self.open_rotation().await?;
        if let Some(open) = open {
            return Err(already_open(&open.body));
        }
        let old = self.key_record(current.body.fingerprint).await?.body;
        self.open_key(&old)?;
        let hosts = Stored::<HostRecord>::list(&self.store, &HostRecord::prefix()).await?;
        if hosts.is_empty() {
            return Err(RotationError::NoHosts);
        }
        if let Some(canary) = &request.policy.canary
            && !hosts.iter().flatten().any(|host| is_canary(&host.body, canary))
        {
            return Err(RotationError::NoCanary(canary.clone()));
        }
        let number = current.body.generation.saturating_add(1);
        let new = self.make_key(&request, number, rng)?;
        if new.public_key == old.public_key {
            return Err(RotationError::RepeatedKey(old.public_key.fingerprint()));
        }
        let now = self.timer.now();
        let record = RotationRecord {
            number,
            old: old.public_key,
            new: new.public_key.clone(),
            sealed_key: Some(Box::new(new)),
            phase: RotationPhase::Planned,
            policy: request.policy,
            operator: request.operator,
            run: run_name(rng),
            fence: 1,
            started_at: now,
            seen_at: now,
            retire_at: None,
            joined: Vec::new(),
            reason: None,
            at_rest: false,
            closed_at: None,
        };
        let key = RotationRecord::key(number)?;
        let error = match Stored::create(&self.store, key.clone(), record.clone()).await {
            Ok(record) => {
                self.audit_rotation("rotation.begun", &record.body, &crate::NoObserver).await;
                return Ok(Lead::new(record, true));
            }
            Err(error) => error,
        };
        match Stored::<RotationRecord>::read(&self.store, &key).await {
            // The write has taken place all the same.
            Ok(Some(stored)) if stored.body == record => Ok(Lead::new(stored, true)),
            Ok(found) => Err(found.map_or(RotationError::Store(error), |found| already_open(&found.body))),
            Err(_) => Err(RotationError::InDoubt { number, source: error }),
        }
    }

    /// Makes the new key and seals it; what was sealed is opened once, for a copy that does not open is none.
    fn make_key<R: CryptoRng + Send>(
        &self,
        request: &RotationRequest,
        generation: u64,
        rng: &mut R,
    ) -> Result<MasterKeyRecord, RotationError> {
        let pair = KeyPair::generate(rng, request.algorithm)?;
        let fingerprint = pair.public_key().fingerprint();
        let sealed = self.vault.seal(fingerprint, &pair.to_openssh(&request.comment)?).map_err(RotationError::Sealing)?;
        let record = MasterKeyRecord {
            public_key: pair.public_key().clone(),
            comment: request.comment.clone(),
            created_at: self.timer.now(),
            sealed,
            generation,
        };
        self.open_key(&record)?;
        Ok(record)
    }

    /// Gives the new key a place of its own where the rotation's record still holds it, before anybody logs in with it. The next
    /// write of that record leaves it out.
    pub(super) async fn keep_new_key(&self, record: &RotationRecord) -> Result<(), RotationError> {
        let Some(new) = &record.sealed_key else { return Ok(()) };
        let key = MasterKeyRecord::key(&record.new.fingerprint())?;
        let mut conflicts = 0;
        while Stored::<MasterKeyRecord>::read(&self.store, &key).await?.is_none() {
            match Stored::create(&self.store, key.clone(), (**new).clone()).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sees that both keys of a rotation open here.
    async fn opens_both_keys(&self, record: &RotationRecord) -> Result<(), RotationError> {
        self.open_key(&self.key_record(record.old.fingerprint()).await?.body)?;
        match (self.key_record(record.new.fingerprint()).await, &record.sealed_key) {
            (Ok(new), _) => self.open_key(&new.body).map(drop),
            // It has no place of its own yet.
            (Err(RotationError::NoDurableCopy { .. }), Some(new)) => self.open_key(new).map(drop),
            (Err(error), _) => Err(error),
        }
    }

    /// Takes the lead of the rotation that is open.
    pub(super) async fn take_up<R: CryptoRng + Send>(&self, by: TakeUp, back: bool, rng: &mut R) -> Result<Lead, RotationError> {
        let run = run_name(rng);
        for _ in 0..MAX_CONFLICTS {
            let (_, open) = self.open_rotation().await?;
            let mut record = open.ok_or(RotationError::NoneOpen)?;
            let now = self.timer.now();
            let body = &mut record.body;
            if !by.take_over && now.saturating_since(body.seen_at) < self.pace.lively && !body.at_rest {
                let (number, operator, seen_at) = (body.number, body.operator.clone(), body.seen_at);
                return Err(RotationError::BeingLed { number, operator, seen_at });
            }
            // Before anybody is fenced off: who cannot log in with both keys leads nobody anywhere, and another may be able to.
            self.opens_both_keys(body).await?;
            body.operator.clone_from(&by.operator);
            body.run.clone_from(&run);
            body.fence += 1;
            body.seen_at = now;
            body.reason = None;
            body.at_rest = false;
            if let Some(choice) = by.on_unreachable {
                body.policy.on_unreachable = choice;
            }
            if back && body.phase != RotationPhase::RollingBack {
                body.phase = RotationPhase::RollingBack;
                body.reason = Some(format!("{} asked for it", by.operator));
            }
            match record.save(&self.store).await {
                Ok(()) => {
                    self.audit_rotation("rotation.taken_up", &record.body, &crate::NoObserver).await;
                    return Ok(Lead::new(record, false));
                }
                // Whether it was written is found out by reading.
                Err(error) => match self.open_rotation().await?.1 {
                    Some(latest) if latest.body.run == run => return Ok(Lead::new(latest, false)),
                    _ if matches!(error, StoreError::Conflict { .. }) => {}
                    _ => return Err(error.into()),
                },
            }
        }
        Err(RotationError::Store(StoreError::Conflict { key: CurrentMasterKey::key()? }))
    }

    /// Writes the rotation's record, unless somebody has joined since it was last read.
    pub(super) async fn save(
        &self,
        lead: &mut Lead,
        change: impl FnOnce(&mut RotationRecord) + Send,
    ) -> Result<Saved, RotationError> {
        let mut next = lead.record.clone();
        next.body.seen_at = self.timer.now();
        // It has its own place since this run began.
        next.body.sealed_key = None;
        change(&mut next.body);
        let mut tries = 0;
        loop {
            let error = match next.save(&self.store).await {
                Ok(()) => {
                    lead.record = next;
                    return Ok(Saved::Yes);
                }
                Err(error) => error,
            };
            let latest = Stored::<RotationRecord>::read(&self.store, &lead.record.key).await?;
            match latest {
                Some(latest) if latest.body.run != lead.record.body.run => return Ok(Saved::LetGo),
                None => return Ok(Saved::LetGo),
                Some(latest) if latest.revision != lead.record.revision && latest.body == next.body => {
                    lead.record = latest;
                    return Ok(Saved::Yes);
                }
                Some(latest) if latest.revision != lead.record.revision => {
                    lead.record = latest;
                    lead.joined = true;
                    return Ok(Saved::Joined);
                }
                // A conflict for nothing.
                Some(_) if matches!(error, StoreError::Conflict { .. }) && tries < MAX_CONFLICTS => tries += 1,
                Some(_) => return Err(error.into()),
            }
        }
    }

    /// The same, whoever has joined: for what that does not bear upon.
    pub(super) async fn save_anyway(
        &self,
        lead: &mut Lead,
        change: impl Fn(&mut RotationRecord) + Send + Sync,
    ) -> Result<Saved, RotationError> {
        loop {
            match self.save(lead, &change).await? {
                Saved::Joined => {}
                other => return Ok(other),
            }
        }
    }

    /// When the lead is to say next that it is alive: a few times in the span after which it would count as dead.
    pub(super) fn next_beat(&self, lead: &Lead) -> Timestamp {
        let now = self.timer.now();
        let beat = lead.record.body.seen_at.saturating_add(self.pace.lively / 3);
        beat.max(now.saturating_add(Duration::from_secs(1)))
    }

    /// Writes that the lead is alive, where that is due.
    pub(super) async fn beat(&self, lead: &mut Lead) -> Result<Saved, RotationError> {
        let since = self.timer.now().saturating_since(lead.record.body.seen_at);
        if since < self.pace.lively / 3 { Ok(Saved::Yes) } else { self.save_anyway(lead, |_| {}).await }
    }

    /// Does what belongs to the end of a rotation whose record says that it has ended. Doing it again changes nothing.
    pub(super) async fn finish_closing(&self, record: &RotationRecord) -> Result<(), RotationError> {
        let (kept, gone) =
            if record.phase == RotationPhase::Done { (&record.new, &record.old) } else { (&record.old, &record.new) };
        let retired = RetiredKey {
            public_key: gone.clone(),
            generation: record.number,
            retired_at: record.closed_at.unwrap_or(record.seen_at),
        };
        let key = RetiredKey::key(&gone.fingerprint())?;
        let mut conflicts = 0;
        while Stored::<RetiredKey>::read(&self.store, &key).await?.is_none() {
            match Stored::create(&self.store, key.clone(), retired.clone()).await {
                Err(StoreError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                other => drop(other?),
            }
        }
        let mut current = self.current().await?;
        if current.body.generation < record.number && current.body.fingerprint == kept.fingerprint() {
            current.body.generation = record.number;
            match current.save(&self.store).await {
                // Where it is not written, whoever comes next does it.
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What an auditor will ask about. That it is not on record stops nothing.
    pub(super) async fn audit_rotation<O: Observer>(&self, what: &str, record: &RotationRecord, observer: &O) {
        let mut event = AuditEvent::new(self.timer.now(), what, format!("rotation {}", record.number))
            .with("operator", record.operator.clone())
            .with("phase", record.phase.name())
            .with("old", record.old.fingerprint().to_string())
            .with("new", record.new.fingerprint().to_string());
        if let Some(reason) = &record.reason {
            event = event.with("reason", reason.clone());
        }
        if let Err(error) = self.audit.record(event).await {
            observer.progress(Progress::Warning(format!("not on the audit record: {}", describe(&error))));
        }
    }

    /// Makes `to` the current key if the record is still as `known`. `false` where somebody else has written it.
    pub(super) async fn switch(&self, mut known: Stored<CurrentMasterKey>, to: Fingerprint) -> Result<bool, RotationError> {
        known.body.fingerprint = to;
        let revision = known.revision;
        match known.save(&self.store).await {
            Ok(()) => Ok(true),
            Err(error) => {
                // What the store holds decides.
                let latest = self.current().await?;
                if latest.revision == revision && !matches!(error, StoreError::Conflict { .. }) {
                    return Err(error.into());
                }
                Ok(latest.revision != revision && latest.body == known.body)
            }
        }
    }
}

pub(super) fn already_open(record: &RotationRecord) -> RotationError {
    RotationError::AlreadyOpen {
        number: record.number,
        phase: record.phase,
        operator: record.operator.clone(),
        started_at: record.started_at,
        seen_at: record.seen_at,
    }
}

/// 64 random bits in hex.
fn run_name<R: CryptoRng + ?Sized>(rng: &mut R) -> String {
    format!("{:016x}", rng.next_u64())
}
