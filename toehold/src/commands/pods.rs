//! `toehold pods serve`, `pods ls`, `pods rm` and `pods gc`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use toehold_core::Stored;
use toehold_podrun::OwnerName;
use toehold_podrun::backend::{PodBackend, PodChange, PodWatch as _, Preconditions};
use toehold_podrun::config::{Config, MAX_CONFIG, Settings};
use toehold_podrun::driver::{Parts, Reaper};
use toehold_podrun::kubernetes::PodSnapshot;
use toehold_podrun::owner::{INTERVAL, STALE_AFTER};
use toehold_podrun::pod::{PodRecord, pods_of_owner};

use super::pods_store::{Kept, Work};
use crate::adapters::kube_pods::{KubePods, discover};
use crate::adapters::local_pods::{LocalPods, throw_away};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, Pods, PodsAt, PodsBackend, PodsServe};
use crate::cli::context::still_writable;
use crate::cli::{Exit, Failure, Output, Signals, table};
use crate::gateway::LimitOptions;
use crate::pods::authentication::Sources;
use crate::pods::{self, Announcement, ServeOptions, SharedBackend};
use crate::private;
use crate::shared::AnyStore;

/// How long the end of a pod is waited for.
const END: Duration = Duration::from_secs(30);

/// How often a client may be asked in vain whether it is still there.
const KEEP_ALIVE_COUNT: usize = 3;

/// How often it is looked whether the pods of an owner are gone.
const LOOK: Duration = Duration::from_millis(500);

/// Runs one of them.
///
/// # Errors
/// Why it failed.
pub(super) async fn run(global: &Global, command: Pods, output: Output, signals: Signals) -> Result<Exit, Failure> {
    match command {
        Pods::Serve(options) => match options.at.backend {
            PodsBackend::Kube => serve_kube(global, *options, output, signals).await,
            PodsBackend::Local => serve_local(global, *options, output, signals).await,
        },
        Pods::Ls(at) => {
            let work = async |_: &AtomicBool| match at.backend {
                PodsBackend::Kube => list(&Place::in_cluster(global, &at, Work::Look).await?, output).await,
                PodsBackend::Local => list(&Place::open(global, &at, Work::Look).await?, output).await,
            };
            unless_interrupted(signals, work).await
        }
        Pods::Rm { name, at } => {
            let work = async |begun: &AtomicBool| match at.backend {
                PodsBackend::Kube => remove(&Place::in_cluster(global, &at, Work::Keep).await?, &name, begun, output).await,
                PodsBackend::Local => remove(&Place::open(global, &at, Work::Keep).await?, &name, begun, output).await,
            };
            unless_interrupted(signals, work).await
        }
        Pods::Gc(at) => {
            let work = async |begun: &AtomicBool| match at.backend {
                PodsBackend::Kube => collect(&Place::in_cluster(global, &at, Work::Keep).await?, begun, output).await,
                PodsBackend::Local => collect(&Place::open(global, &at, Work::Keep).await?, begun, output).await,
            };
            unless_interrupted(signals, work).await
        }
        Pods::Key(command) => super::pods_key::run(global, command, output).await,
        Pods::Role(options) => super::pods_role::print(&options, output),
    }
}

/// Does the work, unless a signal comes. Wherever it is left, it can be run again, and records say what is still to be ended; whether
/// anything has been told to end by then is noted in what the work is given.
async fn unless_interrupted(
    mut signals: Signals,
    work: impl AsyncFnOnce(&AtomicBool) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let begun = AtomicBool::new(false);
    tokio::select! {
        biased;
        done = work(&begun) => done,
        () = signals.wait() => Err(if begun.load(Ordering::Relaxed) {
            Failure::new("interrupted; what was told to end is ending").hint("see what is left: toehold pods ls").partly()
        } else {
            Failure::new("interrupted; nothing was changed")
        }),
    }
}

/// Pods and what is kept of them.
struct Place<B> {
    directory: PathBuf,
    settings: Settings,
    pods: B,
    kept: Kept,
    /// How often the owners have to be looked at until it is known whose gateway is gone.
    looks: u32,
}

