//! What any store promises, and what a bucket has to be to keep it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use futures_util::StreamExt as _;
use toehold::adapters::nats::{NatsOptions, NatsStore};
use toehold_core::testing::store_conformance;
use toehold_core::{Expect, Revision, Store, StoreError};

use crate::server::Nats;
use crate::{in_words, key};

#[tokio::test]
async fn keeps_the_contract_of_a_store() {
    let nats = Nats::start("");
    store_conformance(&nats.store().await).await;
}

#[tokio::test]
async fn a_deletion_has_a_revision_by_which_the_store_has_come_further() {
    let nats = Nats::start("");
    let store = nats.store().await;
    let written = store.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    let deleted = store.remove(&key("a/1"), written).await.unwrap();
    assert_eq!((deleted.0, store.last_revision().await.unwrap()), (written.0 + 1, deleted.0));
    assert!(matches!(store.remove(&key("a/1"), written).await, Err(StoreError::Conflict { .. })));
}

#[tokio::test]
async fn what_works_in_the_embedded_store_works_here() {
    let nats = Nats::start("");
    assert_eq!(nats.store().await.max_value(), toehold::adapters::sqlite::MAX_VALUE);
    // A server that takes less says so.
    let small = Nats::start("max_payload: 64KB");
    let store = small.store().await;
    assert_eq!(store.max_value(), 60 * 1024);
    store_conformance(&store).await;
}

/// Few records are had one by one, and more of them in a stream: from the second time on without having begun one by one.
#[tokio::test]
async fn a_list_that_was_long_is_not_begun_one_by_one_and_is_whole_however_long_it_has_become() {
    const MARKER: &str = "$JS.API.marker";
    let nats = Nats::start("");
    let (store, client) = (nats.store().await, nats.client().await);
    let mut revisions = Vec::new();
    let mut asked = client.subscribe("$JS.API.>").await.unwrap();
    // What the servers are asked for by a list of so many: single messages, and streams of them.
    let mut lists = async |expected: usize| {
        client.flush().await.unwrap();
        assert_eq!(store.list(&key("a")).await.unwrap().len(), expected);
        client.publish(MARKER, "".into()).await.unwrap();
        let (mut messages, mut streams) = (0, 0);
        loop {
            let subject = asked.next().await.unwrap().subject;
            messages += usize::from(subject.starts_with("$JS.API.STREAM.MSG.GET."));
            streams += usize::from(subject.starts_with("$JS.API.CONSUMER.CREATE."));
            if subject.as_str() == MARKER {
                return (messages, streams);
            }
        }
    };
    for number in 0..20 {
        revisions.push(store.put(&key(&format!("a/{number}")), b"", Expect::Absent).await.unwrap());
    }
    // Nine, of which the last was one too many, and then the one after the stream's last.
    assert_eq!(lists(20).await, (9 + 1, 1));
    assert_eq!(lists(20).await, (1, 1));
    for (number, revision) in revisions.iter().enumerate().skip(3) {
        store.delete(&key(&format!("a/{number}")), *revision).await.unwrap();
    }
    // What was deleted has messages yet.
    assert_eq!(lists(3).await, (1, 1));
    assert_eq!(lists(3).await, (1, 1));
    let stream = jetstream::new(nats.client().await).get_stream("KV_toehold").await.unwrap();
    stream.purge().filter("$KV.toehold.a.>").await.unwrap();
    store.put(&key("a/1"), b"", Expect::Absent).await.unwrap();
    // Once more so; and then the one, and that there is no other.
    assert_eq!(lists(1).await, (1, 1));
    assert_eq!(lists(1).await, (2, 0));
}

