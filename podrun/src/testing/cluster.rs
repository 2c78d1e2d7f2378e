//! A cluster in memory: pods, owners, deadlines, and the garbage collector.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use toehold_core::testing::{Faults, ManualClock};
use toehold_core::{Clock as _, Timestamp};

use crate::backend::OwnerSnapshot;
use crate::kubernetes::{ApiFailure, FailureKind, PodSnapshot};
use crate::name::{OwnerName, Uid};

/// How long the garbage collector takes, as seen on a real cluster.
const COLLECTION: Duration = Duration::from_secs(5);

/// How long a pod takes to end that was deleted, where nothing else was said.
const GRACE: Duration = Duration::from_secs(1);

/// What becomes of pods that are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Ready so many seconds after its creation.
    ReadyAfter(u64),
    /// Its container waits with this reason, such as `ErrImagePull`.
    Waits(&'static str),
    /// No node takes it.
    Unschedulable,
    /// Creations are refused.
    Refused(ApiFailure),
    /// Its first process ends so many seconds after its creation.
    EndsAfter(u64),
}

/// A cluster in memory, as one process sees it. Clones share the cluster; [`SimulatedCluster::with_faults`] gives another process's
/// view.
#[derive(Clone, Debug)]
pub struct SimulatedCluster {
    state: Arc<Mutex<State>>,
    pub(super) clock: ManualClock,
    pub(super) faults: Faults,
}

#[derive(Debug)]
pub(super) struct State {
    pods: BTreeMap<(String, String), Pod>,
    owners: BTreeMap<OwnerName, Owner>,
    last: u64,
    fate: Fate,
    grace: Duration,
    late: Vec<Late>,
    /// All UIDs that pods ever had, by the connection in their labels.
    history: Vec<(String, Uid)>,
}

#[derive(Clone, Debug)]
struct Pod {
    object: Value,
    uid: Uid,
    version: u64,
    created: Timestamp,
    gone_at: Option<Timestamp>,
    fate: Fate,
    shown: Value,
}

#[derive(Clone, Debug)]
struct Owner {
    snapshot: OwnerSnapshot,
    ends: Timestamp,
    started: Timestamp,
}

/// A request of a process that is dead, still on its way.
#[derive(Clone, Debug)]
pub(super) enum Late {
    Create(String, Value),
    Delete(String, String, Uid),
}

impl SimulatedCluster {
    /// An empty cluster whose pods are ready at once.
    pub fn new(clock: ManualClock) -> Self {
        let state = State {
            pods: BTreeMap::new(),
            owners: BTreeMap::new(),
            last: 0,
            fate: Fate::ReadyAfter(0),
            grace: GRACE,
            late: Vec::new(),
            history: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), clock, faults: Faults::new() }
    }

    /// The same cluster as another process sees it.
    #[must_use]
    pub fn with_faults(&self, faults: Faults) -> Self {
        Self { faults, ..self.clone() }
    }

    /// What becomes of pods that are created from now on.
    pub fn set_fate(&self, fate: Fate) {
        self.state().fate = fate;
    }

    /// How long pods take to end that are deleted from now on.
    pub fn set_grace(&self, grace: Duration) {
        self.state().grace = grace;
    }

    /// The pods that are there, those on their way out included.
    pub fn pods(&self) -> Vec<PodSnapshot> {
        self.state().pods.values().map(Pod::snapshot).collect()
    }

    /// The owners that are there.
    pub fn owners(&self) -> Vec<OwnerSnapshot> {
        self.state().owners.values().map(|owner| owner.snapshot.clone()).collect()
    }

    /// How many pods were ever created for a connection, by the label of it.
    pub fn ever_created(&self, connection: &str) -> usize {
        self.state().history.iter().filter(|(label, _)| label == connection).count()
    }

    /// How many pods were ever created.
    pub fn ever_created_at_all(&self) -> usize {
        self.state().history.len()
    }

    /// Carries out what dead processes had asked for ([`Moment::Late`](toehold_core::testing::Moment::Late)).
    pub fn deliver_late(&self) {
        let mut state = self.state();
        for late in std::mem::take(&mut state.late) {
            match late {
                Late::Create(namespace, manifest) => drop(state.create(self.clock.now(), &namespace, &manifest)),
                Late::Delete(namespace, name, uid) => {
                    state.delete(self.clock.now(), &namespace, &name, &uid, None);
                }
            }
        }
    }

    /// Puts a pod there that is nobody's, or changes one: whatever another user of the cluster may do.
    pub fn put_pod(&self, namespace: &str, manifest: &Value) -> Option<PodSnapshot> {
        let mut state = self.state();
        let name = manifest.pointer("/metadata/name").and_then(Value::as_str)?.to_owned();
        state.pods.remove(&(namespace.to_owned(), name));
        state.create(self.clock.now(), namespace, manifest).ok()
    }

    /// Changes what a pod's object says as another user of the cluster may do: its version is another then.
    pub fn change_pod(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let number = state.next();
        if let Some(pod) = state.pods.get_mut(&(namespace.to_owned(), name.to_owned())) {
            change(&mut pod.object);
            pod.version = number;
        }
    }

    /// Deletes a pod as another user of the cluster may do, at once.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.state().pods.remove(&(namespace.to_owned(), name.to_owned()));
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle(self.clock.now());
        state
    }
}

