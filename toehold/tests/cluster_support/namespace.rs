//! A namespace for one test.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Cluster;
use super::kubectl::{Kubectl, kubectl};

/// A namespace with a name of its own, in which pods can be made; deleted, with all that is in it, when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Namespace {
    pub fn create(cluster: &Cluster) -> Self {
        let name = format!("toehold-test-{:016x}", getrandom::u64().unwrap());
        kubectl(cluster, ["create", "namespace", &name]).text();
        let namespace = Self { cluster: cluster.clone(), name };
        // Until the controllers have made it, every pod is refused.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !namespace.kubectl(["get", "serviceaccount", "default"]).output().status.success() {
            assert!(Instant::now() < deadline, "{} got no service account", namespace.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kubectl` with these arguments, in this namespace.
    pub fn kubectl<'a>(&'a self, arguments: impl IntoIterator<Item = &'a str>) -> Kubectl {
        kubectl(&self.cluster, ["--namespace", self.name.as_str()].into_iter().chain(arguments))
    }

    /// Runs a command in a pod of its own to its end: what it printed, or how it ended where that is not with 0 (the pod's
    /// `terminated` state).
    pub fn run(&self, pod: &str, image: &str, command: &[&str]) -> Result<String, Value> {
        let arguments = ["run", pod, "--image", image, "--restart=Never", "--quiet", "--command", "--"];
        self.kubectl(arguments.into_iter().chain(command.iter().copied())).text();
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let status = &self.kubectl(["get", "pod", pod]).json()["status"];
            let ended = &status["containerStatuses"][0]["state"]["terminated"];
            if ended["exitCode"] == 0 {
                return Ok(self.kubectl(["logs", pod]).text());
            }
            if !ended.is_null() {
                return Err(ended.clone());
            }
            assert!(Instant::now() < deadline, "{pod} does not end: {status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cluster does the rest, and where it is gone, so is the namespace.
        let deleted = kubectl(&self.cluster, ["delete", "namespace", &self.name, "--wait=false"]).output();
        if !deleted.status.success() {
            eprintln!("{} was not deleted: {}", self.name, String::from_utf8_lossy(&deleted.stderr));
        }
    }
}
