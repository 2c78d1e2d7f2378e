//! The simulated cluster as a backend: each call is one that can go wrong.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use serde_json::Value;
use toehold_core::testing::{CallKind, Fault, Step};
use toehold_core::{Clock as _, Timer as _};

use super::cluster::{Late, SimulatedCluster, State};
use crate::backend::{
    BackendError, ExecRequest, Output, OwnerSnapshot, PodBackend, PodChange, PodWatch, Preconditions, ProcessInput, ProcessOutput,
};
use crate::exec::{Outcome, TerminalSize};
use crate::kubernetes::{ApiFailure, FailureKind, PodSnapshot};
use crate::name::{OwnerName, Uid};

fn unanswered(doing: &str) -> BackendError {
    BackendError::Unanswered { doing: doing.to_owned(), source: "simulated loss of the connection".into() }
}

fn refused(doing: &str, failure: ApiFailure) -> BackendError {
    BackendError::Refused { doing: doing.to_owned(), failure }
}

impl SimulatedCluster {
    /// One call: what `effect` does takes place unless it goes wrong before.
    async fn call<R>(
        &self,
        kind: CallKind,
        subject: String,
        late: Option<Late>,
        effect: impl FnOnce(&mut State) -> Result<R, ApiFailure> + Send,
    ) -> Result<R, BackendError> {
        let step: Step = self.faults.begin(kind, || subject.clone()).await;
        let result = match step.fault {
            None if step.late => {
                if let Some(late) = late {
                    self.state().late(late);
                }
                Err(unanswered(&subject))
            }
            None => effect(&mut self.state()).map_err(|failure| refused(&subject, failure)),
            Some(Fault::LostAfter) => {
                drop(effect(&mut self.state()));
                Err(unanswered(&subject))
            }
            Some(Fault::Denied) => Err(refused(&subject, ApiFailure::new(FailureKind::Forbidden, 403, "simulated"))),
            Some(Fault::Unreachable) => Err(refused(&subject, ApiFailure::new(FailureKind::Unavailable, 503, "simulated"))),
            Some(_) => Err(unanswered(&subject)),
        };
        self.faults.end(step).await;
        result
    }
}

impl PodBackend for SimulatedCluster {
    type Watch = SimulatedWatch;
    type Input = SimulatedInput;
    type Output = SimulatedOutput;

    #[expect(clippy::unnecessary_literal_bound, reason = "others have to look it up")]
    fn cluster(&self) -> &str {
        "simulated"
    }

    async fn create(&self, namespace: &str, manifest: &Value) -> Result<PodSnapshot, BackendError> {
        let late = Late::Create(namespace.to_owned(), manifest.clone());
        let now = self.clock.now();
        self.call(CallKind::ClusterCreate, "create pod".to_owned(), Some(late), |state| state.create(now, namespace, manifest))
            .await
    }

    async fn get(&self, namespace: &str, name: &str) -> Result<Option<PodSnapshot>, BackendError> {
        self.call(CallKind::ClusterRead, format!("get pod {name}"), None, |state| Ok(state.get(namespace, name))).await
    }

    async fn watch(&self, namespace: &str, name: &str) -> Result<SimulatedWatch, BackendError> {
        self.call(CallKind::ClusterRead, format!("watch pod {name}"), None, |_| Ok(())).await?;
        Ok(SimulatedWatch { cluster: self.clone(), namespace: namespace.to_owned(), name: name.to_owned(), last: None })
    }

    async fn delete(&self, namespace: &str, name: &str, preconditions: &Preconditions) -> Result<bool, BackendError> {
        let Preconditions { uid, resource_version } = preconditions;
        let late = Late::Delete(namespace.to_owned(), name.to_owned(), uid.clone());
        let now = self.clock.now();
        let effect = |state: &mut State| Ok(state.delete(now, namespace, name, uid, resource_version.as_deref()));
        self.call(CallKind::ClusterDelete, format!("delete pod {name}"), Some(late), effect).await
    }

    async fn list(&self, namespace: &str, selector: &str) -> Result<Vec<PodSnapshot>, BackendError> {
        self.call(CallKind::ClusterRead, format!("list pods {selector}"), None, |state| Ok(state.list(namespace, selector))).await
    }

