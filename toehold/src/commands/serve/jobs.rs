//! The jobs, each as turns of a task.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::json;
use toehold_core::Clock as _;
use toehold_masterkey::renewal::RenewalEvent;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::super::pods::Collector;
use super::super::{audit, gateway, grant, key_status, members, renew, rotate, session, store_gc};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{GatewayOptions, Gc, Global, PodsAt, PodsBackend, Renew, ServeHost};
use crate::cli::context::{Context, still_writable};
use crate::cli::{Exit, Failure, Output, Signals};
use crate::serve::board::Condition;
use crate::serve::http::Site;
use crate::serve::lease::Lease;
use crate::serve::supervisor::{Pace, supervise};
use crate::shared::Role;

/// How many hosts are settled or renewed at a time, and how long one may take.
const HOSTS: (u16, Duration) = (32, Duration::from_secs(60));
/// By how much renewals come earlier at random, at the most.
const JITTER: Duration = Duration::from_secs(3_600);
const GATEWAY: &str = "gateway";
const RENEWAL: &str = "renewal";
const STORE_GC: &str = "store-gc";
const AUDIT: &str = "audit";
/// How often the audit log is verified.
const VERIFY: Duration = Duration::from_secs(3_600);

/// What is to be done, and with what.
pub(super) struct Jobs {
    global: Global,
    output: Output,
    signals: Signals,
    /// Another one for every process: who holds its leases, for people, and what is drawn anew.
    holder: String,
    instance: String,
    /// For the gateway alone: it has no use for an operator's identity (N2), so that no other job opens one for it.
    gateway: Option<Arc<Context>>,
    /// For what logs in to hosts; unlocked from the beginning.
    hosts: Option<Arc<Context>>,
    /// For what one process does for all, in the store or in a cluster, and logs in to no host: its leases are signed on a shared store.
    keeper: Option<Arc<Context>>,
    names: Vec<&'static str>,
}

impl Jobs {
    /// `looker` is for what only looks.
    pub(super) async fn new(
        global: &Global,
        options: &ServeHost,
        looker: &Arc<Context>,
        output: Output,
        signals: &Signals,
    ) -> Result<Self, Failure> {
        let is_operator = may_do_all(looker, options)?;
        let open = async || Context::open_to_change(global, output.mute(), signals.clone()).await.map(Arc::new);
        let hosts = if options.no_hosts { None } else { Some(open().await?) };
        if let Some(hosts) = &hosts {
            unlock(hosts, UNLOCK).await?;
        }
        let clears = is_operator && !options.no_gc;
        let keeper = match &hosts {
            _ if !clears && !options.collect_pods => None,
            Some(hosts) => Some(Arc::clone(hosts)),
            // Nothing is signed in the embedded store.
            None if looker.store().shared().is_none() => Some(Arc::clone(looker)),
            None => {
                let keeper = open().await?;
                unlock(&keeper, UNLOCK).await?;
                Some(keeper)
            }
        };
        let gateway = match &options.gateway_state_dir {
            _ if options.no_gateway => None,
            None => Some(open().await?),
            // Another member, with an identity of its own (N2).
            Some(directory) => {
                let (state_dir, passphrase_file) = (Some(directory.clone()), options.gateway_passphrase_file.clone());
                let global = Global { state_dir, passphrase_file, ..global.clone() };
                Some(Context::open_to_change(&global, output.mute(), signals.clone()).await.map(Arc::new)?)
            }
        };
        if let Some(gateway) = &gateway {
            gateway::must_be_gateway(gateway.store())?;
            if options.gateway_state_dir.is_some() {
                unlock(gateway, "name a file that has the passphrase of the gateway's identity: --gateway-passphrase-file FILE")
                    .await?;
            }
        }
        let mut names = Vec::new();
        names.extend(gateway.iter().map(|_| GATEWAY));
        if hosts.is_some() {
            names.extend(["sessions", "grants", "owed"]);
            names.extend(options.renew_every.map(|_| RENEWAL));
        }
        names.extend(options.collect_pods.then_some("pods"));
        names.extend(clears.then_some(STORE_GC));
        names.extend(is_operator.then_some(AUDIT));
        let mut drawn = [0; 8];
        getrandom::fill(&mut drawn).map_err(|error| Failure::new(error.to_string()))?;
        let instance = format!("{:016x}", u64::from_be_bytes(drawn));
        let holder = format!("{}, process {}, {instance}", rotate::operator(), std::process::id());
        let (global, signals) = (global.clone(), signals.clone());
        Ok(Self { global, output, signals, holder, instance, gateway, hosts, keeper, names })
    }

