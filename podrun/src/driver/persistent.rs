//! Pods that stay: found by their name, or made; made anew where they are over.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use toehold_core::{Store, Timer, Timestamp};

use super::Parts;
use super::run::PodReference;
use crate::backend::{BackendError, PodBackend, PodChange, PodWatch as _, Preconditions};
use crate::config::Settings;
use crate::kubernetes::{ApiFailure, Availability, FailureKind, PodSnapshot, PodTrouble};
use crate::pod::{Timing, Who, may_enter, may_replace, persistent_manifest, persistent_name};

/// How long to wait before a failed call is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Leads a connection to the pod of its principal in persistent mode: finds it, makes it where the configuration says so, and waits
/// until it can be worked in. The pod is left as it is when the connection ends, or gives up waiting.
///
/// One in which nothing can run any more is removed, and another made, where the configuration has missing pods made and the pod is provably
/// one that was made for this principal alone ([`may_replace`]). One that is on its way out is waited for. Any number of connections may do
/// so at once: they end in one pod.
///
/// # Errors
/// [`PodTrouble`] with what the person is told. A pod that is not that principal's is never entered, and never removed.
pub async fn enter<B: PodBackend, S: Store, T: Timer>(
    parts: Parts<'_, B, S, T>,
    settings: &Settings,
    who: &Who,
    metadata: &[(&str, &str)],
    timing: Timing,
) -> Result<PodReference, PodTrouble> {
    let give_up = parts.timer.now().saturating_add(timing.ready_within);
    let search = Search { parts, settings, who, metadata, give_up };
    let mut has_removed = false;
    loop {
        let (pod, is_new) = search.find_or_make().await?;
        match pod.availability(&settings.container) {
            // What was made this minute and is over would only be so again.
            Availability::Ended(trouble) if !is_new => search.clear(pod, &trouble, &mut has_removed).await?,
            Availability::Failed(trouble) if !is_new && pod.is_over(&settings.container) => {
                search.clear(pod, &trouble, &mut has_removed).await?;
            }
            _ => {
                let name = pod.name.clone();
                if let Some(ready) = search.until_ready(pod, timing.patience).await? {
                    return Ok(ready);
                }
                if !search.pause().await {
                    return Err(trouble("Deleted", format!("the pod {name} was deleted")));
                }
            }
        }
    }
}

struct Search<'a, B, S, T> {
    parts: Parts<'a, B, S, T>,
    settings: &'a Settings,
    who: &'a Who,
    metadata: &'a [(&'a str, &'a str)],
    give_up: Timestamp,
}

/// The changes of a pod; a watch that breaks is opened again.
struct Following<'a, B: PodBackend, S, T> {
    parts: Parts<'a, B, S, T>,
    namespace: &'a str,
    name: String,
    watch: Option<B::Watch>,
}

/// What comes next of a pod.
enum Next {
    Change(PodChange),
    /// The watch broke, and some time has passed since.
    Unknown,
    /// Nothing came in time.
    TimeOver,
}

fn trouble(reason: &str, words: String) -> PodTrouble {
    PodTrouble { reason: reason.to_owned(), words }
}

fn reason(error: &BackendError) -> String {
    error.refusal().map_or_else(|| "TimedOut".to_owned(), |failure| format!("{:?}", failure.kind))
}

impl<B: PodBackend, S: Store, T: Timer> Following<'_, B, S, T> {
    async fn next(&mut self, until: Timestamp) -> Next {
        let change = {
            let (parts, namespace, name, watch) = (self.parts, self.namespace, &self.name, &mut self.watch);
            let change = pin!(async {
                if watch.is_none() {
                    let doing = || format!("watching pod {name}");
                    *watch = parts.ask(doing, parts.backend.watch(namespace, name)).await.ok();
                }
                match watch {
                    Some(watch) => watch.changed().await.ok(),
                    None => None,
                }
            });
            match select(change, pin!(parts.timer.sleep_until(until))).await {
                Either::Left((change, _)) => change,
                Either::Right(_) => return Next::TimeOver,
            }
        };
        match change {
            Some(change) => Next::Change(change),
            None => {
                self.watch = None;
                self.parts.timer.sleep_until(self.parts.timer.now().saturating_add(PAUSE).min(until)).await;
                Next::Unknown
            }
        }
    }
}

