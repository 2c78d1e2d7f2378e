//! What a gateway does beside its connections: it follows the store, sweeps, and tells how it is.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use toehold_core::{Key, Store as _, StoreError, Watch as _};
use toehold_joinproto::pin::Pin;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::hub::Hub;
use super::keys::GatewayRecord;
use super::metrics::Counter;
use super::serving::Serving;
use super::{GatewayError, system_rng};
use crate::cli::chain;
use crate::telling;

/// How often what is long over is swept.
const SWEEP: Duration = Duration::from_secs(600);
/// How often cookie keys are changed.
const COOKIES: Duration = Duration::from_secs(300);
/// How often, at least, the tokens for Opni's agents are read; changes are seen at once.
const TOKENS: Duration = Duration::from_secs(30);
/// How long to wait after the store has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `again` once, after every change below `prefix`, and every now and then. A store that fails is asked again.
async fn follow<F: Future<Output = Result<(), GatewayError>>>(
    hub: &Hub,
    prefix: &'static str,
    at_least: Duration,
    mut again: impl FnMut() -> F,
) -> Infallible {
    loop {
        let failed: StoreError = 'watching: {
            let prefix = match Key::new([prefix]) {
                Ok(prefix) => prefix,
                Err(error) => break 'watching error.into(),
            };
            // The watch comes first: what changes while `again` reads is seen after it.
            let mut watch = match hub.desk.store.watch(&prefix).await {
                Ok(watch) => watch,
                Err(error) => break 'watching error,
            };
            loop {
                let done = again().await;
                hub.store_answers.store(done.is_ok(), Ordering::Relaxed);
                if let Err(error) = done {
                    tracing::error!("following {prefix} in the store failed: {}", chain(&error));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                if let Ok(Err(error)) = tokio::time::timeout(at_least, watch.changed()).await {
                    break 'watching error;
                }
            }
        };
        hub.store_answers.store(false, Ordering::Relaxed);
        tracing::error!("watching {prefix} in the store failed: {}", chain(&failed));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Keeps the signatures for Opni's agents as the tokens are.
pub(super) async fn sign(hub: Arc<Hub>) -> Infallible {
    follow(&hub, "token", TOKENS, || async {
        let serving = hub.serving.borrow().clone();
        let Some(opni) = &serving.opni else { return Ok(()) };
        let active = hub.desk.opni_tokens().await?;
        let made = {
            let mut signatures = serving.signatures.lock().unwrap_or_else(PoisonError::into_inner);
            signatures.refresh(&active, opni.key())
        };
        hub.metrics.add(Counter::SignaturesMade, made as u64);
        Ok(())
    })
    .await
}

/// Presents the key that the store names, and announces the pins that it names.
pub(super) async fn follow_keys(
    hub: Arc<Hub>,
    pins: watch::Sender<Arc<Vec<Pin>>>,
    serving: watch::Sender<Arc<Serving>>,
    capabilities: Vec<String>,
) -> Infallible {
    follow(&hub, "gateway", TOKENS, || async {
        let Some(stored) = GatewayRecord::read(&hub.desk.store).await? else { return Err(GatewayError::NoKey) };
        let record = stored.body;
        // A gateway that presents the operator's own key goes on with it.
        if let (true, Some(generated)) = (record.supplied.is_empty(), &record.generated)
            && !serving.borrow().is_supplied
            && generated.current.pin != serving.borrow().pin()
        {
            let endpoint: Option<toehold_joinproto::Endpoint> = record.endpoint.as_deref().and_then(|text| text.parse().ok());
            let seed = generated.current.open(&hub.desk.vault)?;
            let next = Serving::generated(&seed, endpoint.as_ref().map(toehold_joinproto::Endpoint::host), &capabilities)?;
            if let Some(opni) = &next.opni {
                let active = hub.desk.opni_tokens().await?;
                next.signatures.lock().unwrap_or_else(PoisonError::into_inner).refresh(&active, opni.key());
            }
            tracing::info!("presenting the key {} from now on", next.pin());
            serving.send_replace(Arc::new(next));
        }
        pins.send_if_modified(|pins| {
            let now = record.pins();
            let is_new = **pins != now;
            if is_new {
                *pins = Arc::new(now);
            }
            is_new
        });
        Ok(())
    })
    .await
}

/// Clears away what is long over, forgets idle sources, and changes the cookie keys.
pub(super) async fn tidy(hub: Arc<Hub>) -> Infallible {
    let mut sweep = tokio::time::interval(SWEEP);
    let mut cookies = tokio::time::interval(COOKIES);
    cookies.reset();
    loop {
        tokio::select! {
            _ = sweep.tick() => match hub.desk.sweep().await {
                Ok(swept) => hub.metrics.add(Counter::TokensSwept, swept as u64),
                Err(error) => tracing::error!("sweeping failed: {}", chain(&error)),
            },
            _ = cookies.tick() => {
                hub.v3.write().await.cookies.rotate(&mut system_rng());
                hub.limits.tidy(Instant::now());
            }
        }
    }
}

/// Tells Prometheus and whoever asks how the gateway is.
pub(super) async fn tell(hub: Arc<Hub>, listener: TcpListener) -> Infallible {
    telling::tell(listener, move |method, path| told(&hub, method, path)).await
}

fn told(hub: &Hub, method: &Method, path: &str) -> (StatusCode, String) {
    match (method, path) {
        (&Method::GET, "/metrics") => (StatusCode::OK, hub.metrics.text(hub.limits.count(), hub.is_ready())),
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") if hub.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        (&Method::GET, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    }
}
