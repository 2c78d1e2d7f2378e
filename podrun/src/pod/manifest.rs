//! Objects as they are sent to the cluster, and how ours are known again.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::record::{OwnerReference, PodRecord, Who};
use crate::config::Settings;
use crate::kubernetes::PodSnapshot;
use crate::labels::{LabelValue, Marks, MetadataTooLarge, PREFIX};
use crate::name::{OwnerName, Uid};
use crate::supervisor::escape_pod_argument;

const CONNECTION: &str = "connection";
const MODE: &str = "mode";
const NONCE: &str = "nonce";
const OWNER: &str = "owner";
const PRINCIPAL: &str = "principal";
const SPEC: &str = "spec-digest";
pub(crate) const HEARTBEAT: &str = "heartbeat";

/// The selector of the owner Jobs of all gateways.
pub fn owner_selector() -> String {
    format!("{PREFIX}{MODE}=owner")
}

/// The selector of one owner's pods.
pub fn pods_of_owner(owner: OwnerName) -> String {
    format!("{PREFIX}{OWNER}={owner}")
}

/// The spec of every pod of a configuration, completed: what the operator wrote, with what must be so.
fn spec(settings: &Settings) -> Map<String, Value> {
    let mut spec = settings.spec.clone();
    // P6: no token of the cluster's in the hands of whoever logs in.
    spec.insert("automountServiceAccountToken".to_owned(), json!(false));
    spec.insert("restartPolicy".to_owned(), json!("Never"));
    spec.entry("enableServiceLinks").or_insert(json!(false));
    let own = spec.get("activeDeadlineSeconds").and_then(Value::as_u64);
    let limit = settings.limits.total_seconds.map(u64::from);
    // P1: fixed at creation, since it can only be shortened afterwards.
    if let Some(seconds) = own.into_iter().chain(limit).min() {
        spec.insert("activeDeadlineSeconds".to_owned(), json!(seconds));
    }
    let command: Vec<String> = settings.idle_command.iter().map(|word| escape_pod_argument(word)).collect();
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten();
    for container in containers.filter_map(Value::as_object_mut) {
        if container.get("name").and_then(Value::as_str) == Some(&settings.container) {
            container.insert("command".to_owned(), json!(command));
            container.remove("args");
        }
    }
    spec
}

/// Digest of the spec that pods of this configuration are created with, in hex. Members are in the order of their names.
pub fn spec_digest(settings: &Settings) -> String {
    let bytes = Value::Object(spec(settings)).to_string();
    Sha256::digest(bytes.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Marks that every pod of a connection carries.
fn marks<'a>(who: &Who, metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Marks, MetadataTooLarge> {
    let marks = Marks::new().with_metadata(metadata)?;
    Ok(marks
        .label(PRINCIPAL, &who.principal)
        .label("user", &who.user)
        .annotation(PRINCIPAL, &*who.principal)
        .annotation("user", &*who.user)
        .annotation("address", &*who.address))
}

/// The pod of a record, as it is sent to be created.
///
/// # Errors
/// [`MetadataTooLarge`] where the metadata that authentication gave is more than a pod can carry.
pub fn pod_manifest<'a>(
    settings: &Settings,
    record: &PodRecord,
    metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Value, MetadataTooLarge> {
    let marks = marks(&record.who, metadata)?
        .own_name(CONNECTION, &record.connection)
        .own_name(MODE, &"pod")
        .own_name(OWNER, &record.owner.name)
        .annotation(NONCE, record.nonce.to_string())
        .annotation(SPEC, &*record.spec_digest);
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": record.pod.to_string(),
            "namespace": record.namespace,
            "labels": marks.labels(),
            "annotations": marks.annotations(),
            "ownerReferences": [reference(&record.owner)],
        },
        "spec": spec(settings),
    }))
}

fn reference(owner: &OwnerReference) -> Value {
    json!({ "apiVersion": "batch/v1", "kind": "Job", "name": owner.name.to_string(), "uid": owner.uid.as_str() })
}

/// The name of a user's own pod in persistent mode: made from the principal, so that it is found again.
pub fn persistent_name(settings: &Settings, principal: &str) -> String {
    settings.pod_name.clone().unwrap_or_else(|| {
        let digest: String = Sha256::digest(principal.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("toehold-user-{digest}")
    })
}

/// A persistent pod, as it is sent to be created. It has no owner: it stays until somebody deletes it or its time is over.
///
/// # Errors
/// [`MetadataTooLarge`] where the metadata that authentication gave is more than a pod can carry.
pub fn persistent_manifest<'a>(
    settings: &Settings,
    who: &Who,
    metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Value, MetadataTooLarge> {
    let marks = marks(who, metadata)?.own_name(MODE, &"persistent").annotation(SPEC, spec_digest(settings));
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": persistent_name(settings, &who.principal),
            "namespace": settings.namespace,
            "labels": marks.labels(),
            "annotations": marks.annotations(),
        },
        "spec": spec(settings),
    }))
}

/// Whether a persistent pod may be entered by this principal: it is theirs in full, or the operator named it for all (P4).
pub fn may_enter(settings: &Settings, pod: &PodSnapshot, principal: &str) -> bool {
    settings.pod_name.as_ref().is_some_and(|name| *name == pod.name) || annotation(pod, PRINCIPAL) == Some(principal)
}

