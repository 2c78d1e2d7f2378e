//! What deletions leave, and its removal.

use std::time::Duration;

use async_nats::jetstream;
use toehold::adapters::nats::{MARKERS_KEPT, NatsOptions, NatsStore};
use toehold_core::{Expect, Revision, Store, StoreError, Watch as _};

use crate::server::{Cluster, Nats, version};
use crate::support::eventually;
use crate::{in_words, key};

async fn deleted(store: &NatsStore, name: &str) -> Revision {
    let written = store.put(&key(name), b"{}", Expect::Absent).await.unwrap();
    store.remove(&key(name), written).await.unwrap()
}

/// How many messages the bucket has below this prefix.
async fn messages(nats: &Nats, below: &str) -> usize {
    use futures_util::TryStreamExt as _;
    let stream = jetstream::new(nats.client().await).get_stream("KV_toehold").await.unwrap();
    let subjects: Vec<(String, usize)> =
        stream.info_with_subjects(format!("$KV.toehold.{below}")).await.unwrap().try_collect().await.unwrap();
    subjects.len()
}

async fn removed(store: &NatsStore) -> u64 {
    store.remove_markers(store.old_markers(Duration::ZERO).await.unwrap(), || true).await.unwrap()
}

#[tokio::test]
async fn what_deletions_leave_of_keys_that_never_come_back_goes_and_nothing_else() {
    let nats = Nats::start("");
    let store = nats.store().await;
    let gone = ["audit/w/00000000000000000001", "grant/1", "pod/a", "pod/b", "session/1", "token/1", "token/1/00000"];
    // These are of keys that may be written again, or that are never deleted by us.
    let stays = ["masterkey/current", "gateway/current", "operator/00000000000000000001", "host/a@b", "agent/1", "auditwriter/w"];
    let mut markers = Vec::new();
    for name in gone {
        markers.push(deleted(&store, name).await);
    }
    for name in stays {
        deleted(&store, name).await;
    }
    let live = store.put(&key("pod/live"), b"live", Expect::Absent).await.unwrap();
    let last = store.last_revision().await.unwrap();
    assert_eq!(last, live.0);
    let mut watch = store.watch(&key("pod")).await.unwrap();

    assert!(store.old_markers(MARKERS_KEPT).await.unwrap().is_empty(), "nothing is a day old");
    let old = store.old_markers(Duration::ZERO).await.unwrap();
    assert_eq!(old.len(), gone.len());
    assert_eq!(store.remove_markers(old.clone(), || false).await.unwrap(), 0, "whoever is told to stop stops");
    assert_eq!(messages(&nats, ">").await, gone.len() + stays.len() + 1);
    // Somebody writes over one of them meanwhile.
    let over = store.put(&key("pod/b"), b"over", Expect::Absent).await.unwrap();
    assert_eq!(store.remove_markers(old, || true).await.unwrap(), gone.len() as u64 - 1);
    assert_eq!(messages(&nats, ">").await, stays.len() + 2);
    assert_eq!(messages(&nats, "pod.>").await, 2);
    assert_eq!(store.last_revision().await.unwrap(), over.0, "the store does not go back");
    let pods = store.list(&key("pod")).await.unwrap();
    assert_eq!(pods.iter().map(|pod| (pod.key.name(), pod.revision)).collect::<Vec<_>>(), [("b", over), ("live", live)]);

    // Whoever would replace what is gone comes too late, and a first one comes first.
    for (name, marker) in gone.iter().zip(&markers) {
        let late = store.put(&key(name), b"late", Expect::Revision(*marker)).await;
        assert!(matches!(late, Err(StoreError::Conflict { .. })), "{name}: {late:?}");
    }
    let again = store.put(&key("pod/a"), b"again", Expect::Absent).await.unwrap();
    assert!(again > over);
    for seen in ["pod/b", "pod/a"] {
        let changed = tokio::time::timeout(crate::support::server::PATIENCE, watch.changed()).await.unwrap().unwrap();
        assert_eq!(changed, key(seen), "no removal is a change");
    }
}

