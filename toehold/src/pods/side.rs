//! A pod for a connection or a channel: asked for, held, and given back by being dropped.

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use toehold_core::Clock as _;
use toehold_podrun::backend::{PodChange, PodWatch as _};
use toehold_podrun::driver::{ConnectionSide, PodReference, SideEvent, enter, recover, run};
use toehold_podrun::kubernetes::{Availability, PodTrouble};
use toehold_podrun::pod::{PodRecord, Timing, Who, pod_manifest};
use toehold_podrun::{ConnectionId, Nonce, PodName, config::Mode};
use tokio::sync::watch;
use tokio::time::{Instant, interval};

use super::authentication::LoginMetadata;
use super::hub::{Hub, OnePod, SharedBackend};
use super::metrics::Counter;
use super::stream::Intake;
use crate::adapters::system_clock::SystemClock;
use crate::gateway::system_rng;

/// How often it is looked whether bytes went through, where that matters.
const LOOK: Duration = Duration::from_secs(1);

/// How it stands with a pod.
#[derive(Clone, Debug)]
pub(super) enum PodState {
    Pending,
    Ready(PodReference),
    Failed(PodTrouble),
}

/// Somebody's hold on a pod. Dropping it gives the pod back.
pub(super) struct Lease {
    pub(super) state: watch::Receiver<PodState>,
    _here: watch::Sender<()>,
}

/// Whose pod it is to be.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) connection: ConnectionId,
    pub(super) channel: Option<u32>,
    pub(super) who: Who,
    pub(super) metadata: Arc<LoginMetadata>,
}

impl Lease {
    /// Asks for a pod. It is led to its end whatever becomes of the lease.
    pub(super) fn take<B: SharedBackend, A: Send + Sync + 'static>(
        hub: &Arc<Hub<B, A>>,
        tenant: Tenant,
        intake: Arc<Intake>,
    ) -> Self {
        let (told, state) = watch::channel(PodState::Pending);
        let (here, leaving) = watch::channel(());
        let pod = OnePod::count(&hub.pods);
        let hub = Arc::clone(hub);
        tokio::spawn(async move {
            let limits = hub.settings.limits;
            let side = Side {
                told: told.clone(),
                leaving,
                has_left: false,
                owner: hub.owner.subscribe(),
                own: None,
                traffic: limits.idle.map(|_| (interval(LOOK), intake.passed())),
                intake,
            };
            let record = OnceLock::new();
            let led = AssertUnwindSafe(lead(&hub, &tenant, &record, side)).catch_unwind().await;
            if led.is_err() {
                hub.metrics.count(Counter::Panic);
            }
            let lost = match led {
                Ok(Ok(())) => None,
                Ok(Err(Lost::Told(trouble))) => {
                    told.send_replace(PodState::Failed(trouble));
                    None
                }
                // Nobody looks after the pod any more, and its owner lives on: it is ended as one that was found.
                Ok(Err(Lost::Track)) | Err(_) => {
                    told.send_replace(PodState::Failed(trouble("Defect", "the gateway has lost track of the pod")));
                    record.get()
                }
            };
            if let Some(record) = lost
                && let Err(error) = recover(hub.parts(), record, true).await
            {
                tracing::error!("pod {} is left to the end of this gateway: {error}", record.pod);
            }
            let counter = if matches!(*told.borrow(), PodState::Failed(_)) { Counter::PodFailed } else { Counter::PodReady };
            hub.metrics.count(counter);
            drop(pod);
        });
        Self { state, _here: here }
    }
}

fn trouble(reason: &str, words: impl Into<String>) -> PodTrouble {
    PodTrouble { reason: reason.to_owned(), words: words.into() }
}

/// Why a pod is not led on.
enum Lost {
    /// There is none, or none any more.
    Told(PodTrouble),
    /// By a defect of ours there may be one that nobody looks after.
    Track,
}

impl From<PodTrouble> for Lost {
    fn from(trouble: PodTrouble) -> Self {
        Self::Told(trouble)
    }
}

/// Leads a pod from its record, which goes to `noted`, to its end.
async fn lead<B: SharedBackend, A: Send + Sync>(
    hub: &Hub<B, A>,
    tenant: &Tenant,
    noted: &OnceLock<PodRecord>,
    mut side: Side,
) -> Result<(), Lost> {
    let settings = &hub.settings;
    let timing = Timing {
        ready_within: settings.ready_within,
        session: settings.limits.session,
        idle: settings.limits.idle,
        ..Timing::default()
    };
    if settings.mode == Mode::Persistent {
        return Ok(visit(hub, tenant, timing, side).await?);
    }
    let owner = {
        let mut owner = hub.owner.subscribe();
        let found = tokio::time::timeout(settings.ready_within, owner.wait_for(Option::is_some)).await;
        found.ok().and_then(Result::ok).and_then(|owner| owner.clone())
    };
    let owner = owner.ok_or_else(|| trouble("NoOwner", "the cluster does not let the gateway make pods at the moment"))?;
    side.own = Some(owner.uid.clone());
    let record = PodRecord {
        connection: tenant.connection,
        channel: tenant.channel,
        cluster: hub.backend.cluster().to_owned(),
        namespace: settings.namespace.clone(),
        pod: PodName::generate(&mut system_rng()),
        nonce: Nonce::generate(&mut system_rng()),
        owner,
        spec_digest: hub.spec_digest.clone(),
        who: tenant.who.clone(),
        recorded_at: SystemClock.now(),
    };
    let manifest =
        pod_manifest(settings, &record, tenant.metadata.marks()).map_err(|error| trouble("Metadata", error.to_string()))?;
    tracing::debug!("pod {} for {}", record.pod, tenant.who.principal);
    let record = noted.get_or_init(|| record);
    run(hub.parts(), record, &manifest, &settings.container, timing, &mut side).await.map_err(|error| {
        tracing::error!("pod {}: {error}", record.pod);
        Lost::Track
    })
}

