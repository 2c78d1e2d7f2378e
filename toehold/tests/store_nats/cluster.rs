//! Three servers: every one of them killed in the middle of writes, the leader among them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use toehold::adapters::nats::{NatsOptions, NatsStore};
use toehold_core::testing::store_conformance;
use toehold_core::{Expect, Store, StoreError, Watch as _};

use crate::key;
use crate::server::{Cluster, address_of};

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_of_a_store_threefold() {
    let cluster = Cluster::start();
    store_conformance(&cluster.store().await).await;
}

/// Four writers count one value up, each change by a write that names what it replaces, while one server after the other dies and
/// comes back. A write without an answer is looked up before anything else is done.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_or_doubled_when_servers_die() {
    const WRITERS: u64 = 4;
    let mut cluster = Cluster::start();
    let store = cluster.store().await;
    store.put(&key("count"), b"{}", Expect::Absent).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, stop, name) = (store.clone(), Arc::clone(&stop), writer.to_string());
            tokio::spawn(async move {
                let count = key("count");
                // How often this writer knows that it has counted.
                let mut known = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(entry) = store.get(&count).await else {
                        // Whoever asks without a pause keeps the servers from agreeing on a busy machine.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    };
                    let entry = entry.expect("a value that was written does not vanish");
                    let mut counts: BTreeMap<String, u64> = serde_json::from_slice(&entry.value).unwrap();
                    let own = counts.entry(name.clone()).or_default();
                    // What was written without an answer may be there, one step ahead; nothing else can be.
                    assert!(*own == known || *own == known + 1, "writer {name} knows of {known}, and {own} are there");
                    known = *own;
                    *own += 1;
                    match store.put(&count, &serde_json::to_vec(&counts).unwrap(), Expect::Revision(entry.revision)).await {
                        Ok(_) => known += 1,
                        Err(StoreError::Conflict { .. } | StoreError::Unavailable { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                known
            })
        })
        .collect();
    let leader = cluster.await_leader("toehold", 0).await;
    for number in [leader, 0, 1] {
        let before = progress(&store).await;
        cluster.servers[number].kill();
        // Two of three go on.
        let deadline = tokio::time::Instant::now() + crate::support::server::PATIENCE * 4;
        while progress(&store).await < before + 20 {
            assert!(tokio::time::Instant::now() < deadline, "nothing is written with server {number} away");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.servers[number].up();
        cluster.await_current("toehold", number).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut known = BTreeMap::new();
    for (writer, task) in writers.into_iter().enumerate() {
        known.insert(writer.to_string(), task.await.unwrap());
    }
    let counts: BTreeMap<String, u64> = serde_json::from_slice(&store.get(&key("count")).await.unwrap().unwrap().value).unwrap();
    for (writer, known) in known {
        let there = counts[&writer];
        assert!(there == known || there == known + 1, "writer {writer} knows of {known}, and {there} are there");
    }
}

/// What is asked is heard by nobody then, and what is written is taken by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_leader_is_chosen_waits_for_it() {
    let mut cluster = Cluster::start();
    let created = cluster.store().await;
    let first = created.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    let leader = cluster.await_leader("toehold", 0).await;
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let through = others.iter().map(|number| &cluster.servers[*number]);
    // On a busy machine it takes the servers a while, and more than one try.
    let options = NatsOptions { patience: crate::support::server::PATIENCE, ..NatsOptions::default() };
    let store = NatsStore::open(&address_of(through, "toehold"), &options).await.unwrap();
    cluster.servers[leader].kill();
    // As long as the others still send to it, a write may be lost on the way, and nobody knows.
    for number in others {
        cluster.servers[number].server.as_ref().unwrap().wait_for_log("Router connection closed");
    }
    let (one, below) = (key("a/1"), key("a"));
    let (opened, got, listed, kinds, watched, written) = tokio::join!(
        NatsStore::open(store.address(), &options),
        store.get(&one),
        store.list(&below),
        store.kinds(),
        store.watch(&below),
        store.put(&one, b"two", Expect::Revision(first)),
    );
    drop((opened.unwrap(), watched.unwrap()));
    let got = got.unwrap().unwrap().value;
    assert!(got == b"one" || got == b"two");
    assert_eq!(listed.unwrap().len(), 1);
    assert!(kinds.unwrap().contains(&below));
    assert!(written.unwrap() > first);
}

async fn progress(store: &impl Store) -> u64 {
    loop {
        if let Ok(Some(entry)) = store.get(&key("count")).await {
            let counts: BTreeMap<String, u64> = serde_json::from_slice(&entry.value).unwrap();
            return counts.values().sum();
        }
    }
}

/// One after the other dies, and so the one at which the watch's connection ends, and the one that sends it what changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_where_it_was_whichever_server_dies() {
    let mut cluster = Cluster::start();
    let store = cluster.store().await;
    let mut watch = store.watch(&key("a")).await.unwrap();
    for number in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != number).collect();
        cluster.await_current("toehold", number).await;
        cluster.servers[number].kill();
        // By somebody else, at servers that live, and before the watch may be there again.
        let options = NatsOptions { patience: crate::support::server::PATIENCE, ..NatsOptions::default() };
        let through = others.iter().map(|number| &cluster.servers[*number]);
        let other = NatsStore::open(&address_of(through, "toehold"), &options).await.unwrap();
        let place = key(&format!("a/{number}"));
        other.put(&place, b"", Expect::Absent).await.unwrap();
        let patience = crate::support::server::PATIENCE * 4;
        let seen = async { while watch.changed().await.unwrap() != place {} };
        tokio::time::timeout(patience, seen).await.unwrap_or_else(|_| panic!("with server {number} dead the watch is silent"));
        cluster.servers[number].up();
        cluster.await_current("toehold", others[0]).await;
    }
}