    /// The tasks' names.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.names.clone()
    }

    /// What no other process is called.
    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    /// Starts all of them. `looker` is for what only looks.
    pub(super) fn start(
        self,
        options: ServeHost,
        looker: &Arc<Context>,
        site: &Arc<Site>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), Failure> {
        let ServeHost { sweep_every, settle_every, gc_every, sessions_older_than, lease, .. } = options;
        let (concurrency, limit) = HOSTS;
        let mut starter = Starter { jobs: &self, site, tasks, lease };
        if let Some(context) = &self.hosts {
            starter.alone("sessions", context, sweep_every, async |context| session::reap(&context).await)?;
            starter.alone("grants", context, sweep_every, async |context| grant::sweep_owed(&context).await)?;
            starter.alone("owed", context, settle_every, async move |context| {
                key_status::settle_owed(&context, concurrency, limit).await
            })?;
            if let Some(every) = options.renew_every {
                let request = Renew {
                    every,
                    jitter: JITTER,
                    algorithm: None,
                    on_unreachable: options.renew_on_unreachable,
                    grace: options.renew_grace,
                    canary: None,
                    wave: None,
                    max_failures: None,
                    concurrency,
                    timeout: limit,
                };
                starter.renewal(context, request)?;
            }
        }
        if let Some(keeper) = self.keeper.as_ref().filter(|_| self.names.contains(&STORE_GC)) {
            let gc = move || Gc { dry_run: false, sessions_older_than, audit_older_than: None };
            starter.alone(STORE_GC, keeper, gc_every, async move |context| store_gc::collect(&context, &gc()).await)?;
        }
        if self.names.contains(&AUDIT) {
            // What this machine has seen of the log is its own to compare with.
            starter.again(AUDIT, looker, None, VERIFY, async |context| audit::verify_again(&context).await)?;
        }
        if let Some(keeper) = self.keeper.as_ref().filter(|_| options.collect_pods) {
            let (kubeconfig, context) = (options.kubeconfig, options.context);
            let at = PodsAt { backend: PodsBackend::Kube, kubeconfig, context, config: options.pods_config };
            starter.pods(keeper, at)?;
        }
        if let Some(context) = &self.gateway {
            starter.gateway(context, options.gateway)?;
        }
        Ok(())
    }
}

/// Whether this machine may do whatever there is to do. A gateway of a shared store may serve machines, one for pods may collect pods, and
/// nothing else: what it asked for beyond that would fail for ever.
fn may_do_all(context: &Context, options: &ServeHost) -> Result<bool, Failure> {
    if context.store().shared().is_none() && options.gateway_state_dir.is_some() {
        return Err(Failure::usage("--gateway-state-dir is for a shared store: the embedded one has no members")
            .hint("name one: --store nats://host/bucket"));
    }
    match members::own_role(context.store()) {
        Some(Role::Operator) if !options.no_gateway && options.gateway_state_dir.is_none() => {
            let why =
                "this machine is an operator of the store, and strangers come to a gateway: it works as a member of its own";
            Err(Failure::usage(why).hint(
                "name the state directory of a member with the role gateway: --gateway-state-dir DIR; or leave the gateway to another process: --no-gateway",
            ))
        }
        None | Some(Role::Operator) => Ok(true),
        Some(Role::Gateway) if options.no_hosts && !options.no_gateway && !options.collect_pods => Ok(false),
        Some(Role::Pods) if options.no_hosts && options.no_gateway && options.collect_pods => Ok(false),
        Some(role) => {
            let why = format!("this machine is a member of the store with the role {role}, and may not do what was asked for");
            Err(Failure::usage(why).hint(
                "a gateway serves with --no-hosts alone, one for pods with --no-hosts --no-gateway --collect-pods; an operator's machine does the rest",
            ))
        }
    }
}

/// Where the passphrase of the process's own identity is missing.
const UNLOCK: &str = "name a file that has the passphrase: --passphrase-file FILE; or do nothing for which the identity is needed: --no-hosts, and on a shared store --no-gc as well";

/// Whoever starts it is there to be asked now, and is not when something first needs the identity.
async fn unlock(context: &Context, hint: &str) -> Result<(), Failure> {
    context.state.vault().await.map(drop).map_err(|error| Failure::from(error).hint(hint))
}

struct Starter<'s> {
    jobs: &'s Jobs,
    site: &'s Arc<Site>,
    tasks: &'s mut JoinSet<()>,
    lease: Duration,
}

