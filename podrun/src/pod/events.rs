//! What can happen to a pod, what is then to be done, and the phases between.

use std::time::Duration;

use toehold_core::Timestamp;

use super::manifest::Identity;
use crate::kubernetes::{ApiFailure, Availability, PodTrouble};
use crate::name::Uid;

/// How long after a request without an answer the cluster may still carry it out: its own limit for a request (60 s), and some.
pub const LATE: Duration = Duration::from_secs(65);

/// Which limits a pod's life has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long it may take to be ready, from the handshake on.
    pub ready_within: Duration,
    /// How long a trouble that might pass (no node, a first failed pull) is borne before the person is told and the pod given up.
    pub patience: Duration,
    /// How long the connection may last.
    pub session: Option<Duration>,
    /// How long it may be without traffic.
    pub idle: Option<Duration>,
}

impl Default for Timing {
    fn default() -> Self {
        let (ready_within, patience) = (Duration::from_mins(1), Duration::from_secs(5));
        Self { ready_within, patience, session: None, idle: None }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The SSH handshake succeeded: somebody is there and may have a pod.
    HandshakeSucceeded,
    /// The record is in the store.
    RecordSaved,
    /// It is not, or perhaps it is.
    RecordFailed(String),
    /// The pod was created.
    Created(Uid, Availability),
    /// The cluster answered, and created nothing.
    CreateRefused(ApiFailure),
    /// No answer: it may be created, now or in a while.
    CreateUncertain(String),
    /// The pod of the recorded name was looked up.
    LookedUp(Option<(Uid, Identity, Availability)>),
    /// It could not be looked up.
    LookUpFailed(String),
    /// The state of a pod of the recorded name, from a watch.
    Observed(Uid, Availability),
    /// The pod of the recorded name is gone, from a watch.
    Gone,
    /// The cluster took the deletion.
    DeleteAccepted,
    /// There is no pod of that name and UID.
    DeleteMissing,
    /// It could not be deleted, or perhaps it is.
    DeleteFailed(String),
    /// The record is out of the store.
    RecordRemoved,
    /// It is not, or perhaps it is.
    RecordRemoveFailed(String),
    /// Bytes went through the connection.
    Traffic,
    /// The connection is gone, or the gateway wants it to end.
    Disconnected,
    /// The owner of our pods is gone: the cluster is collecting them.
    OwnerLost,
    /// Time has passed ([`Life::deadline`](super::Life::deadline)).
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put the record into the store, where none of its key may be.
    SaveRecord,
    /// Create the pod.
    Create,
    /// Get the pod of the recorded name.
    LookUp,
    /// From now on report the state of the pod of the recorded name.
    Watch,
    /// Delete the pod of the recorded name if it has this UID.
    Delete(Uid),
    /// Take the record out of the store.
    RemoveRecord,
    /// The pod can be worked in; an exec is for this UID alone.
    Ready(Uid),
    /// Tell the person why there is no pod (any more), and end the connection.
    Fail(PodTrouble),
}

/// Where a pod's life is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Nobody has asked for a pod.
    AwaitHandshake,
    /// The record is being written.
    Recording,
    /// The pod is being created.
    Creating,
    /// The name was taken: whose is it?
    Identifying,
    /// It is there and not ready.
    AwaitReady,
    /// It can be worked in.
    Ready,
    /// To be deleted: is it there at all?
    Finding,
    /// It is being deleted.
    Deleting,
    /// It is deleted, and not seen gone.
    AwaitGone,
    /// The record is being removed.
    Forgetting,
    /// Over.
    Closed,
    /// A try failed; the next is at this time.
    Pausing(Timestamp, Retry),
}

/// What is tried again after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Creating.
    Create,
    /// Looking up whose the name is.
    Identify,
    /// Looking up what is to be deleted.
    Find,
    /// Deleting.
    Delete,
    /// Removing the record.
    Forget,
}

/// An event that cannot be in this phase; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot be while the pod is in {phase:?}")]
pub struct OutOfTurn {
    /// The phase.
    pub phase: Phase,
    /// The event.
    pub event: Event,
}
