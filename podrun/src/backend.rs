//! What runs pods: a cluster, or something that stands in for one.

use std::error::Error;
use std::future::Future;

use serde_json::Value;

use crate::exec::{Outcome, TerminalSize};
use crate::kubernetes::{ApiFailure, FailureKind, PodSnapshot};
use crate::name::{OwnerName, Uid};

/// Why a backend did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// It answered, and refused: nothing took place.
    #[error("{doing}: {failure}")]
    Refused {
        /// What was being done to what.
        doing: String,
        /// Its answer.
        failure: ApiFailure,
    },
    /// It could not be reached, has not answered, or its answer leaves open whether anything took place.
    #[error("{doing}: no answer from the cluster")]
    Unanswered {
        /// What was being done to what.
        doing: String,
        /// The transport's own error, or the [`ApiFailure`] that leaves it open.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl BackendError {
    /// The refusal, where it is one.
    pub fn refusal(&self) -> Option<&ApiFailure> {
        match self {
            Self::Refused { failure, .. } => Some(failure),
            Self::Unanswered { .. } => None,
        }
    }

    /// Whether it is a refusal of this kind.
    pub fn is(&self, kind: FailureKind) -> bool {
        self.refusal().is_some_and(|failure| failure.kind == kind)
    }

    /// One line for the person at the other end of the SSH connection.
    pub fn words(&self) -> String {
        match self {
            Self::Refused { failure, .. } => failure.words(),
            // It answered, but not whether anything took place.
            Self::Unanswered { source, .. } => {
                source.downcast_ref::<ApiFailure>().map_or_else(|| "the cluster does not answer".to_owned(), ApiFailure::words)
            }
        }
    }
}

/// What an object must still be for a deletion to take place (P2). There is no deletion by name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preconditions {
    /// Its UID.
    pub uid: Uid,
    /// Its version, where any change since it was seen has to stop the deletion.
    pub resource_version: Option<String>,
}

/// An owner of pods as the cluster showed it.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerSnapshot {
    /// Its name.
    pub name: OwnerName,
    /// Its UID.
    pub uid: Uid,
    /// Its version.
    pub resource_version: String,
    /// How often its gateway has extended it.
    pub heartbeat: u64,
    /// Whether it is on its way out.
    pub terminating: bool,
}

/// What a watch of one pod says.
#[derive(Clone, Debug, PartialEq)]
pub enum PodChange {
    /// This is how it is now.
    State(PodSnapshot),
    /// No pod of this name is there (any more).
    Gone,
}

/// The changes of one pod.
pub trait PodWatch: Send {
    /// Waits for a change. The first answer is the state at the start, and the same state may come again. May be dropped and called again at any time: nothing is lost
    /// but states that others followed.
    ///
    /// # Errors
    /// [`BackendError`] where the watch has broken and could not be opened again by the backend itself.
    fn changed(&mut self) -> impl Future<Output = Result<PodChange, BackendError>> + Send;
}

/// A process to start in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// The namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID (P4). An exec goes by name only, so a backend has to see that the pod of that name is this one, and that it still
    /// was when the exec had begun.
    pub uid: Uid,
    /// The container.
    pub container: String,
    /// What to run; `None` attaches to the pod's first process.
    pub command: Option<Vec<String>>,
    /// Whether it gets a terminal. Its stderr is its stdout then.
    pub terminal: Option<TerminalSize>,
}

/// What came out of a process.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<C> {
    /// A piece of stdout.
    Stdout(C),
    /// A piece of stderr.
    Stderr(C),
    /// Both are at their end, and the process lives on: only its end follows. Comes once at most, and only where that can be known; a process
    /// that ends has its end told alone.
    Closed,
    /// It is over: nothing follows. Comes exactly once, whatever happens to the stream.
    Ended(Outcome),
}

/// The way into a process.
pub trait ProcessInput: Send {
    /// Writes to its stdin. Comes back when the bytes are on their way.
    ///
    /// # Errors
    /// [`BackendError`] where the stream has ended.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Closes its stdin; its output goes on. `false` where the protocol cannot do that (exec v4).
    ///
    /// # Errors
    /// [`BackendError`] where the stream has ended.
    fn close(&mut self) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Whether what the process says last, and how it ended, may be lost while input is still on its way to it. Then it is started with
    /// [`Launch::TELL_END`](crate::supervisor::Launch::TELL_END), and its input is closed once it has told. Only where it can be.
    fn loses_ends(&self) -> bool {
        false
    }

