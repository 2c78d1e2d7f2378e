//! A real gateway on loopback: joins a second, the TLS handshake's share of them, what an idle agent costs in memory, and what an answer with
//! the signatures of all tokens costs beside one that only sends the same bytes.
//!
//! Prints `measured NAME VALUE BAR DETAIL` a line, which `cargo xtask bench gateway` holds to the bars. Without `--bench`, as
//! `cargo test` runs it, a few clients once.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a bench"
)]

#[path = "../tests/join_support/mod.rs"]
mod join_support;
#[path = "../tests/support/mod.rs"]
mod support;

mod floor;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floor::Floor;
use join_support::gateway::{Connection, Dial, Gateway, Session, identity, join_with, line, origin, rng};
use serde::Serialize;
use support::{Toehold, store};
use toehold::adapters::grpc::bootstrap_v2::bootstrap_client::BootstrapClient;
use toehold::adapters::grpc::raw::Raw;
use toehold::adapters::system_clock::SystemClock;
use toehold::gateway::GatewayVault;
use toehold::state::{NoPassphrase, State};
use toehold_core::{Clock as _, SecretBytes};
use toehold_joinproto::admission::{AgentRecord, AgentState, Protocol, TokenRecord, Vault as _};
use toehold_joinproto::keyring::{Keyring, SharedKeys};
use toehold_joinproto::token::Token;
use toehold_joinproto::wire::JoinResponse;
use tonic::Request;

/// Clients at once, as in the peer's measurement.
const PARALLEL: usize = 8;
/// A single source stands for many.
const LIMITS: [&str; 6] = ["--handshakes-per-minute", "10000000", "--calls-per-minute", "10000000", "--stranger-lifetime", "10m"];

/// How much is measured.
struct Size {
    joins: usize,
    agents: usize,
    tokens: usize,
    /// In each of several turns.
    answers: usize,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(answer) = floor::asked_for() {
        return runtime.block_on(floor::serve(answer));
    }
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let size = if is_measured {
        Size { joins: 800, agents: 10_000, tokens: 10_000, answers: 100 }
    } else {
        Size { joins: 8, agents: 8, tokens: 20, answers: 2 }
    };
    raise_file_limit();
    runtime.block_on(async {
        joins(size.joins).await;
        idle(size.agents).await;
        answers(size.tokens, size.answers).await;
    });
}

/// Puts records into the store of a gateway that does not run, each as the gateway itself would have written it.
fn put<T: Serialize>(toehold: &Toehold, records: impl IntoIterator<Item = (String, T)>) {
    let mut database = store::open(toehold);
    let transaction = database.transaction().unwrap();
    for (key, record) in records {
        let mut document = serde_json::to_value(record).unwrap();
        (document["v"], document["readable_from"]) = (1.into(), 1.into());
        store::insert(&transaction, &key, &document);
    }
    transaction.commit().unwrap();
}

/// What seals in the store of a gateway that was started once.
async fn vault(toehold: &Toehold) -> GatewayVault {
    GatewayVault::load(&State::open(&toehold.state(), NoPassphrase).unwrap()).await.unwrap()
}