impl Pod {
    fn snapshot(&self) -> PodSnapshot {
        let mut object = self.object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("uid".to_owned(), json!(self.uid.as_str()));
            metadata.insert("resourceVersion".to_owned(), json!(self.version.to_string()));
            if let Some(at) = self.gone_at {
                metadata.insert("deletionTimestamp".to_owned(), json!(at.to_string()));
            }
        }
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), self.shown.clone());
        }
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        PodSnapshot { name, uid: self.uid.clone(), resource_version: self.version.to_string(), object }
    }

    fn owner(&self) -> Option<&str> {
        self.object.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str)
    }

    fn status(&self, now: Timestamp) -> Value {
        let age = now.saturating_since(self.created).as_secs();
        let container = self.object.pointer("/spec/containers/0/name").cloned().unwrap_or_default();
        let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason });
        let waiting = |reason: &str| {
            json!({
                "phase": "Pending",
                "conditions": [condition("PodScheduled", "True", ""), condition("Ready", "False", "ContainersNotReady")],
                "containerStatuses": [{ "name": container, "state": { "waiting": { "reason": reason, "message": "simulated" } } }],
            })
        };
        let running = || {
            json!({
                "phase": "Running",
                "conditions": [condition("PodScheduled", "True", ""), condition("Ready", "True", "")],
                "containerStatuses": [{ "name": container, "state": { "running": {} } }],
            })
        };
        match self.fate {
            Fate::ReadyAfter(seconds) if age >= seconds => running(),
            Fate::ReadyAfter(_) => waiting("ContainerCreating"),
            Fate::Waits(reason) => waiting(reason),
            Fate::Unschedulable => {
                json!({ "phase": "Pending", "conditions": [condition("PodScheduled", "False", "Unschedulable")] })
            }
            Fate::Refused(_) => Value::Null,
            Fate::EndsAfter(seconds) if age < seconds => running(),
            Fate::EndsAfter(_) => json!({
                "phase": "Failed",
                "conditions": [condition("Ready", "False", "PodFailed")],
                "containerStatuses": [{ "name": container, "state": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }],
            }),
        }
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// What the cluster does by itself.
    fn settle(&mut self, now: Timestamp) {
        self.owners.retain(|_, owner| now < owner.ends);
        self.pods.retain(|_, pod| pod.gone_at.is_none_or(|at| now < at));
        let mut version = self.last;
        for pod in self.pods.values_mut() {
            let orphan = pod.owner().is_some_and(|uid| !self.owners.values().any(|owner| owner.snapshot.uid.as_str() == uid));
            let before = (pod.gone_at, pod.shown.clone());
            if orphan && pod.gone_at.is_none() {
                pod.gone_at = Some(now.saturating_add(COLLECTION));
            }
            let limit = pod.object.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_u64);
            pod.shown = match limit.filter(|limit| now >= pod.created.saturating_add(Duration::from_secs(*limit))) {
                // It starts only with the kubelet: a pod without a node lives on.
                Some(_) if pod.fate != Fate::Unschedulable => json!({ "phase": "Failed", "reason": "DeadlineExceeded" }),
                _ => pod.status(now),
            };
            if before != (pod.gone_at, pod.shown.clone()) {
                version += 1;
                pod.version = version;
            }
        }
        self.last = version;
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<PodSnapshot> {
        self.pods.get(&(namespace.to_owned(), name.to_owned())).map(Pod::snapshot)
    }

    pub(super) fn list(&self, namespace: &str, selector: &str) -> Vec<PodSnapshot> {
        let (key, value) = selector.split_once('=').unwrap_or((selector, ""));
        let matches = |pod: &&PodSnapshot| {
            let labels = pod.object.pointer("/metadata/labels");
            labels.and_then(|labels| labels.get(key)).and_then(Value::as_str) == Some(value)
        };
        let own = self.pods.iter().filter(|((place, _), _)| place == namespace).map(|(_, pod)| pod.snapshot());
        own.collect::<Vec<_>>().iter().filter(matches).cloned().collect()
    }

    pub(super) fn create(&mut self, now: Timestamp, namespace: &str, manifest: &Value) -> Result<PodSnapshot, ApiFailure> {
        if let Fate::Refused(failure) = &self.fate {
            return Err(failure.clone());
        }
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = text("/metadata/name");
        let place = (namespace.to_owned(), name.clone());
        if let Some(there) = self.pods.get(&place) {
            let kind = if there.gone_at.is_some() { FailureKind::BeingDeleted } else { FailureKind::AlreadyExists };
            return Err(ApiFailure::new(kind, 409, &format!("pods \"{name}\" already exists")));
        }
        let number = self.next();
        let uid: Uid = format!("uid-{number}").parse().map_err(|_| ApiFailure::new(FailureKind::Other, 500, ""))?;
        let fate = self.fate.clone();
        let mut pod = Pod {
            object: manifest.clone(),
            uid: uid.clone(),
            version: number,
            created: now,
            gone_at: None,
            fate,
            shown: Value::Null,
        };
        pod.shown = pod.status(now);
        self.history.push((text("/metadata/labels/toehold.local~1connection"), uid));
        let snapshot = pod.snapshot();
        self.pods.insert(place, pod);
        Ok(snapshot)
    }

    pub(super) fn delete(&mut self, now: Timestamp, namespace: &str, name: &str, uid: &Uid, version: Option<&str>) -> bool {
        let (number, grace) = (self.next(), self.grace);
        match self.pods.get_mut(&(namespace.to_owned(), name.to_owned())) {
            Some(pod) if pod.uid == *uid && version.is_none_or(|version| version == pod.version.to_string()) => {
                pod.gone_at = Some(pod.gone_at.unwrap_or_else(|| now.saturating_add(grace)));
                pod.version = number;
                true
            }
            _ => false,
        }
    }

    pub(super) fn late(&mut self, late: Late) {
        self.late.push(late);
    }

    pub(super) fn create_owner(&mut self, now: Timestamp, manifest: &Value) -> Result<OwnerSnapshot, ApiFailure> {
        let number = self.next();
        let mut object = manifest.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("uid".to_owned(), json!(format!("owner-{number}")));
            metadata.insert("resourceVersion".to_owned(), json!(number.to_string()));
        }
        let invalid = || ApiFailure::new(FailureKind::Invalid, 422, "not an owner");
        let snapshot = OwnerSnapshot::from_object(&object).ok_or_else(invalid)?;
        let seconds = object.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_u64).ok_or_else(invalid)?;
        let ends = now.saturating_add(Duration::from_secs(seconds));
        self.owners.insert(snapshot.name, Owner { snapshot: snapshot.clone(), ends, started: now });
        Ok(snapshot)
    }

    pub(super) fn extend_owner(&mut self, name: OwnerName, uid: &Uid, seconds: u64, heartbeat: u64) -> Option<OwnerSnapshot> {
        let number = self.next();
        let owner = self.owners.get_mut(&name).filter(|owner| owner.snapshot.uid == *uid)?;
        owner.ends = owner.started.saturating_add(Duration::from_secs(seconds));
        owner.snapshot.resource_version = number.to_string();
        owner.snapshot.heartbeat = heartbeat;
        Some(owner.snapshot.clone())
    }

    pub(super) fn delete_owner(&mut self, name: OwnerName, uid: &Uid, version: Option<&str>) -> bool {
        let meant = self.owners.get(&name).is_some_and(|owner| {
            owner.snapshot.uid == *uid && version.is_none_or(|version| version == owner.snapshot.resource_version)
        });
        meant && self.owners.remove(&name).is_some()
    }
}
