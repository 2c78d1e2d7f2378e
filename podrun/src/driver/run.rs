//! One pod from its record to its end.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use serde_json::Value;
use toehold_core::{Store, Stored, Timer, Timestamp};

use super::Parts;
use crate::backend::{BackendError, PodBackend, PodChange, PodWatch as _, Preconditions};
use crate::kubernetes::{PodSnapshot, PodTrouble};
use crate::name::Uid;
use crate::pod::{Action, Event, Life, OutOfTurn, Phase, PodRecord, Timing, identify};

/// A pod that can be worked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReference {
    /// The namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// The container to work in.
    pub container: String,
}

/// What comes from the SSH side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideEvent {
    /// Bytes went through.
    Traffic,
    /// The connection is gone, or is to end.
    Disconnected,
    /// The gateway's owner is gone from the cluster.
    OwnerLost,
}

/// The SSH side of a connection, or of a channel that has a pod of its own.
pub trait ConnectionSide: Send {
    /// The pod is ready: channels may start.
    fn ready(&mut self, pod: &PodReference) -> impl Future<Output = ()> + Send;

    /// There is no pod (any more): say why, and end. Comes at most once; [`SideEvent::Disconnected`] need not follow.
    fn failed(&mut self, trouble: &PodTrouble) -> impl Future<Output = ()> + Send;

    /// Waits for the next event. May be dropped and called again at any time without losing one. Never ends where nothing more
    /// can come.
    fn next(&mut self) -> impl Future<Output = SideEvent> + Send;
}

/// Nobody: for recovery.
struct Nobody;

impl ConnectionSide for Nobody {
    async fn ready(&mut self, _: &PodReference) {}

    async fn failed(&mut self, _: &PodTrouble) {}

    async fn next(&mut self) -> SideEvent {
        pending().await
    }
}

/// Runs one pod from its record to its end: comes back when the pod was seen gone and the record is removed. To be called when the
/// SSH handshake has succeeded; `manifest` is that of [`pod_manifest`](crate::pod::pod_manifest) for this record.
///
/// Dropping the future is a crash: the record stays, and [`Reaper`](super::Reaper) finds it.
///
/// # Errors
/// [`OutOfTurn`] would be a defect of this crate.
pub async fn run<B: PodBackend, S: Store, T: Timer, C: ConnectionSide>(
    parts: Parts<'_, B, S, T>,
    record: &PodRecord,
    manifest: &Value,
    container: &str,
    timing: Timing,
    side: &mut C,
) -> Result<(), OutOfTurn> {
    let mut life = Life::new(timing);
    let actions = life.handle(parts.timer.now(), Event::HandshakeSucceeded)?;
    Runner { parts, record, manifest, container, life, watch: None, watch_again: None }.until_closed(actions, side).await
}

/// Ends the pod of a record that was found: comes back when it was seen gone and the record is removed.
///
/// # Errors
/// [`OutOfTurn`] would be a defect of this crate.
pub async fn recover<B: PodBackend, S: Store, T: Timer>(
    parts: Parts<'_, B, S, T>,
    record: &PodRecord,
    owner_lives: bool,
) -> Result<(), OutOfTurn> {
    let (life, actions) = Life::recover(Timing::default(), owner_lives, parts.timer.now());
    let runner = Runner { parts, record, manifest: &Value::Null, container: "", life, watch: None, watch_again: None };
    runner.until_closed(actions, &mut Nobody).await
}

fn outside(event: SideEvent) -> Event {
    match event {
        SideEvent::Traffic => Event::Traffic,
        SideEvent::Disconnected => Event::Disconnected,
        SideEvent::OwnerLost => Event::OwnerLost,
    }
}

struct Runner<'a, B: PodBackend, S, T> {
    parts: Parts<'a, B, S, T>,
    record: &'a PodRecord,
    manifest: &'a Value,
    container: &'a str,
    life: Life,
    watch: Option<B::Watch>,
    /// When a broken watch is to be opened again.
    watch_again: Option<Timestamp>,
}

