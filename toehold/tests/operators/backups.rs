//! A store that is put back to an earlier state.

use std::time::{Duration, Instant};

use serde_json::Value;
use toehold::adapters::nats::NatsOptions;
use toehold::cli::context::still_writable;
use toehold::state::{NoPassphrase, SharedAt, State};
use toehold_core::{Expect, Store as _};

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::Machine;
use crate::serve_support::Serve;
use crate::server::Nats;
use crate::support::{Inside, eventually};
use crate::{WRITE, founder, has_a_gateway, joins, key, members, says, sharing};

#[tokio::test(flavor = "multi_thread")]
async fn n3_a_restored_backup_is_read_only_until_somebody_accepts_it() {
    let mut nats = Nats::start("");
    let store = nats.address("fleet");
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    has_a_gateway(&anna);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    nats.back_up();
    nats.up();
    anna.run(["key", "rotate", "--grace", "0s"]).ends(0);
    anna.run(["operator", "rm", "ben"]).ends(0);
    nats.restored();

    // Read, yes; written, no, and nothing is done to a host.
    let listed = anna.run(["host", "ls"]).ends(0);
    says(&listed, "is behind what this machine has seen");
    let refused = anna.run(WRITE).ends(1);
    says(&refused, "store accept-rollback");
    let before = host.ours();
    let rotated = anna.run(["key", "rotate", "--grace", "0s"]);
    assert_ne!(rotated.code, 0);
    assert_eq!(host.ours(), before);
    assert_ne!(anna.run(["operator", "rm", "ben"]).code, 0);
    says(&anna.run(["init"]).ends(3), "accept-rollback");
    let reasons = anna.run(["--json", "store", "accept-rollback"]).ends(0).json()["behind"].to_string();
    for reason in ["generation 0, and 1 was seen", "lists of members", "audit log"] {
        assert!(reasons.contains(reason), "{reasons}");
    }
    anna.run(WRITE).ends(0);
    assert_eq!(members(&anna).len(), 2, "whoever was removed since is back, and seen");
    says(&anna.run(["store", "accept-rollback"]).ends(1), "nothing to accept");
    // He who saw nothing of what is gone has nothing to accept.
    ben.run(["token", "ls"]).ends(0);
    ben.run(WRITE).ends(0);
}

/// Not one write comes into it from processes that have seen more of it, and they say why.
#[tokio::test(flavor = "multi_thread")]
async fn n3_what_runs_while_a_backup_is_put_in_the_stores_place_writes_nothing_into_it() {
    let mut nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let service = joins(&anna, sharing(&store), "gateway", "gateway");
    let first = Gateway::start(&service, &[]);
    let token = line(&anna, first.address, &[]);
    first.stop().ends(0);
    let had = nats.store().await.last_revision().await.unwrap();
    nats.back_up();
    nats.up();

    let serve = Serve::start(&anna, &["--no-gateway"]);
    for task in ["sessions", "grants", "owed", "store-gc"] {
        serve.task_is(task, "running");
    }
    let gateway = Gateway::start_at(&service, &token.endpoint.to_string(), &[]);
    serve.is_ready();
    // All that the gateway has seen of the store beyond the backup is a use of a token, and an agent.
    Machine::new().join(&token).ends(0);
    nats.restored();
    eventually("it says that the store is behind", || {
        let told = serve.get("/readyz");
        told.status == 503 && told.body.contains("the store: the store is behind what this machine has seen of it")
    });
    assert!(serve.get("/metrics").body.contains("toehold_serve_ready 0"));
    assert_eq!(serve.get("/healthz").status, 200, "it lives");
    // Whoever had the token already does not come twice: the gateway has ended, and does not begin on a store that is behind.
    assert_eq!(gateway.ends().code, 1);
    let again = service.run(["gateway", "serve", "--listen", "127.0.0.1:0"]).ends(1);
    says(&again, "accept-rollback");
    for task in ["sessions", "grants", "owed", "store-gc"] {
        serve.task_is(task, "failing");
    }
    assert_eq!(nats.store().await.last_revision().await.unwrap(), had, "something was written into the backup");

    // Accepted, it is written to by those who begin then. Those who ran meanwhile say so, and what they have seen does not come back.
    service.run(["store", "accept-rollback"]).ends(0);
    anna.run(["store", "accept-rollback"]).ends(0);
    eventually("it says that it is to be started anew", || serve.get("/readyz").body.contains("start it anew"));
    assert_ne!(serve.stop().code, 2);
    anna.run(WRITE).ends(0);
    let serve = Serve::start(&anna, &["--no-gateway"]);
    serve.task_is("sessions", "running");
    serve.is_ready();
}

