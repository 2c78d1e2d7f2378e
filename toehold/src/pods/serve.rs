//! The accept loop: awaits connections, and no client.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, server};
use toehold_core::PublicKey;
use toehold_podrun::config::Settings;
use toehold_podrun::driver::Keeper;
use toehold_podrun::pod::spec_digest;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::authentication::Authenticator;
use super::hub::{Hub, LAST_PODS, SharedBackend, Stopping};
use super::metrics::{Counter, Metrics};
use super::stream::WINDOW;
use super::{PodsError, ServeOptions, connection, host_key, upkeep};
use crate::accepting::{PAUSE, is_of_one_connection};
use crate::cli::{Signals, chain};
use crate::gateway::limits::Limits;
use crate::gateway::system_rng;
use crate::on_record;
use crate::shared::AnyStore;
use crate::telling;

/// How often sources are forgotten that need not be remembered.
const TIDY: Duration = Duration::from_secs(300);
/// How many keys may fail to prove themselves in one connection.
const MAX_ATTEMPTS: usize = 6;

/// How long is waited for the end of pods where it could not be put on record: they have been told.
const WITHOUT_A_STORE: Duration = Duration::from_secs(5);

/// What sshd offers, in its order; a client's order counts.
const CIPHERS: [cipher::Name; 6] = [
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::AES_128_CTR,
    cipher::AES_192_CTR,
    cipher::AES_256_CTR,
];

/// What is said once a gateway listens.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Where it listens.
    pub listening: SocketAddr,
    /// Where its metrics are told.
    pub metrics: Option<SocketAddr>,
    /// The host key that it shows.
    pub host_key: PublicKey,
}

