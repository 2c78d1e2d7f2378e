//! The demo's fourth act: an SSH connection becomes a pod, here a tree of processes, and the pod goes when the connection goes.

mod openssh;
mod with_russh;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use toehold_core::PublicKey;
use toehold_keygen::{KeyAlgorithm, KeyPair};
use toehold_podrun::config::Config;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::milliseconds;
use crate::adapters::local_pods::{LocalPods, throw_away};
use crate::adapters::sqlite::SqliteStore;
use crate::cli::context::Context;
use crate::cli::{Failure, Output};
use crate::gateway::{LimitOptions, system_rng};
use crate::pods::{self, Announcement, AuthorizedKeysFiles, PodsError, ServeOptions};

/// How long anything may take on loopback.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is typed first: without its own echo and prompt, what the shell says can be told from what was typed.
const FIRST: &str = "stty -echo; PS1=; echo shell:$((40 + 2)):\n";
const FIRST_ANSWER: &str = "shell:42:";
const COMMAND: &str = "uname -s";
const SIZE: (u16, u16) = (132, 50);
const SIZE_ANSWER: &str = "50 132";

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Act {
    client: &'static str,
    shell: bool,
    command: bool,
    copied: bool,
    resized: bool,
    code: Option<i32>,
    gone: bool,
}

impl Act {
    pub(super) fn is_good(&self) -> bool {
        self.shell && self.command && self.copied && self.resized && self.code == Some(42) && self.gone
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "client": self.client,
            "shell": self.shell,
            "command": self.command,
            "copied": self.copied,
            "resized": self.resized,
            "exit_code": self.code,
            "pod_gone": self.gone,
        })
    }
}

/// Says what was done, and how long it took.
#[derive(Clone, Copy)]
struct Steps(Output);

impl Steps {
    fn done(self, what: &str, since: Instant) {
        self.0.document(&json!({ "event": "step", "step": what, "milliseconds": milliseconds(since.elapsed()) }));
        self.0.text(format_args!("{:>9.1} ms  {what}", since.elapsed().as_secs_f64() * 1000.0));
    }
}

/// Where the gateway is, and what logs in there.
struct Way {
    directory: PathBuf,
    address: SocketAddr,
    host_key: PublicKey,
    key: KeyPair,
}

/// Plays it.
///
/// # Errors
/// Where the gateway does not start, or the client does not come through.
pub(super) async fn play(context: &Context, scratch: &Path, output: Output) -> Result<Act, Failure> {
    let steps = Steps(output);
    let since = Instant::now();
    let directory = scratch.join("pods");
    throw_away::open(&directory)?;
    let key = KeyPair::generate(&mut system_rng(), KeyAlgorithm::Ed25519)?;
    let keys = directory.join("authorized_keys");
    crate::private::write_new(&keys, format!("{} somebody@example.org\n", key.public_key()).as_bytes())?;
    let pods = LocalPods::open(&directory)?;
    let (gateway, announcement) = start(context, &directory, &keys, pods.clone()).await?;
    let way = Way { directory, address: announcement.listening, host_key: announcement.host_key, key };
    steps.done(&format!("started a gateway for pods on loopback: {}", way.address), since);

    let begun = Instant::now();
    let mut act = match openssh::program().filter(|_| openssh::fits(&way)) {
        Some(ssh) => {
            let played = tokio::task::spawn_blocking(move || openssh::play(&ssh, &way, steps)).await;
            played.map_err(|error| Failure::new(format!("the SSH client could not be followed: {error}")))??
        }
        None => with_russh::play(&way, steps).await?,
    };
    let since = Instant::now();
    while !act.gone && since.elapsed() < PATIENCE {
        act.gone = fs::read_dir(scratch.join("pods/pods"))?.next().is_none();
        if !act.gone {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    if act.gone {
        steps.done(&format!("the pod is gone, {} ms after the connection began", milliseconds(begun.elapsed())), since);
    }
    gateway.abort();
    Ok(act)
}

async fn start(
    context: &Context,
    directory: &Path,
    keys: &Path,
    pods: LocalPods,
) -> Result<(JoinHandle<Result<(), PodsError>>, Announcement), Failure> {
    let mut settings = Config::default().validate()?;
    settings.subsystems.insert("sftp".to_owned(), pods.sftp_server()?);
    let store = SqliteStore::create(directory)?;
    let options = ServeOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        metrics: None,
        limits: LimitOptions::default(),
        channels: 10,
        keep_alive: Duration::from_secs(15),
        keep_alive_count: 3,
        drain: Duration::ZERO,
        audit_writer: None,
    };
    let keys = AuthorizedKeysFiles::new(vec![keys.to_string_lossy().into_owned()]);
    let (announced, listening) = oneshot::channel();
    let announce = move |announcement: Announcement| {
        // Whoever waits for it has not gone.
        let _ = announced.send(announcement);
    };
    let (directory, signals) = (directory.to_owned(), context.signals.clone());
    let gateway =
        tokio::spawn(async move { pods::serve(options, settings, pods, keys, store, &directory, announce, signals).await });
    match listening.await {
        Ok(announcement) => Ok((gateway, announcement)),
        Err(_) => match gateway.await {
            Ok(Err(error)) => Err(error.into()),
            _ => Err(Failure::new("the gateway for pods has ended")),
        },
    }
}