    /// Tells its terminal a size.
    ///
    /// # Errors
    /// [`BackendError`] where the stream has ended.
    fn resize(&mut self, size: TerminalSize) -> impl Future<Output = Result<(), BackendError>> + Send;
}

/// The way out of a process.
pub trait ProcessOutput: Send {
    /// A piece of output; as the transport has it, without a copy.
    type Chunk: AsRef<[u8]> + Send;

    /// Waits for the next piece. May be dropped and called again at any time without losing anything.
    fn next(&mut self) -> impl Future<Output = Output<Self::Chunk>> + Send;
}

/// A cluster, as far as this crate needs one.
///
/// Implementers: an [`BackendError::Refused`] that was carried out after all leaves a pod behind; a
/// [`BackendError::Unanswered`] for what was refused costs a look. Every call ends: what gets no answer within the
/// configured time is `Unanswered`.
pub trait PodBackend: Send + Sync {
    /// What [`PodBackend::watch`] returns.
    type Watch: PodWatch;
    /// The way into a process.
    type Input: ProcessInput;
    /// The way out of it.
    type Output: ProcessOutput;

    /// What tells this cluster from others that are worked with from the same store, such as its address. A record of another cluster's
    /// pod is left alone here, where nothing is known of it.
    fn cluster(&self) -> &str;

    /// Creates a pod from its manifest.
    fn create(&self, namespace: &str, manifest: &Value) -> impl Future<Output = Result<PodSnapshot, BackendError>> + Send;

    /// Reads a pod, not from a cache; `None` where there is none of that name.
    fn get(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<PodSnapshot>, BackendError>> + Send;

    /// Reports a pod's changes.
    fn watch(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Self::Watch, BackendError>> + Send;

    /// Deletes a pod if it is still the one meant; `false` where it is not, or is not there.
    fn delete(
        &self,
        namespace: &str,
        name: &str,
        preconditions: &Preconditions,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// All pods that a label selector matches.
    fn list(&self, namespace: &str, selector: &str) -> impl Future<Output = Result<Vec<PodSnapshot>, BackendError>> + Send;

    /// Starts a process in a pod, or attaches to its first.
    fn exec(&self, request: &ExecRequest) -> impl Future<Output = Result<(Self::Input, Self::Output), BackendError>> + Send;

    /// Creates an owner of pods from its manifest.
    fn create_owner(&self, namespace: &str, manifest: &Value)
    -> impl Future<Output = Result<OwnerSnapshot, BackendError>> + Send;

    /// Extends an owner: its `activeDeadlineSeconds` and its heartbeat, if it still is the one meant; `None` where it is not, or
    /// is not there, or is on its way out.
    fn extend_owner(
        &self,
        namespace: &str,
        name: OwnerName,
        uid: &Uid,
        deadline_seconds: u64,
        heartbeat: u64,
    ) -> impl Future<Output = Result<Option<OwnerSnapshot>, BackendError>> + Send;

    /// Deletes an owner, and in the background everything that it owns, if it is still the one meant; `false` where it is not.
    fn delete_owner(
        &self,
        namespace: &str,
        name: OwnerName,
        preconditions: &Preconditions,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// The owners of all gateways, not from a cache.
    fn list_owners(&self, namespace: &str) -> impl Future<Output = Result<Vec<OwnerSnapshot>, BackendError>> + Send;
}

impl OwnerSnapshot {
    /// Out of the Job. `None` for one that is not an owner of ours.
    pub fn from_object(object: &Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        Some(Self {
            name: text("/metadata/name")?.parse().ok()?,
            uid: text("/metadata/uid")?.parse().ok()?,
            resource_version: text("/metadata/resourceVersion")?.to_owned(),
            heartbeat: crate::pod::object_annotation(object, crate::pod::HEARTBEAT)?.parse().ok()?,
            terminating: object.pointer("/metadata/deletionTimestamp").is_some(),
        })
    }
}
