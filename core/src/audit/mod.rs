//! The audit log: who did what to which host, each entry bound to the one before, and each chain to the others.

mod export;
mod flaw;
mod log;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::future::Future;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::export_file::base16;
use crate::record::Record;
use crate::store::{Key, KeyError, StoreError};
use crate::time::Timestamp;

pub use export::AuditExport;
pub use flaw::{AuditFault, AuditFlaw};
pub use log::{AuditLog, FoundEntry};
pub use verify::{AuditReport, ChainReport, Checkpoint};
pub use writer::StoreAudit;

/// What is before the first entry: 64 zeros in place of a hash.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

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

/// An entry by its place in a chain, and what stood there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Its place.
    pub number: u64,
    /// Its hash (see [`AuditEntry::hash`]).
    pub hash: String,
}

/// One entry of a writer's chain: `audit/<writer>/<n>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its place in the chain, from 1.
    pub number: u64,
    /// The hash of the entry before (see [`AuditEntry::hash`]); 64 zeros for the first.
    pub previous: String,
    /// What happened.
    pub event: AuditEvent,
    /// The last entries of other writers' chains, by writer, as they were when this one was written: those that have grown since
    /// this chain last named them. So the end of a chain cannot be cut off without that the others tell.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heads: BTreeMap<String, AuditHead>,
}

impl Record for AuditEntry {
    /// 2: `heads`.
    const VERSION: u32 = 2;
    /// Who does not know `heads` takes an entry for another than it is, and would continue the chain with a wrong hash.
    const READABLE_FROM: u32 = 2;
}

impl AuditEntry {
    /// The hash that the next entry carries: SHA-256 over the compact JSON of number, previous hash, event, and heads if there are
    /// any, in that order, as 64 hex digits.
    pub fn hash(&self) -> String {
        #[derive(Serialize)]
        struct Hashed<'a> {
            number: u64,
            previous: &'a str,
            event: &'a AuditEvent,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            heads: &'a BTreeMap<String, AuditHead>,
        }
        let Self { number, previous, event, heads } = self;
        base16(&Sha256::digest(serde_json::to_vec(&Hashed { number: *number, previous, event, heads }).unwrap_or_default()))
    }

    /// Its place and hash.
    pub fn head(&self) -> AuditHead {
        AuditHead { number: self.number, hash: self.hash() }
    }
}

/// That there is a chain, and where it begins: `auditwriter/<writer>`. It spares a search, and proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditWriter {
    /// The first entry that is kept.
    pub first: u64,
}

impl Record for AuditWriter {}

impl AuditWriter {
    /// `auditwriter/<writer>`.
    ///
    /// # Errors
    /// [`KeyError`] for a name that is no segment of a key.
    pub fn key(writer: &str) -> Result<Key, KeyError> {
        Key::new(["auditwriter", writer])
    }

    /// `auditwriter`, below which all of them lie.
    pub fn prefix() -> Key {
        Key::literal("auditwriter")
    }
}

fn unusable_writer(writer: &str, error: KeyError) -> StoreError {
    StoreError::Unavailable { doing: format!("naming the audit chain of {writer:?}"), source: Box::new(error) }
}

fn chain_prefix(writer: &str) -> Result<Key, StoreError> {
    Key::new(["audit", writer]).map_err(|error| unusable_writer(writer, error))
}

fn chain_key(writer: &str, number: u64) -> Result<Key, StoreError> {
    // Padded, so that the order of keys is the order of numbers.
    Key::new(["audit", writer, &format!("{number:020}")]).map_err(|error| unusable_writer(writer, error))
}

/// The writer and number of a key that [`chain_key`] has made.
fn place_of(key: &Key) -> Option<(&str, u64)> {
    let mut segments = key.segments();
    let (kind, writer, digits) = (segments.next()?, segments.next()?, segments.next()?);
    let is_entry = kind == "audit" && digits.len() == 20 && segments.next().is_none();
    let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
    (is_entry && number > 0).then_some((writer, number))
}
