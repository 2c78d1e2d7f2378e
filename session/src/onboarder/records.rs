//! What the driver reads from the store and writes there.

use toehold_core::{
    AuditEvent, AuditSink, Connector, CurrentMasterKey, HostKeyTrust, HostRecord, Key, KeyRole, KnownHost, RotationRecord,
    Settled, Store, StoreError, Stored, Timer, Timestamp,
};

use super::{Onboarder, describe_error};
use crate::claim::DeadKey;
use crate::error::SessionError;
use crate::machine::Event;
use crate::operator::{Operator, Progress, Sealer};
use crate::record::SessionRecord;

/// How many conflicts are taken from a store before it counts as failed.
const MAX_CONFLICTS: u32 = 16;

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    /// Reads the session's record again, to learn of a cancellation.
    pub(super) async fn refresh(&self, stored: &mut Option<Stored<SessionRecord>>) -> Event {
        let Some(known) = stored.as_mut() else { return Event::Unchanged };
        match Stored::<SessionRecord>::read(&self.store, &known.key).await {
            Ok(Some(latest)) if latest.revision == known.revision => Event::Unchanged,
            Ok(Some(latest)) => {
                let record = Box::new(latest.body.clone());
                *known = latest;
                Event::Superseded(record)
            }
            Ok(None) => Event::StoreFailed("the session's record is gone".to_owned()),
            Err(error) => Event::StoreFailed(describe_error(&error)),
        }
    }

    /// Writes the session's record over the version that this run knows. `cleared` is what the run took away of what closed
    /// sessions had left, should this be its close.
    pub(super) async fn save<O: Operator>(
        &self,
        record: &SessionRecord,
        cleared: &[DeadKey],
        stored: &mut Option<Stored<SessionRecord>>,
        operator: &mut O,
    ) -> Result<Event, SessionError> {
        let key = SessionRecord::key(record.id).map_err(StoreError::from)?;
        let before = stored.as_ref().map(|stored| stored.body.status);
        if let Some(from) = before.filter(|from| !from.may_become(record.status)) {
            return Err(SessionError::IllegalTransition { id: record.id, from, to: record.status });
        }
        if let Err(error) = self.remember(record).await {
            return Ok(Event::StoreFailed(describe_error(&error)));
        }
        let result = match stored.as_mut() {
            None => Stored::create(&self.store, key.clone(), record.clone()).await.map(|new| *stored = Some(new)),
            Some(known) => {
                let previous = std::mem::replace(&mut known.body, record.clone());
                let result = known.save(&self.store).await;
                if result.is_err() {
                    known.body = previous;
                }
                result
            }
        };
        if let Err(error) = result {
            // The write may have taken place all the same: what the store holds now decides.
            match Stored::<SessionRecord>::read(&self.store, &key).await {
                Ok(Some(latest)) if latest.body == *record => *stored = Some(latest),
                Ok(Some(latest)) if matches!(error, StoreError::Conflict { .. }) => {
                    let record = Box::new(latest.body.clone());
                    *stored = Some(latest);
                    return Ok(Event::Superseded(record));
                }
                _ => return Ok(Event::StoreFailed(describe_error(&error))),
            }
        }
        if before != Some(record.status) {
            self.audit_status(record, operator).await;
        }
        if !record.status.is_open() {
            self.release_account(record, cleared).await;
        }
        Ok(Event::Saved)
    }

    async fn audit_status<O: Operator>(&self, record: &SessionRecord, operator: &mut O) {
        let mut event = AuditEvent::new(self.timer.now(), &format!("session.{}", record.status), record.id.to_string())
            .with("account", record.route.account.to_string())
            .with("temporary_key", record.temporary_key.fingerprint().to_string());
        if let Some(trusted) = &record.host_key {
            event = event.with("host_key", trusted.public_key.fingerprint().to_string());
        }
        if let Some(reason) = &record.reason {
            event = event.with("reason", reason.clone());
        }
        if let Err(error) = self.audit.record(event).await {
            operator.progress(Progress::Warning(format!("not on the audit record: {}", describe_error(&error))));
        }
    }

    /// Writes `knownhost/…` and `host/…`; doing it again changes nothing.
    pub(super) async fn record_host<O: Operator>(&self, record: &SessionRecord, operator: &mut O) -> Result<(), StoreError> {
        let now = self.timer.now();
        if let Some(trusted) = &record.host_key {
            let trust = trusted.trust.unwrap_or(HostKeyTrust::KnownBefore);
            let wanted = KnownHost { host_key: trusted.public_key.clone(), trust, since: now };
            let known = self.record_host_key(KnownHost::key(&record.route)?, wanted).await?;
            if known.host_key != trusted.public_key {
                operator.progress(Progress::Warning(format!(
                    "{} was recorded meanwhile with another host key, {}; that record stays",
                    record.route,
                    known.host_key.fingerprint()
                )));
            }
        }
        let current = Stored::<CurrentMasterKey>::read(&self.store, &CurrentMasterKey::key()?).await?.map(|current| current.body);
        self.record_managed(record, now, current.as_ref()).await?;
        match current {
            Some(current) => self.join_rotation(record, &current).await,
            None => Ok(()),
        }
    }

    async fn record_managed(
        &self,
        record: &SessionRecord,
        now: Timestamp,
        current: Option<&CurrentMasterKey>,
    ) -> Result<(), StoreError> {
        let key = HostRecord::key(&record.route.account)?;
        // A key that is not current any more is none that the host can be called settled on.
        let is_current = |current: &&CurrentMasterKey| {
            let mut masters = record.keys.iter().filter(|key| key.role == KeyRole::Master);
            masters.any(|key| key.public_key.fingerprint() == current.fingerprint)
        };
        let settled = current.filter(is_current).map(|c| Settled { generation: c.generation, fingerprint: c.fingerprint });
        let wanted = HostRecord {
            route: record.route.clone(),
            label: record.label.clone(),
            tags: record.tags.clone(),
            home: record.home.clone(),
            keys: record.keys.clone(),
            session: record.id,
            managed_since: now,
            removing: false,
            without_expiry: record.without_expiry,
            settled,
        };
        let mut conflicts = 0;
        loop {
            let result = match Stored::<HostRecord>::read(&self.store, &key).await? {
                None => Stored::create(&self.store, key.clone(), wanted.clone()).await.map(|_| ()),
                Some(known) if known.body.session == record.id => return Ok(()),
                Some(mut known) => {
                    known.body = merged(&known.body, &wanted);
                    known.save(&self.store).await
                }
            };
            match result {
                Err(StoreError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                other => return other,
            }
        }
    }

    /// Joins the rotation of the master key that is open: the write makes its leader look for hosts once more before it goes
    /// on (R11).
    async fn join_rotation(&self, record: &SessionRecord, current: &CurrentMasterKey) -> Result<(), StoreError> {
        let key = RotationRecord::key(current.generation.saturating_add(1))?;
        let account = &record.route.account;
        let mut conflicts = 0;
        loop {
            let Some(mut rotation) = Stored::<RotationRecord>::read(&self.store, &key).await? else { return Ok(()) };
            if rotation.body.phase.is_closed() {
                return Ok(());
            }
            // Written also where the account is named already: what its leader knows of it is of an earlier session.
            if !rotation.body.joined.contains(account) {
                rotation.body.joined.push(account.clone());
            }
            match rotation.save(&self.store).await {
                Err(StoreError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                other => return other,
            }
        }
    }

    /// Writes a host key that is not on record; returns what is on record then.
    async fn record_host_key(&self, key: Key, wanted: KnownHost) -> Result<KnownHost, StoreError> {
        let mut conflicts = 0;
        loop {
            if let Some(known) = Stored::<KnownHost>::read(&self.store, &key).await? {
                return Ok(known.body);
            }
            match Stored::create(&self.store, key.clone(), wanted.clone()).await {
                Err(StoreError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                other => return other.map(|stored| stored.body),
            }
        }
    }
}

/// A host that is added again keeps the keys that it had and the names it was not given anew.
fn merged(known: &HostRecord, wanted: &HostRecord) -> HostRecord {
    let mut merged = wanted.clone();
    merged.managed_since = known.managed_since;
    // It may still have the master key that it had before, and where it was settled on another key than it got now, it has that
    // one beside it, or instead.
    merged.settled = known.settled.filter(|known| wanted.settled.is_some_and(|got| got.fingerprint == known.fingerprint));
    merged.label = wanted.label.clone().or_else(|| known.label.clone());
    for (name, value) in &known.tags {
        merged.tags.entry(name.clone()).or_insert_with(|| value.clone());
    }
    for key in &known.keys {
        if !merged.keys.iter().any(|have| have.public_key == key.public_key) {
            merged.keys.push(key.clone());
        }
    }
    merged
}
