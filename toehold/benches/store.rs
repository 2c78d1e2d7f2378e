//! The shared store on a real NATS server: what reads, conditional writes and lists take beside what the bare client takes for the same
//! operation on the wire, with values of the same size, in turns. `signed`: with the signatures of a shared store. A value that this
//! process has read before is not verified again. What has to be signed, or is read for the `first` time and verified, is measured beside
//! the client with as many bare signatures. A list of more than a few is read to the end that the leader knows, and is measured beside the
//! client's own list with that one question more. How much more than the client alone each takes is told as well.
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
use ed25519_dalek::Signer as _;
use futures_util::StreamExt as _;
use server::{Cluster, Nats};
use toehold::adapters::identity::Recipient;
use toehold::adapters::nats::NatsStore;
use toehold::shared::{Marks, Member, NewMember, OperatorSet, Role, Seen, SignedStore, StoreId, read_chain};
use toehold_core::{Expect, Key, Revision, Store, StoreError, Timestamp};
use toehold_specsign::SigningKey;

/// What a record of a host has, about.
const VALUE: [u8; 600] = [b'x'; 600];
/// The bar of each ratio.
const BAR: f64 = 1.3;
/// How many records the lists have that are measured.
const LISTS: [usize; 3] = [10, 100, 1_000];

type Signed = SignedStore<NatsStore, SigningKey>;

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let (turns, others) = if is_measured { (2_000, 1_000) } else { (20, 10) };
    let lists: Vec<usize> = if is_measured { LISTS.to_vec() } else { vec![10] };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let nats = Nats::start("");
        let world = World::new(&nats, nats.store().await, others, &lists).await;
        for (name, times) in world.operations(turns).await {
            times.print(&name, turns);
        }
        for count in lists {
            let turns = (turns / count.isqrt() / 2).max(5);
            for (name, times) in world.lists(count, turns).await {
                times.print(&name, turns);
            }
        }
        // For information: what agreement among three costs both of them.
        let cluster = Cluster::start();
        let store = cluster.store().await;
        let three = World::new(&cluster.servers[0], store, others, &[]).await;
        for (name, Times { bare, ours, .. }) in three.operations(turns / 4).await {
            println!("on three servers, {name}: {ours:.0} of {bare:.0} µs of the client alone ({:.3})", ours / bare);
        }
    });
}

/// Microseconds, the middle of all turns.
struct Times {
    /// The client alone.
    bare: f64,
    /// With the signatures, and the question of what follows on a list, that belong to it.
    floor: f64,
    ours: f64,
}

impl Times {
    fn print(&self, name: &str, turns: usize) {
        let Self { bare, floor, ours } = self;
        let beside = if floor > bare {
            format!("{floor:.0} µs with what belongs to it ({:.3} of the client's {bare:.0} alone)", ours / bare)
        } else {
            format!("{bare:.0} µs")
        };
        println!("measured store-{name} {:.3} {BAR} {ours:.0} of {beside}, the middle of {turns} in turns", ours / floor);
    }
}

/// A signature of a record, and nothing around it.
struct Bare {
    key: ed25519_dalek::SigningKey,
    signature: ed25519_dalek::Signature,
}

