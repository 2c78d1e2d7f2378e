//! Questions to a leader that may not be there yet.

use std::time::Duration;

use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, RequestError};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, LastRawMessageError, LastRawMessageErrorKind};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Inner, NatsError};

/// How long one question waits for its answer before it is asked again.
pub(super) const TRY: Duration = Duration::from_secs(2);
/// After an answer that there is none now.
const PAUSE: Duration = Duration::from_millis(100);
/// The status of such an answer.
const UNAVAILABLE: usize = 503;

/// Asks until there is an answer, for as long as patience lasts. While the servers choose a leader nobody answers, and the one that is
/// chosen has not heard what was asked before.
pub(super) async fn ask<T, E: NoAnswer, F>(patience: Duration, question: impl Fn() -> F) -> Result<Result<T, E>, NatsError>
where
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + patience;
    loop {
        let end = deadline.min(Instant::now() + TRY);
        match timeout_at(end, question()).await {
            Ok(Err(error)) if error.is_none() && pause_before(deadline).await.is_some() => {}
            Ok(answer) => return Ok(answer),
            Err(_) if end < deadline => {}
            Err(_) => return Err(NatsError::TimedOut { limit: patience }),
        }
    }
}

impl Inner {
    pub(super) async fn ask<T, E: NoAnswer, F>(&self, question: impl Fn() -> F) -> Result<Result<T, E>, NatsError>
    where
        F: Future<Output = Result<T, E>>,
    {
        ask(self.patience, question).await
    }

    pub(super) fn timed_out(&self) -> NatsError {
        NatsError::TimedOut { limit: self.patience }
    }
}

/// Waits a moment before the next try; `None` where that would be too late.
pub(super) async fn pause_before(deadline: Instant) -> Option<()> {
    if Instant::now() + PAUSE >= deadline {
        return None;
    }
    sleep(PAUSE).await;
    Some(())
}

/// An error that may be no answer.
pub(super) trait NoAnswer {
    /// Whether nobody has answered, or the one who did could not.
    fn is_none(&self) -> bool;
}

impl NoAnswer for LastRawMessageError {
    fn is_none(&self) -> bool {
        match self.kind() {
            LastRawMessageErrorKind::JetStream(answer) => answer.code() == UNAVAILABLE,
            LastRawMessageErrorKind::Other => true,
            LastRawMessageErrorKind::NoMessageFound | LastRawMessageErrorKind::InvalidSubject => false,
        }
    }
}

impl NoAnswer for ConsumerError {
    fn is_none(&self) -> bool {
        match self.kind() {
            ConsumerErrorKind::JetStream(answer) => answer.code() == UNAVAILABLE,
            ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request => true,
            _ => false,
        }
    }
}

impl NoAnswer for GetStreamError {
    fn is_none(&self) -> bool {
        match self.kind() {
            GetStreamErrorKind::JetStream(answer) => answer.code() == UNAVAILABLE,
            GetStreamErrorKind::Request => true,
            _ => false,
        }
    }
}

impl NoAnswer for RequestError {
    fn is_none(&self) -> bool {
        true
    }
}