impl Starter<'_> {
    /// A job that one process does for all: again and again, under a lease of its name.
    fn alone<F>(&mut self, name: &'static str, context: &Arc<Context>, every: Duration, turn: F) -> Result<(), Failure>
    where
        F: AsyncFn(Context) -> Result<Exit, Failure> + Clone + Send + 'static,
    {
        self.again(name, context, Some(context), every, turn)
    }

    /// A job that is done again and again; with `alone` as [`Starter::spawn`] has it.
    fn again<F>(
        &mut self,
        name: &'static str,
        context: &Arc<Context>,
        alone: Option<&Arc<Context>>,
        every: Duration,
        turn: F,
    ) -> Result<(), Failure>
    where
        F: AsyncFn(Context) -> Result<Exit, Failure> + Clone + Send + 'static,
    {
        let context = Arc::clone(context);
        let turn = move |signals| {
            let work = async {
                still_writable(context.store()).await?;
                turn(with(&context, signals)).await
            };
            Handle::current().block_on(work)
        };
        self.spawn(name, alone.map(Arc::as_ref), Pace::every(every), turn)
    }

    /// A task; with `alone`, whose store the lease is in, only one process does its job at a time.
    fn spawn<F>(&mut self, name: &'static str, alone: Option<&Context>, pace: Pace, turn: F) -> Result<(), Failure>
    where
        F: Fn(Signals) -> Result<Exit, Failure> + Clone + Send + 'static,
    {
        let lease = |context: &Context| Lease::new(context.store().clone(), name, self.jobs.holder.clone(), self.lease);
        let lease = alone.map(lease).transpose()?;
        self.tasks.spawn(supervise(name, self.site.board.clone(), lease, pace, self.jobs.signals.clone(), turn));
        Ok(())
    }

    /// The renewal's schedule in the store has a claim of its own, so that every process may run it.
    fn renewal(&mut self, context: &Arc<Context>, request: Renew) -> Result<(), Failure> {
        let (context, board) = (Arc::clone(context), self.site.board.clone());
        let turn = move |signals| {
            let context = with(&context, signals);
            let has_failed = AtomicBool::new(false);
            let watch = |event: &RenewalEvent| {
                let now = SystemClock.now();
                let failed = |reason: String| {
                    has_failed.store(true, Ordering::Relaxed);
                    board.failed(RENEWAL, reason, now);
                };
                match event {
                    RenewalEvent::Failed { reason, .. } => failed(reason.clone()),
                    RenewalEvent::StoreFailed(error) => failed(crate::cli::chain(error)),
                    RenewalEvent::Renewed { key, .. } => {
                        tracing::info!(%key, "the master key was renewed");
                        has_failed.store(false, Ordering::Relaxed);
                        board.ran(RENEWAL, None, now);
                    }
                    // Waiting for the next try, it has still failed.
                    _ if has_failed.load(Ordering::Relaxed) => {}
                    _ => board.set(RENEWAL, Condition::Running, now),
                }
            };
            // A store that turns out to be behind refuses what it writes.
            Handle::current().block_on(renew::renew_watched(&context, request.clone(), watch))
        };
        self.spawn(RENEWAL, None, Pace::long(), turn)
    }

    fn pods(&mut self, context: &Arc<Context>, at: PodsAt) -> Result<(), Failure> {
        // Kept from turn to turn, since whether a gateway is alive shows only over several looks.
        let collector = Arc::new(tokio::sync::Mutex::new(None));
        let (global, site) = (self.jobs.global.clone(), Arc::clone(self.site));
        let turn = move |_: Signals| {
            let looking = async {
                let mut held = collector.lock().await;
                // One that fails is made anew the next time.
                let mut collector = match held.take() {
                    Some(collector) => collector,
                    None => Collector::open(&global, &at).await?,
                };
                let pods = collector.look().await?;
                *held = Some(collector);
                *site.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Some(pods);
                Ok::<_, Failure>(Exit::Done)
            };
            Handle::current().block_on(looking)
        };
        self.spawn("pods", Some(context), Pace::every(Collector::EVERY), turn)
    }

    fn gateway(&mut self, context: &Arc<Context>, options: GatewayOptions) -> Result<(), Failure> {
        let (context, site, output) = (Arc::clone(context), Arc::clone(self.site), self.jobs.output);
        let turn = move |signals| {
            let context = with(&context, signals);
            let announce = |announced: gateway::Announced| {
                let gateway::Announced { announcement, endpoint, .. } = announced;
                output.document(&json!({
                    "event": "listening",
                    "task": "gateway",
                    "address": announcement.listening.to_string(),
                    "endpoint": endpoint,
                    "pins": announcement.pins,
                }));
                output.text(format_args!("The gateway listens on {}.", announcement.listening));
                *site.gateway.lock().unwrap_or_else(PoisonError::into_inner) = Some(announcement.look);
                site.board.set(GATEWAY, Condition::Running, SystemClock.now());
            };
            Handle::current().block_on(gateway::run(&context, options.clone(), None, announce)).map(|()| Exit::Done)
        };
        self.spawn(GATEWAY, None, Pace::long(), turn)
    }
}

/// The context for one turn, with the signals that tell it to leave.
fn with(context: &Context, signals: Signals) -> Context {
    Context { signals, ..context.clone() }
}
