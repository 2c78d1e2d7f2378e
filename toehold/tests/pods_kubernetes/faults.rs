//! A fault of the program while it looks after a pod: the pod does not wait for the end of the gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh::client;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use russh::{ChannelMsg, Disconnect};
use serde_json::{Value, json};
use toehold::adapters::kube_pods::{KubeInput, KubeOutput, KubePods, KubeWatch};
use toehold::adapters::sqlite::SqliteStore;
use toehold::cli::Signals;
use toehold::gateway::LimitOptions;
use toehold::pods::authentication::AuthenticationError;
use toehold::pods::{Admission, Applicant, Authenticator, ServeOptions, serve};
use toehold_podrun::backend::{BackendError, ExecRequest, OwnerSnapshot, PodBackend, Preconditions};
use toehold_podrun::config::{Config, Kubeconfig};
use toehold_podrun::kubernetes::PodSnapshot;
use toehold_podrun::{OwnerName, Uid};
use tokio::sync::oneshot;

use crate::ground::Ground;
use crate::raw::Anybody;

/// The cluster, by a program with a fault: whoever watches a pod runs into it once, when the pod is there already.
#[derive(Clone)]
struct Faulty {
    pods: KubePods,
    is_armed: Arc<AtomicBool>,
}

impl PodBackend for Faulty {
    type Watch = KubeWatch;
    type Input = KubeInput;
    type Output = KubeOutput;

    fn cluster(&self) -> &str {
        self.pods.cluster()
    }

    async fn create(&self, namespace: &str, manifest: &Value) -> Result<PodSnapshot, BackendError> {
        self.pods.create(namespace, manifest).await
    }

    async fn get(&self, namespace: &str, name: &str) -> Result<Option<PodSnapshot>, BackendError> {
        self.pods.get(namespace, name).await
    }

    async fn watch(&self, namespace: &str, name: &str) -> Result<KubeWatch, BackendError> {
        assert!(!self.is_armed.swap(false, Ordering::SeqCst), "on purpose");
        self.pods.watch(namespace, name).await
    }

    async fn delete(&self, namespace: &str, name: &str, preconditions: &Preconditions) -> Result<bool, BackendError> {
        self.pods.delete(namespace, name, preconditions).await
    }

    async fn list(&self, namespace: &str, selector: &str) -> Result<Vec<PodSnapshot>, BackendError> {
        self.pods.list(namespace, selector).await
    }

    async fn exec(&self, request: &ExecRequest) -> Result<(KubeInput, KubeOutput), BackendError> {
        self.pods.exec(request).await
    }

    async fn create_owner(&self, namespace: &str, manifest: &Value) -> Result<OwnerSnapshot, BackendError> {
        self.pods.create_owner(namespace, manifest).await
    }

    async fn extend_owner(
        &self,
        namespace: &str,
        name: OwnerName,
        uid: &Uid,
        deadline_seconds: u64,
        heartbeat: u64,
    ) -> Result<Option<OwnerSnapshot>, BackendError> {
        self.pods.extend_owner(namespace, name, uid, deadline_seconds, heartbeat).await
    }

    async fn delete_owner(&self, namespace: &str, name: OwnerName, preconditions: &Preconditions) -> Result<bool, BackendError> {
        self.pods.delete_owner(namespace, name, preconditions).await
    }

    async fn list_owners(&self, namespace: &str) -> Result<Vec<OwnerSnapshot>, BackendError> {
        self.pods.list_owners(namespace).await
    }
}

struct Everybody;

impl Authenticator for Everybody {
    async fn admit(&self, applicant: Applicant<'_>) -> Result<Option<Admission>, AuthenticationError> {
        let principal = applicant.user.to_owned();
        Ok(Some(Admission { principal, command: None, terminal: true, metadata: Arc::default() }))
    }
}

#[tokio::test]
async fn p1_a_panic_beside_a_pod_ends_that_pod_and_no_other() {
    let ground = Ground::new();
    let directory = crate::support::server::directory("faults");
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let options = ServeOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics: None,
        limits: LimitOptions::default(),
        channels: 10,
        keep_alive: Duration::from_secs(15),
        keep_alive_count: 3,
        drain: Duration::ZERO,
        audit_writer: None,
    };
    let mut config = Ground::image(&ground.cluster().images.busybox);
    config["pod"]["namespace"] = json!(ground.namespace().name());
    let mut settings = Config::parse(&config.to_string()).unwrap().validate().unwrap();
    let kubeconfig = Kubeconfig::parse(&ground.kubeconfig().to_string()).unwrap();
    settings.cluster = kubeconfig.access(None, std::path::Path::new("/")).unwrap();
    let is_armed = Arc::new(AtomicBool::new(false));
    let backend = Faulty { pods: KubePods::connect(&settings.cluster).await.unwrap(), is_armed: Arc::clone(&is_armed) };
    let store = SqliteStore::create(directory.path()).unwrap();
    let (announced, announcement) = oneshot::channel();
    let announce = |announcement| drop(announced.send(announcement));
    let (signals, path) = (Signals::listen().unwrap(), directory.path().to_owned());
    let serving =
        tokio::spawn(async move { serve(options, settings, backend, Everybody, store, &path, announce, signals).await.unwrap() });
    let listening = announcement.await.unwrap().listening;
    crate::support::keys::ssh_keygen(&directory.path().join("key"), &["-t", "ed25519"]);
    let key = Arc::new(PrivateKey::from_openssh(std::fs::read(directory.path().join("key")).unwrap()).unwrap());
    // Somebody is there before.
    let handle = log_in(listening, &key).await;
    let mut good = handle.channel_open_session().await.unwrap();
    good.exec(true, "echo begun; cat; echo bye").await.unwrap();
    crate::raw::until_output(&mut good, b"begun\n").await;
    is_armed.store(true, Ordering::SeqCst);
    let unlucky = log_in(listening, &key).await;
    let mut channel = unlucky.channel_open_session().await.unwrap();
    channel.exec(true, "true").await.unwrap();
    let mut said = String::new();
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::ExtendedData { data, .. } = message {
            said.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
    assert!(said.contains("the gateway has lost track of the pod"), "{said}");
    assert!(!is_armed.load(Ordering::SeqCst));
    let left = ground.clone();
    let records = directory.path().to_owned();
    tokio::task::spawn_blocking(move || {
        crate::support::eventually("the end of that pod", || left.pods().len() == 1);
        crate::support::eventually("the end of its record", || {
            crate::support::store::keys_in(&records).iter().filter(|key| key.starts_with("pod/")).count() == 1
        });
    })
    .await
    .unwrap();
    good.eof().await.unwrap();
    crate::raw::until_output(&mut good, b"bye\n").await;
    drop(unlucky);
    handle.disconnect(Disconnect::ByApplication, "", "").await.unwrap();
    tokio::task::spawn_blocking(move || crate::support::eventually("the end of all pods", || ground.pods().is_empty()))
        .await
        .unwrap();
    serving.abort();
}

async fn log_in(listening: SocketAddr, key: &Arc<PrivateKey>) -> client::Handle<Anybody> {
    let mut handle = client::connect(Arc::default(), listening, Anybody).await.unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
    assert!(handle.authenticate_publickey("anybody", key).await.unwrap().success());
    handle
}
