//! The audit log: who did what to which host, each entry bound to the one before.

use std::collections::BTreeMap;
use std::future::Future;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::record::{Record, Stored};
use crate::store::{Key, Store, StoreError};
use crate::time::Timestamp;

/// Something that an auditor asks about. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What happened, as a dotted name in the past tense, such as `session.completed`.
    pub what: String,
    /// To what: an account, a session id, a fingerprint.
    pub subject: String,
    /// Further facts by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

impl AuditEvent {
    /// An event without details.
    pub fn new(at: Timestamp, what: &str, subject: impl Into<String>) -> Self {
        Self { at, what: what.to_owned(), subject: subject.into(), details: BTreeMap::new() }
    }

    /// The same with one more fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// Takes events, for good: append-only, each entry carries the hash of the one before.
pub trait AuditSink: Send + Sync {
    /// Appends one event.
    ///
    /// A caller that gets an error has an event that is not on record; it says so and goes on, for a host left half done is
    /// worse than a gap in the log.
    fn record(&self, event: AuditEvent) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl<A: AuditSink + ?Sized> AuditSink for &A {
    fn record(&self, event: AuditEvent) -> impl Future<Output = Result<(), StoreError>> + Send {
        (**self).record(event)
    }
}

/// One entry of a writer's chain: `audit/<writer>/<n>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its place in the chain, from 1.
    pub number: u64,
    /// SHA-256 over the entry before (see [`AuditEntry::hash`]) in hex; 64 zeros for the first.
    pub previous: String,
    /// What happened.
    pub event: AuditEvent,
}

impl Record for AuditEntry {}

impl AuditEntry {
    /// The hash that the next entry carries: SHA-256 over the compact JSON of number, previous hash and event, in that
    /// order, as 64 hex digits.
    pub fn hash(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        base16(&Sha256::digest(&json))
    }
}

fn base16(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or_default()));
        text
    })
}

/// An audit log in a [`Store`], one chain for each writer.
#[derive(Debug)]
pub struct StoreAudit<S> {
    store: S,
    writer: String,
}

/// A chain that does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit chain of {writer} is broken at entry {number}: {reason}")]
pub struct BrokenChain {
    /// Whose chain.
    pub writer: String,
    /// The first entry that does not fit.
    pub number: u64,
    /// In what way.
    pub reason: &'static str,
}

impl<S: Store> StoreAudit<S> {
    /// The log of `writer`, which is one segment of a store key.
    pub fn new(store: S, writer: impl Into<String>) -> Self {
        Self { store, writer: writer.into() }
    }

    fn key(&self, number: u64) -> Result<Key, StoreError> {
        chain_key(&self.writer, number)
    }

    async fn entry(&self, number: u64) -> Result<Option<AuditEntry>, StoreError> {
        Ok(Stored::read(&self.store, &self.key(number)?).await?.map(|stored| stored.body))
    }

    /// The last entry: entries are dense from 1, so that a doubling search followed by halving finds it in few reads.
    async fn last(&self) -> Result<Option<AuditEntry>, StoreError> {
        let Some(mut last) = self.entry(1).await? else { return Ok(None) };
        let mut absent = 2;
        while let Some(entry) = self.entry(absent).await? {
            last = entry;
            absent *= 2;
        }
        while absent - last.number > 1 {
            let middle = last.number + (absent - last.number) / 2;
            match self.entry(middle).await? {
                Some(entry) => last = entry,
                None => absent = middle,
            }
        }
        Ok(Some(last))
    }

    /// Reads the whole chain and checks every link. An entry that was changed, taken out, put in or moved breaks it; that
    /// entries are missing at its end cannot be seen from the chain alone.
    ///
    /// # Errors
    /// As [`Store::list`]. A chain that does not hold together is the inner error.
    pub async fn verify(&self) -> Result<Result<Vec<AuditEntry>, BrokenChain>, StoreError> {
        let prefix = Key::new(["audit", &self.writer]).map_err(|e| unusable_writer(&self.writer, e))?;
        let mut entries = Vec::new();
        for stored in Stored::<AuditEntry>::list(&self.store, &prefix).await? {
            entries.push(stored?.body);
        }
        let broken = |number, reason| Ok(Err(BrokenChain { writer: self.writer.clone(), number, reason }));
        let mut previous = "0".repeat(64);
        for (number, entry) in (1..).zip(&entries) {
            if entry.number != number {
                return broken(number, "it is missing");
            }
            if entry.previous != previous {
                return broken(number, "it does not carry the hash of the one before");
            }
            previous = entry.hash();
        }
        Ok(Ok(entries))
    }
}

fn unusable_writer(writer: &str, error: crate::store::KeyError) -> StoreError {
    StoreError::Unavailable { doing: format!("naming the audit chain of {writer:?}"), source: Box::new(error) }
}

fn chain_key(writer: &str, number: u64) -> Result<Key, StoreError> {
    // Padded, so that the order of keys is the order of numbers.
    Key::new(["audit", writer, &format!("{number:020}")]).map_err(|e| unusable_writer(writer, e))
}

impl<S: Store> AuditSink for StoreAudit<S> {
    async fn record(&self, event: AuditEvent) -> Result<(), StoreError> {
        let mut last = self.last().await?;
        loop {
            let entry = AuditEntry {
                number: last.as_ref().map_or(1, |e| e.number + 1),
                previous: last.as_ref().map_or_else(|| "0".repeat(64), AuditEntry::hash),
                event: event.clone(),
            };
            match Stored::create(&self.store, self.key(entry.number)?, entry.clone()).await {
                Ok(_) => return Ok(()),
                // Another process of the same writer was faster; its entry is the one to follow.
                Err(StoreError::Conflict { .. }) => last = self.entry(entry.number).await?,
                Err(error) => return Err(error),
            }
        }
    }
}
