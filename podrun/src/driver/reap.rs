//! Removes what dead gateways have left: owners that lapsed, records of their pods, and pods that came after their record went.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use toehold_core::{Store, StoreError, Stored, Timer};

use super::{Parts, recover};
use crate::backend::{BackendError, OwnerSnapshot, PodBackend, Preconditions};
use crate::kubernetes::PodSnapshot;
use crate::name::{OwnerName, Uid};
use crate::owner::Sightings;
use crate::pod::{OwnerReference, PodRecord, pods_of_owner};

/// How often in a pass a pod is looked at that changes while it is to be deleted.
const LOOKS: u32 = 3;

/// What a pass has found.
#[derive(Debug, Default)]
pub struct Reaped {
    /// Owners that were deleted, with everything that they own.
    pub owners: Vec<OwnerName>,
    /// Records whose owner is gone: hand each to [`Reaper::recover`].
    pub orphans: Vec<PodRecord>,
    /// Pods of our own without a record that were deleted.
    pub strays: Vec<String>,
    /// Records that cannot be read, and why, of which the pass before did not say so. They are left alone, and as long as there are any no
    /// pod is taken for one without a record.
    pub unreadable: Vec<String>,
    /// What could not be read or deleted; the next pass tries again.
    pub problems: Vec<String>,
}

/// Removes what dead gateways have left. Call [`Reaper::pass`] every [`INTERVAL`](crate::owner::INTERVAL); any number of gateways may
/// do so at once.
#[derive(Debug, Default)]
pub struct Reaper {
    sightings: Sightings,
    /// Pods of ours that had no record the last time.
    suspects: BTreeSet<Uid>,
    /// What could not be read the last time.
    unreadable: BTreeSet<String>,
}

/// The records in a store.
#[derive(Default)]
struct Records {
    readable: Vec<PodRecord>,
    /// Why the others cannot be read.
    unreadable: BTreeSet<String>,
}

impl Reaper {
    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks once. `own` is this gateway's owner.
    pub async fn pass<B: PodBackend, S: Store, T: Timer>(
        &mut self,
        parts: Parts<'_, B, S, T>,
        namespace: &str,
        own: Option<&OwnerReference>,
    ) -> Reaped {
        let mut reaped = Reaped::default();
        // The records first: an owner is there before any record that names it, so one that the later list does not have is gone.
        let records = match self.records(parts).await {
            Ok(Records { readable, unreadable }) => {
                reaped.unreadable = unreadable.difference(&self.unreadable).cloned().collect();
                self.unreadable = unreadable;
                readable
            }
            Err(error) => {
                reaped.problems.push(said(&error));
                Vec::new()
            }
        };
        let doing = || "listing the owners".to_owned();
        match parts.ask(doing, parts.backend.list_owners(namespace)).await {
            Ok(owners) => {
                let living: BTreeMap<&Uid, &OwnerSnapshot> = owners.iter().map(|owner| (&owner.uid, owner)).collect();
                let is_here = |record: &PodRecord| {
                    record.namespace == namespace && (record.cluster.is_empty() || record.cluster == parts.backend.cluster())
                };
                let gone = |record: &PodRecord| is_here(record) && !living.contains_key(&record.owner.uid);
                reaped.orphans = records.into_iter().filter(gone).collect();
                self.owners(parts, namespace, &owners, own, &mut reaped).await;
            }
            Err(error) => {
                self.sightings.failed();
                reaped.problems.push(said(&error));
            }
        }
        if let Some(own) = own
            && let Err(problem) = self.strays(parts, namespace, own, &mut reaped).await
        {
            reaped.problems.push(problem);
        }
        reaped
    }

    /// Ends the pod of an orphaned record: comes back when it was seen gone and the record is removed.
    ///
    /// # Errors
    /// [`OutOfTurn`](crate::pod::OutOfTurn) would be a defect of this crate.
    pub async fn recover<B: PodBackend, S: Store, T: Timer>(
        parts: Parts<'_, B, S, T>,
        record: &PodRecord,
    ) -> Result<(), crate::pod::OutOfTurn> {
        recover(parts, record, false).await
    }

