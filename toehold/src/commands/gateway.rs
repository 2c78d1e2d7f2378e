//! `toehold gateway serve`, `gateway pin` and `gateway renew-key`.

use std::net::SocketAddr;

use serde_json::json;
use toehold_core::{AuditEvent, Clock as _};
use toehold_joinproto::Endpoint;
use toehold_joinproto::line::MAX_PINS;
use toehold_joinproto::pin::Pin;

use super::members;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{GatewayOptions, Serve};
use crate::cli::context::{Context, still_writable};
use crate::cli::{Exit, Failure};
use crate::gateway::keys::{AgentPins, GatewayRecord};
use crate::gateway::{self, Announcement, GatewayError, GatewayVault, LimitOptions, ServeOptions, Serving};
use crate::shared::{AnyStore, Role};

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// Where it cannot listen, or its key cannot be had.
pub(super) async fn serve(context: &Context, options: Serve) -> Result<Exit, Failure> {
    let Serve { how, metrics } = options;
    let output = context.output;
    let announce = move |announced: Announced| {
        let Announced { announcement, endpoint, serves_opni } = announced;
        output.document(&json!({
            "event": "listening",
            "address": announcement.listening.to_string(),
            "metrics": announcement.metrics.map(|address| address.to_string()),
            "endpoint": endpoint,
            "pins": announcement.pins,
            "serves_opni": serves_opni,
        }));
        output.text(format_args!("Listening on {}.", announcement.listening));
        if let Some(metrics) = announcement.metrics {
            output.text(format_args!("Metrics and health: http://{metrics}/metrics, /healthz, /readyz"));
        }
        if let Some(pin) = announcement.pins.first() {
            output.text(format_args!("Its key's pin: {pin}"));
        }
        match &endpoint {
            Some(endpoint) => output.text(format_args!("Let a machine in at {endpoint}: toehold token create")),
            None => output.text("Let a machine in: toehold token create --endpoint HOST:PORT"),
        }
        if !serves_opni {
            output.text("Opni's agents cannot join here: the key is not an Ed25519 key.");
        }
    };
    run(context, how, metrics, announce).await?;
    output.document(&json!({ "event": "stopped" }));
    output.text("Stopped.");
    Ok(Exit::Done)
}

/// What is said once a gateway listens.
pub(super) struct Announced {
    pub(super) announcement: Announcement,
    /// Where machines reach it.
    pub(super) endpoint: Option<String>,
    /// Whether its key is one that Opni's agents can use.
    pub(super) serves_opni: bool,
}

/// Runs a gateway until the context's signals come; prints nothing.
///
/// # Errors
/// As [`serve`].
pub(super) async fn run(
    context: &Context,
    options: GatewayOptions,
    metrics: Option<SocketAddr>,
    announce: impl FnOnce(Announced),
) -> Result<(), Failure> {
    raise_file_limit();
    still_writable(context.store()).await?;
    must_be_gateway(context.store())?;
    let vault = GatewayVault::load(&context.state).await?;
    let (serving, record) = match (&options.cert, &options.key) {
        (Some(certificate), Some(key)) => {
            let serving = Serving::from_files(certificate, key, &options.capabilities)?;
            check_switch(context, Some(serving.pin()), options.force).await?;
            let supplied: Vec<_> = std::iter::once(serving.pin()).chain(options.next_pins.iter().copied()).collect();
            if supplied.len() > MAX_PINS {
                return Err(Failure::usage(format!("a line and an agent keep {MAX_PINS} pins at most: fewer of --next-pin")));
            }
            if options.next_pins.is_empty() {
                tracing::warn!(
                    "without --next-pin there is no pin of a next key: once this one is replaced, lines of today and agents that do not \
                     come back before know the gateway no more"
                );
            }
            let record = GatewayRecord::ensure(context.store(), &vault, options.endpoints.first(), &supplied).await?;
            (serving, record.body)
        }
        _ => {
            check_switch(context, None, options.force).await?;
            let record = GatewayRecord::ensure(context.store(), &vault, options.endpoints.first(), &[]).await?.body;
            let generated = record.generated.as_ref().ok_or(GatewayError::NoKey)?;
            let endpoint = record.endpoint.as_deref().and_then(|text| text.parse::<Endpoint>().ok());
            let seed = generated.current.open(&vault)?;
            (Serving::generated(&seed, endpoint.as_ref().map(Endpoint::host), &options.capabilities)?, record)
        }
    };
    let serves_opni = serving.serves_opni();
    let (pins, endpoint) = (record.pins(), record.endpoint.clone());
    let announce = move |announcement| announce(Announced { announcement, endpoint, serves_opni });
    let audit_writer = context.state.vault().await?.writer();
    let options = serve_options(options, metrics, audit_writer);
    let (store, signals) = (context.store().clone(), context.signals.clone());
    Ok(gateway::serve(options, store, vault, serving, pins, announce, signals).await?)
}

/// Strangers come to a gateway: in a shared store it works under an identity that opens what gateways need, and nothing else (N2).
///
/// # Errors
/// Where this machine is another member, or none.
pub(super) fn must_be_gateway(store: &AnyStore) -> Result<(), Failure> {
    let Some(shared) = store.shared() else { return Ok(()) };
    let why = match members::own_role(store) {
        Some(Role::Gateway) => return Ok(()),
        Some(Role::Operator) => {
            "strangers come to a gateway, and what an operator's identity opens is the whole fleet: a gateway of a shared store is a \
             member of its own, with the role gateway"
                .to_owned()
        }
        Some(role) => format!("this machine is a member of the store with the role {role}, and not with the role gateway"),
        None => "this machine is no member of the store (any more)".to_owned(),
    };
    let address = shared.below().address();
    Err(Failure::new(why).hint(format!(
        "with a state directory of its own (--state-dir): toehold init --store {address}; an operator lets it in: toehold operator add RECIPIENT --role gateway"
    )))
}