/// Whether a persistent pod is provably one that a gateway has made for this principal alone, so that it may be replaced once it is over. One
/// that the operator named for all is not, nor is one that somebody else has made or taken over, whoever may enter it.
pub fn may_replace(settings: &Settings, pod: &PodSnapshot, principal: &str) -> bool {
    let labels = pod.object.pointer("/metadata/labels");
    let label = |name: &str| labels.and_then(|labels| labels.get(format!("{PREFIX}{name}"))).and_then(Value::as_str);
    let owners = pod.object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    settings.pod_name.is_none()
        && pod.name == persistent_name(settings, principal)
        && annotation(pod, PRINCIPAL) == Some(principal)
        && label(PRINCIPAL) == Some(LabelValue::encode(principal).as_str())
        && label(MODE) == Some("persistent")
        && annotation(pod, SPEC).is_some()
        && owners.is_none_or(Vec::is_empty)
}

/// An owner of pods: an empty Job that ends by itself `lapse_seconds` after its start unless a living gateway extends it (P1). It
/// runs nothing, and it never counts as completed, for clean-up tools delete Jobs that do.
pub fn owner_manifest(name: OwnerName, namespace: &str, lapse_seconds: u64, heartbeat: u64) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name.to_string(),
            "namespace": namespace,
            "labels": { format!("{PREFIX}{MODE}"): "owner" },
            "annotations": { format!("{PREFIX}{HEARTBEAT}"): heartbeat.to_string() },
        },
        "spec": {
            "parallelism": 0,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 0,
            "activeDeadlineSeconds": lapse_seconds,
            "template": {
                "metadata": { "labels": { format!("{PREFIX}{MODE}"): "none" } },
                "spec": {
                    "automountServiceAccountToken": false,
                    "restartPolicy": "Never",
                    "containers": [{ "name": "none", "image": "none.invalid/never-run" }],
                },
            },
        },
    })
}

/// The merge patch (RFC 7386) that extends an owner, if it still has this UID.
pub fn owner_extension(uid: &Uid, deadline_seconds: u64, heartbeat: u64) -> Value {
    json!({
        "metadata": { "uid": uid.as_str(), "annotations": { format!("{PREFIX}{HEARTBEAT}"): heartbeat.to_string() } },
        "spec": { "activeDeadlineSeconds": deadline_seconds },
    })
}

/// Whose a pod of a recorded name is (P3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Created from this record: nonce, owner and spec are those of it.
    Ours,
    /// Created from this record, and changed since, or by somebody on the way: not to be worked in, but ours to delete.
    OursAltered,
    /// Not provably ours. Not to be worked in, not to be deleted.
    Foreign,
}

/// Compares a pod with the record of its name.
pub fn identify(record: &PodRecord, manifest: &Value, pod: &PodSnapshot) -> Identity {
    let owned = is_owned_by(pod, &record.owner.uid);
    let nonce = annotation(pod, NONCE) == Some(record.nonce.to_string().as_str());
    if pod.name != record.pod.to_string() || !owned || !nonce {
        return Identity::Foreign;
    }
    let digest = annotation(pod, SPEC) == Some(record.spec_digest.as_str());
    if digest && same_spec(manifest.get("spec"), pod.object.get("spec")) { Identity::Ours } else { Identity::OursAltered }
}

/// Whether a pod goes with this owner.
pub(crate) fn is_owned_by(pod: &PodSnapshot, owner: &Uid) -> bool {
    let owners = pod.object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    owners.into_iter().any(|reference| reference.get("uid").and_then(Value::as_str) == Some(owner.as_str()))
}

/// Whether the spec in the cluster is the one that was sent. The server adds defaults and writes quantities its own way; what
/// must not differ is what can be changed on a live pod or would change who reads what goes in: the containers, their images and
/// commands, the host's namespaces, the account, the volumes.
fn same_spec(sent: Option<&Value>, found: Option<&Value>) -> bool {
    let (Some(sent), Some(found)) = (sent, found) else { return false };
    let list = |spec: &'_ Value, member: &str| spec.get(member).and_then(Value::as_array).cloned().unwrap_or_default();
    let same_containers = |member: &str| {
        let (sent, found) = (list(sent, member), list(found, member));
        let alike = |a: &Value, b: &Value| ["name", "image", "command", "args"].iter().all(|part| a.get(part) == b.get(part));
        sent.len() == found.len() && sent.iter().zip(&found).all(|(a, b)| alike(a, b))
    };
    let same = |member: &str| {
        let plain = |value: Option<&Value>| value.filter(|value| **value != json!(false)).cloned();
        plain(sent.get(member)) == plain(found.get(member))
    };
    let names = |spec: &Value| -> Vec<Value> { list(spec, "volumes").iter().filter_map(|v| v.get("name").cloned()).collect() };
    same_containers("containers")
        && same_containers("initContainers")
        && ["hostNetwork", "hostPID", "hostIPC", "automountServiceAccountToken"].iter().all(|member| same(member))
        && sent.get("serviceAccountName").is_none_or(|name| found.get("serviceAccountName") == Some(name))
        && names(sent) == names(found)
        && list(found, "ephemeralContainers").is_empty()
}

pub(crate) fn annotation<'a>(pod: &'a PodSnapshot, name: &str) -> Option<&'a str> {
    object_annotation(&pod.object, name)
}

pub(crate) fn object_annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(format!("{PREFIX}{name}"))?.as_str()
}

/// The selector of the pods of one principal, for `ls`. Labels are injective; the full name stands in the annotation.
pub fn pods_of_principal(principal: &str) -> String {
    format!("{PREFIX}{PRINCIPAL}={}", LabelValue::encode(principal))
}