#[tokio::test]
async fn a_bucket_that_would_lose_values_is_refused() {
    let nats = Nats::start("");
    let client = async_nats::connect(format!("127.0.0.1:{}", nats.port)).await.unwrap();
    let context = jetstream::new(client);
    let good = |bucket: &str| Config {
        name: format!("KV_{bucket}"),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    let cases = [
        ("history", Config { max_messages_per_subject: 5, ..good("history") }, "keeps a history"),
        ("memory", Config { storage: StorageType::Memory, ..good("memory") }, "lies in memory"),
        ("age", Config { max_age: Duration::from_secs(3600), ..good("age") }, "vanish with age"),
        ("full", Config { max_bytes: 1 << 20, discard: DiscardPolicy::Old, ..good("full") }, "forgets old values"),
        ("other", Config { subjects: vec!["other.>".to_owned()], ..good("other") }, "for something else"),
        ("forgetful", Config { duplicate_window: Duration::from_secs(5), ..good("forgetful") }, "does not know duplicates"),
        ("interest", Config { retention: RetentionPolicy::Interest, ..good("interest") }, "nobody waits for"),
        ("queue", Config { retention: RetentionPolicy::WorkQueue, ..good("queue") }, "somebody has read"),
        ("silent", Config { no_ack: true, ..good("silent") }, "does not acknowledge"),
        ("rollup", Config { allow_rollup: true, ..good("rollup") }, "nats stream edit KV_rollup --no-allow-rollup"),
    ];
    for (bucket, config, why) in cases {
        context.create_stream(config).await.unwrap();
        for opened in [
            NatsStore::open(&nats.address(bucket), &NatsOptions::default()).await,
            NatsStore::create(&nats.address(bucket), &NatsOptions::default(), 1).await,
        ] {
            let words = in_words(&opened.unwrap_err());
            assert!(words.contains(why), "{bucket}: {words}");
        }
    }
    let absent = NatsStore::open(&nats.address("absent"), &NatsOptions::default()).await.unwrap_err();
    assert!(in_words(&absent).contains("toehold init"), "{}", in_words(&absent));
    context.create_stream(good("good")).await.unwrap();
    NatsStore::create(&nats.address("good"), &NatsOptions::default(), 1).await.unwrap();
    // As that command does it.
    context.update_stream(good("rollup")).await.unwrap();
    NatsStore::open(&nats.address("rollup"), &NatsOptions::default()).await.unwrap();
}

/// What `nats kv del` leaves is no value, and a new one can come; nor is what `nats kv purge` has left in a bucket that allowed it once.
#[tokio::test]
async fn what_somebody_else_has_deleted_is_gone() {
    let nats = Nats::start("");
    let store = nats.store().await;
    let client = async_nats::connect(format!("127.0.0.1:{}", nats.port)).await.unwrap();
    let context = jetstream::new(client);
    let bucket = context.get_key_value("toehold").await.unwrap();
    for purge in [false, true] {
        let one = key("a/1");
        let revision = store.put(&one, b"one", Expect::Absent).await.unwrap();
        assert_eq!(bucket.get("a.1").await.unwrap().unwrap(), "one");
        if purge {
            let mut headers = HeaderMap::new();
            headers.insert("KV-Operation", "PURGE");
            context.publish_with_headers("$KV.toehold.a.1", headers, "".into()).await.unwrap().await.unwrap();
        } else {
            bucket.delete("a.1").await.unwrap();
        }
        assert_eq!(store.get(&one).await.unwrap(), None);
        assert!(store.list(&key("a")).await.unwrap().is_empty());
        assert!(matches!(store.put(&one, b"", Expect::Revision(revision)).await, Err(StoreError::Conflict { .. })));
        let again = store.put(&one, b"two", Expect::Absent).await.unwrap();
        assert!(again > revision);
        store.delete(&one, again).await.unwrap();
    }
    // What is no key of ours is passed over.
    bucket.put("a.=zz", "foreign".into()).await.unwrap();
    store.put(&key("a/2"), b"", Expect::Absent).await.unwrap();
    assert_eq!(store.list(&key("a")).await.unwrap().len(), 1);
}

/// The servers know the names of all writes of a bucket together, and anybody may give his own record another one's.
#[tokio::test]
async fn n2_a_write_whose_name_somebody_else_has_used_takes_place() {
    let nats = Nats::start("");
    let store = nats.store().await;
    let context = jetstream::new(nats.client().await);
    let used_by_another = async |revision: Revision, is_gone: bool| {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("$KV.toehold.a.1@{}", revision.0));
        let taken = context.publish_with_headers("$KV.toehold.b.1", headers, "".into()).await.unwrap().await.unwrap();
        assert!(!taken.duplicate);
        if is_gone {
            context.publish("$KV.toehold.b.1", "".into()).await.unwrap().await.unwrap();
        }
    };
    let one = key("a/1");
    for is_gone in [false, true] {
        let first = store.put(&one, b"one", Expect::Absent).await.unwrap();
        used_by_another(first, is_gone).await;
        let second = store.put(&one, b"two", Expect::Revision(first)).await.unwrap();
        assert_eq!(store.get(&one).await.unwrap().unwrap().value, b"two");
        let late = store.put(&one, b"late", Expect::Revision(first)).await;
        assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
        used_by_another(second, is_gone).await;
        let deleted = store.remove(&one, second).await.unwrap();
        used_by_another(deleted, is_gone).await;
        let again = store.put(&one, b"three", Expect::Absent).await.unwrap();
        store.delete(&one, again).await.unwrap();
    }
}

#[tokio::test]
async fn a_name_that_is_too_long_for_a_subject_is_said() {
    let nats = Nats::start("");
    let store = nats.store().await;
    let long = "ä".repeat(256);
    store.put(&key(&format!("a/{long}")), b"", Expect::Absent).await.unwrap();
    let error = store.put(&key(&format!("a/{long}/{long}")), b"", Expect::Absent).await.unwrap_err();
    assert!(in_words(&error).contains("over the limit of 2048"), "{}", in_words(&error));
}