impl<B: PodBackend, S: Store, T: Timer> Runner<'_, B, S, T> {
    async fn until_closed<C: ConnectionSide>(mut self, actions: Vec<Action>, side: &mut C) -> Result<(), OutOfTurn> {
        let mut queue = VecDeque::from(actions);
        loop {
            while let Some(action) = queue.pop_front() {
                if let Some(event) = self.perform(action, side).await {
                    queue.extend(self.life.handle(self.parts.timer.now(), event)?);
                }
            }
            if self.life.is_closed() {
                return Ok(());
            }
            let event = self.next(side).await;
            queue.extend(self.life.handle(self.parts.timer.now(), event)?);
        }
    }

    /// Waits for whatever comes first.
    async fn next<C: ConnectionSide>(&mut self, side: &mut C) -> Event {
        let deadline = self.life.deadline();
        let watched = matches!(self.life.phase(), Phase::AwaitReady | Phase::Ready | Phase::AwaitGone);
        let change = {
            let watch = self.watch.as_mut().filter(|_| watched);
            let broken = watched && watch.is_none();
            let change = pin!(async {
                match watch {
                    Some(watch) => watch.changed().await.ok(),
                    None if broken => None,
                    None => pending().await,
                }
            });
            let time = pin!(async {
                match deadline {
                    Some(deadline) => self.parts.timer.sleep_until(deadline).await,
                    None => pending().await,
                }
            });
            let next = pin!(side.next());
            match select(select(change, next), time).await {
                Either::Left((Either::Left((change, _)), _)) => change,
                Either::Left((Either::Right((event, _)), _)) => return outside(event),
                Either::Right(((), _)) => return Event::Tick,
            }
        };
        match change {
            Some(PodChange::State(pod)) => Event::Observed(pod.uid.clone(), pod.availability(self.container)),
            Some(PodChange::Gone) => Event::Gone,
            None => self.rewatch(side).await,
        }
    }

    /// Opens a broken watch again, once a second. Meanwhile the person may leave and the time may be over; idle connections live on.
    async fn rewatch<C: ConnectionSide>(&mut self, side: &mut C) -> Event {
        self.watch = None;
        let soon = self.parts.timer.now().saturating_add(Duration::from_secs(1));
        // Kept over calls: traffic neither hurries nor hinders it.
        let due = *self.watch_again.get_or_insert(soon);
        let until = self.life.deadline().map_or(due, |deadline| deadline.min(due));
        let event = {
            let (next, pause) = (pin!(side.next()), pin!(self.parts.timer.sleep_until(until)));
            match select(next, pause).await {
                Either::Left((event, _)) => outside(event),
                Either::Right(_) => Event::Tick,
            }
        };
        if self.parts.timer.now() >= due {
            self.watch_again = None;
            self.open_watch().await;
        }
        event
    }

    /// One that cannot be opened counts as broken: `next` comes back here after a pause.
    async fn open_watch(&mut self) {
        let (namespace, name) = (&self.record.namespace, self.record.pod.to_string());
        let doing = || format!("watching pod {name}");
        self.watch = self.parts.ask(doing, self.parts.backend.watch(namespace, &name)).await.ok();
    }

    fn judged(&self, pod: &PodSnapshot) -> Event {
        let identity = identify(self.record, self.manifest, pod);
        Event::LookedUp(Some((pod.uid.clone(), identity, pod.availability(self.container))))
    }

    async fn perform<C: ConnectionSide>(&mut self, action: Action, side: &mut C) -> Option<Event> {
        let (parts, record) = (self.parts, self.record);
        let (namespace, name) = (&record.namespace, record.pod.to_string());
        Some(match action {
            Action::SaveRecord => {
                let doing = || format!("recording pod {name}");
                let saved = async {
                    let key = record.key()?;
                    parts.keep(doing, Stored::create(parts.store, key, record.clone())).await
                };
                match saved.await {
                    Ok(_) => Event::RecordSaved,
                    Err(error) => Event::RecordFailed(error.to_string()),
                }
            }
            Action::Create => {
                let doing = || format!("creating pod {name}");
                match parts.ask(doing, parts.backend.create(namespace, self.manifest)).await {
                    Ok(pod) => Event::Created(pod.uid.clone(), pod.availability(self.container)),
                    Err(BackendError::Refused { failure, .. }) => Event::CreateRefused(failure),
                    Err(error) => Event::CreateUncertain(error.words()),
                }
            }
            Action::LookUp => {
                let doing = || format!("looking for pod {name}");
                match parts.ask(doing, parts.backend.get(namespace, &name)).await {
                    Ok(Some(pod)) => self.judged(&pod),
                    Ok(None) => Event::LookedUp(None),
                    Err(error) => Event::LookUpFailed(error.words()),
                }
            }
            Action::Watch => {
                self.open_watch().await;
                return None;
            }
            Action::Delete(uid) => {
                let preconditions = Preconditions { uid, resource_version: None };
                let doing = || format!("deleting pod {name}");
                match parts.ask(doing, parts.backend.delete(namespace, &name, &preconditions)).await {
                    Ok(true) => Event::DeleteAccepted,
                    Ok(false) => Event::DeleteMissing,
                    Err(error) => Event::DeleteFailed(error.words()),
                }
            }
            Action::RemoveRecord => match parts.remove(record).await {
                Ok(()) => Event::RecordRemoved,
                Err(error) => Event::RecordRemoveFailed(error.to_string()),
            },
            Action::Ready(uid) => {
                let container = self.container.to_owned();
                side.ready(&PodReference { namespace: namespace.clone(), name, uid, container }).await;
                return None;
            }
            Action::Fail(trouble) => {
                side.failed(&trouble).await;
                return None;
            }
        })
    }
}
