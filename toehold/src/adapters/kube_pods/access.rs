//! What a gateway has to be allowed in a cluster, and whether it is.

use futures_util::future::try_join_all;
use serde_json::{Value, json};
use toehold_podrun::backend::BackendError;

use super::KubePods;

/// A kind of object, and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its API group; empty for the core.
    pub group: &'static str,
    /// The resource, in the plural, and its part where it is one's part.
    pub resource: &'static str,
    /// The verbs.
    pub verbs: &'static [&'static str],
}

/// Everything that a gateway does, and nothing else: it neither reads secrets nor reaches beyond its namespace.
pub const NEEDED: &[Need] = &[
    Need { group: "", resource: "pods", verbs: &["create", "delete", "get", "list", "watch"] },
    // Since 1.35 an exec over WebSocket needs both.
    Need { group: "", resource: "pods/exec", verbs: &["create", "get"] },
    Need { group: "batch", resource: "jobs", verbs: &["create", "delete", "list", "patch"] },
];

impl KubePods {
    /// What of [`NEEDED`] is not granted in this namespace, each as `verb resource`.
    ///
    /// # Errors
    /// [`BackendError`] where the cluster does not say.
    pub async fn missing(&self, namespace: &str) -> Result<Vec<String>, BackendError> {
        let reviews = NEEDED.iter().flat_map(|need| need.verbs.iter().map(move |verb| self.is_granted(namespace, need, verb)));
        Ok(try_join_all(reviews).await?.into_iter().flatten().collect())
    }

    /// `None` where it is.
    async fn is_granted(&self, namespace: &str, need: &Need, verb: &str) -> Result<Option<String>, BackendError> {
        const DOING: &str = "asking what the gateway may do";
        let (resource, part) = need.resource.split_once('/').unwrap_or((need.resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": {
                "namespace": namespace,
                "verb": verb,
                "group": need.group,
                "resource": resource,
                "subresource": part,
            } },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = self.api.post(DOING, path, &review).await?;
        let is_allowed = answer.pointer("/status/allowed").and_then(Value::as_bool) == Some(true);
        Ok((!is_allowed).then(|| format!("{verb} {}", need.resource)))
    }
}
