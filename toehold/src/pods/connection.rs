//! One connection, from its first byte to its last. Nothing here is awaited by anybody else.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use russh::Disconnect;
use russh::server::{self, Handle};
use toehold_core::{AuditEvent, Clock as _};
use toehold_podrun::ConnectionId;
use toehold_podrun::channel::ChannelEvent;
use toehold_podrun::config::Mode;
use toehold_podrun::exec::Outcome;
use toehold_podrun::pod::Who;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::authentication::{Authenticator, LoginMetadata};
use super::channel::{self, Place};
use super::client::{Client, FromClient, Link};
use super::hub::{Hub, SharedBackend, Stopping};
use super::launching::Common;
use super::metrics::Counter;
use super::side::{Lease, PodState, Tenant};
use super::stream::{ClientStream, Intake};
use crate::adapters::russh_connector::{Lifeline, Tethered};
use crate::adapters::system_clock::SystemClock;
use crate::gateway::LimitOptions;
use crate::gateway::limits::{self, Refused};
use crate::gateway::system_rng;

/// How long a client may take to go that was told to.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the jobs of a client that has gone may take to leave.
const PARTING: Duration = Duration::from_secs(60);

/// Who has logged in.
struct LoggedIn {
    who: Who,
    metadata: Arc<LoginMetadata>,
    handle: Handle,
}

/// Sees a connection through.
pub(super) async fn handle<B: SharedBackend, A: Authenticator>(
    hub: Arc<Hub<B, A>>,
    tcp: TcpStream,
    address: SocketAddr,
    mut place: limits::Place,
) {
    let begun = Instant::now();
    let intake = Arc::new(Intake::new(hub.options.channels, Arc::clone(&hub.waiting)));
    let patience = hub.options.keep_alive.saturating_mul(u32::try_from(hub.options.keep_alive_count + 1).unwrap_or(u32::MAX));
    let stream = ClientStream::new(tcp, Arc::clone(&intake), patience);
    // russh's own task ends when this is dropped.
    let (stream, lifeline): (Tethered, Lifeline) = Tethered::new(Box::new(stream));
    let link = Arc::new(Link::new(intake, hub.options.channels));
    let (tell, mut told) = mpsc::unbounded_channel();
    let client = Client::new(Arc::clone(&hub), Arc::clone(&link), address, tell);
    let starting = server::run_stream(Arc::clone(&hub.ssh), stream, client);
    let Ok(Ok(session)) = timeout_at(begun + hub.options.limits.handshake, starting).await else {
        return hub.metrics.count(Counter::HandshakeFailed);
    };
    let mut session = pin!(session);

    let mut stopping = hub.stopping.subscribe();
    let logged_in = tokio::select! {
        ended = session.as_mut() => {
            note_panic(&hub, &ended);
            return hub.metrics.count(Counter::HandshakeFailed);
        }
        // Where there is nobody to tell any more, the session has ended, and says how.
        Some(told) = told.recv() => told,
        () = tokio::time::sleep_until(begun + hub.options.limits.stranger_lifetime) => {
            return hub.metrics.count(Counter::LoginTimedOut);
        }
        () = until_stopping(&mut stopping, Stopping::Soon) => return,
    };
    let FromClient::LoggedIn { admission, user, key, handle } = logged_in else { return };
    if let Err(refused) = place.authenticated(&admission.principal) {
        hub.metrics.count(Counter::ConnectionRefused);
        let words = no_place(refused, &admission.principal, &hub.options.limits);
        let _ = handle.disconnect(Disconnect::TooManyConnections, words, String::new()).await;
        let _ = timeout_at(Instant::now() + FAREWELL, session).await;
        return;
    }
    hub.metrics.count(Counter::LoggedIn);
    let who = Who { principal: admission.principal, user, address: address.to_string() };
    let connection = ConnectionId::generate(&mut system_rng());
    tracing::info!("{connection}: {} has logged in from {address}", who.principal);
    let event = AuditEvent::new(SystemClock.now(), "pods.logged_in", who.principal.clone())
        .with("connection", connection.to_string())
        .with("user", who.user.clone())
        .with("address", who.address.clone())
        .with("key", key.to_string());
    if let Err(error) = hub.noted(hub.audit.send(event).await) {
        let _ = handle.disconnect(Disconnect::ByApplication, error.to_string(), String::new()).await;
        let _ = timeout_at(Instant::now() + FAREWELL, session).await;
        return;
    }
    let logged_in = LoggedIn { who, metadata: admission.metadata, handle };
    serve(&hub, &link, logged_in, connection, session, &mut told).await;
    tracing::info!("{connection}: over");
    drop(lifeline);
}