impl Place<LocalPods> {
    /// Where a gateway has run before.
    async fn open(global: &Global, at: &PodsAt, work: Work) -> Result<Self, Failure> {
        let directory = directory(global, PodsBackend::Local)?;
        if !throw_away::is_marked(&directory) {
            return Err(Failure::new(format!("no gateway with local pods has run in {}", directory.display()))
                .hint("name its directory with --state-dir, or start one: toehold pods serve --backend local"));
        }
        Self::local(global, directory, at, work).await
    }

    async fn local(global: &Global, directory: PathBuf, at: &PodsAt, work: Work) -> Result<Self, Failure> {
        if at.kubeconfig.is_some() || at.context.is_some() {
            return Err(Failure::usage("--kubeconfig and --context are for pods in a cluster, and these are local"));
        }
        let settings = settings(at.config.as_deref())?;
        let pods = LocalPods::open(&directory)?;
        let kept = Kept::open(global, &directory, work).await?;
        // The kernel tells at once.
        Ok(Self { directory, settings, pods, kept, looks: 1 })
    }
}

impl Place<KubePods> {
    async fn in_cluster(global: &Global, at: &PodsAt, work: Work) -> Result<Self, Failure> {
        let mut settings = settings(at.config.as_deref())?;
        let found = discover(settings.cluster, at.kubeconfig.as_deref(), at.context.as_deref());
        settings.cluster = found
            .map_err(|error| Failure::from(error).hint("name one with --kubeconfig, or in the configuration's connection"))?;
        let pods = KubePods::connect(&settings.cluster).await?;
        let directory = directory(global, PodsBackend::Kube)?;
        private::create_directory(&directory)?;
        let kept = Kept::open(global, &directory, work).await?;
        let looks = u32::try_from(STALE_AFTER.as_secs().div_ceil(INTERVAL.as_secs())).unwrap_or(u32::MAX).saturating_add(2);
        Ok(Self { directory, settings, pods, kept, looks })
    }
}

impl<B: PodBackend> Place<B> {
    fn parts(&self) -> Parts<'_, B, AnyStore, SystemClock> {
        let call_timeout = self.settings.cluster.call_timeout;
        Parts { backend: &self.pods, store: &self.kept.store, timer: &SystemClock, call_timeout }
    }
}

/// Where the state of a gateway is: named, or in the user's state directory `toehold/pods` for a cluster's pods and `toehold/local-pods`
/// for those of this machine. The directory that was named together with a shared store has the identity of its member in it, and is no
/// place for people who log in.
pub(super) fn directory(global: &Global, backend: PodsBackend) -> Result<PathBuf, Failure> {
    let is_elsewhere = backend == PodsBackend::Local && global.shared.store.is_some();
    if let Some(directory) = global.state_dir.as_ref().filter(|_| !is_elsewhere) {
        // Its processes are started in other directories.
        return Ok(std::path::absolute(directory)?);
    }
    let local = throw_away::default_directory()?;
    Ok(match backend {
        PodsBackend::Kube => local.with_file_name("pods"),
        PodsBackend::Local => local,
    })
}

fn settings(file: Option<&Path>) -> Result<Settings, Failure> {
    let text = match file {
        None => String::new(),
        Some(path) => {
            let size = std::fs::metadata(path).map(|metadata| metadata.len());
            let too_large = size.is_ok_and(|size| size > MAX_CONFIG as u64);
            let read = if too_large { Err(std::io::ErrorKind::FileTooLarge.into()) } else { std::fs::read_to_string(path) };
            read.map_err(|error| Failure::new(format!("reading the configuration {} failed: {error}", path.display())))?
        }
    };
    let settings = Config::parse(&text).and_then(Config::validate);
    settings.map_err(|error| match file {
        Some(path) => Failure::usage(format!("{}: {error}", path.display())),
        None => Failure::usage(error.to_string()),
    })
}

