//! Slots of governors for agents: who may be in an update now.

use std::collections::BTreeMap;
use std::time::Duration;

use toehold_core::{Clock, Key, KeyError, Store, StoreError, Stored};
use toehold_specsign::{Governors as _, SlotRecord, StoreGovernors};

use crate::adapters::grpc::agent_v1::{FreeSlot, SlotAnswer, SlotFreed, TakeSlot};

/// The longest that a slot is held.
const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// The most slots that one agent holds, of all governors.
const MAX_HELD: usize = 16;
/// The most characters that stand for a root.
const MAX_ROOT: usize = 64;

/// Why an agent is not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotError {
    #[error("that stands for no directory")]
    Root,
    #[error("that is not the name of a governor: {0}")]
    Governor(#[from] KeyError),
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for SlotError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::BadKey(error) => Self::Governor(error),
            error => Self::Store(error),
        }
    }
}

/// Who holds a slot: an agent for one of its roots. What stands for a root has no blank, so that this has one meaning.
fn holder(agent: &str, root: &str) -> Result<String, SlotError> {
    let is_fit = (1..=MAX_ROOT).contains(&root.len()) && root.bytes().all(|byte| byte.is_ascii_graphic());
    if is_fit { Ok(format!("{root} {agent}")) } else { Err(SlotError::Root) }
}

/// Takes a slot for an agent. One agent holds one of a governor at most, so that a machine that was taken over keeps the rest of
/// the fleet waiting for no more than its own.
pub(super) async fn take<S: Store + Clone, C: Clock + Clone>(
    store: &S,
    clock: &C,
    limits: &BTreeMap<String, u32>,
    agent: &str,
    wanted: &TakeSlot,
) -> Result<SlotAnswer, SlotError> {
    let holder = holder(agent, &wanted.root)?;
    let slots = Key::new(["slot", &wanted.governor])?;
    if held_by(store, clock, agent).await? >= MAX_HELD || holds_another(store, clock, &slots, agent, &holder).await? {
        return Ok(SlotAnswer::default());
    }
    let lease = Duration::from_secs(u64::from(wanted.lease)).min(MAX_LEASE);
    let governors =
        StoreGovernors { store: store.clone(), clock: clock.clone(), holder: holder.clone(), limits: limits.clone(), lease };
    let taken = governors.take(&wanted.governor).await?;
    // Several questions at once would each have found none before.
    if let Some(slot) = &taken
        && holds_another(store, clock, &slots, agent, &holder).await?
    {
        match store.delete(&slot.key, slot.revision).await {
            Ok(()) | Err(StoreError::Conflict { .. }) => return Ok(SlotAnswer::default()),
            Err(error) => return Err(error.into()),
        }
    }
    let number = taken.as_ref().and_then(|slot| slot.key.name().parse().ok());
    Ok(SlotAnswer { taken: taken.is_some(), number: number.unwrap_or_default() })
}

/// How many slots an agent holds, of whatever governors. Those whose time is up go: a governor is whatever an agent names, and nobody else
/// may ever ask for that one again.
async fn held_by<S: Store, C: Clock>(store: &S, clock: &C, agent: &str) -> Result<usize, SlotError> {
    let now = clock.now();
    let mut held = 0;
    for slot in
        Stored::<SlotRecord>::list(store, &Key::new(["slot"])?).await?.into_iter().flatten().filter(|slot| is_of(slot, agent))
    {
        if slot.body.until > now {
            held += 1;
        } else {
            // Whoever was faster has made something else of it.
            let _ = store.delete(&slot.key, slot.revision).await;
        }
    }
    Ok(held)
}

fn is_of(slot: &Stored<SlotRecord>, agent: &str) -> bool {
    slot.body.holder.split_once(' ').is_some_and(|(_, holder)| holder == agent)
}

/// Whether an agent holds a slot of a governor for another of its roots.
async fn holds_another<S: Store, C: Clock>(
    store: &S,
    clock: &C,
    slots: &Key,
    agent: &str,
    holder: &str,
) -> Result<bool, SlotError> {
    let now = clock.now();
    let held = Stored::<SlotRecord>::list(store, slots).await?;
    Ok(held.into_iter().flatten().any(|slot| is_of(&slot, agent) && slot.body.holder != holder && slot.body.until > now))
}