/// A pod that stays: nothing is to be done when the visitor goes.
async fn visit<B: SharedBackend, A>(hub: &Hub<B, A>, tenant: &Tenant, timing: Timing, mut side: Side) -> Result<(), PodTrouble> {
    let begun = Instant::now();
    let marks: Vec<_> = tenant.metadata.marks().collect();
    let pod = tokio::select! {
        pod = enter(hub.parts(), &hub.settings, &tenant.who, &marks, timing) => pod?,
        () = side.until_left() => return Ok(()),
    };
    side.ready(&pod).await;
    let mut end = std::pin::pin!(end_of(hub, &pod));
    let mut last_traffic = Instant::now();
    loop {
        let session = timing.session.map(|session| begun + session);
        let idle = timing.idle.map(|idle| last_traffic + idle);
        let deadline = session.into_iter().chain(idle).min();
        tokio::select! {
            event = side.next() => match event {
                SideEvent::Traffic => last_traffic = Instant::now(),
                SideEvent::Disconnected | SideEvent::OwnerLost => return Ok(()),
            },
            ended = &mut end => return Err(ended),
            () = async { match deadline { Some(deadline) => tokio::time::sleep_until(deadline).await, None => pending().await } } => {
                let is_session = session.is_some_and(|session| Instant::now() >= session);
                let what = if is_session { "the connection has reached its time limit" } else { "the connection was idle for too long" };
                return Err(trouble("Limit", what));
            }
        }
    }
}

/// Waits until a pod that was there is no more, and says why. A watch that breaks is opened again.
async fn end_of<B: SharedBackend, A>(hub: &Hub<B, A>, pod: &PodReference) -> PodTrouble {
    loop {
        if let Ok(mut watch) = hub.backend.watch(&pod.namespace, &pod.name).await {
            while let Ok(change) = watch.changed().await {
                match change {
                    PodChange::State(now) if now.uid == pod.uid => match now.availability(&pod.container) {
                        Availability::Failed(trouble) | Availability::Ended(trouble) => return trouble,
                        Availability::Pending | Availability::Doubtful(_) | Availability::Ready => {}
                    },
                    PodChange::State(_) | PodChange::Gone => return trouble("Deleted", "the pod was deleted"),
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Our end of a connection, as the driver of a pod sees it.
struct Side {
    told: watch::Sender<PodState>,
    leaving: watch::Receiver<()>,
    has_left: bool,
    owner: watch::Receiver<Option<toehold_podrun::pod::OwnerReference>>,
    own: Option<toehold_podrun::Uid>,
    /// Where it matters: when to look again, and what had passed at the last look.
    traffic: Option<(tokio::time::Interval, u64)>,
    intake: Arc<Intake>,
}

impl Side {
    async fn until_left(&mut self) {
        while self.leaving.changed().await.is_ok() {}
    }
}

async fn traffic(traffic: &mut Option<(tokio::time::Interval, u64)>, intake: &Intake) {
    match traffic {
        Some((ticks, last)) => loop {
            ticks.tick().await;
            let passed = intake.passed();
            if passed != *last {
                *last = passed;
                return;
            }
        },
        None => pending().await,
    }
}

async fn lost(owner: &mut watch::Receiver<Option<toehold_podrun::pod::OwnerReference>>, own: Option<&toehold_podrun::Uid>) {
    let Some(own) = own else { return pending().await };
    if owner.wait_for(|owner| owner.as_ref().is_none_or(|owner| owner.uid != *own)).await.is_err() {
        pending::<()>().await;
    }
}

impl ConnectionSide for Side {
    async fn ready(&mut self, pod: &PodReference) {
        self.told.send_replace(PodState::Ready(pod.clone()));
    }

    async fn failed(&mut self, trouble: &PodTrouble) {
        self.told.send_replace(PodState::Failed(trouble.clone()));
    }

    async fn next(&mut self) -> SideEvent {
        if self.has_left {
            return pending().await;
        }
        let Self { leaving, owner, own, traffic: looks, intake, .. } = self;
        let event = tokio::select! {
            () = async { while leaving.changed().await.is_ok() {} } => SideEvent::Disconnected,
            () = lost(owner, own.as_ref()) => SideEvent::OwnerLost,
            () = traffic(looks, intake) => return SideEvent::Traffic,
        };
        // Each of these is said once, and ends it.
        self.has_left = true;
        event
    }
}
