//! What the backend promises to `toehold_podrun`, on the real thing.

use rand_chacha::rand_core::SeedableRng as _;
use serde_json::{Value, json};
use toehold::adapters::kube_pods::{KubeOutput, KubePods};
use toehold_podrun::backend::{
    ExecRequest, Output, PodBackend, PodChange, PodWatch as _, Preconditions, ProcessInput as _, ProcessOutput as _,
};
use toehold_podrun::config::Kubeconfig;
use toehold_podrun::exec::{Outcome, TerminalSize};
use toehold_podrun::kubernetes::{Availability, FailureKind, PodSnapshot};
use toehold_podrun::pod::owner_manifest;
use toehold_podrun::{OwnerName, Uid};

use crate::cluster_support::kubectl;
use crate::ground::Ground;

async fn backend(ground: &Ground) -> KubePods {
    let access = Kubeconfig::parse(&ground.kubeconfig().to_string()).unwrap().access(None, std::path::Path::new("/")).unwrap();
    KubePods::connect(&access).await.unwrap()
}

fn manifest(ground: &Ground, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": ground.namespace().name(), "labels": { "of": "test" } },
        "spec": {
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "shell", "image": ground.cluster().images.busybox, "command": ["/bin/sleep", "3600"] }],
        },
    })
}

fn only(uid: &Uid, version: Option<&str>) -> Preconditions {
    Preconditions { uid: uid.clone(), resource_version: version.map(str::to_owned) }
}

/// Waits until it can be worked in.
async fn ready(pods: &KubePods, ground: &Ground, name: &str) -> PodSnapshot {
    let mut watch = pods.watch(ground.namespace().name(), name).await.unwrap();
    loop {
        match watch.changed().await.unwrap() {
            PodChange::State(pod) if pod.availability("shell") == Availability::Ready => return pod,
            PodChange::State(pod) => assert_eq!(pod.availability("shell"), Availability::Pending, "{pod:?}"),
            PodChange::Gone => panic!("gone"),
        }
    }
}

#[tokio::test]
async fn a_name_is_taken_once_and_what_is_deleted_is_what_was_meant() {
    let ground = Ground::new();
    let (pods, namespace) = (backend(&ground).await, ground.namespace().name());
    let made = pods.create(namespace, &manifest(&ground, "one")).await.unwrap();
    assert!(pods.create(namespace, &manifest(&ground, "one")).await.unwrap_err().is(FailureKind::AlreadyExists));
    assert_eq!(pods.get(namespace, "one").await.unwrap().unwrap().uid, made.uid);
    assert_eq!(pods.get(namespace, "two").await.unwrap(), None);
    assert_eq!(pods.list(namespace, "of=test").await.unwrap().len(), 1);
    assert_eq!(pods.list(namespace, "of=nothing").await.unwrap(), []);
    let other: Uid = "00000000-0000-0000-0000-000000000000".parse().unwrap();
    assert!(!pods.delete(namespace, "one", &only(&other, None)).await.unwrap());
    assert!(!pods.delete(namespace, "one", &only(&made.uid, Some("1"))).await.unwrap());
    assert!(!pods.delete(namespace, "two", &only(&made.uid, None)).await.unwrap());
    assert_eq!(pods.get(namespace, "one").await.unwrap().unwrap().uid, made.uid);
    assert!(pods.delete(namespace, "one", &only(&made.uid, None)).await.unwrap());
}

