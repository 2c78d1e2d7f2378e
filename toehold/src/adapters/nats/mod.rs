//! The shared store: a bucket of NATS `JetStream`'s key-value store, used by many machines at once.
//!
//! A bucket is a stream `KV_<bucket>` that keeps the last message of each subject `$KV.<bucket>.<key>`; a revision is a message's
//! sequence in that stream, so none ever comes back. A write names the sequence that the key's last message has to have
//! (`Nats-Expected-Last-Subject-Sequence`), and the server refuses it otherwise. What is deleted leaves a message that says so.
//!
//! In a cluster that check is made before a write is agreed on, and a server of 2.9 lets through two writes that come at the same
//! moment. So each also has a name (`Nats-Msg-Id`) that says which message it replaces: of several with one name, the first that was
//! agreed on takes place, on every replica, and the others are told that they were duplicates (`docs/decisions/0008-…`). Where somebody has used
//! such a name for something else, the write names the last sequence of the whole bucket instead, which is checked when it is applied.
//!
//! A read is answered by the stream's leader, never by a replica that may be behind. While the servers choose one, what is asked is asked
//! again, and what is written waits, for as long as an operation may take.
//!
//! Durable is what the servers make of it. An answer means that a majority of the replicas has the write, not that it is on any disk: each
//! server hands it to its page cache, and syncs that every two minutes (`sync_interval` of its configuration, which there is from 2.10 on;
//! at `always`, before it answers). So a write survives servers that are killed, and as a rule one that loses power; where a majority loses
//! power at once, or the only one does, the last minutes may be gone. What is left then is behind what was seen of it, and is treated so (N3).

mod address;
mod asking;
mod connect;
mod copies;
mod error;
mod list;
mod markers;
mod releases;
mod subject;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::{NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use toehold_core::{Entry, Expect, Key, Revision, Store, StoreError, Timestamp};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use asking::{TRY, pause_before};

pub use address::{NatsAddress, NatsAddressError};
pub use connect::NatsOptions;
pub use copies::{Comparison, Difference};
pub use error::NatsError;
pub use markers::{MARKERS_KEPT, OldMarkers};
pub use watch::NatsWatch;

use super::sqlite::MAX_VALUE;

/// Bytes of a message that are not its value: the headers of a write.
const HEADERS: usize = 4 * 1024;

/// Says in a message's headers that its key has no value (any more).
const OPERATION: &str = "KV-Operation";
const DELETED: &str = "DEL";
/// Tells a write from every other one.
const MARK: &str = "Toehold-Write";

/// A store in a bucket of `JetStream`. Clones share one connection, which is made again whenever it breaks.
#[derive(Clone)]
pub struct NatsStore {
    inner: Arc<Inner>,
}

struct Inner {
    address: NatsAddress,
    client: async_nats::Client,
    stream: Stream,
    context: async_nats::jetstream::Context,
    /// `$KV.<bucket>.`
    prefix: String,
    patience: Duration,
    /// The revision to which it had come when it was opened, or the highest of a write of this process that was acknowledged.
    acknowledged: AtomicU64,
    /// What was listed last with more than a few.
    long: list::Long,
}

impl Inner {
    /// How often there was a connection.
    fn connections(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// The last revision that the bucket has given out.
    async fn last_revision(&self) -> Result<u64, NatsError> {
        Ok(self.state().await?.0)
    }

    /// The last revision that the bucket has given out, and when its stream was made, in nanoseconds of Unix time.
    async fn state(&self) -> Result<(u64, i128), NatsError> {
        let info = self.ask(|| self.stream.get_info()).await?.map_err(|error| NatsError::engine(&error))?;
        Ok((info.state.last_sequence, info.created.unix_timestamp_nanos()))
    }

    /// The revision that a write was given. The client hands over anew what it had not sent when a connection broke, and there may be an
    /// earlier state behind the next (N3): that tells itself by a revision no higher than one that there was when the write began.
    fn given(&self, sequence: u64, seen: u64) -> Result<Revision, Refused> {
        if sequence <= seen {
            return Err(Refused::Failed(NatsError::WentBack { seen, found: sequence }));
        }
        self.acknowledged.fetch_max(sequence, Ordering::Relaxed);
        Ok(Revision(sequence))
    }

    /// Sees that the bucket still has what it has acknowledged to this process.
    async fn went_on(&self) -> Result<(), NatsError> {
        let (seen, found) = (self.acknowledged.load(Ordering::Relaxed), self.last_revision().await?);
        if found < seen { Err(NatsError::WentBack { seen, found }) } else { Ok(()) }
    }
}

impl fmt::Debug for NatsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsStore").field("address", &self.inner.address.to_string()).finish_non_exhaustive()
    }
}

