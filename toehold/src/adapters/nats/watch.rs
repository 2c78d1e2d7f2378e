//! The changes below a prefix.

use std::fmt;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig, OrderedErrorKind};
use futures_util::StreamExt as _;
use toehold_core::{Key, StoreError, Watch};
use tokio::time::timeout;

use super::{Inner, NatsError, subject};

/// Watches a prefix. After a lost connection it goes on where it was: changes made meanwhile are reported then.
pub struct NatsWatch {
    messages: Ordered,
    /// `$KV.<bucket>.`
    prefix: String,
    watched: Key,
}

impl fmt::Debug for NatsWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsWatch").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl NatsWatch {
    pub(super) async fn open(inner: &Inner, prefix: &str, watched: &Key) -> Result<Self, NatsError> {
        // From a place, and not from "now": a connection that is lost before the first change knows where to go on.
        let info = inner.ask(|| inner.stream.get_info()).await?.map_err(|error| NatsError::engine(&error))?;
        let consumer = inner.ask(|| {
            inner.stream.create_consumer(OrderedConfig {
                deliver_subject: inner.client.new_inbox(),
                filter_subject: format!("{prefix}.>"),
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: info.state.last_sequence + 1 },
                headers_only: true,
                ..OrderedConfig::default()
            })
        });
        let consumer = consumer.await?.map_err(|error| NatsError::engine(&error))?;
        let messages = timeout(inner.patience, consumer.messages()).await.map_err(|_| inner.timed_out())?;
        let messages = messages.map_err(|error| NatsError::engine(&error))?;
        Ok(Self { messages, prefix: inner.prefix.clone(), watched: watched.clone() })
    }
}

impl Watch for NatsWatch {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        loop {
            let broken = |error: NatsError| error.while_doing(format!("watching {}", self.watched));
            match self.messages.next().await {
                Some(Ok(message)) => {
                    if let Some(key) = message.subject.strip_prefix(self.prefix.as_str()).and_then(subject::decode) {
                        return Ok(key);
                    }
                }
                // The server was silent for too long: the next look asks it anew, from where this one was.
                Some(Err(error)) if error.kind() == OrderedErrorKind::MissingHeartbeat => {}
                Some(Err(error)) => return Err(broken(NatsError::engine(&error))),
                None => return Err(broken(NatsError::Engine { reason: "the watch has ended".to_owned() })),
            }
        }
    }
}
