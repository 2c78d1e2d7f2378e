//! A real gateway on loopback: joins a second, the TLS handshake's share of them, and what an idle agent costs in memory.
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

use std::sync::Arc;
use std::time::{Duration, Instant};

use join_support::gateway::{Connection, Dial, Gateway, Session, identity, join, join_with, line};
use support::Toehold;

/// Clients at once, as in the peer's measurement.
const PARALLEL: usize = 8;

/// How much is measured.
struct Size {
    joins: usize,
    agents: usize,
}

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let size = if is_measured { Size { joins: 800, agents: 10_000 } } else { Size { joins: 8, agents: 8 } };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(&size));
}

async fn measure(size: &Size) {
    let limits = ["--handshakes-per-minute", "10000000", "--calls-per-minute", "10000000", "--stranger-lifetime", "10m"];
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &limits);
    raise_file_limit();
    joins(&toehold, &gateway, size.joins).await;
    idle(&toehold, &gateway, size.agents).await;
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

async fn joins(toehold: &Toehold, gateway: &Gateway, count: usize) {
    // One use is enough for one machine that joins again and again: each is an admission with all its cryptography and writes.
    let line = Arc::new(line(toehold, gateway.address, &["--uses", &PARALLEL.to_string(), "--ttl", "1d"]));
    let dial = Dial::to(gateway.address);
    let identities: Arc<Vec<_>> = Arc::new((0..PARALLEL).map(|_| identity()).collect());
    let for_handshakes = dial.clone();
    let (bare, bare_cpu) = timed(gateway, count, move |_| {
        let dial = for_handshakes.clone();
        async move { drop(dial.connect().await.unwrap()) }
    })
    .await;
    let (whole, whole_cpu) = timed(gateway, count, move |worker| {
        let (dial, line, identities) = (dial.clone(), Arc::clone(&line), Arc::clone(&identities));
        async move {
            let connection = dial.connect().await.unwrap();
            join_with(&connection, &line, &identities[worker], || std::future::ready(())).await.unwrap();
        }
    })
    .await;
    let per_second = count as f64 / whole.as_secs_f64();
    println!(
        "measured gateway-join {:.3} 10 {per_second:.0} joins a second, {PARALLEL} at a time; the handshake is {:.0} % of the time and {:.0} % \
         of the gateway's CPU ({:.2} of {:.2} ms)",
        1e3 / per_second,
        100.0 * bare.as_secs_f64() / whole.as_secs_f64(),
        100.0 * bare_cpu / whole_cpu,
        bare_cpu * 1e3,
        whole_cpu * 1e3
    );
}

async fn idle(toehold: &Toehold, gateway: &Gateway, count: usize) {
    let line = line(toehold, gateway.address, &[]);
    let dial = Dial::to(gateway.address);
    let joined = join(&dial, &line, &identity()).await.unwrap();
    let (id, keys) = (joined.id.to_string(), joined.keyring.shared_keys.into_iter().next().unwrap());
    let before = gateway.memory();
    let mut agents: Vec<(Connection, Session)> = Vec::with_capacity(count);
    while agents.len() < count {
        let connection = dial.connect().await.unwrap();
        let session = Session::open(&connection, &id, &keys).await.unwrap();
        agents.push((connection, session));
    }
    let each = (gateway.memory() - before) as f64 / count as f64;
    println!(
        "measured gateway-idle {each:.1} 100 KiB for each of {count} idle agents, each with a connection and a session of its own"
    );
    agents[0].1.ping().await.unwrap();
}

fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}
