//! A gateway with pods on a real cluster beside the bare calls to its API for the same: the first byte, bytes a second, and the memory that
//! comes back.
//!
//! Prints `measured NAME VALUE BAR DETAIL` a line, which `cargo xtask bench pods-kubernetes` holds to the bars; that starts a cluster and says
//! in the environment where it is. Without `--bench` and without a cluster there is nothing to do.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::large_futures,
    reason = "a bench"
)]

#[path = "../tests/cluster_support/mod.rs"]
mod cluster_support;
#[path = "../tests/pods/gateway.rs"]
mod gateway;
#[path = "../tests/pods_kubernetes/ground.rs"]
mod ground;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use gateway::Pods;
use ground::Ground;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use russh::client::{self, Handle, Msg};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Pairs of first bytes, after one that is not counted.
const PAIRS: usize = 40;
/// Pairs of transfers each way.
const TRANSFERS: usize = 5;
/// What each of them carries, in bytes.
const BYTES: usize = 128 * 1024 * 1024;
/// Idle shells whose memory is to come back.
const IDLE: usize = 60;
/// In seconds.
const SETTLING: usize = 60;

struct Anybody;

impl client::Handler for Anybody {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// Through the gateway.
struct Ours {
    address: std::net::SocketAddr,
    key: Arc<PrivateKey>,
}

impl Ours {
    async fn log_in(&self) -> Handle<Anybody> {
        let config = client::Config { nodelay: true, ..client::Config::default() };
        let mut handle = client::connect(Arc::new(config), self.address, Anybody).await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key), None);
        assert!(handle.authenticate_publickey("anybody", key).await.unwrap().success());
        handle
    }

    async fn run(&self, line: &str) -> (Handle<Anybody>, Channel<Msg>) {
        let handle = self.log_in().await;
        let channel = handle.channel_open_session().await.unwrap();
        channel.exec(true, line).await.unwrap();
        (handle, channel)
    }

    /// Seconds until the login was done, and until the first byte was there.
    async fn first_byte(&self) -> (f64, f64) {
        let begun = Instant::now();
        let handle = self.log_in().await;
        let logged_in = begun.elapsed().as_secs_f64();
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.exec(true, "echo here").await.unwrap();
        until_data(&mut channel).await;
        (logged_in, begun.elapsed().as_secs_f64())
    }
}

async fn until_data(channel: &mut Channel<Msg>) -> usize {
    loop {
        if let ChannelMsg::Data { data } = channel.wait().await.expect("output") {
            return data.len();
        }
    }
}

/// The API itself.
struct Bare {
    pods: kube::Api<Pod>,
    manifest: Value,
}

/// How long each part took, in seconds.
#[derive(Clone, Copy)]
struct Parts {
    created: f64,
    ready: f64,
    all: f64,
}