impl Bare {
    fn new() -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let signature = key.sign(&VALUE);
        Self { key, signature }
    }

    /// What it takes to sign a record.
    fn sign(&self) -> Duration {
        let begun = Instant::now();
        std::hint::black_box(self.key.sign(std::hint::black_box(&VALUE)));
        begun.elapsed()
    }

    /// What it takes to verify so many.
    fn verify(&self, count: usize) -> Duration {
        let begun = Instant::now();
        for _ in 0..count {
            let value = std::hint::black_box(&VALUE);
            self.key.verifying_key().verify_strict(value, &self.signature).unwrap();
        }
        begun.elapsed()
    }
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
    /// With so many other records in the bucket, and with lists of so many.
    async fn new(nats: &Nats, store: NatsStore, others: usize, lists: &[usize]) -> Self {
        let client = nats.client().await;
        let context = jetstream::new(client.clone());
        let stream = context.get_stream("KV_toehold").await.unwrap();
        let signed = signed(store.clone()).await;
        for number in 0..others {
            store.put(&key(&format!("other/{number}")), &VALUE, Expect::Absent).await.unwrap();
        }
        // In the bucket's middle.
        store.put(&key("one/only"), &VALUE, Expect::Absent).await.unwrap();
        signed.put(&key("host/only"), &VALUE, Expect::Absent).await.unwrap();
        for count in lists {
            for number in 0..*count {
                store.put(&key(&format!("list{count}/{number}")), &VALUE, Expect::Absent).await.unwrap();
                signed.put(&key(&format!("signed{count}/{number}")), &VALUE, Expect::Absent).await.unwrap();
            }
        }
        for number in 0..others {
            store.put(&key(&format!("later/{number}")), &VALUE, Expect::Absent).await.unwrap();
        }
        Self { context, stream, client, store, signed }
    }

    /// The store with the signatures, of which this process has read nothing.
    async fn anew(&self) -> Signed {
        open(self.store.clone()).await
    }

    /// Reads, writes and lists of one.
    async fn operations(&self, turns: usize) -> Vec<(String, Times)> {
        let (one, host, bare) = (key("one/only"), key("host/only"), Bare::new());
        let mut measured = Vec::new();
        let mut add = |name: &str, times| measured.push((name.to_owned(), times));
        let get = async || timed(self.store.get(&one)).await;
        add("get", in_turns(turns, async || alone(self.bare_get("one.only").await), get).await);
        let get = async || timed(self.signed.get(&host)).await;
        add("signed-get", in_turns(turns, async || alone(self.bare_get("host.only").await), get).await);
        let first = async || {
            let signed = self.anew().await;
            timed(signed.get(&host)).await
        };
        add("first-get", in_turns(turns, async || (self.bare_get("host.only").await, bare.verify(1)), first).await);
        add("put", self.put(turns, &self.store, &key("mine/1"), "bare.1", || Duration::ZERO).await);
        add("signed-put", self.put(turns, &self.signed, &key("host/mine"), "bare.2", || bare.sign()).await);
        let (one, host) = (key("one"), key("host"));
        let list = async || timed(self.store.list(&one)).await;
        add("list", in_turns(turns, async || alone(self.bare_list("one", 1).await), list).await);
        let list = async || timed(self.signed.list(&host)).await;
        add("signed-list", in_turns(turns, async || alone(self.bare_list("host", 2).await), list).await);
        measured
    }

    /// Lists of so many.
    async fn lists(&self, count: usize, turns: usize) -> Vec<(String, Times)> {
        let (ours, signed, bare) = (format!("list{count}"), format!("signed{count}"), Bare::new());
        let (place, signed_place) = (key(&ours), key(&signed));
        let list = async || timed(self.store.list(&place)).await;
        let before = async || timed(self.signed.list(&signed_place)).await;
        let first = async || {
            let signed = self.anew().await;
            timed(signed.list(&signed_place)).await
        };
        let bare_list = async |kind: &str| self.bare_list_and_next(kind, count).await;
        let bare_verified = async || {
            let (list, next) = bare_list(&signed).await;
            (list, next + bare.verify(count))
        };
        vec![
            (format!("list-{count}"), in_turns(turns, async || bare_list(&ours).await, list).await),
            (format!("signed-list-{count}"), in_turns(turns, async || bare_list(&signed).await, before).await),
            (format!("first-list-{count}"), in_turns(turns, bare_verified, first).await),
        ]
    }

    async fn bare_get(&self, name: &str) -> Duration {
        let begun = Instant::now();
        let message = self.stream.get_last_raw_message_by_subject(&format!("$KV.toehold.{name}")).await.unwrap();
        let took = begun.elapsed();
        assert!(message.payload.len() >= VALUE.len());
        took
    }

    /// A store's write of this record, and the bare client's of another one, of as many bytes.
    async fn put(&self, turns: usize, store: &impl Store, place: &Key, bare: &str, sign: impl Fn() -> Duration) -> Times {
        let mut ours = store.put(place, &VALUE, Expect::Absent).await.unwrap();
        let written = self.store.get(place).await.unwrap().unwrap().value;
        let subject = format!("$KV.toehold.{bare}");
        let mut last = self.context.publish(subject.clone(), written.clone().into()).await.unwrap().await.unwrap().sequence;
        in_turns(
            turns,
            async || {
                let begun = Instant::now();
                last = self.write(&subject, &written, last).await;
                (begun.elapsed(), sign())
            },
            async || {
                let begun = Instant::now();
                ours = store.put(place, &VALUE, Expect::Revision(ours)).await.unwrap();
                begun.elapsed()
            },
        )
        .await
    }

    /// As the store does it: with the sequence that is replaced, and a name.
    async fn write(&self, subject: &str, value: &[u8], last: u64) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, async_nats::HeaderValue::from(last));
        headers.insert(NATS_MESSAGE_ID, format!("{subject}@{last}"));
        let value = bytes::Bytes::copy_from_slice(value);
        self.context.publish_with_headers(subject.to_owned(), headers, value).await.unwrap().await.unwrap().sequence
    }

    async fn bare_list(&self, kind: &str, count: usize) -> Duration {
        self.bare_list_to(kind, count).await.0
    }

    /// A list, and the revision after its last.
    async fn bare_list_to(&self, kind: &str, count: usize) -> (Duration, u64) {
        let begun = Instant::now();
        let found = self.last_of_each(&format!("$KV.toehold.{kind}.>")).await;
        let took = begun.elapsed();
        assert_eq!(found.len(), count);
        (took, found.last().unwrap().0.0 + 1)
    }

    /// A list, and the question of what follows on the last of it, where nothing does.
    async fn bare_list_and_next(&self, kind: &str, count: usize) -> (Duration, Duration) {
        let (list, next) = self.bare_list_to(kind, count).await;
        let begun = Instant::now();
        let found = self.stream.get_first_raw_message_by_subject(&format!("$KV.toehold.{kind}.>"), next).await;
        let took = begun.elapsed();
        assert!(found.is_err());
        (list, took)
    }

    /// The last message of each subject, as the client's own bucket lists them.
    async fn last_of_each(&self, filter: &str) -> Vec<(Revision, Vec<u8>)> {
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

/// How long an operation takes that has to succeed.
async fn timed<T>(operation: impl Future<Output = Result<T, StoreError>>) -> Duration {
    let begun = Instant::now();
    let done = operation.await;
    let took = begun.elapsed();
    done.unwrap();
    took
}

/// With nothing that belongs to it.
fn alone(took: Duration) -> (Duration, Duration) {
    (took, Duration::ZERO)
}

/// Each of the two once a turn, in an order that changes. What the client takes is told apart from what belongs to it.
async fn in_turns(
    turns: usize,
    mut bare: impl AsyncFnMut() -> (Duration, Duration),
    mut ours: impl AsyncFnMut() -> Duration,
) -> Times {
    let [mut alone, mut floor, mut whole] = [const { Vec::new() }; 3];
    // The first ones are not counted.
    let unmeasured = turns / 10;
    for turn in 0..turns + unmeasured {
        for place in 0..2 {
            let is_counted = turn >= unmeasured;
            if (turn + place) % 2 == 0 {
                let (client, more) = bare().await;
                if is_counted {
                    alone.push(client);
                    floor.push(client + more);
                }
            } else {
                let took = ours().await;
                if is_counted {
                    whole.push(took);
                }
            }
        }
    }
    Times { bare: middle(alone), floor: middle(floor), ours: middle(whole) }
}

fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// A store whose values its only member signs.
async fn signed(store: NatsStore) -> Signed {
    let signing = signing_key();
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
    let first = OperatorSet::first(id, member, Timestamp::UNIX_EPOCH);
    assert!(Signed::found(&store, &first, &signing).await.unwrap());
    open(store).await
}

/// The store whose only member that is.
async fn open(store: NatsStore) -> Signed {
    let signing = signing_key();
    let chain = read_chain(&store).await.unwrap().unwrap();
    let (id, member) = (chain.store().clone(), chain.members().members[0].id.clone());
    let marks = Marks::in_memory(Seen::first(id, member, "bench".to_owned(), chain.hashes()));
    SignedStore::open(store, signing, marks).await.unwrap()
}

fn signing_key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}
