//! What a gateway of pods does beside its connections: it keeps its owner alive, clears away what dead gateways have left, and writes
//! the audit log.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use toehold_core::StoreAudit;
use toehold_podrun::driver::{Keeper, OwnerState, Reaper};
use toehold_podrun::owner::INTERVAL;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::hub::{Hub, SharedBackend};
use super::metrics::Counter;
use crate::cli::chain;
use crate::gateway::system_rng;
use crate::on_record::Writer;
use crate::shared::AnyStore;

/// Extends the owner, and makes another where it is lost. Nothing else is done here: other gateways take an owner that is not extended in
/// time for a dead one's (P2).
pub(super) async fn keep<B: SharedBackend, A: Send + Sync + 'static>(hub: Arc<Hub<B, A>>, first: Keeper) -> Infallible {
    let mut keeper = Some(first);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        hold(&hub, &mut keeper).await;
    }
}

/// Looks for what others have left, and clears it away.
pub(super) async fn reap<B: SharedBackend, A: Send + Sync + 'static>(hub: Arc<Hub<B, A>>) -> Infallible {
    let mut reaper = Reaper::new();
    let mut recovering = JoinSet::new();
    let mut under_way = std::collections::BTreeSet::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                // A record that a restored backup does not have is no sign that its pod was forgotten (N3), and nothing is written to
                // the store before a pod is deleted.
                if !matches!(hub.store.read_only_now().await, Ok(None)) {
                    continue;
                }
                let own = hub.owner.borrow().clone();
                let found = reaper.pass(hub.parts(), &hub.settings.namespace, own.as_ref()).await;
                hub.metrics.add(Counter::Reaped, (found.owners.len() + found.strays.len()) as u64);
                for problem in found.problems.iter().chain(&found.unreadable) {
                    tracing::warn!("clearing away what is left of other gateways: {problem}");
                }
                hub.backend_answers.store(found.problems.is_empty(), Ordering::Relaxed);
                for record in found.orphans {
                    if under_way.insert(record.nonce) {
                        let hub = Arc::clone(&hub);
                        recovering.spawn(async move {
                            let ended = Reaper::recover(hub.parts(), &record).await;
                            (record.nonce, record.pod, ended)
                        });
                    }
                }
            }
            Some(recovered) = recovering.join_next(), if !recovering.is_empty() => {
                if let Ok((nonce, pod, ended)) = recovered {
                    under_way.remove(&nonce);
                    match ended {
                        Ok(()) => hub.metrics.count(Counter::Reaped),
                        Err(error) => tracing::error!("pod {pod} of a gateway that is gone: {error}"),
                    }
                }
            }
        }
    }
}

async fn hold<B: SharedBackend, A>(hub: &Hub<B, A>, keeper: &mut Option<Keeper>) {
    if let Some(held) = keeper {
        match held.beat(hub.parts()).await {
            Ok(OwnerState::Held(_) | OwnerState::Unknown) => return,
            Ok(OwnerState::Lost(owner)) => {
                tracing::error!("the owner {} of this gateway's pods is gone; their connections end", owner.name);
                hub.owner.send_replace(None);
                *keeper = None;
            }
            Err(error) => {
                tracing::error!("the owner of this gateway's pods cannot be extended: {}", chain(&error));
                return;
            }
        }
    }
    match Keeper::create(hub.parts(), &hub.settings.namespace, &mut system_rng()).await {
        Ok(made) => {
            hub.owner.send_replace(Some(made.owner().clone()));
            *keeper = Some(made);
        }
        Err(error) => tracing::error!("no owner for this gateway's pods can be made: {}", chain(&error)),
    }
}

/// Writes the audit log until nobody has anything to note any more.
pub(super) async fn write_down<B: SharedBackend, A: Send + Sync + 'static>(
    hub: std::sync::Weak<Hub<B, A>>,
    store: AnyStore,
    writer: String,
    events: Writer,
) {
    let missing = || {
        if let Some(hub) = hub.upgrade() {
            hub.metrics.count(Counter::AuditFailed);
        }
    };
    events.write_down(StoreAudit::new(store, writer), missing).await;
}