/// Its connections stay as they are, and nothing comes over them any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_left_for_another_within_seconds() {
    const SOON: Duration = Duration::from_secs(15);
    let cluster = Cluster::start();
    drop(cluster.store().await);
    cluster.await_current("toehold", 0).await;
    let store = NatsStore::open(&cluster.address("toehold"), &NatsOptions::default()).await.unwrap();
    let first = store.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    let mut watch = store.watch(&key("a")).await.unwrap();
    let silent: usize = store.server().strip_prefix('n').unwrap().parse().unwrap();
    // How long the others take to choose a leader is another matter.
    let other = (silent + 1) % 3;
    cluster.lead_by("toehold", other, other).await;
    let server = cluster.servers[silent].server.as_ref().unwrap();
    server.suspend();
    let goes_on = async {
        while store.get(&key("a/1")).await.is_err() {}
        loop {
            match store.put(&key("a/1"), b"two", Expect::Revision(first)).await {
                // One that had no answer may have taken place.
                Ok(_) | Err(StoreError::Conflict { .. }) => break,
                Err(StoreError::Unavailable { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(watch.changed().await.unwrap(), key("a/1"));
    };
    tokio::time::timeout(SOON, goes_on).await.expect("it waits for a server that says nothing");
    assert_ne!(store.server(), format!("n{silent}"));
    assert_eq!(store.get(&key("a/1")).await.unwrap().unwrap().value, b"two");
    server.resume();
}

/// Where somebody has used up the name by which the servers tell that they replace the same, one takes place all the same, and one alone.
#[tokio::test(flavor = "multi_thread")]
async fn n2_of_writes_whose_name_somebody_else_has_used_one_takes_place() {
    const WRITERS: usize = 8;
    let cluster = Cluster::start();
    let store = cluster.store().await;
    let count = key("count");
    let mut revision = store.put(&count, b"", Expect::Absent).await.unwrap();
    let context = async_nats::jetstream::new(cluster.servers[0].client().await);
    for round in 0..10 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("$KV.toehold.count@{}", revision.0));
        context.publish_with_headers("$KV.toehold.other", headers, "".into()).await.unwrap().await.unwrap();
        let writes: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, count) = (store.clone(), count.clone());
                tokio::spawn(async move { store.put(&count, &[u8::try_from(writer).unwrap()], Expect::Revision(revision)).await })
            })
            .collect();
        let mut won = Vec::new();
        for (writer, write) in writes.into_iter().enumerate() {
            match write.await.unwrap() {
                Ok(revision) => won.push((revision, writer)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("round {round}: {error:?}"),
            }
        }
        let entry = store.get(&count).await.unwrap().unwrap();
        assert_eq!(won, [(entry.revision, usize::from(entry.value[0]))], "round {round}");
        revision = entry.revision;
    }
}