impl Bare {
    async fn of(ground: &Ground, config: &Value) -> Self {
        let kubeconfig = Kubeconfig::from_yaml(&ground.kubeconfig().to_string()).unwrap();
        let access = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = kube::Client::try_from(access).unwrap();
        let mut spec = config["pod"]["podSpec"].clone();
        spec["automountServiceAccountToken"] = json!(false);
        spec["restartPolicy"] = json!("Never");
        spec["containers"][0]["command"] = config["pod"]["idleCommand"].clone();
        let manifest = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec });
        Self { pods: kube::Api::namespaced(client, ground.namespace().name()), manifest }
    }

    /// A pod that is ready.
    async fn pod(&self, name: &str) -> (f64, f64) {
        let mut manifest = self.manifest.clone();
        manifest["metadata"]["name"] = json!(name);
        let begun = Instant::now();
        let pod: Pod = serde_json::from_value(manifest).unwrap();
        let made = self.pods.create(&PostParams::default(), &pod).await.unwrap();
        let created = begun.elapsed().as_secs_f64();
        let wanted = WatchParams::default().fields(&format!("metadata.name={name}"));
        let changes = self.pods.watch(&wanted, made.metadata.resource_version.as_deref().unwrap()).await.unwrap();
        let mut changes = std::pin::pin!(changes);
        loop {
            if let Some(WatchEvent::Modified(pod)) = changes.try_next().await.unwrap() {
                let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
                if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
                    return (created, begun.elapsed().as_secs_f64());
                }
            }
        }
    }

    async fn delete(&self, name: &str) {
        self.pods.delete(name, &DeleteParams::default()).await.unwrap();
    }

    async fn exec(&self, name: &str, line: &str, stdin: bool) -> kube::api::AttachedProcess {
        let wanted = AttachParams::default().stdin(stdin).stderr(false);
        self.pods.exec(name, ["/bin/sh", "-c", line], &wanted).await.unwrap()
    }

    async fn first_byte(&self, name: &str) -> Parts {
        let begun = Instant::now();
        let (created, ready) = self.pod(name).await;
        let mut process = self.exec(name, "echo here", false).await;
        process.stdout().unwrap().read_u8().await.unwrap();
        let all = begun.elapsed().as_secs_f64();
        self.delete(name).await;
        Parts { created, ready, all }
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this share of them is.
fn percentile(values: &[f64], share: usize) -> f64 {
    values[(values.len() * share).div_ceil(100).max(1) - 1]
}

async fn first_bytes(ours: &Ours, bare: &Bare, pairs: usize) {
    let (mut through, mut logins, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let (login, first) = ours.first_byte().await;
        let parts = bare.first_byte(&format!("bare-{pair}")).await;
        if pair > 0 {
            logins.push(login);
            through.push(first);
            calls.push(parts);
        }
    }
    let part = |of: fn(&Parts) -> f64| percentile(&sorted(calls.iter().map(of).collect()), 50) * 1e3;
    let breakdown = format!(
        "handshake and login {:.0} ms of ours; bare: created after {:.0} ms, ready after {:.0} ms, first byte after {:.0} ms",
        percentile(&sorted(logins), 50) * 1e3,
        part(|parts| parts.created),
        part(|parts| parts.ready),
        part(|parts| parts.all)
    );
    let (through, bare) = (sorted(through), sorted(calls.iter().map(|parts| parts.all).collect()));
    for (name, share) in [("pods-first-byte-p50", 50), ("pods-first-byte-p99", 99)] {
        let (ours, theirs) = (percentile(&through, share), percentile(&bare, share));
        println!(
            "measured {name} {:.3} 1.05 of the bare calls' time, {:.0} ms against {:.0} ms, {pairs} pairs; {breakdown}",
            ours / theirs,
            ours * 1e3,
            theirs * 1e3
        );
    }
}

/// Out of a pod.
async fn down(ours: &Ours, bare: &Bare, name: &str, bytes: usize) -> (f64, f64) {
    let line = format!("head -c {bytes} /dev/zero");
    let (handle, mut channel) = ours.run(&format!("echo; {line}")).await;
    let mut got = until_data(&mut channel).await;
    let begun = Instant::now();
    while got < bytes {
        got += until_data(&mut channel).await;
    }
    let through = begun.elapsed().as_secs_f64();
    drop(handle);
    let mut process = bare.exec(name, &format!("echo; {line}"), false).await;
    let mut stdout = process.stdout().unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut got = stdout.read(&mut buffer).await.unwrap();
    let begun = Instant::now();
    while got < bytes {
        got += stdout.read(&mut buffer).await.unwrap();
    }
    (through, begun.elapsed().as_secs_f64())
}

/// Into one.
async fn up(ours: &Ours, bare: &Bare, name: &str, bytes: usize) -> (f64, f64) {
    let line = format!("echo; head -c {bytes} | wc -c");
    let piece = vec![0; 32 * 1024];
    let (handle, mut channel) = ours.run(&line).await;
    until_data(&mut channel).await;
    let begun = Instant::now();
    let (mut reading, writing) = channel.split();
    let sending = tokio::spawn({
        let piece = piece.clone();
        async move {
            for _ in 0..bytes / piece.len() {
                writing.data_bytes(piece.clone()).await.unwrap();
            }
            writing
        }
    });
    while !matches!(reading.wait().await.expect("a number"), ChannelMsg::Data { .. }) {}
    let through = begun.elapsed().as_secs_f64();
    drop((sending.await.unwrap(), handle));
    let mut process = bare.exec(name, &line, true).await;
    let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
    stdout.read_u8().await.unwrap();
    let begun = Instant::now();
    let sending = tokio::spawn(async move {
        for _ in 0..bytes / piece.len() {
            stdin.write_all(&piece).await.unwrap();
        }
        stdin
    });
    stdout.read_u8().await.unwrap();
    let bare = begun.elapsed().as_secs_f64();
    drop(sending.await.unwrap());
    (through, bare)
}

async fn transfers(ours: &Ours, bare: &Bare, count: usize, bytes: usize) {
    bare.pod("transfers").await;
    for (name, is_down) in [("pods-kube-down", true), ("pods-kube-up", false)] {
        let (mut through, mut beside) = (Vec::new(), Vec::new());
        for pair in 0..=count {
            let (one, other) =
                if is_down { down(ours, bare, "transfers", bytes).await } else { up(ours, bare, "transfers", bytes).await };
            if pair > 0 {
                through.push(one);
                beside.push(other);
            }
        }
        let (through, beside) = (percentile(&sorted(through), 50), percentile(&sorted(beside), 50));
        let rate = |seconds: f64| bytes as f64 / 1e6 / seconds;
        // At least 0.9 of the bytes a second.
        println!(
            "measured {name} {:.3} 1.111 of the bare exec's time, {:.0} MB/s against {:.0} MB/s, medians of {count} pairs",
            through / beside,
            rate(through),
            rate(beside)
        );
    }
    bare.delete("transfers").await;
}

async fn idle(ours: &Ours, count: usize) -> Vec<(Handle<Anybody>, Channel<Msg>)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let (handle, mut channel) = ours.run("echo; sleep 6000").await;
        until_data(&mut channel).await;
        all.push((handle, channel));
    }
    all
}

