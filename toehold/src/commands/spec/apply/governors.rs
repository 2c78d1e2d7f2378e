//! Who may update now: slots in this node's store, at the gateway that it has joined, or none to be had where there is neither.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use toehold_core::{StoreError, Stored};
use toehold_specsign::{Governors, NoGovernors, SlotRecord, StoreGovernors};

use crate::adapters::gateway_connection::GatewayLimits;
use crate::adapters::system_clock::SystemClock;
use crate::agent::{AgentDirectory, AgentError};
use crate::commands::agent;
use crate::shared::AnyStore;

/// Who may update now; and the slot that is held, which a pass that is stopped in the middle leaves to be given back.
#[derive(Debug)]
pub(super) struct NodeGovernors {
    slots: Slots,
    held: Mutex<Option<NodeSlot>>,
}

/// Where the slots are.
#[derive(Debug)]
pub(super) enum Slots {
    /// No store and no gateway: machines with a governor are held.
    None(NoGovernors),
    /// Slots in the store.
    Store(Box<StoreGovernors<AnyStore, SystemClock>>),
    /// Slots of the gateway.
    Gateway(Box<GatewayGovernors>),
}

/// Slots that the gateway hands out to its agents. Each is asked for and given back in a session of its own: what lies between may take
/// longer than a connection lasts.
#[derive(Debug)]
pub(super) struct GatewayGovernors {
    pub(super) directory: AgentDirectory,
    pub(super) limits: GatewayLimits,
    /// Stands for the root.
    pub(super) root: String,
    /// How long an update may take.
    pub(super) lease: Duration,
}

/// A slot that is held.
#[derive(Clone, Debug)]
pub(super) enum NodeSlot {
    Store(Stored<SlotRecord>),
    Gateway { governor: String, number: u32 },
}

impl GatewayGovernors {
    async fn take(&self, governor: &str) -> Result<Option<NodeSlot>, AgentError> {
        let mut session = agent::session(&self.directory, self.limits).await?;
        let number = session.take_slot(governor, &self.root, self.lease).await?;
        Ok(number.map(|number| NodeSlot::Gateway { governor: governor.to_owned(), number }))
    }

    async fn give_back(&self, governor: &str, number: u32) -> Result<(), AgentError> {
        agent::session(&self.directory, self.limits).await?.free_slot(governor, &self.root, number).await
    }
}

impl NodeGovernors {
    pub(super) fn new(slots: Slots) -> Self {
        Self { slots, held: Mutex::new(None) }
    }

    /// Gives back what a pass has left that was dropped in the middle; nothing is no error.
    pub(super) async fn let_go(&self) -> Result<(), StoreError> {
        match self.take_held() {
            Some(slot) => self.slots.give_back(slot).await,
            None => Ok(()),
        }
    }

    fn take_held(&self) -> Option<NodeSlot> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Governors for NodeGovernors {
    type Slot = NodeSlot;

    async fn take(&self, governor: &str) -> Result<Option<NodeSlot>, StoreError> {
        let slot = self.slots.take(governor).await?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&slot);
        Ok(slot)
    }

    fn why_not(&self, governor: &str) -> String {
        match &self.slots {
            Slots::None(none) => none.why_not(governor),
            Slots::Store(store) => store.why_not(governor),
            Slots::Gateway(_) => format!("all slots that the gateway has for the governor {governor} are taken"),
        }
    }

    async fn give_back(&self, slot: NodeSlot) -> Result<(), StoreError> {
        let given = self.slots.give_back(slot).await;
        // Not before: stopped in the middle, it is given back again.
        drop(self.take_held());
        given
    }
}

impl Slots {
    async fn take(&self, governor: &str) -> Result<Option<NodeSlot>, StoreError> {
        match self {
            Self::None(none) => Ok(none.take(governor).await?.and(None)),
            Self::Store(store) => Ok(store.take(governor).await?.map(NodeSlot::Store)),
            Self::Gateway(gateway) => gateway.take(governor).await.map_err(|error| unavailable("taking", governor, error)),
        }
    }

    async fn give_back(&self, slot: NodeSlot) -> Result<(), StoreError> {
        match (self, slot) {
            (Self::Store(store), NodeSlot::Store(slot)) => store.give_back(slot).await,
            (Self::Gateway(gateway), NodeSlot::Gateway { governor, number }) => {
                let given = gateway.give_back(&governor, number).await;
                given.map_err(|error| unavailable("giving back", &governor, error))
            }
            // A slot goes back to where it came from.
            _ => Ok(()),
        }
    }
}

fn unavailable(doing: &str, governor: &str, error: AgentError) -> StoreError {
    StoreError::Unavailable { doing: format!("{doing} a slot of the governor {governor}"), source: Box::new(error) }
}
