//! All values below a prefix, as they were when they were asked for.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use futures_util::StreamExt as _;
use toehold_core::{Entry, Key, Revision, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::{Inner, NatsError, is_marker, subject};

/// The first segments of all keys that have a value.
pub(super) async fn kinds(inner: &Inner) -> Result<Vec<Key>, NatsError> {
    let entries = list(inner, inner.prefix.trim_end_matches('.'), true).await?;
    let kinds: BTreeSet<Key> = entries.iter().map(|entry| entry.key.kind()).collect();
    Ok(kinds.into_iter().collect())
}

pub(super) async fn below(inner: &Inner, prefix: &str) -> Result<Vec<Entry>, NatsError> {
    list(inner, prefix, false).await
}

/// All values below a prefix; with `headers_only` each of them is empty.
async fn list(inner: &Inner, prefix: &str, headers_only: bool) -> Result<Vec<Entry>, NatsError> {
    let timed_out = |_| NatsError::TimedOut { limit: inner.patience };
    let mut deadline = Instant::now() + inner.patience;
    let config = OrderedConfig {
        deliver_subject: inner.client.new_inbox(),
        filter_subject: format!("{prefix}.>"),
        deliver_policy: DeliverPolicy::LastPerSubject,
        headers_only,
        ..OrderedConfig::default()
    };
    let consumer = timeout_at(deadline, inner.stream.create_consumer(config)).await.map_err(timed_out)?;
    let consumer = consumer.map_err(|error| NatsError::engine(&error))?;
    let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
    if consumer.cached_info().num_pending == 0 {
        return Ok(Vec::new());
    }
    let mut messages = consumer.messages().await.map_err(|error| NatsError::engine(&error))?;
    loop {
        let next = timeout_at(deadline, messages.next()).await.map_err(timed_out)?;
        let message = match next {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(NatsError::engine(&error)),
            None => return Err(NatsError::Engine { reason: "the list was cut short".to_owned() }),
        };
        let (sequence, pending, written_at) = {
            let info = message.info().map_err(|error| NatsError::Engine { reason: error.to_string() })?;
            (info.stream_sequence, info.pending, Timestamp::from_unix_seconds(info.published.unix_timestamp()))
        };
        let name = message.subject.strip_prefix(inner.prefix.as_str()).unwrap_or_default();
        match subject::decode(name) {
            Some(key) if is_marker(message.headers.as_ref()) => {
                entries.remove(&key);
            }
            Some(key) => {
                let value = message.payload.to_vec();
                entries.insert(key.clone(), Entry { key, value, revision: Revision(sequence), written_at });
            }
            None => tracing::warn!("{} holds {name}, which is no key of ours", inner.address),
        }
        if pending == 0 {
            return Ok(entries.into_values().collect());
        }
        // As long as it comes.
        deadline = Instant::now() + inner.patience;
    }
}