async fn serve_local(global: &Global, options: PodsServe, output: Output, signals: Signals) -> Result<Exit, Failure> {
    if !options.listen.ip().is_loopback() {
        return Err(Failure::usage(format!("local pods are for this machine alone, and {} is not on loopback", options.listen))
            .hint("whoever logs in may do what this user may do; listen on 127.0.0.1 or [::1]"));
    }
    let directory = directory(global, PodsBackend::Local)?;
    throw_away::refuse_stores_in_reach(None)
        .map_err(|error| Failure::from(error).hint("run it as a user who has no store, such as one made for it"))?;
    throw_away::open(&directory)?;
    let mut place = Place::local(global, directory, &options.at, Work::KeepLocal).await?;
    let keys = super::pods_key::sources(&options, place.kept.store.clone(), output)?;
    if place.settings.subsystems.get("sftp").is_none_or(|program| program == DEFAULT_SFTP) {
        let ours = place.pods.sftp_server()?;
        place.settings.subsystems.insert("sftp".to_owned(), ours);
    }
    output.aside("local pods isolate nothing: whoever logs in may do what this user may do");
    if place.kept.store.shared().is_some() {
        output.aside("that is also what this member may do with the store");
    }
    serve(place, &options, keys, false, output, signals).await
}

async fn serve_kube(global: &Global, options: PodsServe, output: Output, signals: Signals) -> Result<Exit, Failure> {
    let place = Place::in_cluster(global, &options.at, Work::Serve).await?;
    let keys = super::pods_key::sources(&options, place.kept.store.clone(), output)?;
    for warning in &place.settings.warnings {
        output.aside(warning);
    }
    let namespace = &place.settings.namespace;
    let missing = place.pods.missing(namespace).await?;
    if !missing.is_empty() {
        return Err(Failure::new(format!(
            "the cluster does not grant the gateway in namespace {namespace}: {}",
            missing.join(", ")
        ))
        .hint(format!("the role that it needs is printed by: toehold pods role --namespace {namespace}")));
    }
    serve(place, &options, keys, true, output, signals).await
}

async fn serve<B: SharedBackend>(
    place: Place<B>,
    options: &PodsServe,
    keys: Sources<AnyStore>,
    isolates: bool,
    output: Output,
    signals: Signals,
) -> Result<Exit, Failure> {
    super::gateway::raise_file_limit();
    // Whoever starts it is there to be asked now, and is not when the first record has to be signed.
    let audit_writer = place.kept.writer().await?;
    let announce = move |announcement: Announcement| {
        output.document(&json!({
            "event": "listening",
            "address": announcement.listening.to_string(),
            "metrics": announcement.metrics.map(|address| address.to_string()),
            "host_key": announcement.host_key.to_string(),
            "fingerprint": announcement.host_key.fingerprint().to_string(),
            "isolates": isolates,
        }));
        output.text(format_args!("Listening on {}.", announcement.listening));
        if let Some(metrics) = announcement.metrics {
            output.text(format_args!("Metrics and health: http://{metrics}/metrics, /healthz, /readyz"));
        }
        output.text(format_args!("Its host key: {}", announcement.host_key.fingerprint()));
        let (ip, port) = (announcement.listening.ip(), announcement.listening.port());
        output.text(format_args!("Get a pod: ssh -p {port} anybody@{ip}"));
    };
    let Place { directory, settings, pods, kept, .. } = place;
    let options = ServeOptions { audit_writer, ..serve_options(options) };
    still_writable(&kept.store).await?;
    pods::serve(options, settings, pods, keys, kept.store, &directory, announce, signals).await?;
    output.document(&json!({ "event": "stopped" }));
    output.text("Stopped.");
    Ok(Exit::Done)
}

/// What the configuration has where nobody said anything.
const DEFAULT_SFTP: &str = "/usr/lib/openssh/sftp-server";

fn serve_options(options: &PodsServe) -> ServeOptions {
    let many = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    ServeOptions {
        listen: options.listen,
        metrics: options.metrics,
        limits: LimitOptions {
            agents: many(options.max_connections),
            sessions_per_agent: many(options.max_connections_per_principal),
            strangers: many(options.max_strangers),
            strangers_per_source: many(options.max_strangers_per_source),
            handshakes_per_minute: options.connections_per_minute,
            calls_per_minute: options.requests_per_minute,
            stranger_lifetime: options.login_timeout,
            handshake: options.handshake_timeout,
        },
        channels: many(options.max_channels),
        keep_alive: options.keep_alive,
        keep_alive_count: KEEP_ALIVE_COUNT,
        drain: options.drain,
        audit_writer: None,
    }
}

