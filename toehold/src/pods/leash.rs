//! The stream beside a pod's commands: signals go through it, and what is watched ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use toehold_podrun::Signal;
use toehold_podrun::backend::{BackendError, ExecRequest, Output, PodBackend, ProcessInput as _, ProcessOutput};
use toehold_podrun::driver::PodReference;
use toehold_podrun::supervisor::{Leash as Order, ProcessNumber};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

/// The longest line of a leash that means something, in bytes.
const MAX_LINE: usize = 64;

/// The leash of one pod; begun when it is first needed.
pub(super) struct Leash<B: PodBackend> {
    backend: B,
    pod: PodReference,
    begun: Mutex<Option<Begun<B::Input>>>,
    /// What is on it, to be said again to one that is begun anew.
    watched: Mutex<BTreeSet<ProcessNumber>>,
}

/// One that runs in the pod.
struct Begun<I> {
    input: I,
    confirmed: Confirmed,
    /// Who hears what it says. It goes with this, for a stream is open as long as somebody has a half of it.
    _listener: JoinSet<()>,
}

/// How often each process was confirmed to be watched: numbers come again. Closed when the leash ends.
type Confirmed = watch::Receiver<BTreeMap<ProcessNumber, u64>>;

fn times(confirmed: &BTreeMap<ProcessNumber, u64>, process: ProcessNumber) -> u64 {
    confirmed.get(&process).copied().unwrap_or_default()
}

impl<B: PodBackend + Clone + 'static> Leash<B>
where
    B::Input: 'static,
    B::Output: 'static,
{
    pub(super) fn of(backend: &B, pod: PodReference) -> Arc<Self> {
        Arc::new(Self { backend: backend.clone(), pod, begun: Mutex::default(), watched: Mutex::default() })
    }

    /// Ends this process when the leash ends; `true` once the pod has confirmed that.
    pub(super) async fn watch(&self, process: ProcessNumber) -> bool {
        self.watched.lock().await.insert(process);
        let Some((mut confirmed, before)) = self.give(process, Order::Watch(process)).await else { return false };
        confirmed.wait_for(|confirmed| times(confirmed, process) > before).await.is_ok()
    }

    /// It has ended by itself.
    pub(super) async fn unwatch(&self, process: ProcessNumber) {
        if self.watched.lock().await.remove(&process) {
            self.give(process, Order::Unwatch(process)).await;
        }
    }

    pub(super) async fn signal(&self, process: ProcessNumber, signal: Signal) {
        self.give(process, Order::Signal(process, signal)).await;
    }

    /// Ends a process that nobody waits for any more, with all of its session.
    pub(super) fn end(self: Arc<Self>, process: ProcessNumber) {
        tokio::spawn(async move {
            self.watched.lock().await.remove(&process);
            self.give(process, Order::End(process)).await;
        });
    }

    /// Where the leash has taken the order: what it confirms, and how often it had confirmed this process before.
    async fn give(&self, process: ProcessNumber, order: Order) -> Option<(Confirmed, u64)> {
        let mut begun = self.begun.lock().await;
        // One that has broken off is begun anew, once.
        for _ in 0..2 {
            if begun.as_ref().is_none_or(|begun| begun.confirmed.has_changed().is_err()) {
                match self.begin().await {
                    Ok(anew) => *begun = Some(anew),
                    Err(error) => {
                        tracing::debug!("nothing can be told to processes in pod {}: {error}", self.pod.name);
                        return None;
                    }
                }
            }
            if let Some(open) = begun.as_mut() {
                let before = times(&open.confirmed.borrow(), process);
                if open.input.write(order.line().as_bytes()).await.is_ok() {
                    return Some((open.confirmed.clone(), before));
                }
            }
            *begun = None;
        }
        None
    }

    async fn begin(&self) -> Result<Begun<B::Input>, BackendError> {
        let request = ExecRequest {
            namespace: self.pod.namespace.clone(),
            pod: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            container: self.pod.container.clone(),
            command: Some(Order::command()),
            terminal: None,
        };
        let (mut input, output) = self.backend.exec(&request).await?;
        let (tell, confirmed) = watch::channel(BTreeMap::new());
        let mut listener = JoinSet::new();
        listener.spawn(listen(output, tell));
        for process in self.watched.lock().await.iter() {
            input.write(Order::Watch(*process).line().as_bytes()).await?;
        }
        Ok(Begun { input, confirmed, _listener: listener })
    }
}

/// Notes what a leash confirms, until its end.
async fn listen<O: ProcessOutput>(mut output: O, tell: watch::Sender<BTreeMap<ProcessNumber, u64>>) {
    let mut line = Vec::new();
    loop {
        match output.next().await {
            Output::Stdout(piece) => {
                for byte in piece.as_ref() {
                    if *byte != b'\n' {
                        // Longer ones mean nothing.
                        if line.len() <= MAX_LINE {
                            line.push(*byte);
                        }
                        continue;
                    }
                    if let Some(process) = Order::confirmed(&line) {
                        tell.send_modify(|confirmed| *confirmed.entry(process).or_default() += 1);
                    }
                    line.clear();
                }
            }
            Output::Stderr(_) | Output::Closed => {}
            Output::Ended(_) => return,
        }
    }
}
