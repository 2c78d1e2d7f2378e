//! Where the fleet stands, and what a rotation would do: by the store alone.

use std::collections::BTreeMap;

use toehold_core::{
    Account, AuditSink, Connector, HostPhase, HostProgress, HostRecord, Key, KeyRole, RetiredKey, RotationPhase, RotationRecord,
    Settled, Store, Stored, Timer,
};

use super::Rotator;
use super::members::{is_canary, is_settled};
use crate::error::RotationError;
use crate::outcome::{FleetStatus, HostStatus, Plan};
use crate::request::RotationRequest;
use crate::vault::KeyVault;

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Where the fleet stands.
    ///
    /// # Errors
    /// [`RotationError::NoMasterKey`], or what the store says.
    pub async fn status(&self) -> Result<FleetStatus, RotationError> {
        let (current, rotation) = self.open_rotation().await?;
        let (fingerprint, generation) = (current.body.fingerprint, current.body.generation);
        let record = self.key_record(fingerprint).await?.body;
        let number = if rotation.is_some() { generation.saturating_add(1) } else { generation };
        let mut progress = BTreeMap::new();
        for entry in self.store.list(&Key::new(["rotation", &number.to_string()])?).await? {
            if let Ok(account) = entry.key.name().parse::<Account>() {
                progress.insert(account, Stored::<HostProgress>::decode(&entry)?.body);
            }
        }
        let mut hosts = Vec::new();
        for host in Stored::<HostRecord>::list(&self.store, &HostRecord::prefix()).await? {
            let host = host?.body;
            let account = host.route.account.clone();
            let known = progress.remove(&account);
            let phase = known.as_ref().map(|progress| progress.phase);
            let is_untouched = phase.is_none_or(|phase| phase == HostPhase::Untouched);
            let of_before = is_settled(&host, fingerprint, generation);
            let (at_rest, is_owed) = match rotation.as_ref().map(|open| &open.body) {
                None => (of_before, !of_before),
                Some(open) => {
                    let led = Settled { generation: open.number, fingerprint };
                    let at_rest = host.settled == Some(led) || is_untouched && of_before;
                    // The others are the open rotation's to lead on.
                    let left_behind = is_untouched && !is_settled(&host, open.old.fingerprint(), generation);
                    (at_rest, !at_rest && (left_behind || phase == Some(HostPhase::Quarantined)))
                }
            };
            hosts.push(HostStatus {
                label: host.label.clone(),
                key: host.keys.iter().find(|line| line.role == KeyRole::Master).map(|line| line.public_key.clone()),
                settled: host.settled,
                is_settled: at_rest,
                is_owed,
                phase: phase.or(rotation.as_ref().map(|_| HostPhase::Untouched)),
                reason: known.and_then(|progress| progress.reason),
                account,
            });
        }
        let mut held = Vec::new();
        for key in self.held_keys().await? {
            let retired = RetiredKey::key(&key.body.public_key.fingerprint())?;
            if self.store.get(&retired).await?.is_some() {
                held.push(key.body.public_key);
            }
        }
        let rotation = rotation.map(|rotation| RotationRecord { sealed_key: None, ..rotation.body });
        let rotation = rotation.filter(|rotation| rotation.phase != RotationPhase::Done);
        Ok(FleetStatus { current: record.public_key, created_at: record.created_at, generation, rotation, hosts, held })
    }

    /// What a rotation would do, without doing it.
    ///
    /// # Errors
    /// As [`Rotator::rotate`] where none could begin.
    pub async fn dry_run(&self, request: &RotationRequest) -> Result<Plan, RotationError> {
        let (current, open) = self.open_rotation().await?;
        if let Some(open) = open {
            return Err(super::lead::already_open(&open.body));
        }
        self.open_key(&self.key_record(current.body.fingerprint).await?.body)?;
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for host in Stored::<HostRecord>::list(&self.store, &HostRecord::prefix()).await? {
            let host = host?.body;
            let canary = request.policy.canary.as_deref().is_some_and(|canary| is_canary(&host, canary));
            if canary { &mut first } else { &mut rest }.push(host.route.account);
        }
        if first.is_empty() && rest.is_empty() {
            return Err(RotationError::NoHosts);
        }
        if let Some(canary) = request.policy.canary.as_ref().filter(|_| first.is_empty()) {
            return Err(RotationError::NoCanary(canary.clone()));
        }
        let size = request.policy.wave.map_or(usize::MAX, |size| size.max(1) as usize);
        let waves = (!first.is_empty()).then_some(first).into_iter();
        let waves = waves.chain(rest.chunks(size.min(rest.len().max(1))).map(<[Account]>::to_vec)).collect();
        Ok(Plan { rotation: current.body.generation.saturating_add(1), waves })
    }
}