/// How a write ended that did not take place.
enum Refused {
    /// The key's last message is another.
    Conflict,
    Failed(NatsError),
}

impl NatsStore {
    /// Opens a bucket that is there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with a [`NatsError`]: no server answers, they do not let us in, there is no such bucket, it would lose
    /// values, or what goes over the network would not be encrypted.
    pub async fn open(address: &NatsAddress, options: &NatsOptions) -> Result<Self, StoreError> {
        let opened = async {
            let connected = connect::connect(address, options).await?;
            connect::existing(connected, address, options).await
        };
        opened.await.map_err(|error| error.while_doing(format!("opening {address}")))
    }

    /// As [`NatsStore::open`], and makes an empty bucket where there is none, of which `replicas` servers each keep a copy (1, 3 or 5).
    ///
    /// # Errors
    /// As [`NatsStore::open`].
    pub async fn create(address: &NatsAddress, options: &NatsOptions, replicas: usize) -> Result<Self, StoreError> {
        let made = async {
            let connected = connect::connect(address, options).await?;
            connect::make(&connected, address, replicas).await?;
            connect::existing(connected, address, options).await
        };
        made.await.map_err(|error| error.while_doing(format!("making {address}")))
    }

    /// Where it is.
    pub fn address(&self) -> &NatsAddress {
        &self.inner.address
    }

    /// How often there was a connection to a server: more whenever one was made anew, behind which may be an earlier state of the store.
    pub fn connections(&self) -> u64 {
        self.inner.connections()
    }

    /// The server that is connected, or was last, by the name that it gives itself.
    pub fn server(&self) -> String {
        self.inner.client.server_info().server_name
    }

