//! The store that a command works with: the embedded one of its state directory, or a shared one.

use std::sync::Arc;
use std::time::Duration;

use toehold_core::{Entry, Expect, Key, Revision, Store, StoreError, Watch};

use super::store::{Backing, SignedStore};
use crate::adapters::nats::{NatsStore, NatsWatch};
use crate::adapters::sqlite::{SqliteStore, SqliteWatch};
use crate::state::Keys;

/// How often it is looked whether the file of a store lies where it should.
const LOOK: Duration = Duration::from_secs(1);
/// How long a server that leads now is let learn what it leads, before it is asked again.
const SETTLE: Duration = Duration::from_millis(250);

/// A store on NATS whose values this state directory's identity signs.
pub type SharedStore = SignedStore<NatsStore, Arc<Keys>>;

impl Backing for NatsStore {
    fn connections(&self) -> u64 {
        Self::connections(self)
    }

    async fn last_revision(&self) -> Result<Option<u64>, StoreError> {
        Self::last_revision(self).await.map(Some)
    }

    async fn remove(&self, key: &Key, revision: Revision) -> Result<Option<Revision>, StoreError> {
        Self::remove(self, key, revision).await.map(Some)
    }

    async fn settle(&self) {
        tokio::time::sleep(SETTLE).await;
    }
}

/// The store that a command works with. Clones are handles of one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyStore {
    /// A file of this machine's.
    Embedded(SqliteStore),
    /// One that several machines share.
    Shared(SharedStore),
}

impl AnyStore {
    /// The shared one.
    pub fn shared(&self) -> Option<&SharedStore> {
        match self {
            Self::Embedded(_) => None,
            Self::Shared(store) => Some(store),
        }
    }

    /// Ends when the file of an embedded store does not lie any more where it was opened, with an error that says so: from then on nothing
    /// comes of working with it. A shared store has none.
    pub async fn until_moved(&self) -> StoreError {
        let Self::Embedded(store) = self else { return std::future::pending().await };
        loop {
            let looked_at = store.clone();
            // The file system may be slow to answer; what cannot be looked at is looked at again.
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || looked_at.check_place()).await {
                return error;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Why nothing is written to it, as far as is known; never anything for the embedded one.
    pub fn read_only(&self) -> Option<String> {
        self.shared().and_then(SignedStore::read_only)
    }

    /// Why nothing is written to it, as [`SignedStore::read_only_by_now`]; never anything for the embedded one.
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn read_only_by_now(&self) -> Result<Option<String>, StoreError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Shared(store) => store.read_only_by_now().await,
        }
    }

    /// The same after a look of now, as [`SignedStore::read_only_now`].
    ///
    /// # Errors
    /// Where the store does not answer.
    pub async fn read_only_now(&self) -> Result<Option<String>, StoreError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Shared(store) => store.read_only_now().await,
        }
    }

    /// Ends when nothing comes of working with it any more, with an error that says why: the file of an embedded one was moved away
    /// ([`AnyStore::until_moved`]), or a shared one is behind what was seen of it ([`SignedStore::until_read_only`], N3).
    pub async fn until_lost(&self) -> StoreError {
        match self {
            Self::Embedded(_) => self.until_moved().await,
            Self::Shared(store) => {
                let source = store.until_read_only().await.into();
                StoreError::Unavailable { doing: "keeping records".to_owned(), source }
            }
        }
    }
}

impl From<SqliteStore> for AnyStore {
    fn from(store: SqliteStore) -> Self {
        Self::Embedded(store)
    }
}

impl From<SharedStore> for AnyStore {
    fn from(store: SharedStore) -> Self {
        Self::Shared(store)
    }
}

/// The changes below a prefix of an [`AnyStore`].
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyWatch {
    /// Of the embedded one.
    Embedded(SqliteWatch),
    /// Of the shared one.
    Shared(Box<NatsWatch>),
}

impl Watch for AnyWatch {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        match self {
            Self::Embedded(watch) => watch.changed().await,
            Self::Shared(watch) => watch.changed().await,
        }
    }
}

impl Store for AnyStore {
    type Watch = AnyWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::Embedded(store) => store.get(key).await,
            Self::Shared(store) => store.get(key).await,
        }
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        match self {
            Self::Embedded(store) => store.put(key, value, expect).await,
            Self::Shared(store) => store.put(key, value, expect).await,
        }
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.delete(key, revision).await,
            Self::Shared(store) => store.delete(key, revision).await,
        }
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        match self {
            Self::Embedded(store) => store.list(prefix).await,
            Self::Shared(store) => store.list(prefix).await,
        }
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        match self {
            Self::Embedded(store) => store.kinds().await,
            Self::Shared(store) => store.kinds().await,
        }
    }

    async fn watch(&self, prefix: &Key) -> Result<AnyWatch, StoreError> {
        match self {
            Self::Embedded(store) => store.watch(prefix).await.map(AnyWatch::Embedded),
            Self::Shared(store) => store.watch(prefix).await.map(|watch| AnyWatch::Shared(Box::new(watch))),
        }
    }

    fn max_value(&self) -> usize {
        match self {
            Self::Embedded(store) => store.max_value(),
            Self::Shared(store) => store.max_value(),
        }
    }
}
