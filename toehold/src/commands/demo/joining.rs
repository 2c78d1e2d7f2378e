//! The demo's third act: a machine joins a gateway with one line, and somebody else who has that line does not.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use toehold_joinproto::admission::{Desk, NewToken};
use toehold_joinproto::line::{JoinLine, Protocol};
use toehold_joinproto::{JoinError, Trust};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::milliseconds;
use crate::adapters::gateway_connection::GatewayLimits;
use crate::adapters::system_clock::SystemClock;
use crate::agent::{AgentDirectory, AgentError, JoinOutcome, JoinRequest, OpniOptions, Reached, join};
use crate::cli::context::Context;
use crate::cli::{Failure, Output, chain};
use crate::commands::agent::ping_once;
use crate::gateway::keys::GatewayRecord;
use crate::gateway::{Announcement, GatewayError, GatewayVault, LimitOptions, NoVault, ServeOptions, Serving, serve, system_rng};

/// How long anything may take on loopback.
const LIMITS: GatewayLimits =
    GatewayLimits { connect: Duration::from_secs(10), handshake: Duration::from_secs(30), answer: Duration::from_secs(30) };

/// How it went.
pub(super) struct Act {
    joined: bool,
    answered: bool,
    replay_refused: bool,
}

impl Act {
    pub(super) fn is_good(&self) -> bool {
        self.joined && self.answered && self.replay_refused
    }

    pub(super) fn document(&self) -> Value {
        json!({ "joined": self.joined, "ping_answered": self.answered, "replay_refused": self.replay_refused })
    }
}

/// Plays it.
///
/// # Errors
/// Where the gateway does not start, or the machine does not join.
pub(super) async fn play(context: &Context, scratch: &Path, output: Output) -> Result<Act, Failure> {
    let step = |what: &str, since: Instant| {
        output.document(&json!({ "event": "step", "step": what, "milliseconds": milliseconds(since.elapsed()) }));
        output.text(format_args!("{:>9.1} ms  {what}", since.elapsed().as_secs_f64() * 1000.0));
    };
    let since = Instant::now();
    let (gateway, address, record) = start(context).await?;
    step(&format!("started a gateway on loopback: {address}"), since);

    let since = Instant::now();
    let desk = Desk::new(context.store().clone(), SystemClock, NoVault);
    let token = desk.create(NewToken::new("agent".parse()?), &mut system_rng()).await?;
    let line = JoinLine { protocol: Protocol::V3, endpoint: address.to_string().parse()?, token, pins: record.pins() };
    let text = line.expose();
    step("made a token for one machine, and the line for it: endpoint, token, pins", since);

    let since = Instant::now();
    let machine = AgentDirectory::create(&scratch.join("machine"))?;
    let JoinOutcome { membership, .. } = join_with(&machine, line).await?;
    step(&format!("a machine joined with that line, as {}: both sides have the same keys", membership.joined.id), since);

    let since = Instant::now();
    let pinged = ping_once(&machine, LIMITS).await;
    let answered = pinged.is_ok();
    match pinged {
        Ok(_) => step("it authenticated with its keys, and so did the gateway", since),
        Err(error) => output.text(format_args!("              no answer: {}", chain(&error))),
    }

    let since = Instant::now();
    let somebody = AgentDirectory::create(&scratch.join("somebody"))?;
    let replay_refused = match join_with(&somebody, text.parse()?).await {
        Err(AgentError::Join { source: JoinError::Refused { reason }, .. }) => {
            step(&format!("somebody else came with the same line, and was refused: {reason}"), since);
            true
        }
        Err(error) => {
            output.text(format_args!("              somebody else failed otherwise: {}", chain(&error)));
            false
        }
        Ok(_) => false,
    };
    gateway.abort();
    Ok(Act { joined: true, answered, replay_refused })
}

async fn join_with(directory: &AgentDirectory, line: JoinLine) -> Result<JoinOutcome, AgentError> {
    let trust = Trust::Pinned(line.pins.clone());
    let request = JoinRequest { line, trust, opni: OpniOptions::default(), rejoin: false };
    join(directory, request, LIMITS, &Reached::default(), &mut system_rng()).await
}

async fn start(context: &Context) -> Result<(JoinHandle<Result<(), GatewayError>>, SocketAddr, GatewayRecord), Failure> {
    let vault = GatewayVault::load(&context.state).await?;
    let record = GatewayRecord::ensure(context.store(), &vault, None, &[]).await?.body;
    let generated = record.generated.as_ref().ok_or(GatewayError::NoKey)?;
    let serving = Serving::generated(&generated.current.open(&vault)?, Some("127.0.0.1"), &[])?;
    let options = ServeOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        metrics: None,
        endpoints: Vec::new(),
        proxy_from: Vec::new(),
        capabilities: Vec::new(),
        governors: BTreeMap::new(),
        limits: LimitOptions::default(),
        drain: Duration::ZERO,
        audit_writer: context.state.vault().await?.writer(),
    };
    let (announced, listening) = oneshot::channel();
    let announce = move |announcement: Announcement| {
        // Whoever waits for it has not gone.
        let _ = announced.send(announcement.listening);
    };
    let (store, pins, signals) = (context.store().clone(), record.pins(), context.signals.clone());
    let gateway = tokio::spawn(serve(options, store, vault, serving, pins, announce, signals));
    match listening.await {
        Ok(address) => Ok((gateway, address, record)),
        Err(_) => match gateway.await {
            Ok(Err(error)) => Err(error.into()),
            _ => Err(Failure::new("the gateway has ended")),
        },
    }
}