#[tokio::test]
async fn an_owner_is_extended_by_its_uid_alone() {
    let ground = Ground::new();
    let (pods, namespace) = (backend(&ground).await, ground.namespace().name());
    let name: OwnerName = OwnerName::generate(&mut rand_chacha::ChaCha20Rng::seed_from_u64(1));
    let made = pods.create_owner(namespace, &owner_manifest(name, namespace, 600, 0)).await.unwrap();
    let extended = pods.extend_owner(namespace, name, &made.uid, 700, 1).await.unwrap().unwrap();
    assert_eq!((extended.heartbeat, &extended.uid), (1, &made.uid));
    assert_ne!(extended.resource_version, made.resource_version);
    let job = ground.namespace().kubectl(["get", "job", &name.to_string()]).json();
    assert_eq!(job["spec"]["activeDeadlineSeconds"], 700);
    assert_eq!(pods.list_owners(namespace).await.unwrap().len(), 1);
    let other: Uid = "00000000-0000-0000-0000-000000000000".parse().unwrap();
    assert_eq!(pods.extend_owner(namespace, name, &other, 800, 2).await.unwrap(), None);
    // Nobody but whoever saw its last change deletes it.
    assert!(!pods.delete_owner(namespace, name, &only(&made.uid, Some(&made.resource_version))).await.unwrap());
    assert!(!pods.delete_owner(namespace, name, &only(&other, None)).await.unwrap());
    assert!(pods.delete_owner(namespace, name, &only(&made.uid, None)).await.unwrap());
    assert_eq!(pods.extend_owner(namespace, name, &made.uid, 800, 2).await.unwrap(), None);
    assert_eq!(pods.list_owners(namespace).await.unwrap(), []);
}

#[tokio::test]
async fn a_watch_tells_of_the_start_the_changes_and_the_end() {
    let ground = Ground::new();
    let (pods, namespace) = (backend(&ground).await, ground.namespace().name());
    let mut watch = pods.watch(namespace, "one").await.unwrap();
    assert_eq!(watch.changed().await.unwrap(), PodChange::Gone);
    let made = pods.create(namespace, &manifest(&ground, "one")).await.unwrap();
    // One from a version that is long gone begins anew by itself.
    let mut stale = pods.watch_from_for_test(namespace, "one", "1");
    for watch in [&mut watch, &mut stale] {
        loop {
            // Another pod of the namespace is nobody's business.
            let PodChange::State(pod) = watch.changed().await.unwrap() else { panic!("gone") };
            assert_eq!(pod.uid, made.uid);
            if pod.availability("shell") == Availability::Ready {
                break;
            }
        }
    }
    assert!(pods.delete(namespace, "one", &only(&made.uid, None)).await.unwrap());
    for watch in [&mut watch, &mut stale] {
        while watch.changed().await.unwrap() != PodChange::Gone {}
    }
}

#[tokio::test]
async fn p4_a_process_is_started_in_the_pod_that_is_meant_and_in_no_other_of_its_name() {
    let ground = Ground::new();
    let (pods, namespace) = (backend(&ground).await, ground.namespace().name());
    pods.create(namespace, &manifest(&ground, "one")).await.unwrap();
    let pod = ready(&pods, &ground, "one").await;
    let mut request = ExecRequest {
        namespace: namespace.to_owned(),
        pod: "one".to_owned(),
        uid: "00000000-0000-0000-0000-000000000000".parse().unwrap(),
        container: "shell".to_owned(),
        command: Some(["/bin/touch", "/begun"].map(str::to_owned).to_vec()),
        terminal: None,
    };
    assert!(pods.exec(&request).await.unwrap_err().is(FailureKind::NotFound));
    request.uid = pod.uid.clone();
    request.command = Some(["/bin/sh", "-c", "ls /begun; cat; exit 7"].map(str::to_owned).to_vec());
    let (mut input, mut output) = pods.exec(&request).await.unwrap();
    input.write(b"through").await.unwrap();
    assert!(input.close().await.unwrap(), "v5 closes stdin");
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let outcome = loop {
        match output.next().await {
            Output::Stdout(piece) => stdout.extend_from_slice(&piece),
            Output::Stderr(piece) => stderr.extend_from_slice(&piece),
            Output::Closed => panic!("an API server does not say that"),
            Output::Ended(outcome) => break outcome,
        }
    };
    assert_eq!((outcome, stdout.as_slice()), (Outcome::Exited(7), &b"through"[..]));
    assert!(String::from_utf8_lossy(&stderr).contains("No such file"), "the first was not begun");
    // A container that is not there, a pod that is gone.
    let wrong = ExecRequest { container: "other".to_owned(), ..request.clone() };
    assert!(pods.exec(&wrong).await.unwrap_err().refusal().is_some());
    pods.delete(namespace, "one", &only(&pod.uid, None)).await.unwrap();
    let mut watch = pods.watch(namespace, "one").await.unwrap();
    while watch.changed().await.unwrap() != PodChange::Gone {}
    assert!(pods.exec(&request).await.unwrap_err().is(FailureKind::NotFound));
}