/// What a documented recovery may come to: one accepts it and changes the members, before the others have looked.
#[tokio::test(flavor = "multi_thread")]
async fn n3_lists_that_others_have_continued_after_a_restore_are_taken_by_their_fingerprint_alone() {
    let mut nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    nats.back_up();
    nats.up();
    joins(&anna, sharing(&store), "carol", "operator");
    ben.run(["operator", "ls"]).ends(0);
    nats.restored();
    anna.run(["store", "accept-rollback"]).ends(0);
    joins(&anna, sharing(&store), "dora", "operator");

    for command in [&["host", "ls"][..], &["store", "accept-rollback"], &WRITE] {
        says(&ben.run(command.iter().copied()).ends(1), "store accept-rollback --members FINGERPRINT");
    }
    let accept = |fingerprint: &str| ben.run(["store", "accept-rollback", "--members", fingerprint]);
    let fingerprint = anna.run(["--json", "operator", "ls"]).ends(0).json()["fingerprint"].as_str().unwrap().to_owned();
    says(&accept("0123").ends(1), &format!("is {fingerprint}"));
    ben.run(["host", "ls"]).ends(1);
    accept(&fingerprint).ends(0);
    assert_eq!(members(&ben), members(&anna));
    ben.run(["host", "ls"]).ends(0);
    ben.run(["operator", "rm", "dora"]).ends(0);
    says(&accept(&fingerprint).ends(1), "there is nothing to accept");
}

/// Nobody lets a gateway have a last word that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn n3_a_gateway_that_was_killed_remembers_what_it_wrote() {
    let mut nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let service = joins(&anna, sharing(&store), "gateway", "gateway");
    let first = Gateway::start(&service, &[]);
    let token = line(&anna, first.address, &[]);
    first.stop().ends(0);
    nats.back_up();
    nats.up();
    let gateway = Gateway::start_at(&service, &token.endpoint.to_string(), &[]);
    Machine::new().join(&token).ends(0);
    let last = nats.store().await.last_revision().await.unwrap();
    let file = service.state().join("shared-toehold.json");
    let written = || serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap()["written"].as_u64();
    let begun = Instant::now();
    eventually("it is written down", || written() >= Some(last));
    // And not by the look of each half minute.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    gateway.kill();
    nats.restored();
    says(&service.run(["gateway", "serve", "--listen", "127.0.0.1:0"]).ends(1), "accept-rollback");
}

/// What is taken away on hosts and in clusters is taken away on the word of the store's records, whoever replaced it behind a connection that
/// holds, and however short a time ago it was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn n3_before_a_pass_over_hosts_or_pods_it_is_looked_whether_the_store_was_put_back() {
    let nats = Nats::start("");
    let address = nats.address("toehold");
    let anna = founder(&address);
    let raw = nats.store().await;
    let at = SharedAt { address, options: NatsOptions::default() };
    let state = State::open_shared(&anna.state(), &at, NoPassphrase).await.unwrap();
    state.store().put(&key("session/a"), b"{}", Expect::Absent).await.unwrap();
    still_writable(state.store()).await.unwrap();
    let mut had = Vec::new();
    for kind in raw.kinds().await.unwrap() {
        had.extend(raw.list(&kind).await.unwrap());
    }
    had.retain(|entry| entry.key != key("session/a"));
    had.sort_by_key(|entry| entry.revision);
    async_nats::jetstream::new(nats.client().await).delete_stream("KV_toehold").await.unwrap();
    let put_back = nats.store().await;
    for entry in &had {
        put_back.put(&entry.key, &entry.value, Expect::Absent).await.unwrap();
    }
    let refused = still_writable(state.store()).await.unwrap_err();
    assert!(refused.message.contains("is behind what this machine has seen"), "{refused:?}");
}
