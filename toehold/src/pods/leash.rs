//! The stream beside a pod's commands: signals go through it, and what is watched ends with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use toehold_podrun::Signal;
use toehold_podrun::backend::{BackendError, ExecRequest, Output, PodBackend, ProcessInput as _, ProcessOutput as _};
use toehold_podrun::driver::PodReference;
use toehold_podrun::supervisor::{Leash as Order, ProcessNumber};
use tokio::sync::Mutex;

/// What a process gets between being told that nobody is there any more and being killed.
const GRACE: Duration = Duration::from_secs(1);

/// The leash of one pod; begun when it is first needed.
pub(super) struct Leash<B: PodBackend> {
    backend: B,
    pod: PodReference,
    input: Mutex<Option<B::Input>>,
    /// What is on it, to be said again to one that is begun anew.
    watched: Mutex<BTreeSet<ProcessNumber>>,
}

impl<B: PodBackend + Clone + 'static> Leash<B>
where
    B::Input: 'static,
    B::Output: 'static,
{
    pub(super) fn of(backend: &B, pod: PodReference) -> Arc<Self> {
        Arc::new(Self { backend: backend.clone(), pod, input: Mutex::default(), watched: Mutex::default() })
    }

    /// Ends this process when the leash ends.
    pub(super) async fn watch(&self, process: ProcessNumber) {
        self.watched.lock().await.insert(process);
        self.give(Order::Watch(process)).await;
    }

    /// It has ended by itself.
    pub(super) async fn unwatch(&self, process: ProcessNumber) {
        if self.watched.lock().await.remove(&process) {
            self.give(Order::Unwatch(process)).await;
        }
    }

    pub(super) async fn signal(&self, process: ProcessNumber, signal: Signal) {
        self.give(Order::Signal(process, signal)).await;
    }

    /// Ends a process that nobody waits for any more, as `sshd` does; kills it where it stays.
    pub(super) fn end(self: Arc<Self>, process: ProcessNumber) {
        tokio::spawn(async move {
            self.signal(process, Signal::Hup).await;
            tokio::time::sleep(GRACE).await;
            self.signal(process, Signal::Kill).await;
            self.unwatch(process).await;
        });
    }

    async fn give(&self, order: Order) {
        let mut input = self.input.lock().await;
        // One that has broken off is begun anew, once.
        for _ in 0..2 {
            if input.is_none() {
                match self.begin().await {
                    Ok(begun) => *input = Some(begun),
                    Err(error) => {
                        tracing::debug!("no signal can be sent in pod {}: {error}", self.pod.name);
                        return;
                    }
                }
            }
            if let Some(open) = input.as_mut()
                && open.write(order.line().as_bytes()).await.is_ok()
            {
                return;
            }
            *input = None;
        }
    }

    async fn begin(&self) -> Result<B::Input, BackendError> {
        let request = ExecRequest {
            namespace: self.pod.namespace.clone(),
            pod: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            container: self.pod.container.clone(),
            command: Some(Order::command()),
            terminal: None,
        };
        let (mut input, mut output) = self.backend.exec(&request).await?;
        tokio::spawn(async move { while !matches!(output.next().await, Output::Ended(_)) {} });
        for process in self.watched.lock().await.iter() {
            input.write(Order::Watch(*process).line().as_bytes()).await?;
        }
        Ok(input)
    }
}
