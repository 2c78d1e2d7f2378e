//! How long the records of closed sessions stay in the store.

use std::collections::BTreeSet;
use std::time::Duration;

use toehold_core::{Key, Revision, SessionId, Store, StoreError, Stored, Timestamp};

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
    let mut pruned = 0;
    for (key, revision) in long_closed(store, CLOSED_SESSIONS_KEPT, now).await? {
        match store.delete(&key, revision).await {
            Ok(()) => pruned += 1,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pruned)
}

/// The records that [`prune_closed`] would delete if closed sessions were `kept` for so long.
///
/// # Errors
/// As [`Store::list`].
pub async fn long_closed<S: Store>(store: &S, kept: Duration, now: Timestamp) -> Result<Vec<(Key, Revision)>, StoreError> {
    // Read first: a claim that comes later is made by a session that is open.
    let mut named: BTreeSet<SessionId> = BTreeSet::new();
    for claim in Stored::<AccountClaim>::list(store, &Key::new(["claim"])?).await? {
        // What cannot be read may name any of them.
        let Ok(claim) = claim else { return Ok(Vec::new()) };
        named.insert(claim.body.session);
        named.extend(claim.body.dead.iter().map(|dead| dead.session));
    }
    let is_over = |record: &SessionRecord| {
        let ended = record.closed.map_or(record.expires_at, |closed| closed.at);
        !record.status.is_open() && !named.contains(&record.id) && now.saturating_since(ended) >= kept
    };
    let sessions = Stored::<SessionRecord>::list(store, &SessionRecord::prefix()?).await?;
    let over = sessions.into_iter().flatten().filter(|session| is_over(&session.body));
    Ok(over.map(|session| (session.key, session.revision)).collect())
}
