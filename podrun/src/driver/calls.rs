//! Calls with an end: whatever hangs is given up, as an answer that did not come.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use toehold_core::{StoreError, Stored, Timer};

use super::Parts;
use crate::backend::{BackendError, PodBackend};
use crate::pod::PodRecord;

/// No answer within the time for a call.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0} s")]
struct NoAnswer(u64);

/// The future's output, or `None` where it does not end in time.
pub(super) async fn within<T: Timer, F: Future>(timer: &T, limit: Duration, future: F) -> Option<F::Output> {
    let deadline = timer.now().saturating_add(limit);
    match select(pin!(future), pin!(timer.sleep_until(deadline))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

impl<B: PodBackend, S: toehold_core::Store, T: Timer> Parts<'_, B, S, T> {
    /// A call to the backend.
    pub(super) async fn ask<R>(
        &self,
        doing: impl FnOnce() -> String,
        call: impl Future<Output = Result<R, BackendError>>,
    ) -> Result<R, BackendError> {
        within(self.timer, self.call_timeout, call).await.unwrap_or_else(|| {
            let source = Box::new(NoAnswer(self.call_timeout.as_secs()));
            Err(BackendError::Unanswered { doing: doing(), source })
        })
    }

    /// A call to the store.
    pub(super) async fn keep<R>(
        &self,
        doing: impl FnOnce() -> String,
        call: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        within(self.timer, self.call_timeout, call).await.unwrap_or_else(|| {
            let source = Box::new(NoAnswer(self.call_timeout.as_secs()));
            Err(StoreError::Unavailable { doing: doing(), source })
        })
    }

    /// Removes a record, if it is there and is this one.
    pub(super) async fn remove(&self, record: &PodRecord) -> Result<(), StoreError> {
        let key = record.key()?;
        let doing = || format!("removing {key}");
        let removed = self
            .keep(doing, async {
                let Some(stored) = Stored::<PodRecord>::read(self.store, &key).await? else { return Ok(()) };
                if stored.body.nonce != record.nonce {
                    return Ok(());
                }
                self.store.delete(&stored.key, stored.revision).await
            })
            .await;
        match removed {
            // Somebody else has removed it, or it is another one by now: the next try sees which.
            Err(StoreError::Conflict { .. }) => match self.keep(doing, self.store.get(&key)).await? {
                None => Ok(()),
                Some(_) => Err(StoreError::Conflict { key }),
            },
            removed => removed,
        }
    }
}
