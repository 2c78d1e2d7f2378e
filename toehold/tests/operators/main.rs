//! Several people and machines that share a store on a real NATS server: who may write what into it, and what nobody takes.
//!
//! Needs: nats, openssh.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    unreachable_pub,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../pods/gateway.rs"]
mod gateway;
#[path = "../pods/ground.rs"]
mod ground;
#[path = "../join_support/mod.rs"]
mod join_support;
#[path = "../serve_support/mod.rs"]
mod serve_support;
#[path = "../store_nats/server.rs"]
mod server;
#[path = "../support/mod.rs"]
mod support;

mod backups;
mod interrupted;
mod membership;
mod migration;
mod planted;
mod pods;
mod race;
mod roles;
mod serving;
mod ssh_keys;
mod together;

use membership::{asks_to_be_let_in, founder, joins, sharing};
use serde_json::Value;
use support::Toehold;
use support::cli::Done;
use toehold::adapters::identity::{IdentityFile, Vault};
use toehold::adapters::nats::NatsStore;
use toehold::shared::{Chain, read_chain};
use toehold_core::Key;

/// A write that needs nothing but the right to write.
const WRITE: [&str; 4] = ["token", "create", "--endpoint", "gateway.example.net:7443"];

/// Makes the gateway's key, without which there are no tokens: a gateway is let in for that, and let go again.
fn has_a_gateway(operator: &Toehold) {
    let service = joins(operator, sharing(&operator.variable("TOEHOLD_STORE")), "for the key", "gateway");
    join_support::gateway::Gateway::start(&service, &[]).stop().ends(0);
    operator.run(["operator", "rm", "for the key"]).ends(0);
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// Somebody's identity, for what no command does with it.
fn vault_of(toehold: &Toehold) -> Vault {
    IdentityFile::read(&toehold.state()).unwrap().unlock(None).unwrap()
}

/// Anna's identity and the server, for what no command does.
async fn by_hand(toehold: &Toehold, nats: &server::Nats) -> (toehold_specsign::SigningKey, NatsStore, Chain) {
    let raw = nats.store().await;
    let chain = read_chain(&raw).await.unwrap().unwrap();
    (vault_of(toehold).signing_key(), raw, chain)
}

fn members(toehold: &Toehold) -> Vec<(String, String)> {
    let listed = toehold.run(["--json", "operator", "ls"]).ends(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed["members"].as_array().unwrap().iter().map(|member| (text(&member["name"]), text(&member["role"]))).collect()
}

#[track_caller]
fn says(done: &Done, words: &str) {
    assert!(done.stderr.contains(words), "no \"{words}\" in: {}", done.stderr);
}