/// By its last message a server that starts again knows how far it had come.
#[tokio::test]
async fn n3_how_far_the_store_has_come_outlives_what_deletions_leave() {
    let mut nats = Nats::start("");
    let store = nats.store().await;
    deleted(&store, "pod/a").await;
    let last = deleted(&store, "pod/b").await;
    assert_eq!(removed(&store).await, 1);
    assert_eq!(removed(&store).await, 0, "the last message stays");
    nats.kill();
    nats.up();
    assert_eq!(store.last_revision().await.unwrap(), last.0);
    // A server that is killed may have a marker again that was removed; never in the place of what came after it.
    assert!(store.list(&key("pod")).await.unwrap().is_empty());
    let next = store.put(&key("pod/a"), b"next", Expect::Absent).await.unwrap();
    assert_eq!(next.0, last.0 + 1);
    removed(&store).await;
    let again = store.put(&key("pod/b"), b"again", Expect::Absent).await.unwrap();
    nats.kill();
    nats.up();
    let pods = store.list(&key("pod")).await.unwrap();
    assert_eq!(pods.iter().map(|pod| pod.revision).collect::<Vec<_>>(), [next, again]);
    for (name, revision) in [("pod/a", next), ("pod/b", again)] {
        assert_eq!(store.get(&key(name)).await.unwrap().unwrap().revision, revision);
    }
    assert_eq!(store.last_revision().await.unwrap(), again.0);
}

/// What was a marker in the state that was looked at may have a value below it in an earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn n3_nothing_goes_from_an_earlier_state_of_the_store() {
    let mut nats = Nats::start("");
    let patience = Duration::from_secs(2);
    let one = key("pod/a");
    let written = nats.store().await.put(&one, b"one", Expect::Absent).await.unwrap();
    nats.back_up();
    nats.up();
    let options = NatsOptions { patience, ..NatsOptions::default() };
    let store = NatsStore::open(&nats.address("toehold"), &options).await.unwrap();
    store.remove(&one, written).await.unwrap();
    store.put(&key("pod/b"), b"", Expect::Absent).await.unwrap();
    let old = store.old_markers(Duration::ZERO).await.unwrap();
    assert_eq!(old.len(), 1);
    let before = store.connections();
    nats.restored();
    eventually("there is another connection", || store.connections() != before);
    let refused = store.remove_markers(old, || true).await.unwrap_err();
    assert!(in_words(&refused).contains("revision"), "{}", in_words(&refused));
    assert_eq!(store.get(&one).await.unwrap().unwrap().value, b"one");
}

/// Servers before 2.9.18 lose the whole bucket with it when they start again.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_would_lose_more_keep_what_deletions_leave_and_the_others_lose_the_same() {
    let mut cluster = Cluster::start();
    let store = cluster.store().await;
    for number in 0..20 {
        deleted(&store, &format!("pod/{number}")).await;
    }
    let live = store.put(&key("pod/live"), b"live", Expect::Absent).await.unwrap();
    let old = store.old_markers(Duration::ZERO).await.unwrap();
    assert_eq!(old.len(), 20);
    // Of one that is not named nobody knows which release it is.
    let one = NatsStore::open(&cluster.servers[0].address("toehold"), &NatsOptions::default()).await.unwrap();
    let reason = one.why_markers_stay().await.unwrap().unwrap();
    assert!(reason.contains("n1") && reason.contains("n2"), "{reason}");
    assert!(one.remove_markers(old.clone(), || true).await.is_err());
    let is_safe = version() >= [2, 9, 21];
    let done = store.remove_markers(old, || true).await;
    if is_safe {
        assert_eq!(done.unwrap(), 20);
    } else {
        let refused = in_words(&done.unwrap_err());
        assert!(refused.contains("n0") && refused.contains("2.9.21"), "{refused}");
    }
    // Each of them starts again, and goes through what was agreed on.
    for number in 0..3 {
        let other = (number + 1) % 3;
        cluster.await_current("toehold", other).await;
        cluster.servers[number].kill();
        cluster.servers[number].up();
        cluster.await_current("toehold", other).await;
        cluster.lead_by("toehold", number, other).await;
        assert_eq!(store.last_revision().await.unwrap(), live.0);
        assert_eq!(store.list(&key("pod")).await.unwrap().len(), 1, "server {number} leads");
    }
    let compared = store.compare_copies().await.unwrap();
    assert!(compared.differences.is_empty() && compared.read.len() == 3, "{compared:?}");
    let again = store.put(&key("pod/1"), b"", Expect::Absent).await.unwrap();
    assert!(again > live);
}
