//! The shared store on a real NATS server: what a read, a conditional write and a list take beside what the bare client takes for the same
//! operation on the wire, in turns. What the signatures of a shared store add is printed as well.
//!
//! Prints `measured NAME VALUE BAR DETAIL` a line, which `cargo xtask bench store` holds to the bars. Without `--bench` a few operations.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    unreachable_pub,
    reason = "a bench"
)]

#[path = "../tests/store_nats/server.rs"]
mod server;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::{self, Context, stream::Stream};
use futures_util::StreamExt as _;
use server::{Cluster, Nats};
use toehold::adapters::identity::Recipient;
use toehold::adapters::nats::NatsStore;
use toehold::shared::{Marks, Member, NewMember, OperatorSet, Role, Seen, SignedStore, StoreId, read_chain};
use toehold_core::{Expect, Key, Revision, Store, Timestamp};
use toehold_specsign::SigningKey;

/// What a record of a host has, about.
const VALUE: [u8; 600] = [b'x'; 600];
/// The bar of each ratio.
const BAR: f64 = 1.3;

type Signed = SignedStore<NatsStore, SigningKey>;

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let (turns, others) = if is_measured { (2_000, 1_000) } else { (20, 10) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let nats = Nats::start("");
        let one = World::new(&nats, nats.store().await, others).await.measure(turns).await;
        for (operation, times) in ["get", "put", "list"].into_iter().zip(one) {
            let Times { bare, ours, signed } = times;
            println!(
                "measured store-{operation} {:.3} {BAR} {:.0} of {:.0} µs, the middle of {turns} in turns with the bare client; signed and \
                 verified as well: {:.0} µs",
                ours / bare,
                ours,
                bare,
                signed
            );
        }
        // For information: what agreement among three costs both of them.
        let cluster = Cluster::start();
        let store = cluster.store().await;
        let three = World::new(&cluster.servers[0], store, others).await.measure(turns / 4).await;
        for (operation, Times { bare, ours, signed }) in ["get", "put", "list"].into_iter().zip(three) {
            println!(
                "on three servers, {operation}: {ours:.0} of {bare:.0} µs ({:.3}); signed and verified as well: {signed:.0} µs",
                ours / bare
            );
        }
    });
}

/// Microseconds, the middle of all turns.
struct Times {
    bare: f64,
    ours: f64,
    signed: f64,
}

/// One bucket, the bare client's stream of it, and the two stores over it.
struct World {
    context: Context,
    stream: Stream,
    client: async_nats::Client,
    store: NatsStore,
    signed: Signed,
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

impl World {
    /// With so many other records in the bucket.
    async fn new(nats: &Nats, store: NatsStore, others: usize) -> Self {
        let client = nats.client().await;
        let context = jetstream::new(client.clone());
        let stream = context.get_stream("KV_toehold").await.unwrap();
        let signed = signed(store.clone()).await;
        for number in 0..others {
            store.put(&key(&format!("other/{number}")), &VALUE, Expect::Absent).await.unwrap();
        }
        // One record a prefix, for the list: in the bucket's middle.
        store.put(&key("one/only"), &VALUE, Expect::Absent).await.unwrap();
        signed.put(&key("host/only"), &VALUE, Expect::Absent).await.unwrap();
        for number in 0..others {
            store.put(&key(&format!("later/{number}")), &VALUE, Expect::Absent).await.unwrap();
        }
        Self { context, stream, client, store, signed }
    }

    async fn measure(&self, turns: usize) -> [Times; 3] {
        [self.get(turns).await, self.put(turns).await, self.list(turns).await]
    }

    async fn get(&self, turns: usize) -> Times {
        let (one, host) = (key("one/only"), key("host/only"));
        in_turns(
            turns,
            async || {
                let message = self.stream.get_last_raw_message_by_subject("$KV.toehold.one.only").await.unwrap();
                assert_eq!(message.payload.len(), VALUE.len());
            },
            async || assert_eq!(self.store.get(&one).await.unwrap().unwrap().value.len(), VALUE.len()),
            async || assert_eq!(self.signed.get(&host).await.unwrap().unwrap().value.len(), VALUE.len()),
        )
        .await
    }

