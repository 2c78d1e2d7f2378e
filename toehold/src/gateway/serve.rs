//! The accept loop: awaits connections, and no client.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use toehold_core::StoreAudit;
use toehold_joinproto::admission::Desk;
use toehold_joinproto::pin::Pin;
use toehold_joinproto::v3::{self, CookieKeys};
use tokio::net::TcpListener;
use tokio::sync::{Notify, RwLock, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::connection::{self, Services};
use super::hub::Hub;
use super::limits::Limits;
use super::metrics::{Counter, Metrics};
use super::presence::Presence;
use super::serving::Serving;
use super::specs::Specs;
use super::vault::GatewayVault;
use super::{GatewayError, GatewayLook, ServeOptions, system_rng, upkeep};
use crate::accepting::{PAUSE, is_of_one_connection};
use crate::adapters::system_clock::SystemClock;
use crate::cli::{Signals, chain};
use crate::on_record;
use crate::shared::AnyStore;

/// How long the store may take at the end for what is not in the audit log yet.
const LOG: Duration = Duration::from_secs(5);

/// What is said once a gateway listens.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Where it listens.
    pub listening: SocketAddr,
    /// Where its metrics are told.
    pub metrics: Option<SocketAddr>,
    /// The pins of its key and of the next.
    pub pins: Vec<Pin>,
    /// How it is, from then on.
    pub look: GatewayLook,
}

/// Runs a gateway until a signal comes, then lets open calls end. `announce` is called once it listens.
///
/// # Errors
/// [`GatewayError::Listen`]; [`GatewayError::Store`] where the store's file was moved away under it.
pub async fn serve(
    options: ServeOptions,
    store: AnyStore,
    vault: GatewayVault,
    serving: Serving,
    pins: Vec<Pin>,
    announce: impl FnOnce(Announcement),
    mut signals: Signals,
) -> Result<(), GatewayError> {
    let listener = listen(options.listen).await?;
    let metrics = match options.metrics {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let local = |listener: &TcpListener| {
        let named = |source| GatewayError::Listen { address: options.listen.to_string(), source };
        listener.local_addr().map_err(named)
    };
    let (listening, told_at) = (local(&listener)?, metrics.as_ref().map(local).transpose()?);
    let announced_pins = pins.clone();
    let (serving_sender, serving) = watch::channel(Arc::new(serving));
    let (pins_sender, pins) = watch::channel(Arc::new(pins));
    let (stop, stopping) = watch::channel(false);
    let watched = store.clone();
    let (audit, events) = on_record::recorder();
    let log = StoreAudit::new(store.clone(), options.audit_writer.clone());
    let hub = Arc::new(Hub {
        desk: Desk::new(store, SystemClock, vault),
        v3: RwLock::new(v3::Gateway { cookies: CookieKeys::generate(&mut system_rng()), endpoints: options.endpoints.clone() }),
        serving,
        pins,
        stopping,
        limits: Limits::new(options.limits),
        metrics: Metrics::default(),
        presence: Presence::default(),
        opni_agents: Notify::new(),
        specs: Specs::default(),
        governors: options.governors.clone(),
        audit,
        failing: watch::Sender::default(),
    });
    let writing = tokio::spawn(write_down(Arc::downgrade(&hub), log, events));
    let mut tasks = JoinSet::new();
    tasks.spawn(upkeep::sign(Arc::clone(&hub)));
    tasks.spawn(upkeep::follow_keys(Arc::clone(&hub), pins_sender, serving_sender, options.capabilities.clone()));
    tasks.spawn(upkeep::follow_agents(Arc::clone(&hub)));
    tasks.spawn(upkeep::tidy(Arc::clone(&hub)));
    tasks.spawn(upkeep::ask(Arc::clone(&hub)));
    if let Some(listener) = metrics {
        tasks.spawn(upkeep::tell(Arc::clone(&hub), listener));
    }
    let look = GatewayLook(Arc::downgrade(&hub));
    announce(Announcement { listening, metrics: told_at, pins: announced_pins, look });

    let mut connections = JoinSet::new();
    let services = Services::new(&hub);
    let mut losing = std::pin::pin!(watched.until_lost());
    let lost = loop {
        tokio::select! {
            () = signals.wait() => break None,
            error = &mut losing => break Some(error),
            accepted = listener.accept() => match accepted {
                Ok((tcp, address)) => {
                    let address = address.ip().to_canonical();
                    let is_balancer = connection::is_balancer(address, &options.proxy_from);
                    let place = hub.limits.enter().and_then(|mut place| {
                        // At once, so that one source's flood takes the places of no others.
                        if !is_balancer {
                            place.identify(address, Instant::now())?;
                        }
                        Ok(place)
                    });
                    let Ok(place) = place else {
                        hub.metrics.count(Counter::ConnectionRefused);
                        continue;
                    };
                    hub.metrics.count(Counter::ConnectionAccepted);
                    // Each answer is small and awaited.
                    let _ = tcp.set_nodelay(true);
                    connections.spawn(connection::handle(services.clone(), tcp, address, place, is_balancer));
                }
                Err(error) => {
                    hub.metrics.count(Counter::AcceptFailed);
                    if !is_of_one_connection(&error) {
                        tracing::error!("accepting connections failed: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            },
            ended = connections.join_next(), if !connections.is_empty() => {
                if ended.is_some_and(|ended| ended.is_err()) {
                    hub.metrics.count(Counter::Panic);
                }
            }
        }
    };
    drop(listener);
    if let Some(error) = &lost {
        // Whoever was removed there is still let in here, and whoever joins here is not known there.
        tracing::error!("no machine is let in any more, and this gateway ends: {}", chain(error));
    }
    stop.send_replace(true);
    let drained = tokio::time::timeout(options.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("{} connections were cut", connections.len());
    }
    connections.shutdown().await;
    tasks.shutdown().await;
    // With the last of those who could say anything, the log's end is there.
    drop((services, hub));
    until_written(writing).await;
    lost.map_or(Ok(()), |error| Err(error.into()))
}

/// Writes the audit log until nobody has anything to note any more.
async fn write_down(hub: Weak<Hub>, log: StoreAudit<AnyStore>, events: on_record::Writer) {
    let missing = || {
        if let Some(hub) = hub.upgrade() {
            hub.metrics.count(Counter::AuditFailed);
        }
    };
    events.write_down(log, missing).await;
}

/// Waits for what is not in the audit log yet.
async fn until_written(mut writing: JoinHandle<()>) {
    if tokio::time::timeout(LOG, &mut writing).await.is_err() {
        writing.abort();
        tracing::error!("who has joined last is not in the audit log: the store does not answer");
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|source| GatewayError::Listen { address: address.to_string(), source })
}
