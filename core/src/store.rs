//! Where state is kept: a map from keys to values in which every write says what it replaces.

use std::error::Error;
use std::fmt;
use std::future::Future;

use crate::time::Timestamp;

/// The name of a value: one or more segments, printed with `/` between them, such as `session/<id>`.
///
/// A segment is any text that is not empty and has neither `/` nor control characters; an adapter maps it to what its
/// engine can name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// A segment that a [`Key`] cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be part of a store key: it is empty, over 512 bytes, or has \"/\" or a control character")]
pub struct KeyError(String);

impl Key {
    /// A key from its segments.
    ///
    /// # Errors
    /// [`KeyError`] for a segment that is empty, over 512 bytes, or has `/` or a control character; also for no segment.
    pub fn new<I, S>(segments: I) -> Result<Self, KeyError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut joined = String::new();
        for segment in segments {
            let segment = segment.as_ref();
            if segment.is_empty() || segment.len() > 512 || segment.chars().any(|c| c == '/' || c.is_control()) {
                return Err(KeyError(segment.to_owned()));
            }
            if !joined.is_empty() {
                joined.push('/');
            }
            joined.push_str(segment);
        }
        if joined.is_empty() { Err(KeyError(joined)) } else { Ok(Self(joined)) }
    }

    /// A key of one segment that is known to be valid.
    pub(crate) fn literal(segment: &'static str) -> Self {
        Self(segment.to_owned())
    }

    /// Reads the printed form.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::new(text.split('/'))
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last segment.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The key of the first segment alone.
    #[must_use]
    pub fn kind(&self) -> Self {
        Self(self.0.split('/').next().unwrap_or_default().to_owned())
    }

    /// The printed form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this key lies below `prefix`, by whole segments. A key does not lie below itself.
    pub fn is_below(&self, prefix: &Self) -> bool {
        self.0.strip_prefix(&prefix.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

/// Which version of a key's value: grows with every write of that key, also over a delete and a new creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// What a write expects to replace. There is no "whatever is there".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key has no value.
    Absent,
    /// The key's value is of this revision.
    Revision(Revision),
}

/// A value as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// The bytes that were put.
    pub value: Vec<u8>,
    /// What a write that replaces this value has to expect.
    pub revision: Revision,
    /// When it was written, by the store's clock.
    pub written_at: Timestamp,
}

/// What the value of an entry begins with in whose place a store has something that it does not vouch for. No record begins so.
const UNREADABLE: &[u8] = b"\0toehold cannot read this: ";

impl Entry {
    /// What a [`Store::list`] has in the place of a value that the store does not vouch for, such as one whose signature is wrong: the
    /// others are not hidden by it, and it is not dropped in silence. [`crate::Stored::decode`] gives [`StoreError::Corrupt`] for it,
    /// with this reason.
    pub fn unreadable(key: Key, reason: &str, revision: Revision, written_at: Timestamp) -> Self {
        Self { key, value: [UNREADABLE, reason.as_bytes()].concat(), revision, written_at }
    }

    /// Why the store does not vouch for the value; `None` for a value that it does vouch for. Whoever takes values as they are, and not
    /// as records, asks this first.
    pub fn fault(&self) -> Option<StoreError> {
        let reason = self.value.strip_prefix(UNREADABLE)?;
        Some(StoreError::Corrupt { key: self.key.clone(), reason: String::from_utf8_lossy(reason).into_owned() })
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("bytes", &self.value.len())
            .field("revision", &self.revision)
            .field("written_at", &self.written_at)
            .finish()
    }
}

/// The error type of what a store is made of.
pub type Source = Box<dyn Error + Send + Sync + 'static>;

/// Why a store did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key's value was not what the write expected to replace; nothing was written. Read again and decide again.
    #[error("{key} was changed by somebody else in the meantime")]
    Conflict {
        /// The key.
        key: Key,
    },
    /// The value is larger than [`Store::max_value`]; nothing was written.
    #[error("{key}: a value of {got} bytes is over the store's limit of {limit}")]
    TooLarge {
        /// The key.
        key: Key,
        /// Size of the value in bytes.
        got: usize,
        /// The store's limit in bytes.
        limit: usize,
    },
    /// The store could not be reached, or failed. Whether a write took place is unknown: read before you go on.
    #[error("{doing} failed in the store")]
    Unavailable {
        /// What was being done, such as `writing session/…`.
        doing: String,
        /// The engine's own error.
        #[source]
        source: Source,
    },
    /// The engine was never asked: no key can be made of this name.
    #[error(transparent)]
    BadKey(#[from] KeyError),
    /// A value is not what its key says it should be.
    #[error("{key} in the store cannot be read: {reason}")]
    Corrupt {
        /// The key.
        key: Key,
        /// What is wrong with it; never the value itself.
        reason: String,
    },
    /// The store takes no such write from this machine; nothing was written.
    #[error("{key} is not written: {reason}")]
    Refused {
        /// The key.
        key: Key,
        /// Why not, and what to do.
        reason: String,
    },
    /// The store, or a record in it, was written by a newer release, and cannot be read without guessing.
    #[error(
        "{what} was written by a newer release of Toehold (format {found}, this release reads up to {supported}); upgrade this machine"
    )]
    Newer {
        /// The record's key, or the store's place.
        what: String,
        /// Its format number.
        found: u32,
        /// The highest format number known here.
        supported: u32,
    },
}

