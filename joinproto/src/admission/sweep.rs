//! Clearing away what is long over.

use std::time::Duration;

use toehold_core::{Clock, Key, Revision, Store, StoreError, Stored, Timestamp};

use super::desk::{Desk, token_key};
use super::error::{DeskError, Vault};
use super::record::{AgentRecord, AgentState, TokenRecord};

/// How long after its end a token is kept, with its uses: far more than the clocks of gateways differ.
pub const SWEEP_MARGIN: Duration = Duration::from_secs(3600);

/// What a sweep is about to do.
#[derive(Debug, Default)]
pub struct Sweep {
    tokens: Vec<(Key, Revision)>,
    uses: Vec<(Key, Revision)>,
    agents: Vec<(Key, Revision)>,
    /// Agents of which only the mark of their removal stays.
    marks: Vec<(Stored<AgentRecord>, Timestamp)>,
    unreadable: Vec<StoreError>,
}

impl Sweep {
    /// The tokens that go.
    pub fn tokens(&self) -> impl Iterator<Item = &Key> {
        self.tokens.iter().map(|(key, _)| key)
    }

    /// The uses that go: those of these tokens, and of others that are gone already.
    pub fn uses(&self) -> impl Iterator<Item = &Key> {
        self.uses.iter().map(|(key, _)| key)
    }

    /// The records of agents that go: marks of removed ones, and of those that never showed their keys.
    pub fn agents(&self) -> impl Iterator<Item = &Key> {
        self.agents.iter().map(|(key, _)| key)
    }

    /// Why tokens and agents cannot be read. They stay, and because of a token so do the marks of removed agents that it may be older than.
    pub fn unreadable(&self) -> &[StoreError] {
        &self.unreadable
    }
}

impl<S: Store, C: Clock, V: Vault> Desk<S, C, V> {
    /// Clears away tokens that ended more than an hour ago, each before its uses (a use that is gone while its token is still there could be
    /// taken again), and then marks of removed agents, kept ids and agents that never showed their keys, which no token can reach any more.
    /// Returns how many tokens went.
    ///
    /// # Errors
    /// As [`Store::list`]; what somebody else changes in the meantime is left to the next time.
    pub async fn sweep(&self) -> Result<usize, DeskError> {
        let sweep = self.plan_sweep().await?;
        for (key, revision) in sweep.tokens.iter().chain(&sweep.uses).chain(&sweep.agents) {
            self.delete(key, *revision).await?;
        }
        let swept = sweep.tokens.len();
        for (stored, removed) in sweep.marks {
            self.leave_mark(stored, removed).await?;
        }
        Ok(swept)
    }

    /// What [`Desk::sweep`] would do now.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn plan_sweep(&self) -> Result<Sweep, DeskError> {
        let limit = self.clock.now().saturating_sub(SWEEP_MARGIN);
        let mut sweep = Sweep::default();
        let mut oldest_left = None;
        let mut uses = Vec::new();
        let entries = self.store.list(&Key::new(["token"])?).await?;
        for entry in &entries {
            if entry.key.segments().count() != 2 {
                let id = entry.key.segments().nth(1).and_then(|id| id.parse().ok());
                uses.extend(id.map(|id| (id, entry)));
                continue;
            }
            // What cannot be read is not swept, and may be as old as any: an error is not a no.
            let token = match Stored::<TokenRecord>::decode(entry) {
                Ok(stored) => stored.body,
                Err(error) => {
                    oldest_left = Some(Timestamp::UNIX_EPOCH);
                    sweep.unreadable.push(error);
                    continue;
                }
            };
            if token.expires_at < limit {
                sweep.tokens.push((entry.key.clone(), entry.revision));
            } else {
                oldest_left = Some(oldest_left.map_or(token.created_at, |oldest: Timestamp| oldest.min(token.created_at)));
            }
        }
        for (id, entry) in uses {
            let token = token_key(id)?;
            let is_gone = match self.store.get(&token).await {
                Ok(found) => found.is_none(),
                Err(StoreError::Corrupt { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            if is_gone || sweep.tokens().any(|swept| *swept == token) {
                sweep.uses.push((entry.key.clone(), entry.revision));
            }
        }
        for entry in self.store.list(&Key::new(["agent"])?).await? {
            let stored = match Stored::<AgentRecord>::decode(&entry) {
                Ok(stored) => stored,
                Err(error) => {
                    sweep.unreadable.push(error);
                    continue;
                }
            };
            let agent = &stored.body;
            // No token is left that the mark of a removal would have to hold off.
            let mark_is_over =
                agent.last_removed().is_none_or(|removed| removed < limit && oldest_left.is_none_or(|oldest| oldest > removed));
            let is_over = match agent.state {
                AgentState::Removed => mark_is_over,
                // Nobody has shown that it has the keys of a pending one, and with its token nobody can have them made anew.
                AgentState::Reserved | AgentState::Pending => agent.token_expires_at < limit,
                AgentState::Joined => false,
            };
            match agent.last_removed() {
                Some(removed) if is_over && !mark_is_over => sweep.marks.push((stored, removed)),
                _ if is_over => sweep.agents.push((entry.key, entry.revision)),
                _ => {}
            }
        }
        Ok(sweep)
    }

    /// Of an id that is nobody's any more the mark stays that its agent was removed.
    async fn leave_mark(&self, mut stored: Stored<AgentRecord>, removed: Timestamp) -> Result<(), DeskError> {
        let agent = &mut stored.body;
        (agent.state, agent.since, agent.sealed_keyring) = (AgentState::Removed, removed, None);
        match stored.save(&self.store).await {
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), DeskError> {
        match self.store.delete(key, revision).await {
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