    async fn put(&self, turns: usize) -> Times {
        let (own, host) = (key("mine/1"), key("host/mine"));
        let mut last = self.store.put(&key("bare/1"), &VALUE, Expect::Absent).await.unwrap().0;
        let mut ours = self.store.put(&own, &VALUE, Expect::Absent).await.unwrap();
        let mut signed = self.signed.put(&host, &VALUE, Expect::Absent).await.unwrap();
        in_turns(
            turns,
            async || last = self.write("$KV.toehold.bare.1", last).await,
            async || ours = self.store.put(&own, &VALUE, Expect::Revision(ours)).await.unwrap(),
            async || signed = self.signed.put(&host, &VALUE, Expect::Revision(signed)).await.unwrap(),
        )
        .await
    }

    /// As the store does it: with the sequence that is replaced, and a name.
    async fn write(&self, subject: &'static str, last: u64) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, async_nats::HeaderValue::from(last));
        headers.insert(NATS_MESSAGE_ID, format!("{subject}@{last}"));
        let value = bytes::Bytes::copy_from_slice(&VALUE);
        self.context.publish_with_headers(subject, headers, value).await.unwrap().await.unwrap().sequence
    }

    async fn list(&self, turns: usize) -> Times {
        let (one, host) = (key("one"), key("host"));
        let in_signed = self.signed.list(&host).await.unwrap().len();
        in_turns(
            turns,
            async || assert_eq!(self.bare_list("$KV.toehold.one.>").await.len(), 1),
            async || assert_eq!(self.store.list(&one).await.unwrap().len(), 1),
            async || assert_eq!(self.signed.list(&host).await.unwrap().len(), in_signed),
        )
        .await
    }

    /// The last message of each subject, as the client's own bucket lists them.
    async fn bare_list(&self, filter: &str) -> Vec<(Revision, Vec<u8>)> {
        let config = OrderedConfig {
            deliver_subject: self.client.new_inbox(),
            filter_subject: filter.to_owned(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ..OrderedConfig::default()
        };
        let consumer = self.stream.create_consumer(config).await.unwrap();
        let mut found = Vec::new();
        if consumer.cached_info().num_pending == 0 {
            return found;
        }
        let mut messages = consumer.messages().await.unwrap();
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            let info = message.info().unwrap();
            found.push((Revision(info.stream_sequence), message.payload.to_vec()));
            if info.pending == 0 {
                break;
            }
        }
        found
    }
}

/// Each of the three once a turn, in an order that changes.
async fn in_turns(
    turns: usize,
    mut bare: impl AsyncFnMut(),
    mut ours: impl AsyncFnMut(),
    mut signed: impl AsyncFnMut(),
) -> Times {
    let mut times = [const { Vec::new() }; 3];
    // The first ones are not counted.
    let unmeasured = turns / 10;
    for turn in 0..turns + unmeasured {
        for place in 0..3 {
            let which = (turn + place) % 3;
            let begun = Instant::now();
            match which {
                0 => bare().await,
                1 => ours().await,
                _ => signed().await,
            }
            let took = begun.elapsed();
            if turn >= unmeasured {
                times[which].push(took);
            }
        }
    }
    let [bare, ours, signed] = times.map(middle);
    Times { bare, ours, signed }
}

fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// A store whose values its only member signs.
async fn signed(store: NatsStore) -> Signed {
    let signing = SigningKey::from_seed(&[7; 32]);
    let id = StoreId::from_random([9; 16]);
    let recipient: Recipient = age::x25519::Identity::generate().to_public().into();
    let new = NewMember { recipient, key: signing.verifying_key() };
    let member = Member {
        id: new.id(),
        name: "anna".to_owned(),
        role: Role::Operator,
        recipient: new.recipient.to_string(),
        key: new.key,
        added_at: Timestamp::UNIX_EPOCH,
    };
    let first = OperatorSet::first(id.clone(), member.clone(), Timestamp::UNIX_EPOCH);
    assert!(Signed::found(&store, &first, &signing).await.unwrap());
    let chain = read_chain(&store).await.unwrap().unwrap();
    let marks = Marks::in_memory(Seen::first(id, member.id, "bench".to_owned(), chain.hashes()));
    SignedStore::open(store, signing, marks).await.unwrap()
}