/// A store of small values.
///
/// A `list` or `watch` may be stale and a watch may skip versions: every decision is a conditional write. Implementers: a
/// `put` that reports success without having replaced exactly what it expected loses somebody's update; one that reports
/// [`StoreError::Conflict`] for nothing costs a retry. Success means durable: the value survives a crash of this process and
/// of this machine. `toehold_core::testing::store_conformance` checks an implementation.
pub trait Store: Send + Sync {
    /// What [`Store::watch`] returns.
    type Watch: Watch;

    /// Reads one value; `None` where there is none.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// Writes `value` if the key is as `expect` says, and returns the new revision.
    fn put(&self, key: &Key, value: &[u8], expect: Expect) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// Removes the value if it is of this revision.
    fn delete(&self, key: &Key, revision: Revision) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All values below `prefix` (see [`Key::is_below`]), in the order of their keys. In the place of a value that the store does not
    /// vouch for stands an [`Entry::unreadable`].
    fn list(&self, prefix: &Key) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send;

    /// The first segments of all keys that have a value, each once and in order: with them everything in the store can be listed.
    fn kinds(&self) -> impl Future<Output = Result<Vec<Key>, StoreError>> + Send;

    /// Reports changes below `prefix` from now on.
    fn watch(&self, prefix: &Key) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    /// The largest value in bytes that this store takes.
    fn max_value(&self) -> usize;
}

/// The changes below a prefix.
pub trait Watch: Send {
    /// Waits for a change and names its key: written or deleted, read it to know. Several changes of one key may be
    /// reported once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the watch has broken; open another and list.
    fn changed(&mut self) -> impl Future<Output = Result<Key, StoreError>> + Send;
}

impl<S: Store + ?Sized> Store for &S {
    type Watch = S::Watch;

    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send {
        (**self).get(key)
    }

    fn put(&self, key: &Key, value: &[u8], expect: Expect) -> impl Future<Output = Result<Revision, StoreError>> + Send {
        (**self).put(key, value, expect)
    }

    fn delete(&self, key: &Key, revision: Revision) -> impl Future<Output = Result<(), StoreError>> + Send {
        (**self).delete(key, revision)
    }

    fn list(&self, prefix: &Key) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + Send {
        (**self).list(prefix)
    }

    fn kinds(&self) -> impl Future<Output = Result<Vec<Key>, StoreError>> + Send {
        (**self).kinds()
    }

    fn watch(&self, prefix: &Key) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send {
        (**self).watch(prefix)
    }

    fn max_value(&self) -> usize {
        (**self).max_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_goes_by_whole_segments() {
        let key = |text| Key::parse(text).unwrap();
        assert!(key("session/1").is_below(&key("session")));
        assert!(key("rotation/1/a@b").is_below(&key("rotation/1")));
        assert!(!key("session/1").is_below(&key("sess")));
        assert!(!key("session").is_below(&key("session")));
        assert_eq!(key("rotation/1/root@[::1]").name(), "root@[::1]");
        assert_eq!(key("rotation/1/root@[::1]").kind(), key("rotation"));
    }

    #[test]
    fn what_is_not_vouched_for_is_told_when_it_is_read() {
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        struct Any {}
        impl crate::Record for Any {}
        let key = Key::parse("host/a").unwrap();
        let entry = Entry::unreadable(key.clone(), "nobody signed it", Revision(7), Timestamp::UNIX_EPOCH);
        for error in [entry.fault().unwrap(), crate::Stored::<Any>::decode(&entry).unwrap_err()] {
            assert!(matches!(error, StoreError::Corrupt { key: named, reason } if named == key && reason == "nobody signed it"));
        }
        let good = Entry { value: b"{\"v\":1,\"readable_from\":1}".to_vec(), ..entry };
        assert!(good.fault().is_none() && crate::Stored::<Any>::decode(&good).is_ok());
    }

    #[test]
    fn segments_are_checked() {
        assert!(Key::new(["a", ""]).is_err());
        assert!(Key::new(["a/b"]).is_err());
        assert!(Key::new(["a\n"]).is_err());
        assert!(Key::new(Vec::<String>::new()).is_err());
        assert!(Key::parse("/a").is_err());
    }
}
