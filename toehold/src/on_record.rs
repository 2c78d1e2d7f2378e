//! The audit log of a gateway. Of pods nothing runs that is not on record; and nobody waits for a store that has come to a stand.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use toehold_core::{AuditEvent, AuditSink};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::cli::chain;

/// For how long nothing at all may come to be on record until whoever waits for it is refused.
const STANDSTILL: Duration = Duration::from_secs(5);
/// How long somebody waits at most, where others come to be on record meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the store may take for one event, until it is given up and the next is tried.
const ONE_EVENT: Duration = Duration::from_secs(10);
/// Events that may wait to be written.
const MAX_EVENTS: usize = 1024;

/// An event on its way.
#[derive(Debug)]
struct Noted {
    event: AuditEvent,
    /// Who waits until it is on record.
    waiting: Option<oneshot::Sender<bool>>,
}

/// Puts events on record.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    events: mpsc::Sender<Noted>,
    /// How many the store has answered for.
    answered: Arc<AtomicU64>,
}

/// Writes events down.
pub(crate) struct Writer {
    events: mpsc::Receiver<Noted>,
    answered: Arc<AtomicU64>,
}

/// An event that is to be on record.
pub(crate) struct Ticket(oneshot::Receiver<bool>);

/// Why something is not on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotRecorded {
    /// The store has come to a stand, or too many wait for it.
    #[error("the gateway's store does not answer, and nothing is run that is not on record; try again later")]
    NoAnswer,
    /// The store has failed.
    #[error("the gateway's store has failed, and nothing is run that is not on record; its operator has to see why")]
    Failed,
}

/// Both ends.
pub(crate) fn recorder() -> (Recorder, Writer) {
    let (sender, events) = mpsc::channel(MAX_EVENTS);
    let answered = Arc::<AtomicU64>::default();
    (Recorder { events: sender, answered: Arc::clone(&answered) }, Writer { events, answered })
}

impl Recorder {
    /// Sends an event on its way where there is room for it, without waiting; whether there was.
    pub(crate) fn leave(&self, event: AuditEvent) -> bool {
        self.events.try_send(Noted { event, waiting: None }).is_ok()
    }

    /// Sends an event on its way. It is on record before those that are sent after it.
    pub(crate) async fn send(&self, event: AuditEvent) -> Result<(), NotRecorded> {
        self.give(Noted { event, waiting: None }).await
    }

    /// The same with a ticket to wait for it. Without the ticket it is not written if it has not been yet.
    pub(crate) async fn submit(&self, event: AuditEvent) -> Result<Ticket, NotRecorded> {
        let (waiting, ticket) = oneshot::channel();
        self.give(Noted { event, waiting: Some(waiting) }).await?;
        Ok(Ticket(ticket))
    }

    /// Waits until it is on record.
    pub(crate) async fn done(&self, ticket: Ticket) -> Result<(), NotRecorded> {
        match self.unless_at_a_stand(ticket.0).await {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false) | Err(_)) => Err(NotRecorded::Failed),
            None => Err(NotRecorded::NoAnswer),
        }
    }

    async fn give(&self, noted: Noted) -> Result<(), NotRecorded> {
        match self.unless_at_a_stand(self.events.send(noted)).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(NotRecorded::Failed),
            None => Err(NotRecorded::NoAnswer),
        }
    }

    /// What comes of it, unless the store gives no answer to anybody meanwhile.
    async fn unless_at_a_stand<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let begun = Instant::now();
        loop {
            let before = self.answered.load(Ordering::Relaxed);
            if let Ok(output) = timeout(STANDSTILL, future.as_mut()).await {
                return Some(output);
            }
            if self.answered.load(Ordering::Relaxed) == before || begun.elapsed() > PATIENCE {
                return None;
            }
        }
    }
}

