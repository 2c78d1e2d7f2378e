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
/// open stays however old it is, and so does one that a claim on an account still names or may name, or that cannot be read.
///
/// # Errors
/// As [`Store::list`] and [`Store::delete`].
pub async fn prune_closed<S: Store>(store: &S, now: Timestamp) -> Result<usize, StoreError> {
    let mut pruned = 0;
    for (key, revision) in long_closed(store, CLOSED_SESSIONS_KEPT, now).await?.over {
        match store.delete(&key, revision).await {
            Ok(()) => pruned += 1,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pruned)
}

/// Which records of closed sessions need not be kept any longer.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct LongClosed {
    /// Those.
    pub over: Vec<(Key, Revision)>,
    /// Why claims and sessions cannot be read. A session stays, and so do those of an account whose claim this is.
    pub unreadable: Vec<StoreError>,
}

/// The records that [`prune_closed`] would delete if closed sessions were `kept` for so long.
///
/// # Errors
/// As [`Store::list`].
pub async fn long_closed<S: Store>(store: &S, kept: Duration, now: Timestamp) -> Result<LongClosed, StoreError> {
    let mut found = LongClosed::default();
    // Read first: a claim that comes later is made by a session that is open.
    let mut named: BTreeSet<SessionId> = BTreeSet::new();
    let mut doubtful: BTreeSet<Key> = BTreeSet::new();
    for entry in store.list(&Key::new(["claim"])?).await? {
        match Stored::<AccountClaim>::decode(&entry) {
            Ok(claim) => {
                named.insert(claim.body.session);
                named.extend(claim.body.dead.iter().map(|dead| dead.session));
            }
            // A claim names sessions for its account alone, and may name any of those.
            Err(error) => {
                doubtful.insert(entry.key);
                found.unreadable.push(error);
            }
        }
    }
    for session in Stored::<SessionRecord>::list(store, &SessionRecord::prefix()?).await? {
        let Stored { key, revision, body: record, .. } = match session {
            Ok(session) => session,
            Err(error) => {
                found.unreadable.push(error);
                continue;
            }
        };
        let ended = record.closed.map_or(record.expires_at, |closed| closed.at);
        let may_be_named = named.contains(&record.id) || doubtful.contains(&AccountClaim::key(&record.route.account)?);
        if !record.status.is_open() && !may_be_named && now.saturating_since(ended) >= kept {
            found.over.push((key, revision));
        }
    }
    Ok(found)
}
