//! Governors: at most so many nodes of a fleet in an update at once, by slots in the store.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toehold_core::{Clock, Key, Record, Store, StoreError, Stored, Timestamp};

/// Hands out the slots of governors.
pub trait Governors: Send + Sync {
    /// A slot that is held.
    type Slot: Send;

    /// Takes a slot; `None` where all are taken. The machine waits for the next pass then.
    fn take(&self, governor: &str) -> impl Future<Output = Result<Option<Self::Slot>, StoreError>> + Send;

    /// Why there was no slot, for people.
    fn why_not(&self, governor: &str) -> String {
        format!("all slots of the governor {governor} are taken")
    }

    /// Gives a slot back. One that cannot be given back ends by itself.
    fn give_back(&self, slot: Self::Slot) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// For a node without a store: a machine with a governor is held, one without is not.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGovernors;

impl Governors for NoGovernors {
    type Slot = ();

    async fn take(&self, _: &str) -> Result<Option<()>, StoreError> {
        Ok(None)
    }

    fn why_not(&self, governor: &str) -> String {
        format!("the slots of its governor {governor} are in a store, and this node has none")
    }

    async fn give_back(&self, (): ()) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Who is in an update: `slot/<governor>/<n>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The node, and which of its roots.
    pub holder: String,
    /// When the slot is free again, whatever became of its holder.
    pub until: Timestamp,
}

impl Record for SlotRecord {}

/// Slots in a store that all nodes share. A slot is a lease: it bounds the nodes that update at once as long as clocks agree
/// to within the lease and no update takes longer; nothing else rests on it.
#[derive(Clone, Debug)]
pub struct StoreGovernors<S, C> {
    /// The store.
    pub store: S,
    /// The clock.
    pub clock: C,
    /// This node and this root. Nobody else has the same: a slot of one's own is taken over.
    pub holder: String,
    /// How many nodes at once, by governor; others have one slot.
    pub limits: BTreeMap<String, u32>,
    /// How long an update may take (15 minutes are plenty).
    pub lease: Duration,
}

impl<S: Store, C: Clock> StoreGovernors<S, C> {
    async fn take_one(&self, key: Key) -> Result<Option<Stored<SlotRecord>>, StoreError> {
        let now = self.clock.now();
        let own = SlotRecord { holder: self.holder.clone(), until: now.saturating_add(self.lease) };
        let taken = match Stored::<SlotRecord>::read(&self.store, &key).await? {
            None => Stored::create(&self.store, key, own).await,
            // Left over from a run of ours that died, or from somebody's whose time is up.
            Some(mut slot) if slot.body.holder == self.holder || slot.body.until <= now => {
                slot.body = own;
                slot.save(&self.store).await.map(|()| slot)
            }
            Some(_) => return Ok(None),
        };
        match taken {
            Ok(slot) => Ok(Some(slot)),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<S: Store, C: Clock> Governors for StoreGovernors<S, C> {
    type Slot = Stored<SlotRecord>;

    async fn take(&self, governor: &str) -> Result<Option<Self::Slot>, StoreError> {
        let slots = 0..self.limits.get(governor).copied().unwrap_or(1);
        let keys = slots.map(|number| Key::new(["slot", governor, &number.to_string()])).collect::<Result<Vec<_>, _>>()?;
        // One that is held already, from a run that died or an answer that was lost, goes before another.
        for key in &keys {
            let held = Stored::<SlotRecord>::read(&self.store, key).await?;
            if held.is_some_and(|slot| slot.body.holder == self.holder)
                && let Some(slot) = self.take_one(key.clone()).await?
            {
                return Ok(Some(slot));
            }
        }
        for key in keys {
            if let Some(slot) = self.take_one(key).await? {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }

    async fn give_back(&self, slot: Self::Slot) -> Result<(), StoreError> {
        match self.store.delete(&slot.key, slot.revision).await {
            // Somebody took it over when our time was up.
            Err(StoreError::Conflict { .. }) => Ok(()),
            other => other,
        }
    }
}