/// Runs a gateway of pods until a signal comes, then lets sessions end. `directory` is where its host key is. `announce` is called once
/// it listens.
///
/// # Errors
/// [`PodsError`].
#[expect(clippy::too_many_arguments, reason = "each is a part of another kind")]
pub async fn serve<B: SharedBackend, A: Authenticator>(
    options: ServeOptions,
    settings: Settings,
    backend: B,
    authenticator: A,
    store: impl Into<AnyStore>,
    directory: &Path,
    announce: impl FnOnce(Announcement),
    mut signals: Signals,
) -> Result<(), PodsError> {
    let (key, host_key) = host_key::load(directory)?;
    let store = store.into();
    let watched = store.clone();
    let listener = listen(options.listen).await?;
    let metrics = match options.metrics {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let local =
        |listener: &TcpListener| listener.local_addr().map_err(|source| PodsError::Listen { address: options.listen, source });
    let announcement = Announcement { listening: local(&listener)?, metrics: metrics.as_ref().map(local).transpose()?, host_key };
    let (audit, events) = on_record::recorder();
    let hub = Arc::new(Hub {
        spec_digest: spec_digest(&settings),
        ssh: Arc::new(ssh(key, &options)),
        limits: Limits::new(options.limits),
        backend,
        store: store.clone(),
        settings,
        authenticator,
        options,
        metrics: Metrics::default(),
        waiting: Arc::default(),
        owner: watch::Sender::new(None),
        stopping: watch::Sender::new(Stopping::No),
        pods: watch::Sender::new(0),
        audit,
        backend_answers: AtomicBool::new(true),
    });
    let keeper = Keeper::create(hub.parts(), &hub.settings.namespace, &mut system_rng()).await?;
    let writer = hub.options.audit_writer.clone().unwrap_or_else(|| format!("pods-{}", keeper.owner().name));
    hub.owner.send_replace(Some(keeper.owner().clone()));
    let writing = tokio::spawn(upkeep::write_down(Arc::downgrade(&hub), store, writer, events));
    let mut tasks = JoinSet::new();
    tasks.spawn(upkeep::keep(Arc::clone(&hub), keeper));
    tasks.spawn(upkeep::reap(Arc::clone(&hub)));
    if let Some(listener) = metrics {
        let hub = Arc::clone(&hub);
        tasks.spawn(telling::tell(listener, move |method, path| told(&hub, method, path)));
    }
    announce(announcement);

    let mut connections = JoinSet::new();
    let mut tidy = tokio::time::interval(TIDY);
    let mut losing = std::pin::pin!(watched.until_lost());
    let lost = loop {
        tokio::select! {
            () = signals.wait() => break None,
            error = &mut losing => break Some(error),
            _ = tidy.tick() => hub.limits.tidy(Instant::now()),
            accepted = listener.accept() => match accepted {
                Ok((tcp, address)) => {
                    // At once, so that one source's flood takes the places of no others.
                    let place = hub.limits.enter().and_then(|mut place| {
                        place.identify(address.ip().to_canonical(), Instant::now())?;
                        Ok(place)
                    });
                    let Ok(place) = place else {
                        hub.metrics.count(Counter::ConnectionRefused);
                        continue;
                    };
                    hub.metrics.count(Counter::ConnectionAccepted);
                    // What is typed is small and awaited.
                    let _ = tcp.set_nodelay(true);
                    connections.spawn(connection::handle(Arc::clone(&hub), tcp, address, place));
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
        // No pod that is made from now on would be on record.
        tracing::error!("nobody new is let in, and this gateway ends: {}", chain(error));
    }
    drain(&hub, connections, if lost.is_some() { WITHOUT_A_STORE } else { LAST_PODS }).await;
    tasks.shutdown().await;
    end_owner(&hub).await;
    drop(hub);
    if let Some(error) = lost {
        // Nothing can be put on record any more, nor a record be removed of a pod that is gone.
        return Err(error.into());
    }
    if tokio::time::timeout(LAST_PODS, writing).await.is_err() {
        tracing::error!("the last events are not in the audit log");
    }
    Ok(())
}

/// Lets sessions go on for a while, then ends them, and waits so long for their pods to be gone.
async fn drain<B, A>(hub: &Hub<B, A>, mut connections: JoinSet<()>, last_pods: Duration) {
    hub.stopping.send_replace(Stopping::Soon);
    let all = async |connections: &mut JoinSet<()>| while connections.join_next().await.is_some() {};
    if tokio::time::timeout(hub.options.drain, all(&mut connections)).await.is_err() {
        tracing::warn!("{} connections are being ended", connections.len());
        hub.stopping.send_replace(Stopping::Now);
        // Each has its own farewell.
        let _ = tokio::time::timeout(LAST_PODS, all(&mut connections)).await;
    }
    connections.shutdown().await;
    let mut pods = hub.pods.subscribe();
    if tokio::time::timeout(last_pods, pods.wait_for(|pods| *pods == 0)).await.is_err() {
        tracing::error!("{} pods have not been seen gone; they go with their owner", *hub.pods.borrow());
    }
}

/// Ends the owner, and with it what is still there of the pods.
async fn end_owner<B: SharedBackend, A>(hub: &Hub<B, A>) {
    // It may be another one than at the start.
    let Some(own) = hub.owner.borrow().clone() else { return };
    let preconditions = toehold_podrun::backend::Preconditions { uid: own.uid, resource_version: None };
    if let Err(error) = hub.backend.delete_owner(&hub.settings.namespace, own.name, &preconditions).await {
        tracing::warn!("the owner of this gateway's pods is left to end by itself: {error}");
    }
}

fn ssh(key: russh::keys::PrivateKey, options: &ServeOptions) -> server::Config {
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    server::Config {
        server_id: SshId::Standard(concat!("SSH-2.0-Toehold_", env!("CARGO_PKG_VERSION")).into()),
        methods,
        preferred: Preferred { cipher: Cow::Borrowed(&CIPHERS), ..Preferred::DEFAULT },
        // Nobody guesses keys, and a client that asks with several waits for each answer.
        auth_rejection_time: Duration::ZERO,
        keys: vec![key],
        window_size: WINDOW,
        max_auth_attempts: MAX_ATTEMPTS,
        // There are deadlines for all that comes before a login, and keep-alives after it.
        inactivity_timeout: None,
        keepalive_interval: Some(options.keep_alive),
        keepalive_max: options.keep_alive_count,
        ..server::Config::default()
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, PodsError> {
    TcpListener::bind(address).await.map_err(|source| PodsError::Listen { address, source })
}

fn told<B: SharedBackend, A>(hub: &Hub<B, A>, method: &Method, path: &str) -> (StatusCode, String) {
    match (method, path) {
        (&Method::GET, "/metrics") => (StatusCode::OK, hub.metrics.text(hub.limits.count(), *hub.pods.borrow(), hub.is_ready())),
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") if hub.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        (&Method::GET, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    }
}
