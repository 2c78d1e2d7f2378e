//! Pods on this machine, for trying it out and for tests: each a tree of processes with a directory of its own. They isolate nothing:
//! whoever works in one may do what the gateway's user may do (P5).
//!
//! The first process of a pod is our own program under another name. Everything in the pod is below it, also what has left its
//! session; it ends with its connection to the gateway, however that ends, and all of it ends with it.

mod files;
mod first_process;
mod owners;
mod pod;
mod processes;
mod streams;
pub mod throw_away;
mod watching;
mod wire;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use toehold_core::{Clock as _, Timestamp};
use toehold_podrun::backend::{BackendError, ExecRequest, OwnerSnapshot, PodBackend, Preconditions};
use toehold_podrun::kubernetes::{ApiFailure, FailureKind, PodSnapshot};
use toehold_podrun::{OwnerName, Uid};

pub use first_process::stage;
pub use streams::{LocalInput, LocalOutput};
pub use watching::LocalWatch;

use crate::adapters::system_clock::SystemClock;

use owners::Owners;
use pod::{Pod, Standing};

const OBJECT: &str = "pod.json";
const HOME: &str = "home";
const CLUSTER: &str = "cluster";
const MAX_CLUSTER: usize = 256;
const FIRST_PROCESS: &str = "first-process";

/// How old a directory without an object is at least that nobody is about to finish.
const UNFINISHED: Duration = Duration::from_secs(60);

/// Stands in the environment of every process of a pod, with its name.
pub(crate) const MARK: &str = "TOEHOLD_POD";
/// The same with its UID: pods of other state directories may have the same name.
const UID_MARK: &str = "TOEHOLD_POD_UID";

/// The pods below a directory.
#[derive(Clone, Debug)]
pub struct LocalPods(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What tells this directory from others that are worked with from the same store.
    cluster: String,
    pods: PathBuf,
    owners: Owners,
    running: Mutex<HashMap<String, Arc<Pod>>>,
    /// Held while a pod that stays is made, started or removed: others come to have its name, or want it at the same time.
    staying: tokio::sync::Mutex<()>,
}

fn refused(doing: &str, kind: FailureKind, code: u16, message: &str) -> BackendError {
    BackendError::Refused { doing: doing.to_owned(), failure: ApiFailure::new(kind, code, message) }
}

/// What the system refuses is no passing trouble of a cluster's.
fn failed(doing: &str) -> impl FnOnce(io::Error) -> BackendError + use<'_> {
    move |error| refused(doing, FailureKind::Other, 500, &error.to_string())
}

fn random_uid() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// The name of what is in this directory; made at the first look. Machines with the same path, and one store between them, have two.
fn cluster(directory: &Path) -> io::Result<String> {
    let path = directory.join(CLUSTER);
    let read = || crate::private::read(&path, MAX_CLUSTER).map_err(io::Error::other);
    let found = match read()? {
        Some(found) => Some(found),
        None => {
            // Of two that begin at once, both take what the first has written.
            crate::private::write_new(&path, random_uid()?.as_bytes()).map_err(io::Error::other)?;
            read()?
        }
    };
    let id = found.ok_or(io::ErrorKind::NotFound)?;
    Ok(format!("local pods {}", String::from_utf8_lossy(&id)))
}

/// When a pod's time is over (`activeDeadlineSeconds`), if ever.
fn deadline(object: &Value) -> Option<Timestamp> {
    let seconds = object.pointer("/spec/activeDeadlineSeconds")?.as_u64()?;
    let started: Timestamp = serde_json::from_value(object.pointer("/status/startTime")?.clone()).ok()?;
    Some(started.saturating_add(Duration::from_secs(seconds)))
}

/// Whether a pod stays when the connection that it was made for is gone.
fn stays(object: &Value) -> bool {
    object.pointer("/metadata/ownerReferences").is_none()
}

/// A pod's name that is a file's name too (RFC 1123 allows nothing that could lead elsewhere).
fn is_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.len() <= 253 && !name.starts_with('.') && name.bytes().all(inside)
}