/// What somebody is told who may log in, and for whom there is no room.
fn no_place(refused: Refused, principal: &str, limits: &LimitOptions) -> String {
    let why = match refused {
        Refused::Sessions => format!("{principal} has {} of them, as many as one may have", limits.sessions_per_agent),
        _ => format!("{} are open, as many as there may be", limits.agents),
    };
    format!("no place for another connection: {why}")
}

fn note_panic<B, A>(hub: &Hub<B, A>, ended: &Result<(), russh::Error>) {
    if let Err(russh::Error::Join(_)) = ended {
        hub.metrics.count(Counter::Panic);
    }
}

async fn serve<B: SharedBackend, A: Authenticator>(
    hub: &Arc<Hub<B, A>>,
    link: &Arc<Link>,
    LoggedIn { who, metadata, handle }: LoggedIn,
    connection: ConnectionId,
    mut session: impl Future<Output = Result<(), russh::Error>> + Unpin,
    told: &mut mpsc::UnboundedReceiver<FromClient>,
) {
    let tenant = Tenant { connection, channel: None, who, metadata };
    let of_each_channel = hub.settings.mode == Mode::Session;
    let held = (!of_each_channel).then(|| Lease::take(hub, tenant.clone(), Arc::clone(&link.intake)));
    let common = Arc::new(Common::<B>::default());
    let mut state = held.as_ref().map(|held| held.state.clone());
    let mut stopping = hub.stopping.subscribe();
    let mut jobs = JoinSet::new();
    let mut leave_at: Option<(Instant, String)> = None;
    // When the gateway stops it is looked every so often whether a client is idle; one whose last command has just ended goes by itself.
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    let mut idle_since: Option<Instant> = None;
    loop {
        let is_stopping = *stopping.borrow() != Stopping::No;
        let deadline = leave_at.as_ref().map(|(at, _)| *at);
        tokio::select! {
            ended = &mut session => {
                note_panic(hub, &ended);
                break;
            }
            Some(from) = told.recv() => if let FromClient::Start(job) = from {
                let pod = held.as_ref().map(|held| (held.state.clone(), Arc::clone(&common)));
                let place = Place {
                    hub: Arc::clone(hub),
                    link: Arc::clone(link),
                    handle: handle.clone(),
                    tenant: tenant.clone(),
                    pod,
                };
                jobs.spawn(channel::run(place, job));
            },
            Some(ended) = jobs.join_next(), if !jobs.is_empty() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    hub.metrics.count(Counter::Panic);
                    break;
                }
            }
            words = failed(&mut state), if leave_at.is_none() => {
                end_channels(link, &handle, &words).await;
                leave_at = Some((Instant::now() + FAREWELL, words));
            }
            () = until_stopping(&mut stopping, Stopping::Now), if leave_at.is_none() => {
                let words = "the gateway is stopping".to_owned();
                end_channels(link, &handle, &words).await;
                leave_at = Some((Instant::now() + FAREWELL, words));
            }
            _ = looks.tick(), if is_stopping && leave_at.is_none() => {
                let is_idle = link.channels().is_empty() && jobs.is_empty();
                idle_since = is_idle.then(|| idle_since.unwrap_or_else(Instant::now));
                if idle_since.is_some_and(|since| since.elapsed() > FAREWELL) {
                    leave_at = Some((Instant::now(), "the gateway is stopping".to_owned()));
                }
            }
            () = until(deadline) => {
                let words = leave_at.map(|(_, words)| words).unwrap_or_default();
                let _ = handle.disconnect(Disconnect::ByApplication, words, String::new()).await;
                let _ = timeout_at(Instant::now() + FAREWELL, &mut session).await;
                break;
            }
        }
    }
    // What still runs is of no use to anybody. Each job has seen that its client is gone and ends what it has begun, which does not go with a
    // pod that stays; the pod does not wait for that.
    tokio::spawn(timeout(PARTING, async move { while jobs.join_next().await.is_some() {} }));
}

/// Ends when the gateway is to stop this soon.
async fn until_stopping(stopping: &mut watch::Receiver<Stopping>, how_soon: Stopping) {
    let is_so = |now: &Stopping| *now == how_soon || *now == Stopping::Now;
    if stopping.wait_for(is_so).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why there is no pod (any more), once there is none.
async fn failed(state: &mut Option<watch::Receiver<PodState>>) -> String {
    match state {
        Some(state) => channel::failed(state).await,
        None => std::future::pending().await,
    }
}

/// Ends what is in every channel, and says why.
async fn end_channels(link: &Link, handle: &Handle, words: &str) {
    let ended = link.channels().handle_all(&ChannelEvent::Ended(Outcome::Failed(words.to_owned())));
    for (number, actions) in ended {
        let id = link.ids().get(&number).copied();
        for action in actions {
            if let Some(id) = id {
                channel::tell(handle, id, action).await;
            }
        }
    }
}