fn serve_options(options: GatewayOptions, metrics: Option<SocketAddr>, audit_writer: String) -> ServeOptions {
    let many = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    ServeOptions {
        listen: options.listen,
        metrics,
        endpoints: options.endpoints,
        proxy_from: options.proxy_from,
        capabilities: options.capabilities,
        governors: options.governors.into_iter().collect(),
        limits: LimitOptions {
            agents: many(options.max_agents),
            sessions_per_agent: many(options.max_sessions_per_agent),
            strangers: many(options.max_strangers),
            strangers_per_source: many(options.max_strangers_per_source),
            handshakes_per_minute: options.handshakes_per_minute,
            calls_per_minute: options.calls_per_minute,
            stranger_lifetime: options.stranger_lifetime,
            handshake: options.handshake_timeout,
        },
        drain: options.drain,
        audit_writer,
    }
}

/// Refuses to present another key than the store's gateways do, where agents do not know that one (J4): `own` is the pin of a key that
/// the operator brings, `None` stands for one of the gateway's own making.
async fn check_switch(context: &Context, own: Option<Pin>, force: bool) -> Result<(), Failure> {
    let Some(record) = GatewayRecord::read(context.store()).await?.map(|stored| stored.body) else { return Ok(()) };
    let next = own.or(record.generated.as_ref().map(|generated| generated.current.pin));
    if record.pins().first() != next.as_ref() {
        missing(context, next.as_ref(), force, "announce its pin with --next-pin first; or, all the same: --force").await?;
    }
    Ok(())
}

/// The agents that do not know this key; an error, unless they are to be left behind.
async fn missing(context: &Context, next: Option<&Pin>, force: bool, hint: &str) -> Result<Vec<String>, Failure> {
    let missing = AgentPins::missing(context.store(), next).await?;
    if missing.is_empty() || force {
        return Ok(missing);
    }
    let shown: Vec<&str> = missing.iter().take(10).map(String::as_str).collect();
    let more = if missing.len() > shown.len() { ", …" } else { "" };
    let key = next.map_or_else(|| "a key of the gateway's own making".to_owned(), |pin| format!("the key {pin}"));
    let why = format!("{} of the agents have not said that they know {key}: {}{more}", missing.len(), shown.join(", "));
    Err(Failure::new(why).hint(hint.to_owned()).with(json!({ "next": next, "missing": missing })))
}

/// A connection is a file descriptor: as many as the system lets us have.
pub(super) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused, it stays as it was.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Prints the pins.
///
/// # Errors
/// Where there is no gateway key yet.
pub(super) async fn pin(context: &Context) -> Result<Exit, Failure> {
    let record = record(context).await?;
    let pins = record.pins();
    context.output.document(&json!({
        "pins": pins,
        "endpoint": record.endpoint,
        "generated": record.supplied.is_empty(),
    }));
    for (place, pin) in pins.iter().enumerate() {
        context.output.text(format_args!("{pin}{}", if place == 0 { "" } else { "  (next)" }));
    }
    Ok(Exit::Done)
}

pub(super) async fn record(context: &Context) -> Result<GatewayRecord, Failure> {
    let stored = GatewayRecord::read(context.store()).await?.ok_or_else(no_key)?;
    Ok(stored.body)
}

fn no_key() -> Failure {
    Failure::new("there is no gateway key yet").hint("the first start makes one: toehold gateway serve --endpoint HOST:PORT")
}

/// Switches to the next key.
///
/// # Errors
/// Where agents do not know it yet, unless that is to be so.
pub(super) async fn renew_key(context: &Context, force: bool) -> Result<Exit, Failure> {
    let stored = GatewayRecord::read(context.store()).await?.ok_or_else(no_key)?;
    if !stored.body.supplied.is_empty() {
        return Err(Failure::from(GatewayError::Supplied)
            .hint("start it with the next --cert and --key, and the pin of the one after as --next-pin"));
    }
    let next = stored.body.generated.as_ref().ok_or_else(no_key)?.next.pin;
    let hint = "they learn it when they come back (agent ping); switch all the same: toehold gateway renew-key --force";
    let missing = missing(context, Some(&next), force, hint).await.map_err(Failure::partly)?;
    let vault = GatewayVault::load(&context.state).await?;
    let renewed = GatewayRecord::renew(context.store(), &vault, stored).await?.body;
    let pins = renewed.pins();
    let event = AuditEvent::new(SystemClock.now(), "gateway.key_renewed", next.to_string());
    context.put_on_record(event.with("left_behind", missing.len().to_string())).await;
    context.output.document(&json!({ "pins": pins, "left_behind": missing }));
    context.output.text(format_args!("The gateway's key is {next} from now on; running gateways follow."));
    if let Some(pin) = pins.get(1) {
        context.output.text(format_args!("The next will be {pin}: new lines have it, and agents that come back learn it."));
    }
    if !missing.is_empty() {
        context.output.text(format_args!("Left behind, to join again: {}", missing.join(", ")));
    }
    Ok(Exit::Done)
}