async fn close(pods: &Arc<Pods>, all: Vec<(Handle<Anybody>, Channel<Msg>)>) {
    for (handle, _) in &all {
        handle.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    }
    drop(all);
    let pods = Arc::clone(pods);
    tokio::task::spawn_blocking(move || pods.waits_until_empty()).await.unwrap();
}

async fn memory(pods: &Arc<Pods>, ours: &Ours, count: usize, settling: usize) {
    close(pods, idle(ours, count.min(8)).await).await;
    let before = pods.memory();
    let all = idle(ours, count).await;
    let full = pods.memory();
    close(pods, all).await;
    let mut after = pods.memory();
    for _ in 0..settling {
        tokio::time::sleep(Duration::from_secs(1)).await;
        after = after.min(pods.memory());
    }
    let kept = |memory: u64| memory.saturating_sub(before) as f64;
    println!(
        "measured pods-kube-given-back {:.3} 0.25 of the memory of {count} connections is still there within a minute after they have closed \
         ({before} KiB before, {full} KiB with all, {after} KiB)",
        kept(after) / kept(full).max(1.0)
    );
}

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    if std::env::var_os("TOEHOLD_TEST_CLUSTER").is_none() {
        assert!(!is_measured, "there is no cluster: run by `cargo xtask bench pods-kubernetes`");
        return;
    }
    let (pairs, count, bytes, shells, settling) =
        if is_measured { (PAIRS, TRANSFERS, BYTES, IDLE, SETTLING) } else { (2, 1, 4 * 1024 * 1024, 4, 1) };
    let ground = Ground::new();
    let mut config = Ground::image(&ground.cluster().images.busybox);
    config["pod"]["podSpec"]["terminationGracePeriodSeconds"] = json!(0);
    config["pod"]["idleCommand"] = json!(["/bin/sh", "-c", "sleep infinity & PID=$!; trap \"kill $PID\" INT TERM; wait"]);
    let many = ["--connections-per-minute", "1000000", "--requests-per-minute", "1000000"];
    let pods = Arc::new(Pods::on_ground(ground.clone(), &config, &many));
    let key = Arc::new(PrivateKey::from_openssh(std::fs::read(pods.file("key")).unwrap()).unwrap());
    let ours = Ours { address: pods.address, key };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bare = Bare::of(&ground, &config).await;
        first_bytes(&ours, &bare, pairs).await;
        transfers(&ours, &bare, count, bytes).await;
        memory(&pods, &ours, shells, settling).await;
    });
}
