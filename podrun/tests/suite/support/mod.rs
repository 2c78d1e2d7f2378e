//! A world with a cluster in it, and a gateway as one process of it.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod vectors;

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use serde_json::Value;
use toehold_core::testing::{Crashing, Faults, ManualClock, MemoryStore, run_until_stalled};
use toehold_core::{Clock as _, Key, Store as _, Stored, Timer as _};
use toehold_podrun::config::{Config, Settings};
use toehold_podrun::driver::{Keeper, OwnerState, Parts, Reaper, run};
use toehold_podrun::pod::{OwnerReference, PodRecord, Timing, Who, pod_manifest, spec_digest};
use toehold_podrun::testing::{SimulatedCluster, SimulatedSide};
use toehold_podrun::{ConnectionId, Nonce, PodName};

pub(crate) const NAMESPACE: &str = "pods";
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn settings() -> Settings {
    let text = r#"{"pod": {"namespace": "pods", "podSpec": {"containers": [{"name": "shell", "image": "busybox"}]}},
        "limits": {"total": "1h"}}"#;
    Config::parse(text).unwrap().validate().unwrap()
}

pub(crate) fn who() -> Who {
    Who { principal: "josé@example.org".to_owned(), user: "bad user!".to_owned(), address: "[2001:db8::1]:4022".to_owned() }
}

/// A store, a cluster and a clock, as one process sees them.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) memory: MemoryStore,
    pub(crate) cluster: SimulatedCluster,
    pub(crate) faults: Faults,
    seed: u8,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::default().auto_advance();
        let faults = Faults::new();
        let cluster = SimulatedCluster::new(clock.clone()).with_faults(faults.clone());
        Self { memory: MemoryStore::with_clock(clock.clone()), clock, cluster, faults, seed: 1 }
    }

    /// The next process in the same world.
    pub(crate) fn restart(&self) -> Self {
        let faults = Faults::new();
        Self { cluster: self.cluster.with_faults(faults.clone()), faults, seed: self.seed + 1, ..self.clone() }
    }

    pub(crate) fn rng(&self) -> ChaCha20Rng {
        ChaCha20Rng::from_seed([self.seed; 32])
    }

    pub(crate) fn hands(&self) -> Hands {
        Hands {
            cluster: self.cluster.clone(),
            store: Crashing::new(self.memory.clone(), self.faults.clone()),
            timer: Crashing::new(self.clock.clone(), self.faults.clone()),
        }
    }

    pub(crate) fn records(&self) -> Vec<PodRecord> {
        let entries = run_until_stalled(self.memory.list(&Key::parse("pod").unwrap())).unwrap().unwrap();
        entries.iter().map(|entry| Stored::<PodRecord>::decode(entry).unwrap().body).collect()
    }

    /// No pod without a record, but those that are on their way out; never two for a connection.
    pub(crate) fn check(&self, context: &str) {
        let records = self.records();
        for pod in self.cluster.pods().iter().filter(|pod| !pod.is_terminating()) {
            let recorded = records.iter().any(|record| record.pod.to_string() == pod.name);
            assert!(recorded, "{context}: {} has no record", pod.name);
            let owner = pod.object.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str).unwrap_or_default();
            let ends = self.cluster.owners().iter().any(|living| living.uid.as_str() == owner);
            assert!(ends, "{context}: {} has no owner that ends", pod.name);
        }
        for record in &records {
            let created = self.cluster.ever_created(&record.connection.to_string());
            assert!(created <= 1, "{context}: {created} pods for one connection");
        }
    }

    pub(crate) fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

/// What a gateway works with.
pub(crate) struct Hands {
    pub(crate) cluster: SimulatedCluster,
    pub(crate) store: Crashing<MemoryStore>,
    pub(crate) timer: Crashing<ManualClock>,
}

impl Hands {
    pub(crate) fn parts(&self) -> Parts<'_, SimulatedCluster, Crashing<MemoryStore>, Crashing<ManualClock>> {
        Parts { backend: &self.cluster, store: &self.store, timer: &self.timer, call_timeout: CALL_TIMEOUT }
    }
}

pub(crate) fn record(world: &World, owner: &OwnerReference, settings: &Settings) -> PodRecord {
    let mut rng = world.rng();
    PodRecord {
        connection: ConnectionId::generate(&mut rng),
        channel: None,
        cluster: "simulated".to_owned(),
        namespace: NAMESPACE.to_owned(),
        pod: PodName::generate(&mut rng),
        nonce: Nonce::generate(&mut rng),
        owner: owner.clone(),
        spec_digest: spec_digest(settings),
        who: who(),
        recorded_at: world.clock.now(),
    }
}

/// A gateway's whole life with one connection: an owner, a pod, the end of both.
pub(crate) async fn gateway(world: &World, timing: Timing, leaves_after: Option<u64>) -> Option<SimulatedSide> {
    let hands = world.hands();
    let settings = settings();
    let keeper = Keeper::create(hands.parts(), NAMESPACE, &mut world.rng()).await.ok()?;
    let record = record(world, keeper.owner(), &settings);
    let manifest = pod_manifest(&settings, &record, [("team", "a b")]).unwrap();
    let mut side = SimulatedSide::new(world.clock.clone(), leaves_after);
    run(hands.parts(), &record, &manifest, &settings.container, timing, &mut side).await.unwrap();
    drop(keeper.release(hands.parts()).await);
    Some(side)
}

/// Another gateway that does nothing but live and clear up, for so many passes of 5 s.
pub(crate) async fn caretaker(world: &World, passes: usize) {
    let hands = world.hands();
    let mut keeper = Keeper::create(hands.parts(), NAMESPACE, &mut world.rng()).await.unwrap();
    let mut clearing = Reaper::new();
    for pass in 0..passes {
        let state = keeper.beat(hands.parts()).await.unwrap();
        assert!(matches!(state, OwnerState::Held(_)), "{state:?}");
        let found = clearing.pass(hands.parts(), NAMESPACE, Some(keeper.owner())).await;
        assert_eq!(found.problems, Vec::<String>::new());
        for orphan in &found.orphans {
            Reaper::recover(hands.parts(), orphan).await.unwrap();
        }
        world.check(&format!("pass {pass}"));
        let next = world.clock.now().saturating_add(toehold_podrun::owner::INTERVAL);
        world.clock.sleep_until(next).await;
    }
    keeper.release(hands.parts()).await.unwrap();
}
