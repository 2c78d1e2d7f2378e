//! Pods that stay: found by their name, or made.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use toehold_core::{Store, Timer, Timestamp};

use super::Parts;
use super::run::PodReference;
use crate::backend::{BackendError, PodBackend, PodChange, PodWatch as _};
use crate::config::Settings;
use crate::kubernetes::{Availability, FailureKind, PodSnapshot, PodTrouble};
use crate::pod::{Timing, Who, may_enter, persistent_manifest, persistent_name};

/// How long to wait before a failed call is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Leads a connection to the pod of its principal in persistent mode: finds it, makes it where the configuration says so, and waits
/// until it can be worked in. The pod is left as it is when the connection ends, or gives up waiting.
///
/// # Errors
/// [`PodTrouble`] with what the person is told. A pod that is not that principal's is never entered.
pub async fn enter<B: PodBackend, S: Store, T: Timer>(
    parts: Parts<'_, B, S, T>,
    settings: &Settings,
    who: &Who,
    metadata: &[(&str, &str)],
    timing: Timing,
) -> Result<PodReference, PodTrouble> {
    let give_up = parts.timer.now().saturating_add(timing.ready_within);
    let search = Search { parts, settings, who, metadata, give_up };
    let pod = search.find_or_make().await?;
    search.until_ready(pod, timing.patience).await
}

struct Search<'a, B, S, T> {
    parts: Parts<'a, B, S, T>,
    settings: &'a Settings,
    who: &'a Who,
    metadata: &'a [(&'a str, &'a str)],
    give_up: Timestamp,
}

fn trouble(reason: &str, words: String) -> PodTrouble {
    PodTrouble { reason: reason.to_owned(), words }
}

impl<B: PodBackend, S: Store, T: Timer> Search<'_, B, S, T> {
    async fn find_or_make(&self) -> Result<PodSnapshot, PodTrouble> {
        let name = persistent_name(self.settings, &self.who.principal);
        let namespace = &self.settings.namespace;
        loop {
            let doing = || format!("looking for pod {name}");
            let error = match self.parts.ask(doing, self.parts.backend.get(namespace, &name)).await {
                Ok(Some(pod)) if may_enter(self.settings, &pod, &self.who.principal) => return Ok(pod),
                Ok(Some(_)) => return Err(trouble("NotYours", format!("the pod {name} is not yours"))),
                Ok(None) if !self.settings.create_missing_pods => {
                    return Err(trouble("NotFound", format!("there is no pod {name}, and none is made here")));
                }
                Ok(None) => {
                    let manifest = persistent_manifest(self.settings, self.who, self.metadata.iter().copied())
                        .map_err(|error| trouble("Metadata", error.to_string()))?;
                    let doing = || format!("creating pod {name}");
                    match self.parts.ask(doing, self.parts.backend.create(namespace, &manifest)).await {
                        Ok(pod) => return Ok(pod),
                        // Another connection of theirs was faster: whose it is, the next look tells.
                        Err(error) if error.is(FailureKind::AlreadyExists) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.pause_after(&error).await?;
        }
    }

    /// Waits before the next try, where there is to be one.
    async fn pause_after(&self, error: &BackendError) -> Result<(), PodTrouble> {
        let passing = error.refusal().is_none_or(crate::kubernetes::ApiFailure::is_passing);
        let next = self.parts.timer.now().saturating_add(PAUSE);
        if !passing || next > self.give_up {
            let reason = error.refusal().map_or("TimedOut".to_owned(), |failure| format!("{:?}", failure.kind));
            return Err(trouble(&reason, format!("no pod can be had: {}", error.words())));
        }
        self.parts.timer.sleep_until(next).await;
        Ok(())
    }

    async fn until_ready(&self, pod: PodSnapshot, patience: Duration) -> Result<PodReference, PodTrouble> {
        let container = &self.settings.container;
        let reference = PodReference {
            namespace: self.settings.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            container: container.clone(),
        };
        let mut state = pod.availability(container);
        let mut doubt: Option<(Timestamp, PodTrouble)> = None;
        let mut watch: Option<B::Watch> = None;
        loop {
            match state {
                Availability::Ready => return Ok(reference),
                Availability::Failed(trouble) | Availability::Ended(trouble) => return Err(trouble),
                Availability::Doubtful(trouble) => {
                    let since = doubt.take().map_or_else(|| self.parts.timer.now(), |(since, _)| since);
                    doubt = Some((since, trouble));
                }
                Availability::Pending => doubt = None,
            }
            let until = doubt.as_ref().map_or(self.give_up, |(since, _)| since.saturating_add(patience).min(self.give_up));
            let change = {
                let (parts, name, watch) = (self.parts, &reference.name, &mut watch);
                let change = pin!(async {
                    if watch.is_none() {
                        let doing = || format!("watching pod {name}");
                        *watch = parts.ask(doing, parts.backend.watch(&reference.namespace, name)).await.ok();
                    }
                    match watch {
                        Some(watch) => watch.changed().await.ok(),
                        None => None,
                    }
                });
                let time = pin!(parts.timer.sleep_until(until));
                match select(change, time).await {
                    Either::Left((change, _)) => change,
                    Either::Right(_) => {
                        let words = format!("the pod {name} was not ready in time");
                        return Err(doubt.map_or_else(|| trouble("TimedOut", words), |(_, trouble)| trouble));
                    }
                }
            };
            state = match change {
                Some(PodChange::State(pod)) if pod.uid == reference.uid => pod.availability(container),
                Some(_) => return Err(trouble("Deleted", format!("the pod {} was deleted", reference.name))),
                None => {
                    watch = None;
                    self.parts.timer.sleep_until(self.parts.timer.now().saturating_add(PAUSE).min(until)).await;
                    Availability::Pending
                }
            };
        }
    }
}
