//! Documents of specifications in a store: `spec/<name>`, and `spec/<name>/<digest>` for the pieces of one that is larger than the
//! store's largest value.
//!
//! The store is believed in nothing: whoever takes a document judges it as if it had come from anywhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toehold_core::{Key, KeyError, Record, Store, StoreError, Stored};
use toehold_specsign::{Document, DocumentError, Sha256Digest, SignedStatement, SpecName, TrustedKeys};

/// The most specifications that are named to machines which join: all of them go into one message.
pub const MAX_VOUCHED: usize = 64;
/// The most keys of each of them.
pub const MAX_VOUCHED_KEYS: usize = 8;

/// What is stored of a specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecRecord {
    /// SHA-256 of the document.
    pub digest: Sha256Digest,
    /// The document's size in bytes.
    pub size: u64,
    /// Its serial; `None` without an envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<u64>,
    /// The digest of its statement; `None` without an envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Sha256Digest>,
    /// The keys that whoever put it there named, and that have signed it: what a machine that joins may begin with (S3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<TrustedKeys>,
    /// The document, where it fits in here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    /// The digests of its pieces in their order, otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pieces: Vec<Sha256Digest>,
}

impl Record for SpecRecord {}

impl SpecRecord {
    /// The digests of the pieces that the document is kept in; none where it stands in the record.
    pub fn pieces(&self) -> &[Sha256Digest] {
        &self.pieces
    }
}

/// Why a document is not put into the store, or cannot be had out of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecStoreError {
    /// The store's own reasons.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is none.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It is a version of another specification.
    #[error("the document is of the specification {got}, not of {wanted}")]
    Name {
        /// The store's.
        wanted: SpecName,
        /// The document's.
        got: SpecName,
    },
    /// The store has a later version.
    #[error("{name} is at serial {stored} in the store, and this document has {got}: no node would take it any more")]
    Older {
        /// Which.
        name: SpecName,
        /// The store's.
        stored: u64,
        /// The document's.
        got: u64,
    },
    /// The store has another document of this serial.
    #[error("serial {serial} of {name} is another document in the store; two of one serial are refused by every node")]
    Fork {
        /// Which.
        name: SpecName,
        /// The serial.
        serial: u64,
    },
    /// The store's has an envelope and this one has none.
    #[error("{0} has an envelope in the store, and this document has none: nodes that have seen one take no other")]
    Stripped(SpecName),
    /// Machines that join would not be told all of its keys.
    #[error("{got} keys are named for {name}; machines that join can be told {MAX_VOUCHED_KEYS} at most")]
    Keys {
        /// Which.
        name: SpecName,
        /// How many.
        got: usize,
    },
    /// Machines that join would not be told of it.
    #[error(
        "keys are named for {MAX_VOUCHED} specifications in the store, and machines that join can be told of no more: not of {0}"
    )]
    Many(SpecName),
    /// A piece is not there, or is not what it should be.
    #[error("the document of {0} in the store is damaged: a piece of it is gone or is another; put it there again")]
    Damaged(SpecName),
}

impl From<KeyError> for SpecStoreError {
    fn from(error: KeyError) -> Self {
        Self::Store(error.into())
    }
}

/// Where a specification is kept.
///
/// # Errors
/// Never for a name; the store's rules are checked all the same.
pub fn key(name: &SpecName) -> Result<Key, KeyError> {
    Key::new(["spec", name.as_str()])
}

fn piece_key(name: &SpecName, digest: &Sha256Digest) -> Result<Key, KeyError> {
    Key::new(["spec", name.as_str(), &digest.to_string()])
}

/// What is stored of a specification; `None` where there is none.
///
/// # Errors
/// [`SpecStoreError::Store`].
pub async fn record<S: Store + ?Sized>(store: &S, name: &SpecName) -> Result<Option<SpecRecord>, SpecStoreError> {
    Ok(Stored::<SpecRecord>::read(store, &key(name)?).await?.map(|stored| stored.body))
}

