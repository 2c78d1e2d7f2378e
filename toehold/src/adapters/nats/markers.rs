//! What deletions leave, and when it need not be there any more.
//!
//! Whatever is deleted leaves a message that says so. A key that comes back replaces it; of one that never does it would stay for ever, and
//! every list of its kind would be sent it. So those are removed once they are older than anybody goes back:
//!
//! - Only of keys that hold a random name or a number that is given once. Of a key that may come back its marker stays: in a cluster a
//!   server of 2.9 checks what a write expects before it is agreed on, and where the marker went between one who replaces it and one
//!   who finds nothing there, both would be told that they were first (`docs/decisions/0008-…`). There are no more of those than names.
//! - By the server's purge of one subject below a sequence, which is the marker's and one more: what was written over it meanwhile has a
//!   higher one, and stays, however late the purge comes. (To delete one message by its sequence is forbidden in our buckets.)
//! - Never the stream's last message: by it a server that starts again knows how far the store has come (N3).
//! - Not where a server that keeps a copy is older than 2.9.21, or does not say: before 2.9.18 one that starts again goes once more through what
//!   was agreed on since its last snapshot, and then purges all of the stream instead of the one subject
//!   (nats-server's issue 4196). A bucket of which there is one copy has nothing to go through.
//! - By the servers' clock, counted back from the last write: our own has no say in it.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::stream::{PurgeError, PurgeErrorKind};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use toehold_core::StoreError;
use tokio::time::{Instant, timeout_at};

use super::asking::{TRY, pause_before};
use super::releases::{self, Release};
use super::{Inner, NatsError, NatsStore, is_marker, list};

/// For how long a deletion can be seen. Longer than anything that rests on it: the servers know names of writes for two minutes; a write, and
/// whatever is sent again for want of an answer, is over with an operation's patience; a look at the store counts for half a minute, and
/// a watch that was cut off goes on where it was for as long as that.
pub const MARKERS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How many are removed at once.
const AT_ONCE: usize = 16;

/// Keys that never come back, once they are deleted: the kind, and how many segments there are.
const ONCE: [(&str, &[usize]); 5] = [
    ("audit", &[3]), // the number of an entry
    ("grant", &[2]),
    ("pod", &[2]),
    ("session", &[2]),
    ("token", &[2, 3]), // with its uses, which go with it
];

/// The first release that purges no more than it was told to, when it starts again, and does not keep what the others have not agreed to.
const SAFE: Release = [2, 9, 21];

/// The messages that deletions have left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldMarkers {
    markers: Vec<Marker>,
    /// Over which connection they were found.
    connections: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Marker {
    subject: String,
    sequence: u64,
}

impl OldMarkers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.markers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.markers.is_empty()
    }
}

impl NatsStore {
    /// What deletions have left of keys that never come back, longer than `kept` before the last write (see [`MARKERS_KEPT`]).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn old_markers(&self, kept: Duration) -> Result<OldMarkers, StoreError> {
        self.inner.old_markers(kept).await.map_err(|error| error.while_doing("looking for what deletions have left"))
    }

    /// Why nothing is removed of what deletions leave, where one of the servers would lose more than that.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn why_markers_stay(&self) -> Result<Option<String>, StoreError> {
        self.inner.why_markers_stay().await.map_err(|error| error.while_doing("asking which servers keep the store"))
    }

    /// Removes them, and nothing that has come since; as long as `goes_on`. Returns how many went: one in whose place there is a value is
    /// none of them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also where the servers do not let this user purge, and where [`Self::why_markers_stay`] has a reason.
    pub async fn remove_markers(&self, old: OldMarkers, goes_on: impl Fn() -> bool + Send) -> Result<u64, StoreError> {
        if let Some(reason) = self.why_markers_stay().await? {
            return Err(NatsError::Engine { reason }.while_doing("removing what deletions have left"));
        }
        let removed = stream::iter(old.markers)
            .take_while(|_| std::future::ready(goes_on()))
            .map(|marker| self.inner.remove_marker(marker, old.connections))
            .buffer_unordered(AT_ONCE)
            .try_fold(0, async |removed, one| Ok(removed + one));
        removed.await.map_err(|error| error.while_doing("removing what deletions have left"))
    }
}

