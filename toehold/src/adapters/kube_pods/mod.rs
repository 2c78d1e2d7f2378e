//! Pods in a Kubernetes cluster, over its API and nothing else. Objects are JSON values; what they mean is decided in `toehold_podrun`.

mod access;
mod acknowledged;
mod api;
mod client;
mod discover;
mod exec;
mod streams;
mod watch;

use serde_json::{Value, json};
use toehold_podrun::backend::{BackendError, ExecRequest, OwnerSnapshot, PodBackend, Preconditions, ProcessInput as _};
use toehold_podrun::config::ClusterAccess;
use toehold_podrun::kubernetes::{ApiFailure, FailureKind, PodSnapshot};
use toehold_podrun::pod::{owner_extension, owner_selector};
use toehold_podrun::{OwnerName, Uid};

pub use access::{NEEDED, Need};
pub use client::ConnectError;
pub use discover::{DiscoverError, discover};
pub use streams::{KubeInput, KubeOutput};
pub use watch::KubeWatch;

use api::{Api, encoded, jobs, pods, unanswered, unreadable};

/// How many objects of a list are asked for at once.
const PAGE: usize = 250;

/// How often a list is begun anew whose next page the server no longer has.
const TRIES: usize = 3;

/// The pods of a cluster.
#[derive(Clone, Debug)]
pub struct KubePods {
    api: Api,
    /// What tells it from others that are worked with from the same store.
    cluster: std::sync::Arc<str>,
}

impl KubePods {
    /// Makes ready to talk to the cluster. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(access: &ClusterAccess) -> Result<Self, ConnectError> {
        let clients = client::connect(access).await?;
        Ok(Self { api: Api::new(clients, access), cluster: client::cluster(access)?.into() })
    }

    /// A watch that begins at this version of the cluster, which may be one that it no longer has.
    #[doc(hidden)]
    pub fn watch_from_for_test(&self, namespace: &str, name: &str, version: &str) -> KubeWatch {
        KubeWatch::from(self.api.clone(), namespace, name, Some(version.to_owned()))
    }

    /// All objects of a list, page by page.
    async fn all(&self, doing: &str, path: &str, selector: &str) -> Result<Vec<Value>, BackendError> {
        let first = format!("{path}?labelSelector={}&limit={PAGE}", encoded(selector));
        let mut tries = 1;
        let (mut found, mut next) = (Vec::new(), first.clone());
        loop {
            let mut page = match self.api.get(doing, &next).await {
                // The rest of an older list is gone: it is read anew.
                Err(error) if error.is(FailureKind::Expired) && tries < TRIES => {
                    tries += 1;
                    found.clear();
                    next.clone_from(&first);
                    continue;
                }
                page => page?,
            };
            let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else {
                // A list of none may say so with null.
                return if page.get("kind").is_some() { Ok(found) } else { Err(unreadable(doing, "it is no list")) };
            };
            found.extend(items);
            match page.pointer("/metadata/continue").and_then(Value::as_str).filter(|token| !token.is_empty()) {
                Some(token) => next = format!("{first}&continue={}", encoded(token)),
                None => return Ok(found),
            }
        }
    }

    /// The UID of the pod of this name.
    async fn uid(&self, namespace: &str, name: &str) -> Result<Option<Uid>, BackendError> {
        Ok(self.get(namespace, name).await?.map(|pod| pod.uid))
    }

    /// Sees that the pod of that name is the one that is meant (P4).
    async fn check(&self, request: &ExecRequest) -> Result<(), BackendError> {
        if self.uid(&request.namespace, &request.pod).await?.as_ref() == Some(&request.uid) {
            return Ok(());
        }
        let failure = ApiFailure::new(FailureKind::NotFound, 404, &format!("the pod {} is gone", request.pod));
        Err(BackendError::Refused { doing: "starting a process in a pod".to_owned(), failure })
    }
}

fn pod(doing: &str, object: Value) -> Result<PodSnapshot, BackendError> {
    PodSnapshot::from_object(object).map_err(|error| unanswered(doing, error))
}

/// Whether a deletion took place.
fn deleted(result: Result<Value, BackendError>) -> Result<bool, BackendError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.is(FailureKind::NotFound) || error.is(FailureKind::Conflict) => Ok(false),
        Err(error) => Err(error),
    }
}

fn options(preconditions: &Preconditions) -> Value {
    let mut wanted = json!({ "uid": preconditions.uid.as_str() });
    if let (Some(version), Some(wanted)) = (&preconditions.resource_version, wanted.as_object_mut()) {
        wanted.insert("resourceVersion".to_owned(), json!(version));
    }
    json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": wanted })
}

/// Whether a Job is over, so that the cluster is about to delete it.
fn is_over(job: &Value) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| {
        let is = |member: &str, text: &str| condition.get(member).and_then(Value::as_str) == Some(text);
        is("status", "True") && (is("type", "Failed") || is("type", "FailureTarget") || is("type", "Complete"))
    })
}

impl PodBackend for KubePods {
    type Watch = KubeWatch;
    type Input = KubeInput;
    type Output = KubeOutput;

    fn cluster(&self) -> &str {
        &self.cluster
    }