/// The specifications that machines which join may begin with, and whom to trust there (S3): those that somebody vouched for.
#[derive(Debug, Default)]
pub struct Vouched {
    /// By name: the serial, and whom to trust.
    pub specs: BTreeMap<SpecName, (u64, TrustedKeys)>,
    /// Records that cannot be read. They are nobody's but their own.
    pub unreadable: Vec<StoreError>,
}

/// What somebody vouched for.
///
/// # Errors
/// [`SpecStoreError::Store`] where the store fails; a record that cannot be read is told beside the others.
pub async fn vouched<S: Store + ?Sized>(store: &S) -> Result<Vouched, SpecStoreError> {
    let mut found = Vouched::default();
    for entry in store.list(&Key::new(["spec"])?).await? {
        // Its pieces lie below it.
        let name = match entry.key.segments().collect::<Vec<_>>().as_slice() {
            [_, name] => name.parse::<SpecName>().ok(),
            _ => None,
        };
        let Some(name) = name else { continue };
        match Stored::<SpecRecord>::decode(&entry).map(|stored| stored.body) {
            Ok(SpecRecord { serial: Some(serial), vouched: Some(keys), .. }) => _ = found.specs.insert(name, (serial, keys)),
            Ok(_) => {}
            Err(error) => found.unreadable.push(error),
        }
    }
    Ok(found)
}

/// Reads the document of a specification; `None` where there is none.
///
/// # Errors
/// [`SpecStoreError::Store`], and [`SpecStoreError::Damaged`].
pub async fn read<S: Store + ?Sized>(store: &S, name: &SpecName) -> Result<Option<Vec<u8>>, SpecStoreError> {
    let mut last = None;
    // Another version may come while its pieces are read, and then its own are gone.
    loop {
        let Some(stored) = Stored::<SpecRecord>::read(store, &key(name)?).await? else { return Ok(None) };
        if let Some(document) = assemble(store, name, &stored.body).await? {
            return Ok(Some(document));
        }
        if last.replace(stored.revision) == Some(stored.revision) {
            return Err(SpecStoreError::Damaged(name.clone()));
        }
    }
}

async fn assemble<S: Store + ?Sized>(store: &S, name: &SpecName, record: &SpecRecord) -> Result<Option<Vec<u8>>, SpecStoreError> {
    let mut document = Vec::new();
    if let Some(text) = &record.document {
        document.extend_from_slice(text.as_bytes());
    }
    for digest in &record.pieces {
        let Some(entry) = store.get(&piece_key(name, digest)?).await? else { return Ok(None) };
        document.extend_from_slice(&entry.value);
    }
    Ok((Sha256Digest::of(&document) == record.digest).then_some(document))
}

/// What putting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Whether the store had this very document before.
    pub unchanged: bool,
    /// Its serial; `None` without an envelope.
    pub serial: Option<u64>,
    /// How many pieces it is kept in; 0 for one that is kept whole.
    pub pieces: usize,
}

/// Puts a document into the store, in place of the version before.
///
/// # Errors
/// [`SpecStoreError`]; [`StoreError::Conflict`] where somebody else put one there meanwhile. The one before is still there then.
pub async fn put<S: Store + ?Sized>(store: &S, name: &SpecName, document: &[u8]) -> Result<Put, SpecStoreError> {
    put_vouched(store, name, document, None).await
}

