//! What is stored: JSON documents that say which releases may read them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::store::{Entry, Expect, Key, Revision, Store, StoreError};

/// A type that is kept in a store: something that serialises to a JSON object.
///
/// Changes to a stored type are additive: new fields have a default. `VERSION` counts such changes. `READABLE_FROM` is the
/// lowest `VERSION` of a release that may read what this one writes; it rises only when a field's absence would be misread.
/// The members `v` and `readable_from` are taken, and a member that gets another name is a new member (`serde(alias)` would
/// bring the old one back beside it).
pub trait Record: Serialize + DeserializeOwned {
    /// The format number that this release writes, from 1.
    const VERSION: u32 = 1;
    /// The lowest format number whose releases may read what this one writes.
    const READABLE_FROM: u32 = 1;
}

/// The members that say which releases may read a record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    v: u32,
    readable_from: u32,
}

/// A record with its place in the store.
///
/// Members of the record that a newer release wrote and this one does not know are kept and written back, and so is what
/// that release said of who may read them. That holds for the record's own members, not for those of objects inside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// The record's key.
    pub key: Key,
    /// The revision that a write of it has to expect.
    pub revision: Revision,
    /// The record.
    pub body: T,
    header: Header,
    unknown: Map<String, Value>,
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
        if let Some(fault) = entry.fault() {
            return Err(fault);
        }
        let header: Header = serde_json::from_slice(&entry.value).map_err(|e| corrupt(&e))?;
        if header.readable_from > T::VERSION {
            return Err(StoreError::Newer { what: entry.key.to_string(), found: header.v, supported: T::VERSION });
        }
        let body: T = serde_json::from_slice(&entry.value).map_err(|e| corrupt(&e))?;
        // What this release knows is what it would write. (Flattening a map beside the body would not do: a body that
        // flattens something itself leaves all its members to the map as well.)
        let known = members(&body).map_err(|e| corrupt(&e))?;
        let mut unknown: Map<String, Value> = serde_json::from_slice(&entry.value).map_err(|e| corrupt(&e))?;
        unknown.retain(|name, _| !known.contains_key(name) && name != "v" && name != "readable_from");
        Ok(Self { key: entry.key.clone(), revision: entry.revision, body, header, unknown })
    }

    /// Whether the entry that this was read from has members, at any depth, that this release knows nothing of. `false` for what a
    /// newer release has written: it may.
    pub(crate) fn says_more_than_its_body(&self, entry: &Entry) -> bool {
        let read = serde_json::from_slice::<Map<String, Value>>(&entry.value).map(|mut read| {
            read.retain(|name, _| name != "v" && name != "readable_from");
            read
        });
        self.header.v <= T::VERSION && !matches!((read, members(&self.body)), (Ok(read), Ok(body)) if read == body)
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
        let mut stored = Self { key, revision: Revision(0), body, header: own_header::<T>(), unknown: Map::new() };
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
        let value = self
            .encode()
            .map_err(|error| StoreError::Unavailable { doing: format!("encoding {}", self.key), source: Box::new(error) })?;
        store.put(&self.key, &value, expect).await
    }

    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            header: Header,
            #[serde(flatten)]
            members: &'a Map<String, Value>,
        }
        let own = own_header::<T>();
        let header = Header { v: own.v.max(self.header.v), readable_from: own.readable_from.max(self.header.readable_from) };
        let mut members = members(&self.body)?;
        for (name, value) in &self.unknown {
            members.entry(name).or_insert_with(|| value.clone());
        }
        serde_json::to_vec(&Document { header, members: &members })
    }
}

fn own_header<T: Record>() -> Header {
    Header { v: T::VERSION, readable_from: T::READABLE_FROM }
}

fn members<T: Record>(body: &T) -> serde_json::Result<Map<String, Value>> {
    match serde_json::to_value(body)? {
        Value::Object(members) => Ok(members),
        _ => Err(serde::ser::Error::custom("a record has to be a JSON object")),
    }
}