    /// Whether a server is connected, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.inner.client.connection_state() == State::Connected
    }

    /// The last revision that the store has given out.
    ///
    /// # Errors
    /// Where no server answers.
    pub async fn last_revision(&self) -> Result<u64, StoreError> {
        self.inner.last_revision().await.map_err(|error| error.while_doing("asking how far the store has come"))
    }

    /// As [`Store::delete`]; the revision of the message that says so.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub async fn remove(&self, key: &Key, revision: Revision) -> Result<Revision, StoreError> {
        let subject = self.subject("deleting", key)?;
        let deleted = match revision.0 {
            0 => Err(Refused::Conflict),
            last => self.write(&subject, None, last).await,
        };
        answered(deleted, "deleting", key)
    }

    fn subject(&self, doing: &str, key: &Key) -> Result<String, StoreError> {
        let name = subject::encode(key);
        if name.len() > subject::MAX_NAME {
            let limit = subject::MAX_NAME;
            return Err(NatsError::Name { got: name.len(), limit }.while_doing(format!("{doing} {key}")));
        }
        Ok(format!("{}{name}", self.inner.prefix))
    }

    /// The last message of a key: its sequence and time, and its value, if it has one.
    async fn last(&self, subject: &str) -> Result<Option<Last>, NatsError> {
        let inner = &self.inner;
        let message = match inner.ask(|| inner.stream.get_last_raw_message_by_subject(subject)).await? {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(NatsError::engine(&error)),
        };
        let written_at = Timestamp::from_unix_seconds(message.time.unix_timestamp());
        let value = (!is_marker(Some(&message.headers))).then_some(message.payload);
        let mark = message.headers.get(MARK).map(|mark| mark.as_str().to_owned());
        Ok(Some(Last { sequence: message.sequence, written_at, value, mark }))
    }

    /// Adds a message to a key whose last one has this sequence; 0 stands for none at all. What nobody answers is sent again: what it
    /// replaces lets it take place once, and the mark that it bears shows whether it has.
    async fn write(&self, subject: &str, value: Option<Bytes>, last: u64) -> Result<Revision, Refused> {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.patience;
        let mark = mark().map_err(|error| Refused::Failed(NatsError::engine(&error)))?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(last));
        headers.insert(MARK, mark.as_str());
        if value.is_none() {
            headers.insert(OPERATION, DELETED);
        }
        let mut guarded = headers.clone();
        // The first message of a key needs none: that there was none before is checked when it is applied.
        if last > 0 {
            guarded.insert(NATS_MESSAGE_ID, format!("{subject}@{last}"));
        }
        let value = value.unwrap_or_default();
        let seen = inner.acknowledged.load(Ordering::Relaxed);
        let mut sent = Sent { mark, replaces: last, seen, unanswered: false };
        // Whether somebody has used its name for something else.
        let mut is_nameless = false;
        let mut connections = inner.connections();
        loop {
            // What is handed over while there is no connection is sent when there is one again, however late, and nobody would know.
            if !self.is_connected() {
                pause_before(deadline).await.ok_or(Refused::Failed(NatsError::Disconnected))?;
                continue;
            }
            // What was meant for the state before would be taken by an earlier one, too (N3).
            let now = inner.connections();
            if now != connections {
                if let Err(failed) = inner.went_on().await {
                    // A server that has only just begun to lead may not know all yet.
                    pause_before(deadline).await.ok_or(Refused::Failed(failed))?;
                    continue;
                }
                connections = now;
            }
            if is_nameless {
                // Before the key is looked at: whatever is written from here on, also to the key, has it refused.
                let end = inner.last_revision().await.map_err(Refused::Failed)?;
                if let Some(sequence) = self.outcome(subject, &sent).await? {
                    return inner.given(sequence, seen);
                }
                guarded = headers.clone();
                guarded.insert(NATS_EXPECTED_LAST_SEQUENCE, HeaderValue::from(end));
            }
            let written = async {
                let sent = inner.context.publish_with_headers(subject.to_owned(), guarded.clone(), value.clone()).await?;
                sent.await
            };
            let end = deadline.min(Instant::now() + TRY);
            let failed = match timeout_at(end, written).await {
                Ok(Ok(acknowledged)) if !acknowledged.duplicate => return inner.given(acknowledged.sequence, seen),
                answer if let Some(late) = late(&answer) => {
                    if late == Late::WrongSequence && !is_nameless && !sent.unanswered {
                        return Err(Refused::Conflict);
                    }
                    // Another one has replaced that message, or this one has, when it was sent before.
                    if let Some(sequence) = self.outcome(subject, &sent).await? {
                        return inner.given(sequence, seen);
                    }
                    // Nobody has, so that it is the name of something else.
                    if late == Late::Duplicate {
                        tracing::warn!(
                            "the name of a write of {subject} was used for something else, by somebody who may write to the store"
                        );
                        is_nameless = true;
                    }
                    inner.timed_out()
                }
                Ok(Err(error)) if is_not_taken(&error) => NatsError::engine(&error),
                Ok(Err(error)) if error.kind() != PublishErrorKind::TimedOut => {
                    return Err(Refused::Failed(NatsError::engine(&error)));
                }
                _ => {
                    sent.unanswered = true;
                    inner.timed_out()
                }
            };
            pause_before(deadline).await.ok_or(Refused::Failed(failed))?;
        }
    }

    /// What became of a write that was sent and is refused now, perhaps for its own sake; `None` as long as what it replaces is still there.
    async fn outcome(&self, subject: &str, sent: &Sent) -> Result<Option<u64>, Refused> {
        match self.last(subject).await.map_err(Refused::Failed)? {
            Some(last) if last.mark.as_ref() == Some(&sent.mark) => Ok(Some(last.sequence)),
            last if last.as_ref().map_or(0, |last| last.sequence) == sent.replaces => Ok(None),
            _ if !sent.unanswered => Err(Refused::Conflict),
            // Deleted before it was sent: a first message of the key was certainly not taken.
            Some(Last { value: None, sequence, .. }) if sent.replaces == 0 && sequence <= sent.seen => Err(Refused::Conflict),
            // Somebody has written or deleted since, perhaps over this one.
            _ => Err(Refused::Failed(self.inner.timed_out())),
        }
    }

    async fn create_value(&self, subject: &str, value: Bytes) -> Result<Revision, Refused> {
        match self.write(subject, Some(value.clone()), 0).await {
            Err(Refused::Conflict) => {}
            other => return other,
        }
        // What was deleted has a message, too.
        match self.last(subject).await.map_err(Refused::Failed)? {
            Some(Last { sequence, value: None, .. }) => self.write(subject, Some(value), sequence).await,
            _ => Err(Refused::Conflict),
        }
    }
}

