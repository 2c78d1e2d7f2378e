//! A gateway of local pods under a thousand connections with an idle shell each: what one of them costs in memory, and what is given back.
//!
//! Prints `measured NAME VALUE BAR DETAIL` a line, which `cargo xtask bench pods` holds to the bars. Without `--bench`, as `cargo test` runs
//! it, a few connections once. The pods' own processes are not counted: they are processes of their own.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a bench"
)]

#[path = "../tests/pods/gateway.rs"]
mod gateway;
#[path = "../tests/pods/ground.rs"]
mod ground;
#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use gateway::Pods;
use russh::client::{self, Handle, Msg};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};

/// How many come in at once.
const PARALLEL: usize = 16;
/// In seconds.
const SETTLING: usize = 60;

/// Takes any host key: it is our own process.
struct Anybody;

impl client::Handler for Anybody {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// A shell on a terminal that waits for somebody to type.
struct Idle {
    handle: Handle<Anybody>,
    channel: Channel<Msg>,
}

impl Idle {
    async fn open(pods: &Pods, key: &Arc<PrivateKey>) -> Self {
        let mut handle = client::connect(Arc::default(), pods.address, Anybody).await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
        assert!(handle.authenticate_publickey("anybody", key).await.unwrap().success());
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.set_env(false, "PS1", "ready> ").await.unwrap();
        channel.request_pty(true, "dumb", 80, 24, 0, 0, &[]).await.unwrap();
        channel.request_shell(true).await.unwrap();
        let mut printed = Vec::new();
        while !printed.windows(2).any(|two| two == b"> " || two == b"# " || two == b"$ ") {
            if let ChannelMsg::Data { data } = channel.wait().await.expect("a shell") {
                printed.extend_from_slice(&data);
            }
        }
        Self { handle, channel }
    }
}

async fn open(pods: &Arc<Pods>, key: &Arc<PrivateKey>, count: usize) -> Vec<Idle> {
    let workers: Vec<_> = (0..PARALLEL)
        .map(|worker| {
            let (pods, key) = (Arc::clone(pods), Arc::clone(key));
            let own = count / PARALLEL + usize::from(worker < count % PARALLEL);
            tokio::spawn(async move {
                let mut opened = Vec::with_capacity(own);
                for _ in 0..own {
                    opened.push(Idle::open(&pods, &key).await);
                }
                opened
            })
        })
        .collect();
    let mut all = Vec::with_capacity(count);
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    all
}

async fn close(pods: &Arc<Pods>, all: Vec<Idle>) {
    for idle in &all {
        idle.handle.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    }
    drop(all);
    let pods = Arc::clone(pods);
    tokio::task::spawn_blocking(move || pods.waits_until_empty()).await.unwrap();
}

/// What is left a minute later at most: threads that nobody needs go, and the allocator gives back what is free.
fn settled(pods: &Pods) -> u64 {
    let each_second = (0..SETTLING).map(|_| {
        std::thread::sleep(Duration::from_secs(1));
        pods.memory()
    });
    each_second.min().unwrap_or_else(|| pods.memory())
}

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let count = if is_measured { 1_000 } else { 8 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let many = [
            "--max-strangers-per-source",
            "512",
            "--max-connections-per-principal",
            "2000",
            "--connections-per-minute",
            "1000000",
            "--requests-per-minute",
            "1000000",
        ];
        let pods = Arc::new(Pods::with(&many));
        let key = Arc::new(PrivateKey::from_openssh(std::fs::read(pods.file("key")).unwrap()).unwrap());
        close(&pods, open(&pods, &key, PARALLEL).await).await;
        let before = pods.memory();
        let all = open(&pods, &key, count).await;
        let full = pods.memory();
        assert_eq!(pods.ground.directories(&pods.toehold), count);
        close(&pods, all).await;
        let after = if is_measured { settled(&pods) } else { pods.memory() };
        let kept = |memory: u64| memory.saturating_sub(before) as f64;
        println!(
            "measured pods-idle {:.1} 200 KiB of the gateway's memory for each of {count} connections with an idle shell ({before} KiB before, {full} KiB with all)",
            kept(full) / count as f64
        );
        println!(
            "measured pods-given-back {:.3} 0.25 of that memory is still there within a minute after they have closed ({after} KiB)",
            kept(after) / kept(full).max(1.0)
        );
    });
}