/// The pods of all gateways, those that stay included.
async fn all<B: PodBackend>(place: &Place<B>) -> Result<Vec<PodSnapshot>, Failure> {
    let namespace = &place.settings.namespace;
    let mut pods = place.pods.list(namespace, "toehold.local/mode=pod").await?;
    pods.extend(place.pods.list(namespace, "toehold.local/mode=persistent").await?);
    pods.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(pods)
}

fn annotation<'p>(pod: &'p PodSnapshot, name: &str) -> &'p str {
    let annotations = pod.object.pointer("/metadata/annotations");
    let value = annotations.and_then(|annotations| annotations.get(format!("toehold.local/{name}")));
    value.and_then(Value::as_str).unwrap_or_default()
}

async fn list<B: PodBackend>(place: &Place<B>, output: Output) -> Result<Exit, Failure> {
    place.kept.tell(output);
    let prefix = PodRecord::prefix().map_err(toehold_core::StoreError::from)?;
    let (mut records, mut unreadable) = (HashMap::new(), Vec::new());
    for found in Stored::<PodRecord>::list(&place.kept.store, &prefix).await? {
        match found {
            Ok(stored) => drop(records.insert(stored.body.pod.to_string(), stored.body)),
            Err(error) => unreadable.push(crate::cli::chain(&error)),
        }
    }
    let pods = all(place).await?;
    // Of pods that stay, and of those of other gateways, the cluster knows it; a local pod of an earlier release when it was started.
    let created = |pod: &PodSnapshot| {
        let text = |pointer: &str| pod.object.pointer(pointer).and_then(Value::as_str);
        text("/metadata/creationTimestamp").or_else(|| text("/status/startTime")).map(str::to_owned)
    };
    let since = |pod: &PodSnapshot| records.get(&pod.name).map(|record| record.recorded_at.to_string()).or_else(|| created(pod));
    let found = json!({
        "pods": pods.iter().map(|pod| json!({
            "name": pod.name,
            "uid": pod.uid.as_str(),
            "principal": annotation(pod, "principal"),
            "user": annotation(pod, "user"),
            "address": annotation(pod, "address"),
            "stays": pod.object.pointer("/metadata/ownerReferences").is_none(),
            "since": since(pod),
        })).collect::<Vec<_>>(),
        "unreadable": unreadable,
    });
    if pods.is_empty() {
        output.text("There are no pods.");
    } else {
        let mut rows = vec![["POD", "PRINCIPAL", "USER", "FROM", "SINCE"].map(str::to_owned).to_vec()];
        for pod in &pods {
            let text = |name: &str| annotation(pod, name).to_owned();
            rows.push(vec![pod.name.clone(), text("principal"), text("user"), text("address"), since(pod).unwrap_or_default()]);
        }
        output.text(table(&rows).trim_end());
    }
    if unreadable.is_empty() {
        output.document(&found);
        return Ok(Exit::Done);
    }
    Err(Failure::new(unreadable.join("; ")).partly().with(found))
}

async fn remove<B: PodBackend>(place: &Place<B>, name: &str, begun: &AtomicBool, output: Output) -> Result<Exit, Failure> {
    let namespace = &place.settings.namespace;
    let not_there = || Failure::new(format!("there is no pod {name}")).hint("see which there are: toehold pods ls");
    let pod = place.pods.get(namespace, name).await?.ok_or_else(not_there)?;
    let mut watch = place.pods.watch(namespace, name).await?;
    let preconditions = Preconditions { uid: pod.uid.clone(), resource_version: None };
    begun.store(true, Ordering::Relaxed);
    if !place.pods.delete(namespace, name, &preconditions).await? {
        return Err(not_there());
    }
    let gone = async {
        loop {
            match watch.changed().await? {
                PodChange::Gone => return Ok::<_, Failure>(()),
                PodChange::State(now) if now.uid != pod.uid => return Ok(()),
                PodChange::State(_) => {}
            }
        }
    };
    match tokio::time::timeout(END, gone).await {
        Ok(gone) => gone?,
        Err(_) => return Err(Failure::new(format!("the pod {name} was told to end, and is still there")).partly()),
    }
    output.document(&json!({ "removed": name }));
    output.text(format_args!("The pod {name} is gone."));
    Ok(Exit::Done)
}

