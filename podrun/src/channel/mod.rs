//! Session channels: what a client may ask in which order, and what is run for it.

mod command;
mod machine;

pub use command::{NeedsShell, Plan, Wanted, plan, plan_without_shell};
pub use machine::{Channel, ChannelAction, ChannelEvent, ChannelRequest, MAX_COMMAND, MAX_SET, MAX_VARIABLES, Start, Terminal};

use std::collections::BTreeMap;

/// The channels of one connection, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    open: BTreeMap<u32, Channel>,
    limit: usize,
}

impl Channels {
    /// None yet, and never more than `limit` at once (`sshd` allows 10).
    pub fn new(limit: usize) -> Self {
        Self { open: BTreeMap::new(), limit }
    }

    /// Opens a channel; `false` where the number is taken or there are too many.
    pub fn open(&mut self, number: u32) -> bool {
        if self.open.len() >= self.limit || self.open.contains_key(&number) {
            return false;
        }
        self.open.insert(number, Channel::new());
        true
    }

    /// Gives an event to its channel, and forgets the channel if it is closed then. Events for channels that are not there are
    /// passed over, but for what has started meanwhile: that is to be ended.
    pub fn handle(&mut self, number: u32, event: ChannelEvent) -> Vec<ChannelAction> {
        let Some(channel) = self.open.get_mut(&number) else {
            return if event == ChannelEvent::Started { vec![ChannelAction::EndProcess] } else { Vec::new() };
        };
        let actions = channel.handle(event);
        if channel.is_closed() {
            self.open.remove(&number);
        }
        actions
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Gives one event to all channels, such as the end of the pod; what each is to do comes back by its number.
    pub fn handle_all(&mut self, event: &ChannelEvent) -> Vec<(u32, Vec<ChannelAction>)> {
        let numbers: Vec<u32> = self.open.keys().copied().collect();
        numbers.into_iter().map(|number| (number, self.handle(number, event.clone()))).collect()
    }
}