impl Writer {
    /// Writes until nobody has anything to note any more. `missing` is told of each event that is not on record and for which nobody waits.
    pub(crate) async fn write_down(mut self, audit: impl AuditSink, missing: impl Fn()) {
        while let Some(Noted { event, waiting }) = self.events.recv().await {
            // Whoever has given up has run nothing.
            if waiting.as_ref().is_some_and(oneshot::Sender::is_closed) {
                continue;
            }
            let answer = timeout(ONE_EVENT, audit.record(event)).await;
            let is_on_record = match &answer {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::error!("an event is not in the audit log: {}", chain(error));
                    false
                }
                Err(_) => {
                    tracing::error!(
                        "an event is not in the audit log: the store has not answered within {} s",
                        ONE_EVENT.as_secs()
                    );
                    false
                }
            };
            if answer.is_ok() {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            match waiting {
                // Who has left meanwhile has run nothing.
                Some(waiting) => drop(waiting.send(is_on_record)),
                None if !is_on_record => missing(),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use toehold_core::{StoreError, Timestamp};
    use tokio::sync::watch;

    use super::*;

    /// A log whose store answers only while it is told to, and fails where it is told to.
    #[derive(Clone)]
    struct Stalling {
        answers: watch::Sender<bool>,
        fails: Arc<std::sync::atomic::AtomicBool>,
        written: Arc<Mutex<Vec<String>>>,
        takes: Duration,
    }

    impl Stalling {
        fn new(takes: Duration) -> Self {
            Self { answers: watch::Sender::new(true), fails: Arc::default(), written: Arc::default(), takes }
        }

        fn written(&self) -> Vec<String> {
            self.written.lock().unwrap().clone()
        }
    }

    impl AuditSink for Stalling {
        async fn record(&self, event: AuditEvent) -> Result<(), StoreError> {
            tokio::time::sleep(self.takes).await;
            let _ = self.answers.subscribe().wait_for(|answers| *answers).await;
            if self.fails.load(Ordering::Relaxed) {
                return Err(StoreError::Unavailable { doing: "writing".to_owned(), source: "it is full".into() });
            }
            self.written.lock().unwrap().push(event.subject);
            Ok(())
        }
    }

    fn event(subject: impl Into<String>) -> AuditEvent {
        AuditEvent::new(Timestamp::UNIX_EPOCH, "pods.started", subject.into())
    }

    fn started(log: &Stalling) -> (Recorder, Arc<AtomicU64>) {
        let (recorder, writer) = recorder();
        let missing = Arc::<AtomicU64>::default();
        let (log, counted) = (log.clone(), Arc::clone(&missing));
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        tokio::spawn(writer.write_down(log, count));
        (recorder, missing)
    }

    async fn put(recorder: &Recorder, subject: &str) -> Result<(), NotRecorded> {
        let ticket = recorder.submit(event(subject)).await?;
        recorder.done(ticket).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_is_on_record_and_a_store_at_a_stand_is_a_refusal_within_seconds() {
        let log = Stalling::new(Duration::from_millis(5));
        let (recorder, missing) = started(&log);
        put(&recorder, "first").await.unwrap();
        assert_eq!(log.written(), ["first"]);
        log.answers.send_replace(false);
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(put(&recorder, "refused").await, Err(NotRecorded::NoAnswer));
            assert!(begun.elapsed() <= STANDSTILL * 2, "{:?}", begun.elapsed());
        }
        log.answers.send_replace(true);
        put(&recorder, "last").await.unwrap();
        // The one that the store had been given already may be there, and the others are not.
        let written = log.written();
        assert!(written.len() <= 3 && written.last().is_some_and(|last| last == "last"), "{written:?}");
        assert_eq!(missing.load(Ordering::Relaxed), 0, "who was refused knows");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_full_is_a_refusal_as_well() {
        let log = Stalling::new(Duration::ZERO);
        let (recorder, _) = started(&log);
        log.answers.send_replace(false);
        let mut refused = 0;
        for number in 0..MAX_EVENTS + 3 {
            refused += usize::from(recorder.send(event(number.to_string())).await.is_err());
            if number == MAX_EVENTS {
                tokio::task::yield_now().await;
            }
        }
        assert!((1..=3).contains(&refused), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_slow_for_many_refuses_none_of_them() {
        let log = Stalling::new(Duration::from_millis(20));
        let (recorder, _) = started(&log);
        let all = (0..1000).map(|number| {
            let recorder = recorder.clone();
            tokio::spawn(async move { put(&recorder, &number.to_string()).await })
        });
        for one in all.collect::<Vec<_>>() {
            one.await.unwrap().unwrap();
        }
        assert_eq!(log.written().len(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_is_a_refusal_at_once() {
        let log = Stalling::new(Duration::ZERO);
        let (recorder, missing) = started(&log);
        log.fails.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        assert_eq!(put(&recorder, "refused").await, Err(NotRecorded::Failed));
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(missing.load(Ordering::Relaxed), 0, "who was refused knows");
        recorder.send(event("a login")).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(missing.load(Ordering::Relaxed), 1);
    }
}