impl Inner {
    async fn old_markers(&self, kept: Duration) -> Result<OldMarkers, NatsError> {
        // Before anything is read: behind a later one may be an earlier state.
        let connections = self.connections();
        let info = self.ask(|| self.stream.get_info()).await?.map_err(|error| NatsError::engine(&error))?;
        let last = info.state.last_sequence;
        let limit = info.state.last_timestamp.unix_timestamp().saturating_sub_unsigned(kept.as_secs());
        let mut markers = Vec::new();
        for (kind, lengths) in ONCE {
            let consumer = list::consumer(self, &format!("{}{kind}.>", self.prefix), true).await?;
            list::messages(self, consumer, |message, sequence, written_at| {
                let name = message.subject.strip_prefix(self.prefix.as_str()).unwrap_or_default();
                let comes_once = lengths.contains(&name.split('.').count());
                let is_old = written_at.unix_seconds() <= limit && sequence < last;
                if comes_once && is_old && is_marker(message.headers.as_ref()) {
                    markers.push(Marker { subject: message.subject.to_string(), sequence });
                }
            })
            .await?;
        }
        Ok(OldMarkers { markers, connections })
    }

    async fn why_markers_stay(&self) -> Result<Option<String>, NatsError> {
        let info = self.ask(|| self.stream.get_info()).await?.map_err(|error| NatsError::engine(&error))?;
        if info.config.num_replicas <= 1 {
            return Ok(None);
        }
        let cluster = info.cluster.unwrap_or_default();
        let keepers: Vec<String> = cluster.replicas.into_iter().map(|peer| peer.name).chain(cluster.leader).collect();
        let releases = releases::of(&self.address).await;
        let is_safe = |name: &String| releases.get(name).is_some_and(|release| *release >= SAFE);
        let unsafe_ones: Vec<&str> = keepers.iter().filter(|name| !is_safe(name)).map(String::as_str).collect();
        if keepers.len() == info.config.num_replicas && unsafe_ones.is_empty() {
            return Ok(None);
        }
        Ok(Some(format!(
            "what deletions have left stays in the store: each of its {} servers has to be named in the store's address and be of release 2.9.21 or later, which is not known of {}",
            info.config.num_replicas,
            if unsafe_ones.is_empty() { "all".to_owned() } else { unsafe_ones.join(", ") }
        )))
    }

    /// Removes one, where the store is as it was when this was a marker: in an earlier state there may be something else below its
    /// sequence (N3). So nothing is handed over while there is no connection, which would be sent to whatever comes.
    async fn remove_marker(&self, marker: Marker, mut connections: u64) -> Result<u64, NatsError> {
        let deadline = Instant::now() + self.patience;
        let Marker { subject, sequence } = marker;
        loop {
            if self.client.connection_state() != State::Connected {
                pause_before(deadline).await.ok_or(NatsError::Disconnected)?;
                continue;
            }
            let now = self.connections();
            if now != connections {
                if let Err(failed) = self.went_on().await {
                    // A server that has only just begun to lead may not know all yet.
                    pause_before(deadline).await.ok_or(failed)?;
                    continue;
                }
                connections = now;
            }
            let purge = self.stream.purge().filter(subject.as_str()).sequence(sequence + 1).into_future();
            match timeout_at(deadline.min(Instant::now() + TRY), purge).await {
                Ok(Ok(answer)) => return Ok(answer.purged),
                Ok(Err(error)) if !may_be_no_answer(&error) => return Err(NatsError::engine(&error)),
                _ => pause_before(deadline).await.ok_or(self.timed_out())?,
            }
        }
    }
}

fn may_be_no_answer(error: &PurgeError) -> bool {
    const UNAVAILABLE: usize = 503;
    match error.kind() {
        PurgeErrorKind::JetStream(answer) => answer.code() == UNAVAILABLE,
        PurgeErrorKind::TimedOut | PurgeErrorKind::Request => true,
    }
}