    async fn create(&self, namespace: &str, manifest: &Value) -> Result<PodSnapshot, BackendError> {
        const DOING: &str = "creating a pod";
        pod(DOING, self.api.post(DOING, &pods(namespace, None), manifest).await?)
    }

    async fn get(&self, namespace: &str, name: &str) -> Result<Option<PodSnapshot>, BackendError> {
        const DOING: &str = "looking for a pod";
        match self.api.get(DOING, &pods(namespace, Some(name))).await {
            Ok(object) => pod(DOING, object).map(Some),
            Err(error) if error.is(FailureKind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn watch(&self, namespace: &str, name: &str) -> Result<KubeWatch, BackendError> {
        KubeWatch::open(self.api.clone(), namespace, name).await
    }

    async fn delete(&self, namespace: &str, name: &str, preconditions: &Preconditions) -> Result<bool, BackendError> {
        deleted(self.api.urgent().delete("deleting a pod", &pods(namespace, Some(name)), &options(preconditions)).await)
    }

    async fn list(&self, namespace: &str, selector: &str) -> Result<Vec<PodSnapshot>, BackendError> {
        const DOING: &str = "listing the pods";
        let found = self.all(DOING, &pods(namespace, None), selector).await?;
        found.into_iter().map(|object| pod(DOING, object)).collect()
    }

    async fn exec(&self, request: &ExecRequest) -> Result<(KubeInput, KubeOutput), BackendError> {
        // A name can be another pod's by now: nothing is started in one of those, and nothing is said to one that took its place.
        self.check(request).await?;
        let opened = exec::open(&self.api, request).await?;
        self.check(request).await?;
        let (mut input, output) = streams::halves(opened, self.clone(), request.clone());
        if let Some(size) = request.terminal {
            self.api.within("starting a process in a pod", input.resize(size)).await?;
        }
        Ok((input, output))
    }

    async fn create_owner(&self, namespace: &str, manifest: &Value) -> Result<OwnerSnapshot, BackendError> {
        const DOING: &str = "creating the owner of the pods";
        let job = self.api.urgent().post(DOING, &jobs(namespace, None), manifest).await?;
        OwnerSnapshot::from_object(&job).ok_or_else(|| unreadable(DOING, "it is no owner"))
    }

    async fn extend_owner(
        &self,
        namespace: &str,
        name: OwnerName,
        uid: &Uid,
        deadline_seconds: u64,
        heartbeat: u64,
    ) -> Result<Option<OwnerSnapshot>, BackendError> {
        const DOING: &str = "extending the owner of the pods";
        let patch = owner_extension(uid, deadline_seconds, heartbeat);
        match self.api.urgent().merge(DOING, &jobs(namespace, Some(&name.to_string())), &patch).await {
            Ok(job) if is_over(&job) => Ok(None),
            Ok(job) => {
                let owner = OwnerSnapshot::from_object(&job).ok_or_else(|| unreadable(DOING, "it is no owner"))?;
                Ok((!owner.terminating).then_some(owner))
            }
            Err(error) if error.is(FailureKind::NotFound) => Ok(None),
            // Another one of that name; but somebody who changes ours all the time may be the reason as well.
            Err(error) if error.is(FailureKind::Conflict) || error.is(FailureKind::Invalid) => {
                let owners = self.list_owners(namespace).await?;
                let is_there = owners.iter().any(|owner| owner.uid == *uid && !owner.terminating);
                if is_there { Err(error) } else { Ok(None) }
            }
            Err(error) => Err(error),
        }
    }

    async fn delete_owner(&self, namespace: &str, name: OwnerName, preconditions: &Preconditions) -> Result<bool, BackendError> {
        let mut options = options(preconditions);
        if let Some(options) = options.as_object_mut() {
            options.insert("propagationPolicy".to_owned(), json!("Background"));
        }
        deleted(self.api.urgent().delete("deleting an owner of pods", &jobs(namespace, Some(&name.to_string())), &options).await)
    }

    async fn list_owners(&self, namespace: &str) -> Result<Vec<OwnerSnapshot>, BackendError> {
        let found = self.all("listing the owners of pods", &jobs(namespace, None), &owner_selector()).await?;
        // Jobs that somebody has marked as ours and that are not are left alone.
        Ok(found.iter().filter_map(OwnerSnapshot::from_object).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_be_so_stands_in_the_deletion() {
        let mut preconditions = Preconditions { uid: "u-1".parse().unwrap(), resource_version: None };
        assert_eq!(options(&preconditions)["preconditions"], json!({ "uid": "u-1" }));
        preconditions.resource_version = Some("7".to_owned());
        assert_eq!(options(&preconditions)["preconditions"], json!({ "uid": "u-1", "resourceVersion": "7" }));
    }

    #[test]
    fn a_job_whose_time_is_over_is_on_its_way_out() {
        assert!(!is_over(&json!({ "status": {} })));
        let status = |kind: &str, status: &str| json!({ "status": { "conditions": [{ "type": kind, "status": status }] } });
        assert!(is_over(&status("Failed", "True")) && is_over(&status("FailureTarget", "True")));
        assert!(!is_over(&status("Suspended", "True")) && !is_over(&status("Failed", "False")));
    }
}