impl LocalPods {
    /// Those below this directory, which is a throw-away one.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let (pods, owners) = (directory.join("pods"), directory.join("owners"));
        for directory in [&pods, &owners] {
            crate::private::create_directory(directory).map_err(io::Error::other)?;
        }
        let owners = Owners::in_directory(owners);
        let (running, staying) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self(Arc::new(Inner { cluster: cluster(directory)?, pods, owners, running, staying })))
    }

    /// The SFTP server that pods can run: our own program under another name, as a word for a shell.
    ///
    /// # Errors
    /// What the system says.
    pub fn sftp_server(&self) -> io::Result<String> {
        let directory = self.0.pods.with_file_name("bin");
        crate::private::create_directory(&directory).map_err(io::Error::other)?;
        let path = directory.join(first_process::FILES);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(std::env::current_exe()?, &path)?;
        Ok(shell_words::quote(&path.to_string_lossy()).into_owned())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.0.pods.join(name)
    }

    /// What is on record of a pod; `None` where there is none.
    fn read(&self, name: &str) -> io::Result<Option<PodSnapshot>> {
        if !is_name(name) {
            return Ok(None);
        }
        let text = match fs::read_to_string(self.directory(name).join(OBJECT)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut object: Value = serde_json::from_str(&text)?;
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let running = self.running().get(name).filter(|pod| pod.uid.as_str() == uid).cloned();
        let standing = running.as_ref().map_or(Standing::Running, |pod| *pod.standing().borrow());
        let is_deleted = running.is_some_and(|pod| pod.is_deleted());
        let is_overdue = standing == Standing::Overdue || deadline(&object).is_some_and(|deadline| deadline <= SystemClock.now());
        let mut set = |pointer: &str, name: &str, value: Value| {
            if let Some(members) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
                members.insert(name.to_owned(), value);
            }
        };
        if is_overdue {
            // As the kubelet says it.
            set("", "status", json!({ "phase": "Failed", "reason": "DeadlineExceeded" }));
        }
        if is_deleted || !is_overdue && standing != Standing::Running {
            set("/metadata", "deletionTimestamp", json!(SystemClock.now()));
        }
        PodSnapshot::from_object(object).map(Some).map_err(io::Error::other)
    }

    fn all(&self) -> io::Result<Vec<PodSnapshot>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0.pods)? {
            if let Some(name) = entry?.file_name().to_str()
                && let Some(pod) = self.read(name)?
            {
                found.push(pod);
            }
        }
        Ok(found)
    }

    fn make(&self, manifest: &Value) -> Result<PodSnapshot, BackendError> {
        const DOING: &str = "creating a pod";
        let name = manifest.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !is_name(&name) {
            return Err(refused(DOING, FailureKind::Invalid, 422, "a pod's name cannot be like this"));
        }
        let directory = self.directory(&name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(refused(DOING, FailureKind::AlreadyExists, 409, &format!("pods \"{name}\" already exists")));
            }
            made => made.map_err(failed(DOING))?,
        }
        let write = || {
            let mut object = manifest.clone();
            let now = SystemClock.now();
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("uid".to_owned(), json!(random_uid()?));
                metadata.insert("resourceVersion".to_owned(), json!("1"));
                metadata.insert("creationTimestamp".to_owned(), json!(now));
            }
            if let Some(object) = object.as_object_mut() {
                let conditions = json!([{ "type": "PodScheduled", "status": "True" }, { "type": "Ready", "status": "True" }]);
                object.insert("status".to_owned(), json!({ "phase": "Running", "startTime": now, "conditions": conditions }));
            }
            fs::create_dir(directory.join(HOME))?;
            let staged = directory.join(".new");
            fs::write(&staged, object.to_string())?;
            fs::rename(staged, directory.join(OBJECT))?;
            PodSnapshot::from_object(object).map_err(io::Error::other)
        };
        write().map_err(|error| {
            // The error that counts is the first one.
            let _ = fs::remove_dir_all(&directory);
            failed(DOING)(error)
        })
    }

    /// Starts the first process of a pod that is on record.
    async fn start(&self, snapshot: &PodSnapshot) -> io::Result<Arc<Pod>> {
        let directory = self.directory(&snapshot.name);
        let stays = stays(&snapshot.object);
        let (pod, mut first) = Pod::start(&snapshot.name, &snapshot.uid, &directory).await?;
        let pod = Arc::new(pod);
        self.running().insert(snapshot.name.clone(), Arc::clone(&pod));
        if let Some(deadline) = deadline(&snapshot.object) {
            let (own, left) = (Arc::clone(&pod), deadline.saturating_since(SystemClock.now()));
            tokio::spawn(async move { own.end_after(left).await });
        }
        let (pods, own) = (self.clone(), Arc::clone(&pod));
        tokio::spawn(async move {
            let has_ended_all = own.follow(&mut first).await;
            loop {
                let (uid, directory) = (own.uid.clone(), directory.clone());
                // What stays, stays without its processes, until somebody deletes it.
                let is_to_go = !stays || own.is_deleted();
                let cleared = tokio::task::spawn_blocking(move || {
                    if !has_ended_all {
                        end_strays(&uid);
                    }
                    if is_to_go { remove(&directory) } else { Ok(()) }
                });
                if let Ok(Err(error)) = cleared.await {
                    tracing::error!("the directory of pod {} cannot be removed: {error}", own.name);
                }
                let mut running = pods.running();
                // It may have been deleted meanwhile.
                if is_to_go || !own.is_deleted() {
                    // Another of that name may be there by now.
                    if running.get(&own.name).is_some_and(|pod| Arc::ptr_eq(pod, &own)) {
                        running.remove(&own.name);
                    }
                    break;
                }
            }
            own.is_gone();
        });
        Ok(pod)
    }

    /// Ends a pod that no gateway of this process runs; `false`: a living gateway runs it, and is about to see its end.
    fn end_other(&self, snapshot: &PodSnapshot) -> io::Result<()> {
        let directory = self.directory(&snapshot.name);
        if let Some(first) = pod::first_process(&directory) {
            first.kill();
        }
        let (living, _) = self.0.owners.list()?;
        let owner = snapshot.object.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str);
        if living.iter().any(|living| Some(living.uid.as_str()) == owner) {
            // Its gateway sees the end, and clears away.
            return Ok(());
        }
        end_strays(&snapshot.uid);
        remove(&directory)
    }

    /// What a cluster does by itself: owners whose gateway has died go, and with them their pods.
    fn collect(&self) -> io::Result<Vec<OwnerSnapshot>> {
        // The pods first: an owner is there before its pods.
        let pods = self.all()?;
        let (living, dead) = self.0.owners.list()?;
        for pod in pods {
            let Some(owner) = pod.object.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str) else { continue };
            if !living.iter().any(|living| living.uid.as_str() == owner) && !self.running().contains_key(&pod.name) {
                self.end_other(&pod)?;
            }
        }
        for owner in dead {
            self.0.owners.remove(owner.name, &owner.uid)?;
        }
        self.clear_unfinished()?;
        Ok(living)
    }
}

