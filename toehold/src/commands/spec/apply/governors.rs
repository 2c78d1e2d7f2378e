//! Governors for a node: slots in its store, or none to be had where there is no store.

use toehold_core::{StoreError, Stored};
use toehold_specsign::{Governors, NoGovernors, SlotRecord, StoreGovernors};

use super::sqlite::SqliteStore;
use super::system_clock::SystemClock;

/// Who may update now.
#[derive(Debug)]
#[non_exhaustive]
pub enum NodeGovernors {
    /// No store: machines with a governor are held.
    None(NoGovernors),
    /// Slots in the store.
    Store(Box<StoreGovernors<SqliteStore, SystemClock>>),
}

impl Governors for NodeGovernors {
    /// `None` is never held.
    type Slot = Option<Stored<SlotRecord>>;

    async fn take(&self, governor: &str) -> Result<Option<Self::Slot>, StoreError> {
        match self {
            Self::None(none) => Ok(none.take(governor).await?.map(|()| None)),
            Self::Store(store) => Ok(store.take(governor).await?.map(Some)),
        }
    }

    fn why_not(&self, governor: &str) -> String {
        match self {
            Self::None(none) => none.why_not(governor),
            Self::Store(store) => store.why_not(governor),
        }
    }

    async fn give_back(&self, slot: Self::Slot) -> Result<(), StoreError> {
        match (self, slot) {
            (Self::Store(store), Some(slot)) => store.give_back(slot).await,
            _ => Ok(()),
        }
    }
}