/// Gives a slot back that this agent holds.
pub(super) async fn free<S: Store>(store: &S, agent: &str, slot: &FreeSlot) -> Result<SlotFreed, SlotError> {
    let holder = holder(agent, &slot.root)?;
    let key = Key::new(["slot", &slot.governor, &slot.number.to_string()])?;
    if let Some(held) = Stored::<SlotRecord>::read(store, &key).await?
        && held.body.holder == holder
    {
        match store.delete(&key, held.revision).await {
            // Somebody took it over when its time was up.
            Ok(()) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(SlotFreed {})
}

#[cfg(test)]
mod tests {
    use toehold_core::Timestamp;
    use toehold_core::testing::{ManualClock, MemoryStore};

    use super::*;

    fn wants(root: &str) -> TakeSlot {
        TakeSlot { governor: "web".to_owned(), root: root.to_owned(), lease: 60 }
    }

    #[tokio::test]
    async fn an_agent_holds_one_slot_and_gives_back_its_own_alone() {
        let (store, clock) = (MemoryStore::new(), ManualClock::new(Timestamp::from_unix_seconds(1_000)));
        let limits = BTreeMap::from([("web".to_owned(), 2)]);
        let take = async |agent: &str, root: &str| take(&store, &clock, &limits, agent, &wants(root)).await.unwrap();
        assert_eq!(take("one", "a").await, SlotAnswer { taken: true, number: 0 });
        assert!(!take("one", "b").await.taken, "another root of the same agent");
        assert_eq!(take("one", "a").await, SlotAnswer { taken: true, number: 0 }, "its own again, after a crash");
        assert_eq!(take("two", "a").await, SlotAnswer { taken: true, number: 1 });
        assert!(!take("three", "a").await.taken);
        let back = |agent: &'static str, root: &str, number| {
            let slot = FreeSlot { governor: "web".to_owned(), root: root.to_owned(), number };
            let store = &store;
            async move { free(store, agent, &slot).await.unwrap() }
        };
        back("three", "a", 0).await;
        back("one", "b", 0).await;
        back("one", "a", 1).await;
        assert!(!take("three", "a").await.taken, "nobody gives back what others hold");
        back("one", "a", 0).await;
        assert_eq!(take("three", "a").await, SlotAnswer { taken: true, number: 0 });
        clock.advance(Duration::from_secs(61));
        assert!(take("one", "b").await.taken, "those whose time is up");
    }

    /// Governors are whatever an agent names.
    #[tokio::test]
    async fn an_agent_fills_no_store_with_slots() {
        let (store, clock) = (MemoryStore::new(), ManualClock::new(Timestamp::from_unix_seconds(1_000)));
        let limits = BTreeMap::new();
        let take = async |number: usize| {
            let wanted = TakeSlot { governor: format!("g{number}"), ..wants("a") };
            take(&store, &clock, &limits, "one", &wanted).await.unwrap().taken
        };
        for number in 0..40 {
            assert_eq!(take(number).await, number < MAX_HELD, "{number}");
        }
        clock.advance(Duration::from_secs(61));
        assert!(take(99).await);
        assert_eq!(store.entries().len(), 1, "those whose time is up are gone");
    }

    #[tokio::test]
    async fn what_stands_for_no_root_or_governor_is_refused() {
        let (store, clock) = (MemoryStore::new(), ManualClock::new(Timestamp::from_unix_seconds(1_000)));
        let limits = BTreeMap::new();
        for root in ["", "a b", "a\n", &"r".repeat(65)] {
            let error = take(&store, &clock, &limits, "one", &wants(root)).await.unwrap_err();
            assert!(matches!(error, SlotError::Root), "{root:?}: {error}");
        }
        for governor in ["", "a/b", "../x"] {
            let wanted = TakeSlot { governor: governor.to_owned(), ..wants("a") };
            let error = take(&store, &clock, &limits, "one", &wanted).await.unwrap_err();
            assert!(matches!(error, SlotError::Governor(_)), "{governor:?}: {error}");
        }
    }
}