    async fn exec(&self, request: &ExecRequest) -> Result<(SimulatedInput, SimulatedOutput), BackendError> {
        let missing = || ApiFailure::new(FailureKind::NotFound, 404, "no such pod");
        let effect = |state: &mut State| {
            let pod = state.get(&request.namespace, &request.pod).filter(|pod| pod.uid == request.uid);
            pod.map(|_| ()).ok_or_else(missing)
        };
        self.call(CallKind::ClusterCreate, format!("exec in {}", request.pod), None, effect).await?;
        let said = request.command.clone().unwrap_or_default().join(" ").into_bytes();
        let pieces = VecDeque::from([Output::Stdout(said), Output::Ended(Outcome::Exited(0))]);
        Ok((SimulatedInput(()), SimulatedOutput(pieces)))
    }

    async fn create_owner(&self, _: &str, manifest: &Value) -> Result<OwnerSnapshot, BackendError> {
        let now = self.clock.now();
        self.call(CallKind::ClusterCreate, "create owner".to_owned(), None, |state| state.create_owner(now, manifest)).await
    }

    async fn extend_owner(
        &self,
        _: &str,
        name: OwnerName,
        uid: &Uid,
        deadline_seconds: u64,
        heartbeat: u64,
    ) -> Result<Option<OwnerSnapshot>, BackendError> {
        let effect = |state: &mut State| Ok(state.extend_owner(name, uid, deadline_seconds, heartbeat));
        self.call(CallKind::ClusterChange, format!("extend owner {name}"), None, effect).await
    }

    async fn delete_owner(&self, _: &str, name: OwnerName, preconditions: &Preconditions) -> Result<bool, BackendError> {
        let Preconditions { uid, resource_version } = preconditions;
        let effect = |state: &mut State| Ok(state.delete_owner(name, uid, resource_version.as_deref()));
        self.call(CallKind::ClusterDelete, format!("delete owner {name}"), None, effect).await
    }

    async fn list_owners(&self, _: &str) -> Result<Vec<OwnerSnapshot>, BackendError> {
        let owners = self.clone();
        self.call(CallKind::ClusterRead, "list owners".to_owned(), None, |_| Ok(())).await?;
        Ok(owners.owners())
    }
}

/// The changes of one pod of a [`SimulatedCluster`].
#[derive(Debug)]
pub struct SimulatedWatch {
    cluster: SimulatedCluster,
    namespace: String,
    name: String,
    /// The version that was reported last, empty for none of that name.
    last: Option<String>,
}

impl PodWatch for SimulatedWatch {
    async fn changed(&mut self) -> Result<PodChange, BackendError> {
        if self.cluster.faults.crashed() {
            return pending().await;
        }
        let pod = self.cluster.state().get(&self.namespace, &self.name);
        let version = pod.as_ref().map(|pod| pod.resource_version.clone()).unwrap_or_default();
        if self.last.as_ref() != Some(&version) {
            self.last = Some(version);
            return Ok(pod.map_or(PodChange::Gone, PodChange::State));
        }
        // A second later it says how it is then, changed or not: one sleep at a time keeps a clock that advances by itself honest.
        let soon = self.cluster.clock.now().saturating_add(Duration::from_secs(1));
        self.cluster.clock.sleep_until(soon).await;
        let pod = self.cluster.state().get(&self.namespace, &self.name);
        self.last = Some(pod.as_ref().map(|pod| pod.resource_version.clone()).unwrap_or_default());
        Ok(pod.map_or(PodChange::Gone, PodChange::State))
    }
}

/// The way into a simulated process, which reads nothing.
#[derive(Debug)]
pub struct SimulatedInput(());

impl ProcessInput for SimulatedInput {
    async fn write(&mut self, _: &[u8]) -> Result<(), BackendError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<bool, BackendError> {
        Ok(true)
    }

    async fn resize(&mut self, _: TerminalSize) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The way out of a simulated process: it says its own command and ends with 0.
#[derive(Debug)]
pub struct SimulatedOutput(VecDeque<Output<Vec<u8>>>);

impl ProcessOutput for SimulatedOutput {
    type Chunk = Vec<u8>;

    async fn next(&mut self) -> Output<Vec<u8>> {
        match self.0.pop_front() {
            Some(piece) => piece,
            None => pending().await,
        }
    }
}
