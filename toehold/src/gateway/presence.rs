//! Which agents have a session here, so that one whose record changes is looked at at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

type Sessions = Arc<Mutex<HashMap<String, watch::Sender<()>>>>;

/// The agents that are present.
#[derive(Debug, Default)]
pub(super) struct Presence(Sessions);

impl Presence {
    /// A session of this agent begins.
    pub(super) fn enter(&self, agent: &str) -> Present {
        let changes = lock(&self.0).entry(agent.to_owned()).or_default().subscribe();
        Present { sessions: Arc::clone(&self.0), agent: agent.to_owned(), changes }
    }

    /// An agent's record has changed.
    pub(super) fn changed(&self, agent: &str) {
        if let Some(sessions) = lock(&self.0).get(agent) {
            sessions.send_replace(());
        }
    }
}

/// A session's presence; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Present {
    sessions: Sessions,
    agent: String,
    changes: watch::Receiver<()>,
}

impl Present {
    /// Waits for the agent's record to change.
    pub(super) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The sender stays as long as anybody listens.
            std::future::pending::<()>().await;
        }
    }

    /// Whether it has changed since it was looked at last.
    pub(super) fn has_changed(&self) -> bool {
        self.changes.has_changed().unwrap_or(false)
    }

    /// It is looked at: changes from here on are others.
    pub(super) fn look(&mut self) {
        self.changes.borrow_and_update();
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut sessions = lock(&self.sessions);
        // Ours is still there.
        if sessions.get(&self.agent).is_some_and(|sender| sender.receiver_count() <= 1) {
            sessions.remove(&self.agent);
        }
    }
}

fn lock(sessions: &Sessions) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_session_of_an_agent_hears_of_it_and_those_that_are_gone_leave_nothing() {
        let presence = Presence::default();
        let (mut first, mut second, other) = (presence.enter("a"), presence.enter("a"), presence.enter("b"));
        presence.changed("a");
        presence.changed("c");
        first.changed().await;
        assert!(second.has_changed() && !first.has_changed() && !other.has_changed());
        second.look();
        assert!(!second.has_changed());
        drop(first);
        presence.changed("a");
        second.changed().await;
        drop((second, other));
        assert!(lock(&presence.0).is_empty());
    }
}