/// What comes out until this is in it.
async fn until(output: &mut KubeOutput, wanted: &str) -> String {
    let mut all = String::new();
    while !all.contains(wanted) {
        match output.next().await {
            Output::Stdout(piece) | Output::Stderr(piece) => all.push_str(std::str::from_utf8(&piece).unwrap()),
            Output::Closed => panic!("an API server does not say that"),
            Output::Ended(outcome) => panic!("{outcome:?}: {all}"),
        }
    }
    all
}

/// Without a command it is the pod's first process that is talked to. A gateway does not do that, and is not allowed to; the administrator is.
#[tokio::test]
async fn the_first_process_of_a_pod_can_be_attached_to() {
    let ground = Ground::new();
    let config = kubectl(ground.cluster(), ["config", "view", "--raw", "--minify", "--flatten"]).json();
    let access = Kubeconfig::parse(&config.to_string()).unwrap().access(None, std::path::Path::new("/")).unwrap();
    let (pods, namespace) = (KubePods::connect(&access).await.unwrap(), ground.namespace().name());
    for terminal in [None, Some(TerminalSize { columns: 91, rows: 31 })] {
        let name = if terminal.is_some() { "with-a-terminal" } else { "without-one" };
        let mut manifest = manifest(&ground, name);
        let container = &mut manifest["spec"]["containers"][0];
        let script = "while read -r word; do case $word in size) stty size ;; err) echo err >&2 ;; end) exit 9 ;; *) echo got $word ;; esac; done";
        container["command"] = json!(["/bin/sh", "-c", script]);
        container["stdin"] = json!(true);
        container["tty"] = json!(terminal.is_some());
        pods.create(namespace, &manifest).await.unwrap();
        let pod = ready(&pods, &ground, name).await;
        let request = ExecRequest {
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            uid: pod.uid.clone(),
            container: "shell".to_owned(),
            command: None,
            terminal,
        };
        let (mut input, mut output) = pods.exec(&request).await.unwrap();
        input.write(b"word\n").await.unwrap();
        until(&mut output, "got word").await;
        input.write(b"err\n").await.unwrap();
        until(&mut output, "err").await;
        if terminal.is_some() {
            input.write(b"size\n").await.unwrap();
            until(&mut output, "31 91").await;
            input.resize(TerminalSize { columns: 92, rows: 32 }).await.unwrap();
            // The size is there when it is there.
            let changed = async {
                loop {
                    input.write(b"size\n").await.unwrap();
                    if until(&mut output, " 9").await.contains("32 9") {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(60), changed).await.unwrap();
        }
        input.write(b"end\n").await.unwrap();
        // Whoever attaches is told of the end of the stream; how the process ended, the pod tells.
        while !matches!(output.next().await, Output::Ended(_)) {}
        let mut watch = pods.watch(namespace, name).await.unwrap();
        loop {
            let PodChange::State(pod) = watch.changed().await.unwrap() else { panic!("gone") };
            if let Availability::Ended(trouble) | Availability::Failed(trouble) = pod.availability("shell") {
                assert!(trouble.words.contains("exit code 9"), "{trouble:?}");
                break;
            }
        }
        let uid = pods.get(namespace, name).await.unwrap().unwrap().uid;
        assert!(pods.delete(namespace, name, &only(&uid, None)).await.unwrap());
    }
}
