//! What a pod's state means for somebody who waits for it.

use serde_json::Value;

use super::failure::cleaned;
use crate::name::{NameError, Uid};

/// A pod as the cluster showed it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSnapshot {
    /// The pod's name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// Its version, for preconditions and watches.
    pub resource_version: String,
    /// The object.
    pub object: Value,
}

/// Why a pod does not become ready, or is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTrouble {
    /// The cluster's reason, such as `ImagePullBackOff`.
    pub reason: String,
    /// What the person at the other end of the SSH connection is told, in one line.
    pub words: String,
}

/// What a pod's state means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Not yet; nothing is wrong.
    Pending,
    /// Not yet, and unless something in the cluster changes it will never be: no node can take it, an image could not be pulled at
    /// the first try.
    Doubtful(PodTrouble),
    /// It can be worked in.
    Ready,
    /// It will not become ready by itself.
    Failed(PodTrouble),
    /// It was running, or may have been, and is ending or has ended.
    Ended(PodTrouble),
}

impl PodSnapshot {
    /// Out of the object.
    ///
    /// # Errors
    /// [`NameError`] where name, UID or version is missing.
    pub fn from_object(object: Value) -> Result<Self, NameError> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, resource_version) = (text("/metadata/name"), text("/metadata/resourceVersion"));
        if name.is_empty() || resource_version.is_empty() {
            return Err(NameError { text: name, expected: "a pod with name and version" });
        }
        Ok(Self { uid: text("/metadata/uid").parse()?, name, resource_version, object })
    }

    /// Whether it is on its way out.
    pub fn is_terminating(&self) -> bool {
        self.object.pointer("/metadata/deletionTimestamp").is_some()
    }

    /// Whether nothing will ever run in `container` again: all of the pod has ended, or that container has, and nothing starts it again.
    pub fn is_over(&self, container: &str) -> bool {
        if matches!(self.object.pointer("/status/phase").and_then(Value::as_str), Some("Failed" | "Succeeded")) {
            return true;
        }
        let named = |pointer: &str| {
            let list = self.object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            list.into_iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(container))
        };
        let stays_ended = self.object.pointer("/spec/restartPolicy").and_then(Value::as_str) == Some("Never")
            && named("/spec/containers").is_some_and(|wanted| wanted.get("restartPolicy").is_none());
        // Other containers, and a phase that lags behind, say nothing about it.
        stays_ended && named("/status/containerStatuses").is_some_and(|now| now.pointer("/state/terminated").is_some())
    }

    /// What its state means for somebody who wants to work in `container`.
    pub fn availability(&self, container: &str) -> Availability {
        let status = self.object.get("status").unwrap_or(&Value::Null);
        let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        let condition = |kind: &str| {
            let conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
            conditions.into_iter().find(|condition| text(condition, "type") == kind)
        };
        if self.is_terminating() {
            return ended("Deleted", "the pod is being deleted");
        }
        let reason = text(status, "reason");
        if reason == "DeadlineExceeded" {
            return ended(&reason, "the pod has reached its time limit");
        }
        if reason == "Evicted" {
            return ended(&reason, &format!("the node sent the pod away: {}", text(status, "message")));
        }
        if let Some(trouble) = first_trouble(status, container) {
            return trouble;
        }
        match text(status, "phase").as_str() {
            "Failed" => return ended("Failed", &format!("the pod has failed: {reason} {}", text(status, "message"))),
            "Succeeded" => return ended("Completed", "the pod's first process has ended"),
            _ => {}
        }
        if let Some(scheduled) = condition("PodScheduled").filter(|c| text(c, "status") == "False") {
            let words = format!("no node can take the pod: {}", text(scheduled, "message"));
            return Availability::Doubtful(trouble(&text(scheduled, "reason"), &words));
        }
        match condition("Ready") {
            Some(ready) if text(ready, "status") == "True" => Availability::Ready,
            // The container still runs, and is being ended: its time is over.
            Some(ready) if text(ready, "reason") == "PodFailed" => ended("PodFailed", "the pod is being ended by its node"),
            Some(ready) if text(ready, "reason") == "PodCompleted" => ended("Completed", "the pod's first process has ended"),
            _ => Availability::Pending,
        }
    }
}

fn trouble(reason: &str, words: &str) -> PodTrouble {
    PodTrouble { reason: cleaned(reason), words: cleaned(words) }
}

fn ended(reason: &str, words: &str) -> Availability {
    Availability::Ended(trouble(reason, words))
}

/// The first container that says that something is wrong: those that initialise, then the one that is worked in, then the others.
fn first_trouble(status: &Value, container: &str) -> Option<Availability> {
    let list = |member: &str| status.get(member).and_then(Value::as_array).into_iter().flatten();
    let named = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(container);
    let initial = list("initContainerStatuses").filter_map(|entry| container_trouble(entry, true));
    let own = list("containerStatuses").filter(named).filter_map(|entry| container_trouble(entry, false));
    let others = list("containerStatuses").filter(|entry| !named(entry)).filter_map(|entry| {
        // Another container that has ended is its own affair.
        entry.pointer("/state/waiting").and_then(|_| container_trouble(entry, false))
    });
    initial.chain(own).chain(others).next()
}

fn container_trouble(entry: &Value, initial: bool) -> Option<Availability> {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = text("/name");
    if let Some(terminated) = entry.pointer("/state/terminated") {
        let code = terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(-1);
        let (reason, message) = (text("/state/terminated/reason"), text("/state/terminated/message"));
        if initial {
            let failed = code != 0;
            let words = format!("the container \"{name}\" that prepares the pod has failed with exit code {code}");
            return failed.then(|| Availability::Failed(trouble(reason, &words)));
        }
        return Some(match reason {
            "OOMKilled" => ended(reason, "the pod has used up its memory and was killed"),
            "StartError" | "ContainerCannotRun" => {
                let words = format!("the pod's first process cannot be started: {message}");
                Availability::Failed(trouble(reason, &words))
            }
            _ => ended(reason, &format!("the pod's first process has ended with exit code {code}")),
        });
    }
    let (reason, message) = (text("/state/waiting/reason"), text("/state/waiting/message"));
    let words = match reason {
        "ErrImagePull" => {
            let words = format!("the image cannot be pulled: {message}");
            return Some(Availability::Doubtful(trouble(reason, &words)));
        }
        "ImagePullBackOff" | "RegistryUnavailable" | "ImageInspectError" | "SignatureValidationFailed" => {
            "the image cannot be pulled"
        }
        "ErrImageNeverPull" => "the image is not on the node, and may not be pulled",
        "InvalidImageName" => "the image's name is not valid",
        "CreateContainerConfigError" | "CreateContainerError" => "the container cannot be made",
        "RunContainerError" | "PostStartHookError" | "PreCreateHookError" | "PreStartHookError" => {
            "the container cannot be started"
        }
        "CrashLoopBackOff" => "the container ends again and again",
        _ => return None,
    };
    Some(Availability::Failed(trouble(reason, &format!("{words}: {message}"))))
}
