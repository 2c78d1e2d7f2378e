//! What pods stand on here: a namespace of a cluster, in which the gateway may do what `pods role` prints, and nothing else.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster_support::{Alone, Cluster, Namespace, Whole, alone, kubectl, whole};
use crate::gateway::file_of;
use crate::support::Toehold;

/// Expands to the pod's name in a shell in it.
pub(crate) const POD_NAME: &str = "$HOSTNAME";

/// How much may be on its way through everything between a client and a process, in bytes: four connections with the kernel's buffers, each
/// of up to 10 MB, each way, and pipes.
pub(crate) const ON_ITS_WAY: usize = 100_000_000;

/// The gateway's service account.
pub(crate) const ACCOUNT: &str = "gateway";

/// A namespace of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Ground(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // First: a cluster that was hurt is mended before anything is deleted in it.
    _held: Held,
    namespace: Namespace,
    /// A kubeconfig for the gateway's service account.
    kubeconfig: Value,
    cluster: Cluster,
}

#[derive(Debug)]
enum Held {
    Whole { _cluster: Whole },
    Alone { _cluster: Alone },
}

/// Tests are of either kind, and a runtime cannot wait within another.
fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let waiting =
        std::thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future));
    waiting.join().unwrap()
}

impl Ground {
    /// On a cluster that is whole.
    pub(crate) fn new() -> Self {
        let held = wait(whole());
        let cluster = Cluster::clone(&held);
        Self::on(cluster, Held::Whole { _cluster: held })
    }

    /// On a cluster that is hurt, by this test alone.
    pub(crate) fn alone() -> Self {
        let held = wait(alone());
        let cluster = Cluster::clone(&held);
        Self::on(cluster, Held::Alone { _cluster: held })
    }

    fn on(cluster: Cluster, held: Held) -> Self {
        let namespace = Namespace::create(&cluster);
        let role = Toehold::bare().run(["pods", "role", "--namespace", namespace.name(), "--service-account", ACCOUNT]).ends(0);
        namespace.kubectl(["apply", "-f", "-"]).input(role.stdout).text();
        let kubeconfig = Self::account(&cluster, &namespace);
        Self(Arc::new(Inner { _held: held, namespace, kubeconfig, cluster }))
    }

    /// Makes the service account, and a kubeconfig for it.
    fn account(cluster: &Cluster, namespace: &Namespace) -> Value {
        namespace.kubectl(["create", "serviceaccount", ACCOUNT]).text();
        let token = namespace.kubectl(["create", "token", ACCOUNT, "--duration", "10h"]).text();
        let mut config = kubectl(cluster, ["config", "view", "--raw", "--minify", "--flatten"]).json();
        config["users"][0]["user"] = json!({ "token": token.trim() });
        config
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// The gateway's own kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Value {
        &self.0.kubeconfig
    }

    /// A pod of this image, as a configuration has it.
    pub(crate) fn image(image: &str) -> Value {
        json!({ "pod": { "podSpec": { "containers": [{ "name": "shell", "image": image }] } } })
    }

    /// With bash, sftp-server, rsync and git.
    pub(crate) fn tools(&self) -> Value {
        Self::image(&self.cluster().images.tools)
    }

    /// The options that say which pods are meant.
    pub(crate) fn options(&self, toehold: &Toehold, config: &Value) -> Vec<String> {
        let mut whole = Self::image(&self.cluster().images.busybox);
        whole["pod"]["namespace"] = json!(self.namespace().name());
        lay_over(&mut whole, config);
        let mut options = vec!["--backend".to_owned(), "kube".to_owned()];
        let mut option = |option: &str, name: &str, content: &Value| {
            let path = file_of(toehold, name);
            std::fs::write(&path, content.to_string()).unwrap();
            options.extend([option.to_owned(), path.to_str().unwrap().to_owned()]);
        };
        option("--config", "config.json", &whole);
        if whole["connection"]["host"].is_null() {
            option("--kubeconfig", "kubeconfig.json", self.kubeconfig());
        }
        options
    }

    /// Whether the cluster has no pod here.
    pub(crate) fn is_empty(&self, _: &Toehold) -> bool {
        self.pods().is_empty()
    }

    /// The pods of this namespace, whoever made them.
    pub(crate) fn pods(&self) -> Vec<Value> {
        self.namespace().kubectl(["get", "pods"]).json()["items"].as_array().unwrap().clone()
    }

    /// Whether a process of the only pod runs that it knows by this number.
    pub(crate) fn is_alive(&self, number: i32) -> bool {
        let look = format!("kill -0 {number} 2>/dev/null && echo alive || echo gone");
        self.namespace().kubectl(["exec", &self.pod(), "--", "/bin/sh", "-c", &look]).text().trim() == "alive"
    }

    /// The name of the only pod.
    pub(crate) fn pod(&self) -> String {
        let pods = self.pods();
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods[0]["metadata"]["name"].as_str().unwrap().to_owned()
    }
}

fn lay_over(below: &mut Value, above: &Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                lay_over(below.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above.clone(),
    }
}