/// The same with the keys that the operator named, and that have been seen to have signed it.
///
/// # Errors
/// As [`put`].
pub async fn put_vouched<S: Store + ?Sized>(
    store: &S,
    name: &SpecName,
    document: &[u8],
    vouched: Option<&TrustedKeys>,
) -> Result<Put, SpecStoreError> {
    let parsed = Document::parse(document)?;
    let signed = parsed.envelope().map(|envelope| &envelope.current);
    if let Some(statement) = signed.map(SignedStatement::statement).filter(|statement| statement.name != *name) {
        return Err(SpecStoreError::Name { wanted: name.clone(), got: statement.name.clone() });
    }
    let serial = signed.map(|signed| signed.statement().serial);
    let statement = signed.map(SignedStatement::digest);
    if let (Some(keys), Some(_)) = (vouched, serial) {
        check_named(store, name, keys).await?;
    }
    let stored = Stored::<SpecRecord>::read(store, &key(name)?).await?;
    if let Some(stored) = &stored {
        check(name, &stored.body, serial, statement)?;
    }
    let record = SpecRecord { serial, statement, vouched: vouched.cloned(), ..kept(store.max_value(), document) };
    let pieces = record.pieces.len();
    put_pieces(store, name, &record, document).await?;
    let before = stored.as_ref().map(|stored| stored.body.pieces.clone()).unwrap_or_default();
    let unchanged = stored.as_ref().is_some_and(|stored| stored.body == record);
    let written = match stored {
        Some(_) if unchanged => Ok(()),
        Some(mut stored) => {
            stored.body = record.clone();
            stored.save(store).await
        }
        None => Stored::create(store, key(name)?, record.clone()).await.map(drop),
    };
    match written {
        Ok(()) => {
            // Whoever replaced the same version may have taken a piece away that both have.
            put_pieces(store, name, &record, document).await?;
            remove_pieces(store, name, &before, &record.pieces).await?;
            Ok(Put { unchanged, serial, pieces })
        }
        Err(error) => {
            let current = Stored::<SpecRecord>::read(store, &key(name)?).await?;
            let used = current.map(|current| current.body.pieces).unwrap_or_default();
            remove_pieces(store, name, &record.pieces, &used).await?;
            Err(error.into())
        }
    }
}

/// Machines that join have to be told of it, and of all its keys.
async fn check_named<S: Store + ?Sized>(store: &S, name: &SpecName, keys: &TrustedKeys) -> Result<(), SpecStoreError> {
    let got = keys.keys().count();
    if got > MAX_VOUCHED_KEYS {
        return Err(SpecStoreError::Keys { name: name.clone(), got });
    }
    let named = vouched(store).await?.specs;
    if named.keys().filter(|other| *other != name).count() >= MAX_VOUCHED {
        return Err(SpecStoreError::Many(name.clone()));
    }
    Ok(())
}

fn check(
    name: &SpecName,
    stored: &SpecRecord,
    serial: Option<u64>,
    statement: Option<Sha256Digest>,
) -> Result<(), SpecStoreError> {
    match (stored.serial, serial) {
        (Some(stored), Some(got)) if got < stored => Err(SpecStoreError::Older { name: name.clone(), stored, got }),
        (Some(before), Some(serial)) if serial == before && statement != stored.statement => {
            Err(SpecStoreError::Fork { name: name.clone(), serial })
        }
        (Some(_), None) => Err(SpecStoreError::Stripped(name.clone())),
        _ => Ok(()),
    }
}

/// The document, whole or in pieces.
fn kept(max_value: usize, document: &[u8]) -> SpecRecord {
    let size = document.len() as u64;
    // Its quotes are escaped in the record.
    let whole = document.len().saturating_mul(2).saturating_add(4096) <= max_value;
    let text = std::str::from_utf8(document).ok().filter(|_| whole).map(str::to_owned);
    let pieces = match &text {
        Some(_) => Vec::new(),
        None => document.chunks(max_value.max(1)).map(Sha256Digest::of).collect(),
    };
    SpecRecord { digest: Sha256Digest::of(document), size, serial: None, statement: None, vouched: None, document: text, pieces }
}

async fn put_pieces<S: Store + ?Sized>(
    store: &S,
    name: &SpecName,
    record: &SpecRecord,
    document: &[u8],
) -> Result<(), SpecStoreError> {
    for (digest, piece) in record.pieces.iter().zip(document.chunks(store.max_value().max(1))) {
        match store.put(&piece_key(name, digest)?, piece, toehold_core::Expect::Absent).await {
            // It is named by its digest, and there already.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes the pieces of `old` that `used` does not have.
async fn remove_pieces<S: Store + ?Sized>(
    store: &S,
    name: &SpecName,
    old: &[Sha256Digest],
    used: &[Sha256Digest],
) -> Result<(), SpecStoreError> {
    for digest in old.iter().filter(|digest| !used.contains(digest)) {
        let key = piece_key(name, digest)?;
        if let Some(entry) = store.get(&key).await? {
            match store.delete(&key, entry.revision).await {
                Ok(()) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
