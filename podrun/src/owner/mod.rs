//! The owner of a gateway's pods, and how it is told that a gateway is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use toehold_core::Timestamp;

use crate::backend::{OwnerSnapshot, Preconditions};
use crate::name::{OwnerName, Uid};

/// How long an owner lives on without being extended: far above [`STALE_AFTER`], so that an API server that stalls kills nobody.
pub const LAPSE: Duration = Duration::from_mins(10);

/// How often a living gateway extends its owner.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// For how long an owner must have been seen unchanged to be taken for one whose gateway is gone.
pub const STALE_AFTER: Duration = Duration::from_secs(20);

/// How often it must have been seen unchanged within that.
const SIGHTINGS: u32 = 4;

/// The `activeDeadlineSeconds` that lets an owner live for another [`LAPSE`]: it counts from the Job's start, which is not before we asked
/// for it. So only our own clock's difference counts, and no two clocks are compared.
pub fn deadline_seconds(asked_at: Timestamp, now: Timestamp) -> u64 {
    now.saturating_since(asked_at).as_secs().saturating_add(LAPSE.as_secs())
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sighting {
    resource_version: String,
    heartbeat: u64,
    since: Timestamp,
    times: u32,
}

/// What one gateway has seen of all owners (P2). An owner is stale only where this gateway, over its own working connection, saw it
/// unchanged several times over [`STALE_AFTER`]. A list that failed, or a gap between two lists, as after this process was
/// stopped, makes everything begin anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    seen: BTreeMap<Uid, Sighting>,
    last: Option<Timestamp>,
}

/// An owner whose gateway is gone, and what must still be so when it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Its name.
    pub name: OwnerName,
    /// Its UID and the version in which it was seen all the time.
    pub preconditions: Preconditions,
}

impl Sightings {
    /// Nothing seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a list of all owners, just read; `own` is this gateway's own, which is never stale to itself. Returns those that are.
    pub fn observe(&mut self, now: Timestamp, owners: &[OwnerSnapshot], own: Option<&Uid>) -> Vec<Stale> {
        let gap = self.last.is_some_and(|last| now < last || now > last.saturating_add(INTERVAL * 2));
        if gap {
            self.seen.clear();
        }
        self.last = Some(now);
        self.seen.retain(|uid, _| owners.iter().any(|owner| owner.uid == *uid));
        let mut stale = Vec::new();
        for owner in owners.iter().filter(|owner| Some(&owner.uid) != own) {
            let sighting = self.seen.entry(owner.uid.clone()).or_insert_with(|| Sighting {
                resource_version: owner.resource_version.clone(),
                heartbeat: owner.heartbeat,
                since: now,
                times: 0,
            });
            if sighting.heartbeat != owner.heartbeat || sighting.resource_version != owner.resource_version {
                let resource_version = owner.resource_version.clone();
                *sighting = Sighting { resource_version, heartbeat: owner.heartbeat, since: now, times: 0 };
            }
            sighting.times = sighting.times.saturating_add(1);
            let long = now >= sighting.since.saturating_add(STALE_AFTER);
            if long && sighting.times >= SIGHTINGS && !owner.terminating {
                let resource_version = Some(sighting.resource_version.clone());
                let preconditions = Preconditions { uid: owner.uid.clone(), resource_version };
                stale.push(Stale { name: owner.name, preconditions });
            }
        }
        stale
    }

    /// The list could not be read: what was seen before proves nothing any more.
    pub fn failed(&mut self) {
        self.seen.clear();
    }
}
