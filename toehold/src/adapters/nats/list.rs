//! All values below a prefix, as they were when they were asked for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::push::OrderedConfig;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy};
use async_nats::jetstream::stream::RawMessageErrorKind;
use futures_util::StreamExt as _;
use toehold_core::{Entry, Key, Revision, Timestamp};
use tokio::time::timeout;

use super::{Inner, NatsError, is_marker, subject};

/// How many are had one by one from the leader sooner than a stream of them is set up.
const FEW: usize = 8;

/// The first segments of all keys that have a value.
pub(super) async fn kinds(inner: &Inner) -> Result<Vec<Key>, NatsError> {
    let entries = list(inner, inner.prefix.trim_end_matches('.'), true).await?;
    let kinds: BTreeSet<Key> = entries.iter().map(|entry| entry.key.kind()).collect();
    Ok(kinds.into_iter().collect())
}

pub(super) async fn below(inner: &Inner, prefix: &str) -> Result<Vec<Entry>, NatsError> {
    list(inner, prefix, false).await
}

/// All values below a prefix; with `headers_only` each of them may be empty.
///
/// The leader is asked for one after the other. Where there are more than few, most come in one stream, which one of the servers sends that
/// may be behind, and whose end is an estimate. So the leader is asked then for what follows on the last that came until it has nothing
/// more: what a server has is a beginning of what the leader has. A list that was long the last time is not begun one by one.
async fn list(inner: &Inner, prefix: &str, headers_only: bool) -> Result<Vec<Entry>, NatsError> {
    let filter = format!("{prefix}.>");
    let mut found = Found::default();
    if inner.long.has(&filter) || !found.few(inner, &filter).await? {
        // Anew, since one that is behind may send what was replaced.
        found = Found::default();
        found.stream(inner, &filter, headers_only).await?;
        found.follow(inner, &filter).await?;
        inner.long.note(filter, found.messages > FEW);
    }
    Ok(found.entries.into_values().collect())
}

/// Has one of the servers send the last message of each subject; it is at work at once.
pub(super) async fn consumer(inner: &Inner, filter: &str, headers_only: bool) -> Result<Consumer<OrderedConfig>, NatsError> {
    let consumer = inner.ask(|| {
        inner.stream.create_consumer(OrderedConfig {
            deliver_subject: inner.client.new_inbox(),
            filter_subject: filter.to_owned(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            headers_only,
            ..OrderedConfig::default()
        })
    });
    consumer.await?.map_err(|error| NatsError::engine(&error))
}

/// Takes what a server sends, as long as it comes: the message, its sequence and its time.
pub(super) async fn messages(
    inner: &Inner,
    consumer: Consumer<OrderedConfig>,
    mut take: impl FnMut(&Message, u64, Timestamp) + Send,
) -> Result<(), NatsError> {
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let messages = timeout(inner.patience, consumer.messages()).await.map_err(|_| inner.timed_out())?;
    let mut messages = messages.map_err(|error| NatsError::engine(&error))?;
    // The rest, if there is any, is the leader's to tell.
    while let Ok(next) = timeout(SILENCE, messages.next()).await {
        let message = match next {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(NatsError::engine(&error)),
            None => return Err(NatsError::Engine { reason: "the list was cut short".to_owned() }),
        };
        let (sequence, pending, written_at) = {
            let info = message.info().map_err(|error| NatsError::Engine { reason: error.to_string() })?;
            (info.stream_sequence, info.pending, Timestamp::from_unix_seconds(info.published.unix_timestamp()))
        };
        take(&message, sequence, written_at);
        if pending == 0 {
            break;
        }
    }
    Ok(())
}

/// Prefixes below which there were more than a few messages when they were listed last: nothing rests on it but how they are asked for.
#[derive(Default)]
pub(super) struct Long(Mutex<HashSet<String>>);

impl Long {
    /// How many are kept in mind.
    const MOST: usize = 1_000;

    fn has(&self, filter: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(filter)
    }

    fn note(&self, filter: String, is_long: bool) {
        let mut long = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_long {
            long.remove(&filter);
        } else if long.len() < Self::MOST {
            long.insert(filter);
        }
    }
}

#[derive(Default)]
struct Found {
    entries: BTreeMap<Key, Entry>,
    /// How many came, with those that say that something was deleted.
    messages: usize,
    /// The highest sequence that was seen.
    last: u64,
}

impl Found {
    async fn stream(&mut self, inner: &Inner, filter: &str, headers_only: bool) -> Result<(), NatsError> {
        let consumer = consumer(inner, filter, headers_only).await?;
        messages(inner, consumer, |message, sequence, written_at| {
            let value = (!is_marker(message.headers.as_ref())).then(|| message.payload.to_vec());
            self.take(inner, &message.subject, value, sequence, written_at);
        })
        .await
    }

    /// The few that are had one by one; whether they are all.
    async fn few(&mut self, inner: &Inner, filter: &str) -> Result<bool, NatsError> {
        for _ in 0..=FEW {
            if !self.next(inner, filter).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What follows on the last.
    async fn follow(&mut self, inner: &Inner, filter: &str) -> Result<(), NatsError> {
        if !self.next(inner, filter).await? {
            return Ok(());
        }
        // What comes later is another list's, however fast it comes.
        let info = inner.ask(|| inner.stream.get_info()).await?;
        let end = info.map_err(|error| NatsError::engine(&error))?.state.last_sequence;
        while self.last < end && self.next(inner, filter).await? {}
        Ok(())
    }

    /// Asks the leader for the one after the last; `false` where there is none.
    async fn next(&mut self, inner: &Inner, filter: &str) -> Result<bool, NatsError> {
        let next = self.last + 1;
        let message = match inner.ask(|| inner.stream.get_first_raw_message_by_subject(filter, next)).await? {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(false),
            Err(error) => return Err(NatsError::engine(&error)),
        };
        let written_at = Timestamp::from_unix_seconds(message.time.unix_timestamp());
        let value = (!is_marker(Some(&message.headers))).then(|| message.payload.to_vec());
        self.take(inner, &message.subject, value, message.sequence, written_at);
        Ok(true)
    }

    fn take(&mut self, inner: &Inner, subject: &str, value: Option<Vec<u8>>, sequence: u64, written_at: Timestamp) {
        self.last = self.last.max(sequence);
        self.messages += 1;
        let name = subject.strip_prefix(inner.prefix.as_str()).unwrap_or_default();
        let Some(key) = subject::decode(name) else {
            tracing::warn!("{} holds {name}, which is no key of ours", inner.address);
            return;
        };
        match value {
            Some(value) => {
                let entry = Entry { key: key.clone(), value, revision: Revision(sequence), written_at };
                self.entries.insert(key, entry);
            }
            None => drop(self.entries.remove(&key)),
        }
    }
}

/// How long a stream that has begun may be silent.
const SILENCE: Duration = Duration::from_secs(2);
