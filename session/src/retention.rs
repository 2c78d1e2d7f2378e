//! How long the records of closed sessions stay in the store.

use std::collections::BTreeSet;
use std::time::Duration;

use toehold_core::{Key, SessionId, Store, StoreError, Stored, Timestamp};

use crate::claim::AccountClaim;
use crate::record::SessionRecord;

/// How long the record of a closed session is kept: 90 days from its close, several times the longest life of a temporary
/// key. That there was such a session stays on the audit record.
pub const CLOSED_SESSIONS_KEPT: Duration = Duration::from_hours(90 * 24);

/// Deletes the records of sessions that were closed longer ago than [`CLOSED_SESSIONS_KEPT`], and says how many. One that is
/// open stays however old it is, and so does one that a claim on an account still names, or that cannot be read.
///
/// # Errors
/// As [`Store::list`] and [`Store::delete`].
pub async fn prune_closed<S: Store>(store: &S, now: Timestamp) -> Result<usize, StoreError> {
    // Read first: a claim that comes later is made by a session that is open.
    let mut named: BTreeSet<SessionId> = BTreeSet::new();
    for claim in Stored::<AccountClaim>::list(store, &Key::new(["claim"])?).await? {
        // What cannot be read may name any of them.
        let Ok(claim) = claim else { return Ok(0) };
        named.insert(claim.body.session);
        named.extend(claim.body.dead.iter().map(|dead| dead.session));
    }
    let mut pruned = 0;
    for session in Stored::<SessionRecord>::list(store, &SessionRecord::prefix()?).await? {
        let Ok(session) = session else { continue };
        let record = &session.body;
        let ended = record.closed.map_or(record.expires_at, |closed| closed.at);
        if record.status.is_open() || named.contains(&record.id) || now.saturating_since(ended) < CLOSED_SESSIONS_KEPT {
            continue;
        }
        match store.delete(&session.key, session.revision).await {
            Ok(()) => pruned += 1,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pruned)
}