impl LocalPods {
    /// Takes away directories whose making was cut short.
    fn clear_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0.pods)? {
            let directory = entry?.path();
            let made = fs::metadata(&directory).and_then(|metadata| metadata.modified());
            let is_old = made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > UNFINISHED));
            if is_old && !directory.join(OBJECT).exists() {
                fs::remove_dir_all(&directory)?;
            }
        }
        Ok(())
    }
}

/// Ends the processes of a pod whose first process did not take them along, since somebody killed it.
fn end_strays(uid: &Uid) {
    processes::end_all_with(&format!("{UID_MARK}={uid}"));
}

fn remove(directory: &Path) -> io::Result<()> {
    // What was still being written may come back once.
    let mut last = Ok(());
    for _ in 0..3 {
        last = match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                make_removable(directory);
                Err(error)
            }
            _ => return Ok(()),
        };
    }
    last
}

/// People may have taken away their own right to change directories.
fn make_removable(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_removable(&entry.path());
        }
    }
}

impl PodBackend for LocalPods {
    type Watch = LocalWatch;
    type Input = LocalInput;
    type Output = LocalOutput;

    fn cluster(&self) -> &str {
        &self.0.cluster
    }

    async fn create(&self, _: &str, manifest: &Value) -> Result<PodSnapshot, BackendError> {
        let _alone = if stays(manifest) { Some(self.0.staying.lock().await) } else { None };
        let snapshot = self.make(manifest)?;
        if let Err(error) = self.start(&snapshot).await {
            let _ = remove(&self.directory(&snapshot.name));
            return Err(failed("starting the first process of a pod")(error));
        }
        Ok(snapshot)
    }

    async fn get(&self, _: &str, name: &str) -> Result<Option<PodSnapshot>, BackendError> {
        self.read(name).map_err(failed("looking for a pod"))
    }

