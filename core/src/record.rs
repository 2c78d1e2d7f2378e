//! What is stored: JSON documents that say which releases may read them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::store::{Entry, Expect, Key, Revision, Store, StoreError};

/// A type that is kept in a store.
///
/// Changes to a stored type are additive: new fields have a default. `VERSION` counts such changes. `READABLE_FROM` is the
/// lowest `VERSION` of a release that may read what this one writes; it rises only when a field's absence would be misread.
pub trait Record: Serialize + DeserializeOwned {
    /// The format number that this release writes, from 1.
    const VERSION: u32 = 1;
    /// The lowest format number whose releases may read what this one writes.
    const READABLE_FROM: u32 = 1;
}

#[derive(Serialize, Deserialize)]
struct Document<T> {
    v: u32,
    readable_from: u32,
    #[serde(flatten)]
    body: T,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// A record with its place in the store.
///
/// Members that a newer release wrote and this one does not know are kept and written back.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// The record's key.
    pub key: Key,
    /// The revision that a write of it has to expect.
    pub revision: Revision,
    /// The record.
    pub body: T,
    written_by: u32,
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
struct Header {
    v: u32,
    readable_from: u32,
}

impl<T: Record> Stored<T> {
    /// Reads a record out of a store's entry.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a record that only newer releases may read, [`StoreError::Corrupt`] for anything that is
    /// not a record of this type.
    pub fn decode(entry: &Entry) -> Result<Self, StoreError> {
        let corrupt = |error: &serde_json::Error| StoreError::Corrupt {
            key: entry.key.clone(),
            reason: format!("not a record of this kind (line {}, column {})", error.line(), error.column()),
        };
        let header: Header = serde_json::from_slice(&entry.value).map_err(|e| corrupt(&e))?;
        if header.readable_from > T::VERSION {
            return Err(StoreError::Newer {
                what: entry.key.to_string(),
                found: header.v,
                supported: T::VERSION,
            });
        }
        let document: Document<T> = serde_json::from_slice(&entry.value).map_err(|e| corrupt(&e))?;
        Ok(Self {
            key: entry.key.clone(),
            revision: entry.revision,
            body: document.body,
            written_by: document.v,
            unknown: document.unknown,
        })
    }

    /// Reads one record; `None` where the key has no value.
    ///
    /// # Errors
    /// As [`Store::get`] and [`Stored::decode`].
    pub async fn read<S: Store + ?Sized>(store: &S, key: &Key) -> Result<Option<Self>, StoreError> {
        store.get(key).await?.as_ref().map(Self::decode).transpose()
    }

    /// Reads all records below `prefix`, each with its own success: one record that cannot be read does not hide the others.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list<S: Store + ?Sized>(store: &S, prefix: &Key) -> Result<Vec<Result<Self, StoreError>>, StoreError> {
        Ok(store.list(prefix).await?.iter().map(Self::decode).collect())
    }

    /// Writes a new record; the key must have no value.
    ///
    /// # Errors
    /// As [`Store::put`]; [`StoreError::Conflict`] where the key has a value.
    pub async fn create<S: Store + ?Sized>(store: &S, key: Key, body: T) -> Result<Self, StoreError> {
        let mut stored = Self { key, revision: Revision(0), body, written_by: T::VERSION, unknown: Map::new() };
        stored.revision = stored.write(store, Expect::Absent).await?;
        Ok(stored)
    }

    /// Writes the record as it stands now over the version that was read. On success `self` is at the new revision.
    ///
    /// # Errors
    /// As [`Store::put`]; [`StoreError::Conflict`] where somebody else has written since.
    pub async fn save<S: Store + ?Sized>(&mut self, store: &S) -> Result<(), StoreError> {
        self.revision = self.write(store, Expect::Revision(self.revision)).await?;
        Ok(())
    }

    async fn write<S: Store + ?Sized>(&self, store: &S, expect: Expect) -> Result<Revision, StoreError> {
        #[derive(Serialize)]
        struct Borrowed<'a, T> {
            v: u32,
            readable_from: u32,
            #[serde(flatten)]
            body: &'a T,
            #[serde(flatten)]
            unknown: &'a Map<String, Value>,
        }
        let document = Borrowed {
            v: T::VERSION.max(self.written_by),
            readable_from: T::READABLE_FROM,
            body: &self.body,
            unknown: &self.unknown,
        };
        let value = serde_json::to_vec(&document).map_err(|error| StoreError::Unavailable {
            doing: format!("encoding {}", self.key),
            source: Box::new(error),
        })?;
        store.put(&self.key, &value, expect).await
    }
}