async fn collect<B: PodBackend>(place: &Place<B>, begun: &AtomicBool, output: Output) -> Result<Exit, Failure> {
    let before = all(place).await?;
    let namespace = &place.settings.namespace;
    let mut reaper = Reaper::new();
    // Where one look is enough, it may end something.
    begun.store(place.looks <= 1, Ordering::Relaxed);
    let mut swept = reaper.pass(place.parts(), namespace, None).await;
    for look in 1..place.looks {
        if look == 1 {
            output.aside("looking for a while which gateways are alive");
        }
        tokio::time::sleep(INTERVAL).await;
        // Before that nobody can be taken for dead.
        begun.fetch_or(INTERVAL.saturating_mul(look) >= STALE_AFTER, Ordering::Relaxed);
        still_writable(&place.kept.store).await?;
        let (owners, unreadable) = (std::mem::take(&mut swept.owners), std::mem::take(&mut swept.unreadable));
        swept = reaper.pass(place.parts(), namespace, None).await;
        swept.owners.extend(owners);
        swept.unreadable.extend(unreadable);
    }
    begun.fetch_or(!swept.orphans.is_empty(), Ordering::Relaxed);
    let mut records = 0;
    for record in &swept.orphans {
        Reaper::recover(place.parts(), record).await?;
        records += 1;
    }
    for owner in &swept.owners {
        if !collected(place, *owner).await? {
            swept.problems.push(format!("the pods of {owner}, whose gateway is gone, are still there"));
        }
    }
    // Nobody acts on those; whoever asks is told of them.
    swept.problems.append(&mut swept.unreadable);
    let after = all(place).await?;
    let gone: Vec<&str> =
        before.iter().filter(|pod| !after.iter().any(|left| left.uid == pod.uid)).map(|pod| pod.name.as_str()).collect();
    let found = json!({ "pods": gone, "records": records, "problems": swept.problems });
    if !swept.problems.is_empty() {
        return Err(Failure::new(swept.problems.join("; ")).partly().with(found));
    }
    output.document(&found);
    output.text(format_args!("{} pods and {records} records of gateways that are gone were cleared away.", gone.len()));
    Ok(Exit::Done)
}

/// Looks at a cluster again and again, and clears away what gateways have left that are gone.
pub(super) struct Collector {
    place: Place<KubePods>,
    reaper: Reaper,
}

impl Collector {
    /// Connects to the cluster.
    ///
    /// # Errors
    /// Where there is none, or it does not answer.
    pub(super) async fn open(global: &Global, at: &PodsAt) -> Result<Self, Failure> {
        Ok(Self { place: Place::in_cluster(global, at, Work::Keep).await?, reaper: Reaper::new() })
    }

    /// How often it is to look.
    pub(super) const EVERY: Duration = INTERVAL;

    /// Looks once; the pods that are there then: name, principal, user.
    ///
    /// # Errors
    /// Where something could not be cleared away, or the cluster does not answer.
    pub(super) async fn look(&mut self) -> Result<Vec<(String, String, String)>, Failure> {
        // A record that a backup does not have is no sign that its pod was forgotten.
        still_writable(&self.place.kept.store).await?;
        let namespace = &self.place.settings.namespace;
        let found = self.reaper.pass(self.place.parts(), namespace, None).await;
        for unreadable in &found.unreadable {
            tracing::warn!("a record of a pod is left alone: {unreadable}");
        }
        let mut problems = found.problems;
        for record in &found.orphans {
            if let Err(error) = Reaper::recover(self.place.parts(), record).await {
                problems.push(format!("pod {} of a gateway that is gone: {}", record.pod, crate::cli::chain(&error)));
            }
        }
        if !problems.is_empty() {
            return Err(Failure::new(problems.join("; ")));
        }
        let text = |pod: &PodSnapshot, name: &str| annotation(pod, name).to_owned();
        let pods = all(&self.place).await?;
        Ok(pods.iter().map(|pod| (pod.name.clone(), text(pod, "principal"), text(pod, "user"))).collect())
    }
}

/// Waits until the cluster has collected the pods of an owner that was deleted; `false`: it takes too long.
async fn collected<B: PodBackend>(place: &Place<B>, owner: OwnerName) -> Result<bool, Failure> {
    let waiting = async {
        while !place.pods.list(&place.settings.namespace, &pods_of_owner(owner)).await?.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(true)
    };
    tokio::time::timeout(END, waiting).await.unwrap_or(Ok(false))
}