    async fn watch(&self, _: &str, name: &str) -> Result<LocalWatch, BackendError> {
        Ok(LocalWatch::of(self, name))
    }

    async fn delete(&self, _: &str, name: &str, preconditions: &Preconditions) -> Result<bool, BackendError> {
        const DOING: &str = "deleting a pod";
        let read = || -> Result<Option<PodSnapshot>, BackendError> {
            let found = self.read(name).map_err(failed(DOING))?;
            let version = preconditions.resource_version.as_ref();
            Ok(found.filter(|pod| pod.uid == preconditions.uid && version.is_none_or(|version| *version == pod.resource_version)))
        };
        let Some(snapshot) = read()? else { return Ok(false) };
        let _alone = if stays(&snapshot.object) { Some(self.0.staying.lock().await) } else { None };
        // It may have gone meanwhile, and another have come.
        let Some(snapshot) = read()? else { return Ok(false) };
        // Under the lock: whoever sees it end sees that it is deleted.
        let is_running = self.running().get(name).filter(|pod| pod.uid == snapshot.uid).map(|pod| pod.delete()).is_some();
        if !is_running {
            let pods = self.clone();
            let ended = tokio::task::spawn_blocking(move || pods.end_other(&snapshot)).await;
            ended.map_err(io::Error::other).and_then(|ended| ended).map_err(failed(DOING))?;
        }
        Ok(true)
    }

    async fn list(&self, namespace: &str, selector: &str) -> Result<Vec<PodSnapshot>, BackendError> {
        let (key, value) = selector.split_once('=').unwrap_or((selector, ""));
        let mut pods = self.all().map_err(failed("listing the pods"))?;
        pods.retain(|pod| {
            let text = |pointer: &str| pod.object.pointer(pointer).and_then(Value::as_str);
            let label = pod.object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
            text("/metadata/namespace") == Some(namespace) && label == Some(value)
        });
        Ok(pods)
    }

    async fn exec(&self, request: &ExecRequest) -> Result<(LocalInput, LocalOutput), BackendError> {
        const DOING: &str = "starting a process in a pod";
        let not_there = || refused(DOING, FailureKind::NotFound, 404, &format!("pods \"{}\" not found", request.pod));
        let read = || self.read(&request.pod).map_err(failed(DOING))?.filter(|pod| pod.uid == request.uid).ok_or_else(not_there);
        let running = || self.running().get(&request.pod).filter(|pod| pod.uid == request.uid).cloned();
        read()?;
        let pod = match running() {
            Some(pod) => pod,
            None => {
                let _alone = self.0.staying.lock().await;
                let snapshot = read()?;
                match running() {
                    Some(pod) => pod,
                    // One that stays, of a gateway before this one.
                    None => self.start(&snapshot).await.map_err(failed(DOING))?,
                }
            }
        };
        let Some(command) = &request.command else {
            return Err(refused(DOING, FailureKind::BadRequest, 400, "a local pod's first process cannot be attached to"));
        };
        pod.exec(command, request.terminal).map_err(failed(DOING))
    }

    async fn create_owner(&self, _: &str, manifest: &Value) -> Result<OwnerSnapshot, BackendError> {
        self.0.owners.create(manifest).map_err(failed("creating the owner"))
    }

    async fn extend_owner(
        &self,
        _: &str,
        name: OwnerName,
        uid: &Uid,
        _: u64,
        heartbeat: u64,
    ) -> Result<Option<OwnerSnapshot>, BackendError> {
        Ok(self.0.owners.extend(name, uid, heartbeat))
    }

    async fn delete_owner(&self, _: &str, name: OwnerName, preconditions: &Preconditions) -> Result<bool, BackendError> {
        self.0.owners.remove(name, &preconditions.uid).map_err(failed("deleting the owner"))
    }

    async fn list_owners(&self, _: &str) -> Result<Vec<OwnerSnapshot>, BackendError> {
        let pods = self.clone();
        let living = tokio::task::spawn_blocking(move || pods.collect()).await;
        living.map_err(io::Error::other).and_then(|living| living).map_err(failed("listing the owners"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_leads_nowhere_else() {
        assert!(is_name("toehold-00000000000000000000000000000abc") && is_name("a.b"));
        for bad in ["", "..", ".a", "a/b", "A", "a\0", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