    async fn records<B: PodBackend, S: Store, T: Timer>(&self, parts: Parts<'_, B, S, T>) -> Result<Records, StoreError> {
        let prefix = PodRecord::prefix()?;
        let doing = || "listing the pods' records".to_owned();
        let mut records = Records::default();
        for found in parts.keep(doing, Stored::<PodRecord>::list(parts.store, &prefix)).await? {
            match found {
                Ok(stored) => records.readable.push(stored.body),
                // A newer release's, and its to end; or one that the store does not vouch for, which nobody acts on.
                Err(error) => drop(records.unreadable.insert(said(&error))),
            }
        }
        Ok(records)
    }

    async fn owners<B: PodBackend, S: Store, T: Timer>(
        &mut self,
        parts: Parts<'_, B, S, T>,
        namespace: &str,
        owners: &[OwnerSnapshot],
        own: Option<&OwnerReference>,
        reaped: &mut Reaped,
    ) {
        for stale in self.sightings.observe(parts.timer.now(), owners, own.map(|own| &own.uid)) {
            let doing = || format!("deleting the owner {}", stale.name);
            match parts.ask(doing, parts.backend.delete_owner(namespace, stale.name, &stale.preconditions)).await {
                Ok(true) => reaped.owners.push(stale.name),
                // It was extended at the last moment: its gateway lives.
                Ok(false) => {}
                Err(error) => reaped.problems.push(said(&error)),
            }
        }
    }

    /// Pods of our own owner that no record knows: a creation that was given up was carried out after all. The pods first: a record
    /// is there before its pod and goes after it. One that cannot be read may be that of any of them.
    async fn strays<B: PodBackend, S: Store, T: Timer>(
        &mut self,
        parts: Parts<'_, B, S, T>,
        namespace: &str,
        own: &OwnerReference,
        reaped: &mut Reaped,
    ) -> Result<(), String> {
        let selector = pods_of_owner(own.name);
        let doing = || "listing our own pods".to_owned();
        let pods = parts.ask(doing, parts.backend.list(namespace, &selector)).await.map_err(|error| said(&error))?;
        let Records { readable, unreadable } = self.records(parts).await.map_err(|error| said(&error))?;
        if !unreadable.is_empty() {
            self.suspects.clear();
            return Ok(());
        }
        let known: BTreeSet<String> = readable.iter().map(|record| record.pod.to_string()).collect();
        let mut suspects = BTreeSet::new();
        for pod in pods.into_iter().filter(|pod| !known.contains(&pod.name) && !pod.is_terminating()) {
            // A label is anybody's to set; the reference is checked by the cluster.
            if !crate::pod::is_owned_by(&pod, &own.uid) {
                continue;
            }
            suspects.insert(pod.uid.clone());
            if !self.suspects.contains(&pod.uid) {
                continue;
            }
            let name = pod.name.clone();
            match delete_stray(parts, namespace, own, pod).await {
                Ok(true) => reaped.strays.push(name),
                Ok(false) => {}
                Err(error) => reaped.problems.push(said(&error)),
            }
        }
        self.suspects = suspects;
        Ok(())
    }
}

/// Deletes a pod without a record if it is still what it was taken for (P2); one that has changed since is looked at again. `false`: it is gone,
/// or no stray of ours any more, or changes all the time, which the next pass sees.
async fn delete_stray<B: PodBackend, S: Store, T: Timer>(
    parts: Parts<'_, B, S, T>,
    namespace: &str,
    own: &OwnerReference,
    mut pod: PodSnapshot,
) -> Result<bool, BackendError> {
    for _ in 0..LOOKS {
        let preconditions = Preconditions { uid: pod.uid.clone(), resource_version: Some(pod.resource_version.clone()) };
        let doing = || format!("deleting pod {}", pod.name);
        if parts.ask(doing, parts.backend.delete(namespace, &pod.name, &preconditions)).await? {
            return Ok(true);
        }
        let doing = || format!("looking for pod {}", pod.name);
        match parts.ask(doing, parts.backend.get(namespace, &pod.name)).await? {
            Some(now) if now.uid == pod.uid && crate::pod::is_owned_by(&now, &own.uid) && !now.is_terminating() => pod = now,
            _ => return Ok(false),
        }
    }
    Ok(false)
}

fn said(error: &(impl Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
