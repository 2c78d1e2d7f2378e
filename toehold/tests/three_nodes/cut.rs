//! The store alone, cut in two: what its servers have afterwards.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use toehold::adapters::nats::{NatsOptions, NatsStore};
use toehold_core::{Expect, Key, Revision, Store as _, StoreError};
use tokio::runtime::Runtime;

use crate::faults::{Fault, Ground, patience};
use crate::network::Halves;
use crate::server::{self, address_of};
use crate::site::{BUCKET, servers};
use crate::support::fleet::wait;

/// Records that both sides want to change.
const CONTESTED: usize = 20;
/// Records that are written on the right side alone.
const MORE: usize = 100;

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// Writes, and where no answer comes, looks whether it was written and else does so.
async fn written(store: &NatsStore, place: &Key, value: &[u8], expect: Expect) -> Revision {
    let deadline = Instant::now() + patience();
    loop {
        match store.put(place, value, expect).await {
            Ok(revision) => return revision,
            Err(StoreError::Conflict { .. } | StoreError::Unavailable { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        if let Ok(Some(entry)) = store.get(place).await
            && entry.value == value
        {
            return entry.revision;
        }
        assert!(Instant::now() < deadline, "{place} cannot be written");
    }
}

/// Cuts the network while the server on the left leads; both sides change the same records, and the right side has what was agreed on.
fn cut_while_the_left_leads() -> (Ground, NatsStore, Runtime) {
    let halves = Halves::new();
    let (left, right) = (halves.left.clone(), halves.right.clone());
    right.enter(|| {
        let cluster = servers(&left, &right);
        let (of_left, of_right) = (address_of(&cluster.servers[..1], BUCKET), address_of(&cluster.servers[1..], BUCKET));
        let mut ground = Ground::new(cluster, Some(halves));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = runtime.block_on(NatsStore::create(&of_right, &NatsOptions::default(), 3)).unwrap();
        let places: Vec<Key> = (0..CONTESTED).map(|number| key(&format!("a/{number}"))).collect();
        let known: Vec<Revision> =
            places.iter().map(|place| runtime.block_on(store.put(place, b"before", Expect::Absent)).unwrap()).collect();
        ground.is_led_by(0);
        let impatient = NatsOptions { patience: Duration::from_secs(2), ..NatsOptions::default() };
        let on_the_left =
            left.enter(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
        let connected =
            on_the_left.block_on(async move { tokio::spawn(async move { NatsStore::open(&of_left, &impatient).await }).await });
        let connected = connected.unwrap().unwrap();
        ground.strike(Fault::Cut);
        // It does not know yet that it leads no more.
        on_the_left.block_on(async {
            let writes = places.iter().zip(&known).map(|(place, last)| connected.put(place, b"left", Expect::Revision(*last)));
            for written in futures_util::future::join_all(writes).await {
                assert!(matches!(written, Err(StoreError::Unavailable { .. })), "{written:?}");
            }
        });
        runtime.block_on(async {
            for (place, last) in places.iter().zip(known) {
                written(&store, place, b"right", Expect::Revision(last)).await;
            }
            for number in 0..MORE {
                written(&store, &key(&format!("b/{number}")), b"right", Expect::Absent).await;
            }
        });
        ground.heal();
        (ground, store, runtime)
    })
}

/// Whether everything that was agreed on is there, and nothing else, as the leader has it and as it is listed.
async fn has_what_was_agreed_on(store: &NatsStore) -> bool {
    let mut is_right = store.list(&key("b")).await.unwrap().len() == MORE;
    for number in 0..CONTESTED {
        is_right &= store.get(&key(&format!("a/{number}"))).await.unwrap().is_some_and(|entry| entry.value == b"right");
    }
    let listed = store.list(&key("a")).await.unwrap();
    is_right && listed.len() == CONTESTED && listed.iter().all(|entry| entry.value == b"right")
}

/// Before 2.9.21, and so with Debian's 2.9.10, a server that led while it was cut off keeps what nobody else agreed to. Whether this one does,
/// its copy shows; that is found, and is over when the copies are made anew.
#[test]
fn copies_that_went_different_ways_are_found_and_can_be_made_anew() {
    let (ground, store, runtime) = cut_while_the_left_leads();
    let mut is_right = true;
    for leader in [0, 1, 2] {
        ground.within(|| ground.is_led_by(leader));
        is_right &= runtime.block_on(has_what_was_agreed_on(&store));
    }
    let compared = runtime.block_on(store.compare_copies()).unwrap();
    println!("{:?}: {} records differ between the servers", server::version(), compared.differences.len());
    assert_eq!((compared.read.len(), compared.unread.len()), (3, 0));
    assert_eq!(compared.differences.is_empty(), is_right, "{:?}", compared.differences);
    // As `nats stream edit KV_fleet --replicas 1`, and 3 again, while a server leads whose copy is right.
    ground.within(|| ground.is_led_by(2));
    ground.within(|| {
        wait(async {
            let context = jetstream::new(ground.cluster.servers[2].client().await);
            for replicas in [1, 3] {
                let mut config = context.get_stream(format!("KV_{BUCKET}")).await.unwrap().cached_info().config.clone();
                config.num_replicas = replicas;
                context.update_stream(&config).await.unwrap();
            }
            ground.cluster.await_current(BUCKET, 2).await;
        });
    });
    let compared = runtime.block_on(store.compare_copies()).unwrap();
    assert_eq!((compared.read.len(), compared.differences.len()), (3, 0), "{:?}", compared.differences);
    for leader in [0, 1, 2] {
        ground.within(|| ground.is_led_by(leader));
        assert!(runtime.block_on(has_what_was_agreed_on(&store)), "led by {leader}");
    }
}
