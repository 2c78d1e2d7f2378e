//! The status page's picture of the store: kept for all who look, and read again only after something has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use toehold_core::{Clock as _, Key, Store, StoreError, Timestamp, Watch as _};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::snapshot::{KINDS, Snapshot};
use crate::adapters::system_clock::SystemClock;
use crate::cli::chain;

/// Reading again waits so many times as long as reading has taken, so that no flood of changes keeps us at it.
const REST: u32 = 4;
/// The shortest rest.
const SHORTEST: Duration = Duration::from_millis(200);
/// How old it may become where no change was seen.
const OLDEST: Duration = Duration::from_secs(30);
/// How long reading may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait after the store has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What reads it: with what was remembered of the last time by itself.
pub type Reading = Box<dyn Fn() -> BoxFuture<'static, Result<Snapshot, String>> + Send + Sync>;

/// A picture that was taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Taken {
    /// What was read last.
    pub snapshot: Arc<Snapshot>,
    /// When; `None`: never.
    pub at: Option<Timestamp>,
    /// Why it is older than it should be.
    pub failed: Option<String>,
    /// Grows whenever the picture is another one.
    pub version: u64,
}

/// The picture.
pub struct Picture {
    reading: Reading,
    is_stale: AtomicBool,
    changes: watch::Sender<u64>,
    last: Mutex<Last>,
}

struct Last {
    taken: Taken,
    /// When it may be read again after a change, and when it has to be.
    fresh_until: Instant,
    good_until: Instant,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picture").finish_non_exhaustive()
    }
}

impl Picture {
    /// Read as `reading` does; nothing is read yet.
    pub fn new(reading: Reading) -> Self {
        let taken = Taken { snapshot: Arc::default(), at: None, failed: None, version: 0 };
        let now = Instant::now();
        Self {
            reading,
            is_stale: AtomicBool::new(true),
            changes: watch::Sender::new(0),
            last: Mutex::new(Last { taken, fresh_until: now, good_until: now }),
        }
    }

    /// Told of after every change in the store.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Something has changed.
    pub fn stale(&self) {
        self.is_stale.store(true, Ordering::Release);
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Whether something has changed that was not read yet.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }

    /// As it is now, or was a moment ago.
    pub async fn now(&self) -> Taken {
        let mut last = self.last.lock().await;
        let begun = Instant::now();
        let is_due = begun >= last.good_until || (begun >= last.fresh_until && self.is_stale.load(Ordering::Acquire));
        if last.taken.at.is_some() && !is_due {
            return last.taken.clone();
        }
        // Before reading: what changes meanwhile is read the next time.
        self.is_stale.store(false, Ordering::Release);
        let read = timeout(PATIENCE, (self.reading)()).await;
        match read.unwrap_or_else(|_| Err("it took too long".to_owned())) {
            Ok(snapshot) => {
                last.taken.failed = None;
                last.taken.at = Some(SystemClock.now());
                if *last.taken.snapshot != snapshot || last.taken.version == 0 {
                    last.taken.snapshot = Arc::new(snapshot);
                    last.taken.version += 1;
                }
            }
            Err(reason) => {
                if last.taken.failed.as_ref() != Some(&reason) {
                    last.taken.version += 1;
                }
                last.taken.failed = Some(reason);
                self.is_stale.store(true, Ordering::Release);
            }
        }
        let now = Instant::now();
        let rest = if last.taken.failed.is_some() { PAUSE } else { SHORTEST };
        last.fresh_until = now + (now.saturating_duration_since(begun) * REST).max(rest);
        last.good_until = now + OLDEST;
        last.taken.clone()
    }

    /// Waits for the store's changes, for ever. Looks at all kinds of records that the picture is made of.
    pub async fn follow<S: Store>(&self, store: &S) {
        let each = KINDS.map(|kind| self.follow_kind(store, kind));
        futures_util::future::join_all(each).await;
    }

    async fn follow_kind<S: Store>(&self, store: &S, kind: &'static str) {
        loop {
            let error = match self.watch(store, kind).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            tracing::info!("watching {kind} in the store failed: {}", chain(&error));
            sleep(PAUSE).await;
            self.stale();
        }
    }

    async fn watch<S: Store>(&self, store: &S, kind: &'static str) -> Result<(), StoreError> {
        let mut watch = store.watch(&Key::new([kind])?).await?;
        loop {
            watch.changed().await?;
            self.stale();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use toehold_core::Expect;
    use toehold_core::testing::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_read_again_after_a_change_and_else_not() {
        let store = MemoryStore::new();
        let reads = Arc::new(AtomicU32::new(0));
        let counting = Arc::clone(&reads);
        let picture = Arc::new(Picture::new(Box::new(move || {
            let read = counting.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                match read {
                    2 => Err("gone".to_owned()),
                    _ => Ok(Snapshot { closed_sessions: usize::try_from(read / 2).unwrap(), ..Snapshot::default() }),
                }
            })
        })));
        let following = {
            let (picture, store) = (Arc::clone(&picture), store.clone());
            tokio::spawn(async move { picture.follow(&store).await })
        };
        tokio::task::yield_now().await;
        let mut changes = picture.changes();
        for _ in 0..100 {
            assert_eq!(picture.now().await.version, 1);
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        store.put(&Key::parse("host/a@b").unwrap(), b"{}", Expect::Absent).await.unwrap();
        changes.changed().await.unwrap();
        sleep(SHORTEST).await;
        // The same is no new version; that it cannot be read is one, and what was read is still shown.
        assert_eq!(picture.now().await.version, 1);
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        sleep(OLDEST).await;
        let failed = picture.now().await;
        assert_eq!((failed.version, failed.failed.as_deref()), (2, Some("gone")));
        assert!(failed.at.is_some());
        sleep(PAUSE).await;
        assert_eq!((picture.now().await.version, picture.now().await.failed), (3, None));
        following.abort();
    }
}
