//! What all connections share, and what is known of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use toehold_core::{AuditEvent, Clock as _, StoreError};
use toehold_joinproto::admission::DeskError;
use toehold_joinproto::pin::Pin;
use toehold_joinproto::v3::{self, Channel, Exporter};
use tokio::sync::{Notify, RwLock, watch};
use tokio::time::timeout;
use tonic::Status;

use super::GatewayDesk;
use super::limits::{Limits, Place, Refused, SessionPlace};
use super::metrics::{Counter, Metrics};
use super::presence::Presence;
use super::serving::Serving;
use super::specs::Specs;
use crate::adapters::system_clock::SystemClock;
use crate::on_record::Recorder;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) desk: GatewayDesk,
    /// For writing only while its cookie keys change.
    pub(super) v3: RwLock<v3::Gateway>,
    pub(super) serving: watch::Receiver<Arc<Serving>>,
    /// The pins of the present key and of the next.
    pub(super) pins: watch::Receiver<Arc<Vec<Pin>>>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    /// The agents that have a session here.
    pub(super) presence: Presence,
    /// Told of each agent of Opni's whose record has changed.
    pub(super) opni_agents: Notify,
    /// Documents that agents are taking.
    pub(super) specs: Specs,
    /// How many agents may be in an update at once, by governor.
    pub(super) governors: BTreeMap<String, u32>,
    /// Who has joined is left to be written down.
    pub(super) audit: Recorder,
    /// What could not be followed in the store when it was asked last; nothing, where it answers.
    pub(super) failing: watch::Sender<BTreeSet<&'static str>>,
}

impl Hub {
    /// Leaves it to the audit log that somebody has joined: no join waits for that, and none fails by it.
    pub(super) fn joined(&self, agent: &str, role: &str, token: &str, source: IpAddr) {
        let event = AuditEvent::new(SystemClock.now(), "agent.joined", agent.to_owned());
        let event = event.with("role", role).with("token", token).with("from", source.to_string());
        if !self.audit.leave(event) {
            self.metrics.count(Counter::AuditFailed);
            tracing::error!("that agent {agent} has joined is not in the audit log: too much waits to be written there");
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.is_stopping() && self.failing.borrow().is_empty()
    }

    /// Whether what lies below `prefix` could be followed. Each of those who follow something speaks for itself alone.
    pub(super) fn store_answers(&self, prefix: &'static str, answers: bool) {
        self.failing.send_if_modified(|failing| if answers { failing.remove(prefix) } else { failing.insert(prefix) });
    }

    /// Says why a request failed in the gateway's own log; the peer is told what `joinproto` says may be told.
    pub(super) fn failed(&self, doing: &str, source: IpAddr, error: &DeskError) {
        match error {
            DeskError::Store(StoreError::Unavailable { .. } | StoreError::Corrupt { .. } | StoreError::Newer { .. })
            | DeskError::Vault { .. }
            | DeskError::Keyring { .. } => {
                self.metrics.count(Counter::StoreFailed);
                tracing::error!("{doing} from {source} failed: {}", crate::cli::chain(error));
            }
            error => tracing::info!("{doing} from {source} was refused: {error}"),
        }
    }
}

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) source: IpAddr,
    pub(super) exporter: Exporter,
    /// The key that was presented in this connection.
    pub(super) serving: Arc<Serving>,
    has_conversed: AtomicBool,
    is_authenticated: AtomicBool,
    place: Mutex<Place>,
    /// The agent whose it is has none of it any more.
    is_over: Notify,
    /// How many sessions of agents are open.
    sessions: watch::Sender<usize>,
}

impl Peer {
    pub(super) fn new(source: IpAddr, exporter: Exporter, serving: Arc<Serving>, place: Place) -> Self {
        Self {
            source,
            exporter,
            serving,
            has_conversed: AtomicBool::new(false),
            is_authenticated: AtomicBool::new(false),
            place: Mutex::new(place),
            is_over: Notify::new(),
            sessions: watch::Sender::default(),
        }
    }

    /// The peer of a request.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Arc<Self>, Status> {
        request.extensions().get::<Arc<Self>>().cloned().ok_or_else(|| Status::internal("internal error"))
    }

    /// A conversation's channel; `None` where there was one before on this connection.
    pub(super) fn converse(&self) -> Option<Channel> {
        let is_first = !self.has_conversed.swap(true, Ordering::Relaxed);
        is_first.then(|| Channel { exporter: self.exporter, gateway_key: *self.serving.pin().digest(), source: self.source })
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    /// An agent has authenticated: it is no stranger any more. The session's place is to be kept as long as the session.
    pub(super) fn authenticated(&self, limits: &Limits, agent: &str) -> Result<SessionPlace, Status> {
        let refused = |refused: Refused| Status::resource_exhausted(refused.to_string());
        let session = limits.session(agent).map_err(refused)?;
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.authenticated(agent).map_err(refused)?;
        self.is_authenticated.store(true, Ordering::Relaxed);
        Ok(session)
    }

    /// An agent that had authenticated was removed: where the connection is its own, it is to be over.
    pub(super) fn removed(&self, agent: &str) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.agent() == Some(agent) {
            self.is_over.notify_one();
        }
    }

    /// A session of an agent that has authenticated is open as long as this is kept.
    pub(super) fn session(self: &Arc<Self>) -> OpenSession {
        self.sessions.send_modify(|sessions| *sessions += 1);
        OpenSession(Arc::clone(self))
    }

    /// Waits until its agent is removed, or has had no session for so long: then it has no place among agents any more.
    pub(super) async fn over(&self, grace: Duration) {
        let mut sessions = self.sessions.subscribe();
        let idle = async {
            // The sender is ours: it stays.
            loop {
                let _ = sessions.wait_for(|open| *open > 0).await;
                let _ = sessions.wait_for(|open| *open == 0).await;
                if timeout(grace, sessions.wait_for(|open| *open > 0)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.is_over.notified() => {}
            () = idle => {}
        }
    }
}

/// A session that is open on a connection.
#[derive(Debug)]
pub(super) struct OpenSession(Arc<Peer>);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.sessions.send_modify(|sessions| *sessions = sessions.saturating_sub(1));
    }
}