/// Runs `work` so many times, `PARALLEL` at a time; how long it took, and what the gateway spent of the processors on each.
async fn timed<F: Future<Output = ()> + Send + 'static>(
    gateway: &Gateway,
    count: usize,
    work: impl Fn(usize) -> F + Send + Sync + 'static,
) -> (Duration, f64) {
    let (work, before, start) = (Arc::new(work), gateway.processor_time(), Instant::now());
    let workers: Vec<_> = (0..PARALLEL)
        .map(|worker| {
            let work = Arc::clone(&work);
            tokio::spawn(async move {
                for _ in 0..count / PARALLEL {
                    work(worker).await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let took = start.elapsed();
    (took, gateway.processor_time().saturating_sub(before).as_secs_f64() / count as f64)
}

async fn joins(count: usize) {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &LIMITS);
    let line = Arc::new(line(&toehold, gateway.address, &["--uses", "10000", "--ttl", "1d"]));
    let dial = Dial::to(gateway.address);
    let for_handshakes = dial.clone();
    let (bare, bare_cpu) = timed(&gateway, count, move |_| {
        let dial = for_handshakes.clone();
        async move { drop(dial.connect().await.unwrap()) }
    })
    .await;
    // Each is another machine: it takes a use of its own, and an agent is made of it.
    let (whole, whole_cpu) = timed(&gateway, count, move |_| {
        let (dial, line, identity) = (dial.clone(), Arc::clone(&line), identity());
        async move {
            let connection = dial.connect().await.unwrap();
            join_with(&connection, &line, &identity, || std::future::ready(())).await.unwrap();
        }
    })
    .await;
    let agents = store::keys(&toehold).iter().filter(|key| key.starts_with("agent/")).count();
    assert_eq!(agents, count / PARALLEL * PARALLEL);
    let per_second = count as f64 / whole.as_secs_f64();
    println!(
        "measured gateway-join {:.3} 10 {per_second:.0} joins a second, each of a new agent, {PARALLEL} at a time; the handshake is {:.0} % of the \
         time and {:.0} % of the gateway's CPU ({:.2} of {:.2} ms)",
        1e3 / per_second,
        100.0 * bare.as_secs_f64() / whole.as_secs_f64(),
        100.0 * bare_cpu / whole_cpu,
        bare_cpu * 1e3,
        whole_cpu * 1e3
    );
}

/// Agents that have joined, as they stand in the store.
async fn joined(toehold: &Toehold, count: usize) -> Vec<(String, SharedKeys)> {
    let (vault, now) = (vault(toehold).await, SystemClock.now());
    let (mut records, mut agents) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (identity, mut secret) = (identity(), zeroize::Zeroizing::new([0; 64]));
        getrandom::fill(&mut *secret).unwrap();
        let (id, keys) = (identity.id().to_string(), SharedKeys::from_secret(&secret));
        let key = format!("agent/{id}");
        let sealed = vault.seal(&key, &Keyring::of(keys.duplicate()).expose_json()).unwrap();
        let record = AgentRecord {
            state: AgentState::Joined,
            since: now,
            token: Token::generate(&mut rng()).id(),
            token_expires_at: now.saturating_add(Duration::from_secs(3_600)),
            key: Some(identity.public_key().iter().map(|byte| format!("{byte:02x}")).collect()),
            attempt: None,
            role: "agent".parse().unwrap(),
            labels: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            key_capabilities: Vec::new(),
            unconfirmed: BTreeSet::new(),
            sealed_keyring: Some(sealed),
            removed_at: None,
        };
        records.push((key, record));
        agents.push((id, keys));
    }
    put(toehold, records);
    agents
}

async fn idle(count: usize) {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &[]).kill();
    let known = joined(&toehold, count).await;
    let gateway = Gateway::start(&toehold, &LIMITS);
    let dial = Dial::to(gateway.address);
    drop(dial.connect().await.unwrap());
    let before = gateway.memory();
    let mut agents: Vec<(Connection, Session)> = Vec::with_capacity(count);
    for (id, keys) in &known {
        let connection = dial.connect().await.unwrap();
        let session = Session::open(&connection, id, keys).await.unwrap();
        agents.push((connection, session));
    }
    let each = (gateway.memory() - before) as f64 / count as f64;
    println!(
        "measured gateway-idle {each:.1} 100 KiB for each of {count} agents, each with a connection and a session of its own, and idle"
    );
    agents[0].1.ping().await.unwrap();
}

/// How often the two are measured in turns.
const TURNS: usize = 8;

async fn answers(tokens: usize, each: usize) {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &[]).kill();
    let (vault, now) = (vault(&toehold).await, SystemClock.now());
    let records = (0..tokens).map(|_| {
        let token = Token::generate(&mut rng());
        let key = format!("token/{}", token.id());
        let sealed_token = vault.seal(&key, &SecretBytes::new(token.expose_text().as_bytes().to_vec())).unwrap();
        let record = TokenRecord {
            id: token.id(),
            protocol: Protocol::Opni { sealed_token },
            role: "agent".parse().unwrap(),
            uses: 1,
            created_at: now,
            expires_at: now.saturating_add(Duration::from_secs(36_000)),
            labels: BTreeMap::new(),
            client_id: None,
            from: Vec::new(),
            may_extend: false,
        };
        (key, record)
    });
    put(&toehold, records.collect::<Vec<_>>());
    let gateway = Gateway::start(&toehold, &LIMITS);
    let connection = Dial::to(gateway.address).connect().await.unwrap();
    let ask = async |connection: &Connection| {
        let answer = BootstrapClient::with_origin(connection.clone(), origin()).join(Request::new(Raw::default())).await;
        answer.map(|answer| answer.into_inner().0)
    };
    let answer = loop {
        if let Ok(answer) = ask(&connection).await
            && JoinResponse::decode(&answer).unwrap().signatures.len() == tokens
        {
            break answer;
        }
    };
    let floor = Floor::start(&answer);
    let plain = Dial::to(floor.address).connect().await.unwrap();
    assert_eq!(ask(&plain).await.unwrap(), answer);
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..TURNS {
        let before = gateway.processor_time();
        for _ in 0..each {
            ask(&connection).await.unwrap();
        }
        ours += gateway.processor_time().saturating_sub(before);
        let before = floor.processor_time();
        for _ in 0..each {
            ask(&plain).await.unwrap();
        }
        theirs += floor.processor_time().saturating_sub(before);
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3 / (TURNS * each) as f64;
    println!(
        "measured gateway-answer {:.3} 1.1 Join of Opni's agents with {tokens} tokens ({} bytes), against a server that only sends the same bytes \
         over the same TLS and HTTP/2 ({:.3} of {:.3} ms of CPU)",
        ours.as_secs_f64() / theirs.as_secs_f64().max(0.01),
        answer.len(),
        milliseconds(theirs),
        milliseconds(ours)
    );
}

fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}