impl<B: PodBackend, S: Store, T: Timer> Search<'_, B, S, T> {
    /// The pod, and whether it was made just now.
    async fn find_or_make(&self) -> Result<(PodSnapshot, bool), PodTrouble> {
        let name = persistent_name(self.settings, &self.who.principal);
        let namespace = &self.settings.namespace;
        let mut was_taken = false;
        loop {
            let doing = || format!("looking for pod {name}");
            let error = match self.parts.ask(doing, self.parts.backend.get(namespace, &name)).await {
                Ok(Some(pod)) if may_enter(self.settings, &pod, &self.who.principal) => return Ok((pod, false)),
                Ok(Some(_)) => return Err(trouble("NotYours", format!("the pod {name} is not yours"))),
                Ok(None) if !self.settings.create_missing_pods => {
                    return Err(trouble("NotFound", format!("there is no pod {name}, and none is made here")));
                }
                Ok(None) => {
                    let manifest = persistent_manifest(self.settings, self.who, self.metadata.iter().copied())
                        .map_err(|error| trouble("Metadata", error.to_string()))?;
                    let doing = || format!("creating pod {name}");
                    match self.parts.ask(doing, self.parts.backend.create(namespace, &manifest)).await {
                        Ok(pod) => return Ok((pod, true)),
                        // Another connection of theirs was faster: whose it is, the next look tells.
                        Err(error) if error.is(FailureKind::AlreadyExists) && !was_taken => {
                            was_taken = true;
                            continue;
                        }
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
        // What has the name, and cannot be seen, is about to be there or to be gone.
        let passing = error.refusal().is_none_or(ApiFailure::is_passing) || error.is(FailureKind::AlreadyExists);
        if passing && self.pause().await {
            return Ok(());
        }
        Err(trouble(&reason(error), format!("no pod can be had: {}", error.words())))
    }

    /// Waits a little; `false`: the time is over.
    async fn pause(&self) -> bool {
        let next = self.parts.timer.now().saturating_add(PAUSE);
        let is_time_left = next <= self.give_up;
        if is_time_left {
            self.parts.timer.sleep_until(next).await;
        }
        is_time_left
    }

    fn following(&self, pod: &PodSnapshot) -> Following<'_, B, S, T> {
        Following { parts: self.parts, namespace: &self.settings.namespace, name: pod.name.clone(), watch: None }
    }

    /// Whether another is made in the place of this one once it is over.
    fn may_replace(&self, pod: &PodSnapshot) -> bool {
        self.settings.create_missing_pods && may_replace(self.settings, pod, &self.who.principal)
    }

    /// What is the matter with a pod that stays all the same, and what to do about it.
    fn left(&self, pod: &PodSnapshot, PodTrouble { reason, words }: &PodTrouble) -> PodTrouble {
        let name = &pod.name;
        let then = if !self.may_replace(pod) {
            format!("it stays until an operator removes it: toehold pods rm {name}")
        } else if pod.is_over(&self.settings.container) {
            "connect again for another".to_owned()
        } else {
            format!("it stays, and may yet become ready, until an operator removes it: toehold pods rm {name}")
        };
        trouble(reason, format!("{words}; {then}"))
    }

    /// Sees a pod go that is on its way out or over, and has the latter removed.
    async fn clear(&self, mut pod: PodSnapshot, why: &PodTrouble, has_removed: &mut bool) -> Result<(), PodTrouble> {
        let name = pod.name.clone();
        let mut following = self.following(&pod);
        let mut is_told_to_go = false;
        loop {
            if pod.is_terminating() || is_told_to_go {
                if !self.settings.create_missing_pods {
                    let words = format!("the pod {name} is being deleted, and no other is made here in its place");
                    return Err(trouble(&why.reason, words));
                }
            } else if !self.may_replace(&pod) {
                return Err(self.left(&pod, why));
            } else if pod.is_over(&self.settings.container) {
                // One by one: what is over as soon as it is made is not made for as long as there is time.
                if *has_removed {
                    return Err(self.left(&pod, why));
                }
                is_told_to_go = self.delete(&pod, why).await?;
                *has_removed |= is_told_to_go;
                if !is_told_to_go {
                    // It has changed, or is another by now: whatever it is, it is judged anew.
                    let Some(now) = self.look_again(&pod).await? else { return Ok(()) };
                    pod = now;
                    continue;
                }
            }
            match following.next(self.give_up).await {
                Next::Change(PodChange::State(now)) if now.uid == pod.uid => pod = now,
                Next::Change(_) => return Ok(()),
                Next::Unknown => {
                    let Some(now) = self.look_again(&pod).await? else { return Ok(()) };
                    pod = now;
                }
                Next::TimeOver => {
                    let how = if pod.is_terminating() || is_told_to_go { "deleted" } else { "ended by its node" };
                    let words =
                        format!("the pod {name} is being {how}, and is still there; an operator has to see what holds it");
                    return Err(trouble("TimedOut", words));
                }
            }
        }
    }

    /// Has a pod deleted, if it is still as it was seen (P2); `false` where it is not, or nobody knows.
    async fn delete(&self, pod: &PodSnapshot, why: &PodTrouble) -> Result<bool, PodTrouble> {
        let preconditions = Preconditions { uid: pod.uid.clone(), resource_version: Some(pod.resource_version.clone()) };
        let doing = || format!("deleting pod {}", pod.name);
        let call = self.parts.backend.delete(&self.settings.namespace, &pod.name, &preconditions);
        match self.parts.ask(doing, call).await {
            Ok(deleted) => Ok(deleted),
            Err(error) if error.refusal().is_none_or(ApiFailure::is_passing) => Ok(false),
            Err(error) => {
                let (over, words, name) = (&why.words, error.words(), &pod.name);
                let words = format!("{over}; it cannot be removed: {words}; an operator has to: toehold pods rm {name}");
                Err(trouble(&reason(&error), words))
            }
        }
    }

    /// How a pod is after a moment; `None` where it is gone.
    async fn look_again(&self, pod: &PodSnapshot) -> Result<Option<PodSnapshot>, PodTrouble> {
        loop {
            let doing = || format!("looking for pod {}", pod.name);
            match self.parts.ask(doing, self.parts.backend.get(&self.settings.namespace, &pod.name)).await {
                Ok(Some(now)) if now.uid == pod.uid => {
                    let words = || format!("the pod {} is over, and could not be removed in time; connect again", pod.name);
                    return if self.pause().await { Ok(Some(now)) } else { Err(trouble("TimedOut", words())) };
                }
                Ok(_) => return Ok(None),
                Err(error) => self.pause_after(&error).await?,
            }
        }
    }

    /// `None`: it is on its way out or gone, and another is to be made.
    async fn until_ready(&self, mut pod: PodSnapshot, patience: Duration) -> Result<Option<PodReference>, PodTrouble> {
        let container = &self.settings.container;
        let mut doubt: Option<(Timestamp, PodTrouble)> = None;
        let mut following = self.following(&pod);
        let mut state = pod.availability(container);
        loop {
            match state {
                Availability::Ready => {
                    let (namespace, container) = (self.settings.namespace.clone(), container.clone());
                    return Ok(Some(PodReference { namespace, name: pod.name, uid: pod.uid, container }));
                }
                Availability::Ended(_) if pod.is_terminating() && self.settings.create_missing_pods => return Ok(None),
                Availability::Ended(trouble) if pod.is_terminating() => return Err(trouble),
                Availability::Failed(trouble) | Availability::Ended(trouble) => return Err(self.left(&pod, &trouble)),
                Availability::Doubtful(trouble) => {
                    let since = doubt.take().map_or_else(|| self.parts.timer.now(), |(since, _)| since);
                    doubt = Some((since, trouble));
                }
                Availability::Pending => doubt = None,
            }
            let until = doubt.as_ref().map_or(self.give_up, |(since, _)| since.saturating_add(patience).min(self.give_up));
            state = match following.next(until).await {
                Next::Change(PodChange::State(now)) if now.uid == pod.uid => {
                    pod = now;
                    pod.availability(container)
                }
                Next::Change(_) if self.settings.create_missing_pods => return Ok(None),
                Next::Change(_) => return Err(trouble("Deleted", format!("the pod {} was deleted", pod.name))),
                Next::Unknown => Availability::Pending,
                Next::TimeOver => {
                    let words = format!("the pod {} was not ready in time", pod.name);
                    return Err(match doubt {
                        Some((_, trouble)) => self.left(&pod, &trouble),
                        None => trouble("TimedOut", words),
                    });
                }
            };
        }
    }
}