/// A write that was sent, once or more often.
struct Sent {
    mark: String,
    /// The sequence of what it replaces.
    replaces: u64,
    /// A revision that the bucket had come to before.
    seen: u64,
    /// Whether it was sent without an answer, so that it may have been taken.
    unanswered: bool,
}

struct Last {
    sequence: u64,
    written_at: Timestamp,
    value: Option<Bytes>,
    mark: Option<String>,
}

/// Random, for one write.
fn mark() -> Result<String, getrandom::Error> {
    Ok(format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?))
}

/// Whether a write has certainly not taken place, and may be taken in a moment: nobody was there to take it, or the server says that it
/// cannot now.
fn is_not_taken(error: &PublishError) -> bool {
    const UNAVAILABLE: usize = 503;
    let answer = std::error::Error::source(error).and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
    error.kind() == PublishErrorKind::StreamNotFound || answer.is_some_and(|answer| answer.code() == UNAVAILABLE)
}

/// Why a write is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// The sequence is another that it expects.
    WrongSequence,
    /// There was a message of its name.
    Duplicate,
    /// There is one, which is being agreed on.
    InProcess,
}

/// Whether a write comes too late: its name was used, its sequence is another (with a code of its own since 2.11), or one of the same name
/// is being agreed on (2.12).
fn late(answer: &Result<Result<PublishAck, PublishError>, Elapsed>) -> Option<Late> {
    const WRONG_SEQUENCE: u64 = 10_164;
    const IN_PROCESS: u64 = 10_158;
    match answer {
        Ok(Ok(acknowledged)) => acknowledged.duplicate.then_some(Late::Duplicate),
        Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => Some(Late::WrongSequence),
        Ok(Err(error)) => {
            let answer = std::error::Error::source(error)?.downcast_ref::<async_nats::jetstream::Error>()?;
            match answer.error_code().0 {
                WRONG_SEQUENCE => Some(Late::WrongSequence),
                IN_PROCESS => Some(Late::InProcess),
                _ => None,
            }
        }
        Err(_) => None,
    }
}

/// Whether a message says that its key has no value: deleted, or purged by somebody's hand.
fn is_marker(headers: Option<&HeaderMap>) -> bool {
    headers.and_then(|headers| headers.get(OPERATION)).is_some_and(|operation| matches!(operation.as_str(), DELETED | "PURGE"))
}

fn answered<T>(result: Result<T, Refused>, doing: &str, key: &Key) -> Result<T, StoreError> {
    result.map_err(|refused| match refused {
        Refused::Conflict => StoreError::Conflict { key: key.clone() },
        Refused::Failed(error) => error.while_doing(format!("{doing} {key}")),
    })
}

impl Store for NatsStore {
    type Watch = NatsWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let subject = self.subject("reading", key)?;
        let last = self.last(&subject).await.map_err(|error| error.while_doing(format!("reading {key}")))?;
        let entry = |last: Last| {
            let (key, revision) = (key.clone(), Revision(last.sequence));
            Some(Entry { key, value: last.value?.into(), revision, written_at: last.written_at })
        };
        Ok(last.and_then(entry))
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let limit = self.max_value();
        if value.len() > limit {
            return Err(StoreError::TooLarge { key: key.clone(), got: value.len(), limit });
        }
        let subject = self.subject("writing", key)?;
        let value = Bytes::copy_from_slice(value);
        let written = match expect {
            Expect::Absent => self.create_value(&subject, value).await,
            // To a server, 0 is a key that was never there.
            Expect::Revision(Revision(0)) => Err(Refused::Conflict),
            Expect::Revision(Revision(last)) => self.write(&subject, Some(value), last).await,
        };
        answered(written, "writing", key)
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        self.remove(key, revision).await.map(drop)
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        let subject = self.subject("listing", prefix)?;
        list::below(&self.inner, &subject).await.map_err(|error| error.while_doing(format!("listing {prefix}")))
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        list::kinds(&self.inner).await.map_err(|error| error.while_doing("listing the kinds of records"))
    }

    async fn watch(&self, prefix: &Key) -> Result<NatsWatch, StoreError> {
        let subject = self.subject("watching", prefix)?;
        NatsWatch::open(&self.inner, &subject, prefix).await.map_err(|error| error.while_doing(format!("watching {prefix}")))
    }

    fn max_value(&self) -> usize {
        let message = self.inner.client.server_info().max_payload;
        message.saturating_sub(HEADERS).min(MAX_VALUE)
    }
}
