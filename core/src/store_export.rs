//! Everything in a store as a file of JSON lines: each value as it is, with its key.
//!
//! A file is read as one that anybody may have written. It holds what the store holds: what is sealed there is sealed in it.

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::export_file::{ExportError, ExportReader, ExportWriter, base16};
use crate::store::{Entry, Key};
use crate::time::Timestamp;

/// What the first line says that the file is.
const NAME: &str = "store_export";

/// A value of a store, without what only that store can say of it: its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedValue {
    /// Its key.
    pub key: Key,
    /// Its bytes.
    pub value: Vec<u8>,
    /// When it was written there; for people.
    pub written_at: Timestamp,
}

impl From<Entry> for ExportedValue {
    fn from(entry: Entry) -> Self {
        Self { key: entry.key, value: entry.value, written_at: entry.written_at }
    }
}

/// Everything in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreExport {
    made_at: Timestamp,
    values: Vec<ExportedValue>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    written_at: Timestamp,
    value: String,
}

impl StoreExport {
    /// Of these values; the last one of a key counts.
    pub fn new(made_at: Timestamp, values: impl IntoIterator<Item = ExportedValue>) -> Self {
        let by_key: std::collections::BTreeMap<Key, ExportedValue> =
            values.into_iter().map(|value| (value.key.clone(), value)).collect();
        Self { made_at, values: by_key.into_values().collect() }
    }

    /// When it was made.
    pub fn made_at(&self) -> Timestamp {
        self.made_at
    }

    /// The values, in the order of their keys, each key once.
    pub fn values(&self) -> &[ExportedValue] {
        &self.values
    }

    /// SHA-256 over all keys and values, each with its length before it in 8 bytes, big-endian; in hex. Two stores that hold the same
    /// have the same digest, whatever their revisions and times are.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for part in self.values.iter().flat_map(|value| [value.key.as_str().as_bytes(), &value.value]) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        base16(&digest.finalize())
    }

    /// As a file.
    ///
    /// # Errors
    /// None in practice: all of it can be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut file = ExportWriter::new(NAME, self.made_at);
        for ExportedValue { key, value, written_at } in &self.values {
            file.line(&Line { key: key.to_string(), written_at: *written_at, value: Base64::encode_string(value) })?;
        }
        Ok(file.finish())
    }

    /// Reads a file, whoever wrote it.
    ///
    /// # Errors
    /// [`ExportError`] for whatever is not as [`StoreExport::to_bytes`] wrote it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ExportError> {
        let mut file = ExportReader::new(bytes);
        let made_at = file.first(NAME)?;
        let mut values: Vec<ExportedValue> = Vec::new();
        while let Some(text) = file.next()? {
            let value = value_of(text).ok_or_else(|| file.wrong("no value of a store"))?;
            if values.last().is_some_and(|last| last.key >= value.key) {
                return Err(file.wrong("out of order"));
            }
            values.push(value);
        }
        Ok(Self { made_at, values })
    }
}

fn value_of(text: &[u8]) -> Option<ExportedValue> {
    let line: Line = serde_json::from_slice(text).ok()?;
    let value = Base64::decode_vec(&line.value).ok()?;
    Some(ExportedValue { key: Key::parse(&line.key).ok()?, value, written_at: line.written_at })
}
