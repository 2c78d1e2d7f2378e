//! Stores and timers of a process that can die.

use std::future::pending;

use super::faults::{CallKind, Fault, Faults};
use crate::store::{Entry, Expect, Key, Revision, Source, Store, StoreError, Watch};
use crate::time::{Clock, Timer, Timestamp};

/// A [`Store`], [`Watch`] or [`Timer`] as one process sees it: calls are numbered and go wrong as its [`Faults`] say.
///
/// Sleeps are not numbered, but one that begins after the crash never ends.
#[derive(Clone, Debug)]
pub struct Crashing<T> {
    inner: T,
    faults: Faults,
}

impl<T> Crashing<T> {
    /// `inner` with the faults of a process.
    pub fn new(inner: T, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// What is behind it, where nothing goes wrong.
    pub fn inner(&self) -> &T {
        &self.inner
    }
}

fn unavailable(doing: &str, key: &Key) -> StoreError {
    let source: Source = "simulated failure of the store".into();
    StoreError::Unavailable { doing: format!("{doing} {key}"), source }
}

impl<S: Store> Store for Crashing<S> {
    type Watch = Crashing<S::Watch>;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let step = self.faults.begin(CallKind::StoreGet, || key.to_string()).await;
        let result = if step.fault.is_some() { Err(unavailable("reading", key)) } else { self.inner.get(key).await };
        self.faults.end(step).await;
        result
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let step = self.faults.begin(CallKind::StorePut, || key.to_string()).await;
        let result = match step.fault {
            None if step.late => Err(unavailable("writing", key)),
            None => self.inner.put(key, value, expect).await,
            Some(Fault::Conflict) => Err(StoreError::Conflict { key: key.clone() }),
            Some(Fault::UnavailableAfter) => {
                self.inner.put(key, value, expect).await.and_then(|_| Err(unavailable("writing", key)))
            }
            Some(_) => Err(unavailable("writing", key)),
        };
        self.faults.end(step).await;
        result
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        let step = self.faults.begin(CallKind::StoreDelete, || key.to_string()).await;
        let result = match step.fault {
            None if step.late => Err(unavailable("deleting", key)),
            None => self.inner.delete(key, revision).await,
            Some(Fault::Conflict) => Err(StoreError::Conflict { key: key.clone() }),
            Some(Fault::UnavailableAfter) => {
                self.inner.delete(key, revision).await.and_then(|()| Err(unavailable("deleting", key)))
            }
            Some(_) => Err(unavailable("deleting", key)),
        };
        self.faults.end(step).await;
        result
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        let step = self.faults.begin(CallKind::StoreList, || prefix.to_string()).await;
        let result = if step.fault.is_some() { Err(unavailable("listing", prefix)) } else { self.inner.list(prefix).await };
        self.faults.end(step).await;
        result
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        let step = self.faults.begin(CallKind::StoreList, String::new).await;
        let result = match step.fault {
            Some(_) => {
                Err(StoreError::Unavailable { doing: "listing".to_owned(), source: "simulated failure of the store".into() })
            }
            None => self.inner.kinds().await,
        };
        self.faults.end(step).await;
        result
    }

    async fn watch(&self, prefix: &Key) -> Result<Self::Watch, StoreError> {
        let step = self.faults.begin(CallKind::StoreWatch, || prefix.to_string()).await;
        let result = if step.fault.is_some() { Err(unavailable("watching", prefix)) } else { self.inner.watch(prefix).await };
        self.faults.end(step).await;
        Ok(Crashing::new(result?, self.faults.clone()))
    }

    fn max_value(&self) -> usize {
        self.inner.max_value()
    }
}

impl<W: Watch> Watch for Crashing<W> {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        let step = self.faults.begin(CallKind::WatchChanged, String::new).await;
        let result = if step.fault.is_some() {
            Err(StoreError::Unavailable { doing: "watching".to_owned(), source: "simulated failure of the store".into() })
        } else {
            self.inner.changed().await
        };
        self.faults.end(step).await;
        result
    }
}

impl<C: Clock> Clock for Crashing<C> {
    fn now(&self) -> Timestamp {
        self.inner.now()
    }
}

impl<T: Timer> Timer for Crashing<T> {
    async fn sleep_until(&self, deadline: Timestamp) {
        if self.faults.crashed() {
            pending::<()>().await;
        }
        self.inner.sleep_until(deadline).await;
    }
}
