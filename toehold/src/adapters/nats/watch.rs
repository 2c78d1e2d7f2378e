//! The changes below a prefix.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig, OrderedErrorKind};
use async_nats::jetstream::stream::RawMessageErrorKind;
use futures_util::StreamExt as _;
use toehold_core::{Key, StoreError, Watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::asking::pause_before;
use super::{Inner, NatsError, subject};

/// For how long nothing may come until the leader is asked whether there is nothing. Whoever sends what changes may be a server that is
/// cut off from the others, or one that has forgotten us.
const SILENCE: Duration = Duration::from_secs(20);
/// How often it is seen whether there is another connection, behind which may be an earlier state of the store.
const TICK: Duration = Duration::from_secs(1);
/// How long after a question that had no answer the next one is asked.
const PAUSE: Duration = Duration::from_secs(5);

/// Watches a prefix. After a lost connection it goes on where it was: changes made meanwhile are reported then. Where the store is another one,
/// or an earlier state of it, it breaks: what is written there has sequences that were reported long ago.
pub struct NatsWatch {
    messages: Ordered,
    inner: Arc<Inner>,
    /// What is watched, as subjects.
    filter: String,
    watched: Key,
    /// Up to where it was reported.
    last: u64,
    /// When something came, or the leader had nothing more.
    heard_at: Instant,
    /// When the stream was made that is watched.
    made: i128,
    /// Over which connection the leader said last that it is that stream, and still has what was reported.
    connections: u64,
    /// Whether something has come that makes one doubt it.
    is_doubted: bool,
    /// When the leader was asked last and did not answer.
    asked_at: Option<Instant>,
}

impl fmt::Debug for NatsWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsWatch").field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// What comes after this place.
async fn messages(inner: &Inner, filter: &str, after: u64) -> Result<Ordered, NatsError> {
    let consumer = inner.ask(|| {
        inner.stream.create_consumer(OrderedConfig {
            deliver_subject: inner.client.new_inbox(),
            filter_subject: filter.to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            headers_only: true,
            ..OrderedConfig::default()
        })
    });
    let consumer = consumer.await?.map_err(|error| NatsError::engine(&error))?;
    let messages = timeout(inner.patience, consumer.messages()).await.map_err(|_| inner.timed_out())?;
    messages.map_err(|error| NatsError::engine(&error))
}

impl NatsWatch {
    pub(super) async fn open(inner: &Arc<Inner>, prefix: &str, watched: &Key) -> Result<Self, NatsError> {
        // From a place, and not from "now": a connection that is lost before the first change knows where to go on.
        let connections = inner.connections();
        let (last, made) = inner.state().await?;
        let filter = format!("{prefix}.>");
        let messages = messages(inner, &filter, last).await?;
        Ok(Self {
            messages,
            inner: Arc::clone(inner),
            filter,
            watched: watched.clone(),
            last,
            heard_at: Instant::now(),
            made,
            connections,
            is_doubted: false,
            asked_at: None,
        })
    }

    /// The key of a message that was not reported yet.
    fn news(&mut self, subject: &str, sequence: u64) -> Option<Key> {
        if sequence <= self.last {
            return None;
        }
        self.last = sequence;
        subject.strip_prefix(self.inner.prefix.as_str()).and_then(subject::decode)
    }

    fn is_in_doubt(&self) -> bool {
        self.is_doubted || self.connections != self.inner.connections()
    }

    /// When it is seen whether there is a reason to ask the leader.
    fn look_at(&self) -> Instant {
        let now = Instant::now();
        match self.asked_at {
            Some(asked_at) => asked_at + PAUSE,
            None if self.is_in_doubt() => now,
            None => (self.heard_at + SILENCE).min(now + TICK),
        }
    }

    /// Asks the leader, where there is a reason to.
    async fn look(&mut self) -> Result<Option<Key>, NatsError> {
        if self.asked_at.is_none() && !self.is_in_doubt() && self.heard_at.elapsed() < SILENCE {
            return Ok(None);
        }
        self.still_there().await?;
        let found = self.ask_leader().await?;
        self.asked_at = None;
        Ok(found)
    }

    /// Sees that the stream is the one that is watched, and still has what was reported.
    async fn still_there(&mut self) -> Result<(), NatsError> {
        let deadline = Instant::now() + self.inner.patience;
        loop {
            // Before it is asked: whatever answers after that is behind this connection or a later one.
            let connections = self.inner.connections();
            let (found, made) = self.inner.state().await?;
            if made != self.made {
                return Err(NatsError::MadeAnew);
            }
            if found >= self.last {
                (self.connections, self.is_doubted) = (connections, false);
                return Ok(());
            }
            // A server that has only just begun to lead may not know all yet.
            pause_before(deadline).await.ok_or(NatsError::WentBack { seen: self.last, found })?;
        }
    }

    /// Asks the leader for what was to come, and has it sent anew where something was.
    async fn ask_leader(&mut self) -> Result<Option<Key>, NatsError> {
        let (inner, next) = (Arc::clone(&self.inner), self.last + 1);
        let message = match inner.ask(|| inner.stream.get_first_raw_message_by_subject(self.filter.as_str(), next)).await? {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
                self.heard_at = Instant::now();
                return Ok(None);
            }
            Err(error) => return Err(NatsError::engine(&error)),
        };
        tracing::warn!("a change of {} was not reported by the servers; they are asked anew", self.watched);
        self.messages = messages(&inner, &self.filter, message.sequence).await?;
        self.heard_at = Instant::now();
        Ok(self.news(&message.subject, message.sequence))
    }
}

impl Watch for NatsWatch {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        loop {
            let watched = self.watched.clone();
            let broken = |error: NatsError| error.while_doing(format!("watching {watched}"));
            let Ok(heard) = timeout_at(self.look_at(), self.messages.next()).await else {
                match self.look().await {
                    Ok(Some(key)) => return Ok(key),
                    Ok(None) => {}
                    Err(error @ (NatsError::WentBack { .. } | NatsError::MadeAnew)) => return Err(broken(error)),
                    // A store that is away says so to whoever works with it; a watch waits until it is back.
                    Err(error) => {
                        tracing::debug!("asking for changes of {watched} failed: {error}");
                        self.asked_at = Some(Instant::now());
                    }
                }
                continue;
            };
            match heard {
                Some(Ok(message)) => {
                    self.heard_at = Instant::now();
                    let sequence = message.info().map_err(|error| broken(NatsError::Engine { reason: error.to_string() }))?;
                    let sequence = sequence.stream_sequence;
                    let subject = message.subject.clone();
                    if let Some(key) = self.news(&subject, sequence) {
                        return Ok(key);
                    }
                }
                // The server was silent for too long: the next look asks it anew, from where this one was.
                Some(Err(error)) if error.kind() == OrderedErrorKind::MissingHeartbeat => self.is_doubted = true,
                Some(Err(error)) => return Err(broken(NatsError::engine(&error))),
                None => return Err(broken(NatsError::Engine { reason: "the watch has ended".to_owned() })),
            }
        }
    }
}
