//! What a gateway does beside its connections: it follows the store, sweeps, and tells how it is.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use toehold_core::{Key, Store as _, StoreError, Watch};
use toehold_joinproto::pin::Pin;
use toehold_joinproto::v3::AgentId;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use super::hub::Hub;
use super::keys::{AgentPins, GatewayRecord};
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
/// How long a change waits for others that come with it.
const SETTLE: Duration = Duration::from_millis(20);
/// Reading again waits so many times as long as reading has taken, so that a flood of changes keeps a gateway at it for a fifth of the time.
const REST: u32 = 4;
/// How often the store is asked for something, and how long it has for that.
const ASK: Duration = Duration::from_secs(5);
/// How long to wait after the store has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs `again` once, after changes below `prefix` that matter, when something else is told of that matters, and every now and then. A store
/// that fails is asked again.
async fn follow<F: Future<Output = Result<(), GatewayError>>>(
    hub: &Hub,
    prefix: &'static str,
    at_least: Duration,
    matters: impl Fn(&Key) -> bool,
    told: &Notify,
    mut again: impl FnMut() -> F,
) -> Infallible {
    loop {
        let failed: StoreError = 'watching: {
            let below = match Key::new([prefix]) {
                Ok(below) => below,
                Err(error) => break 'watching error.into(),
            };
            // The watch comes first: what changes while `again` reads is seen after it.
            let mut watch = match hub.desk.store.watch(&below).await {
                Ok(watch) => watch,
                Err(error) => break 'watching error,
            };
            loop {
                let begun = Instant::now();
                let done = again().await;
                let rest = begun.elapsed() * REST;
                hub.store_answers(prefix, done.is_ok());
                if let Err(error) = done {
                    tracing::error!("following {prefix} in the store failed: {}", chain(&error));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                if let Err(error) = next_change(&mut watch, &matters, told, at_least, rest).await {
                    break 'watching error;
                }
            }
        };
        hub.store_answers(prefix, false);
        tracing::error!("watching {prefix} in the store failed: {}", chain(&failed));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for a change that matters, but no longer than `at_least`; what else changes soon after it, and in any case within `rest` from now, is
/// taken together with it.
async fn next_change<W: Watch>(
    watch: &mut W,
    matters: impl Fn(&Key) -> bool,
    told: &Notify,
    at_least: Duration,
    rest: Duration,
) -> Result<(), StoreError> {
    let begun = tokio::time::Instant::now();
    loop {
        let changed = tokio::select! {
            changed = timeout_at(begun + at_least, watch.changed()) => changed,
            () = told.notified() => break,
        };
        let Ok(changed) = changed else { return Ok(()) };
        if matters(&changed?) {
            break;
        }
    }
    let settled = (tokio::time::Instant::now() + SETTLE).max(begun + rest.min(at_least));
    while let Ok(changed) = timeout_at(settled, watch.changed()).await {
        changed?;
    }
    Ok(())
}

/// Keeps the signatures for Opni's agents as the tokens are.
pub(super) async fn sign(hub: Arc<Hub>) -> Infallible {
    // A use of a token that is not offered to Opni's agents, such as any of the third version, takes none away.
    let matters = |key: &Key| {
        let mut segments = key.segments().skip(1);
        let (Some(id), Some(_)) = (segments.next(), segments.next()) else { return true };
        let serving = hub.serving.borrow();
        let signatures = serving.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        id.parse().is_ok_and(|id| signatures.has(id))
    };
    // Whether a token of Opni's that somebody has used is still offered is told by that agent's record.
    follow(&hub, "token", TOKENS, matters, &hub.opni_agents, || async {
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
    follow(
        &hub,
        "gateway",
        TOKENS,
        |_| true,
        &Notify::new(),
        || async {
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
        },
    )
    .await
}

/// Has the sessions of an agent look at it again when its record changes. What changes while that cannot be followed, they see by
/// themselves, later.
pub(super) async fn follow_agents(hub: Arc<Hub>) -> Infallible {
    loop {
        let Err(failed) = tell_sessions(&hub).await;
        hub.store_answers("agent", false);
        tracing::error!("watching agent in the store failed: {}", chain(&failed));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn tell_sessions(hub: &Hub) -> Result<Infallible, StoreError> {
    let mut watch = hub.desk.store.watch(&Key::new(["agent"])?).await?;
    hub.store_answers("agent", true);
    loop {
        let changed = watch.changed().await?;
        hub.presence.changed(changed.name());
        if changed.name().parse::<AgentId>().is_err() {
            hub.opni_agents.notify_one();
        }
    }
}

/// Sees again and again whether the store answers: whoever only waits for its changes learns late that it does not.
pub(super) async fn ask(hub: Arc<Hub>) -> Infallible {
    let mut asking = tokio::time::interval(ASK);
    asking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        asking.tick().await;
        let answered = tokio::time::timeout(ASK, GatewayRecord::read(&hub.desk.store)).await;
        hub.store_answers("an answer", matches!(answered, Ok(Ok(_))));
    }
}

/// Clears away what is long over, forgets idle sources, and changes the cookie keys.
pub(super) async fn tidy(hub: Arc<Hub>) -> Infallible {
    let mut sweep = tokio::time::interval(SWEEP);
    let mut cookies = tokio::time::interval(COOKIES);
    cookies.reset();
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                match hub.desk.sweep().await {
                    Ok(swept) => hub.metrics.add(Counter::TokensSwept, swept as u64),
                    Err(error) => tracing::error!("sweeping failed: {}", chain(&error)),
                }
                if let Err(error) = AgentPins::sweep(&hub.desk.store).await {
                    tracing::error!("sweeping pins failed: {}", chain(&error));
                }
            }
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

#[cfg(test)]
mod tests {
    use toehold_core::testing::MemoryStore;
    use toehold_core::{Expect, Revision};

    use super::*;

    async fn write(store: &MemoryStore, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            store.put(&Key::parse(&key).unwrap(), b"{}", Expect::Absent).await.unwrap();
        }
    }

    fn is_token(key: &Key) -> bool {
        key.segments().count() == 2
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_matter_are_read_together_and_others_not_at_all() {
        let store = MemoryStore::new();
        let mut watch = store.watch(&Key::new(["token"]).unwrap()).await.unwrap();
        let told = Notify::new();
        let waited = async |watch: &mut _, rest| {
            let begun = tokio::time::Instant::now();
            next_change(watch, is_token, &told, TOKENS, rest).await.unwrap();
            begun.elapsed()
        };
        told.notify_one();
        assert!(waited(&mut watch, Duration::ZERO).await <= SETTLE * 2);
        // As many agents as there may be come in with tokens of the third version.
        write(&store, (0..1_000).map(|n| format!("token/0123456789ab/{n:05}"))).await;
        assert!(waited(&mut watch, Duration::ZERO).await >= TOKENS);
        // One token is seen soon, and many are seen at once.
        write(&store, ["token/0123456789ac".to_owned()]).await;
        assert!(waited(&mut watch, Duration::ZERO).await <= SETTLE * 2);
        write(&store, (0..100).map(|n| format!("token/aa{n:010}"))).await;
        assert!(waited(&mut watch, Duration::ZERO).await <= SETTLE * 2);
        assert!(waited(&mut watch, Duration::ZERO).await >= TOKENS);
        // After a long read the next one waits.
        let rest = Duration::from_secs(2);
        write(&store, ["token/0123456789ad".to_owned()]).await;
        assert!((rest..rest * 2).contains(&waited(&mut watch, rest).await));
        store.delete(&Key::parse("token/0123456789ad").unwrap(), Revision(1_102)).await.unwrap();
        assert!(waited(&mut watch, Duration::ZERO).await <= SETTLE * 2);
    }
}
