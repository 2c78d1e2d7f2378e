//! How a value stands in a shared store: who wrote it, and that it was they.
//!
//! `toehold-signed/1 {…}` and a line end stand before the value, which follows as it is. The signature covers the store, the key, the
//! signer, which list of members he knew, which revision he replaced, and the value: none of it can be moved to another place.

use serde::{Deserialize, Serialize};
use toehold_core::{Key, StoreError};
use toehold_specsign::{Signature, SigningKey, Verifier, VerifyingKey};

use super::member::{MemberId, StoreId};
use super::roles::Role;

/// The most bytes that stand before a value.
pub const MAX_OVERHEAD: usize = 512;

const MAGIC: &[u8] = b"toehold-signed/";
const FORMAT: u32 = 1;
const DOMAIN: &[u8] = b"toehold signed record v1\n";

/// What a signature says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Who signed.
    pub signer: MemberId,
    /// The number of the last list of members that he knew, to whom he also sealed.
    pub set: u64,
    /// The revision that this value replaced; `None` where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
}

/// The members of [`Origin`] and the signature, one beside the other: to flatten one into the other costs a read as much as all the rest.
#[derive(Serialize, Deserialize)]
struct Header {
    signer: MemberId,
    set: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<u64>,
    signature: Signature,
}

/// A value with its signature, which nothing has verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What it says of itself.
    pub origin: Origin,
    /// Over all of it.
    pub signature: Signature,
    /// The value.
    pub value: Vec<u8>,
}

/// Bytes that are no envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// There is no signature.
    #[error("it is not signed")]
    Unsigned,
    /// There is something like one.
    #[error("its signature is damaged")]
    Damaged,
    /// A newer release has signed it.
    #[error("a newer release of Toehold has signed it (format {0}, this release reads up to {FORMAT}); upgrade this machine")]
    Newer(u32),
}

/// Why a value in a shared store is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// It is no signed value.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Whoever signed is no member.
    #[error("it is signed by {0}, who is no member of this store")]
    Stranger(MemberId),
    /// Whoever signed was a member, and is none any more.
    #[error("it is signed by {name} ({id}), who is no member of this store any more")]
    Removed {
        /// Who.
        id: MemberId,
        /// What he was called.
        name: String,
    },
    /// Whoever signed has another role.
    #[error("it is signed by {name}, whose role {role} may not write it")]
    Role {
        /// Who.
        name: String,
        /// What he may do.
        role: Role,
    },
    /// Whoever signed writes another chain of the audit log.
    #[error("it is signed by {name}, and is of another writer's chain of the audit log")]
    Writer {
        /// Who.
        name: String,
    },
    /// The signature is not over this value in this place.
    #[error("the signature of {name} is not for this value in this place: it was changed, or moved here")]
    Signature {
        /// Whose it is said to be.
        name: String,
    },
    /// A newer value has been seen, and this one says that it replaced one that is older still.
    #[error("it was written before a value that was seen here: somebody has put an old one back")]
    PutBack,
}

impl Distrust {
    /// Why, and what to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Envelope(EnvelopeError::Newer(_)) => self.to_string(),
            // By whatever removed it, an older one would be as good as this one.
            Self::PutBack => format!("{self}; find out who can write to the servers"),
            _ => format!("{self}; find out who can write to the servers, and remove it with: toehold store discard KEY"),
        }
    }

    /// As the error of a store.
    pub fn at(&self, key: &Key) -> StoreError {
        StoreError::Corrupt { key: key.clone(), reason: self.advice() }
    }
}

/// What is signed.
fn message(store: &StoreId, key: &Key, origin: &Origin, value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(DOMAIN.len() + MAX_OVERHEAD + key.as_str().len() + value.len());
    message.extend_from_slice(DOMAIN);
    // Each part with its length, so that none can take from the next.
    let mut part = |bytes: &[u8]| {
        message.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        message.extend_from_slice(bytes);
    };
    part(store.as_str().as_bytes());
    part(key.as_str().as_bytes());
    part(origin.signer.as_str().as_bytes());
    part(&origin.set.to_be_bytes());
    match origin.replaces {
        Some(revision) => part(&revision.to_be_bytes()),
        None => part(&[]),
    }
    part(value);
    message
}

impl Envelope {
    /// Signs a value for this place.
    pub fn seal(signer: &SigningKey, store: &StoreId, key: &Key, origin: Origin, value: &[u8]) -> Self {
        let signature = signer.sign(&message(store, key, &origin, value));
        Self { origin, signature, value: value.to_vec() }
    }

    /// Whether the signature is of this key, over this value in this place.
    pub fn verifies(&self, by: &VerifyingKey, store: &StoreId, key: &Key) -> bool {
        by.verifies(&message(store, key, &self.origin, &self.value), &self.signature)
    }

    /// As [`Envelope::verifies`].
    pub(super) fn is_verified_by(&self, by: &Verifier, store: &StoreId, key: &Key) -> bool {
        by.verifies(&message(store, key, &self.origin, &self.value), &self.signature)
    }

    /// As it stands in a store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Origin { signer, set, replaces } = self.origin.clone();
        let header = Header { signer, set, replaces, signature: self.signature };
        let header = serde_json::to_vec(&header).unwrap_or_default();
        [MAGIC, FORMAT.to_string().as_bytes(), b" ", &header, b"\n", &self.value].concat()
    }

    /// Reads what stands in a store.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(EnvelopeError::Unsigned)?;
        let end = rest.iter().take(MAX_OVERHEAD).position(|byte| *byte == b'\n').ok_or(EnvelopeError::Damaged)?;
        let (line, value) = rest.split_at_checked(end).ok_or(EnvelopeError::Damaged)?;
        let line = std::str::from_utf8(line).map_err(|_| EnvelopeError::Damaged)?;
        let (format, header) = line.split_once(' ').ok_or(EnvelopeError::Damaged)?;
        match format.parse::<u32>() {
            Ok(FORMAT) => {}
            Ok(newer) if newer > FORMAT => return Err(EnvelopeError::Newer(newer)),
            _ => return Err(EnvelopeError::Damaged),
        }
        let header: Header = serde_json::from_str(header).map_err(|_| EnvelopeError::Damaged)?;
        let Header { signer, set, replaces, signature } = header;
        let origin = Origin { signer, set, replaces };
        let value = value.strip_prefix(b"\n").ok_or(EnvelopeError::Damaged)?.to_vec();
        Ok(Self { origin, signature, value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed_hex(&"07".repeat(32)).unwrap()
    }

    proptest! {
        #[test]
        fn n1_a_signature_holds_for_one_value_in_one_place(
            value in prop::collection::vec(any::<u8>(), 0..200),
            set in any::<u64>(),
            replaces in any::<Option<u64>>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let (store, other) = (StoreId::from_random([1; 16]), StoreId::from_random([2; 16]));
            let place = Key::parse("host/root@a").unwrap();
            let signer = MemberId::of(&key().verifying_key());
            let envelope = Envelope::seal(&key(), &store, &place, Origin { signer, set, replaces }, &value);
            let bytes = envelope.to_bytes();
            prop_assert!(bytes.len() <= value.len() + MAX_OVERHEAD);
            let read = Envelope::parse(&bytes).unwrap();
            prop_assert_eq!(&read, &envelope);
            let by = key().verifying_key();
            prop_assert!(read.verifies(&by, &store, &place));
            prop_assert!(!read.verifies(&by, &other, &place));
            prop_assert!(!read.verifies(&by, &store, &Key::parse("host/root@b").unwrap()));
            for change in [Some(1), None].into_iter().filter(|change| *change != replaces) {
                let mut moved = read.clone();
                moved.origin.replaces = change;
                prop_assert!(!moved.verifies(&by, &store, &place));
            }
            let mut changed = bytes.clone();
            let at = flip.index(changed.len());
            changed[at] ^= 1;
            let is_good = |read: Envelope| read != envelope && read.verifies(&by, &store, &place);
            prop_assert!(!Envelope::parse(&changed).is_ok_and(is_good));
        }
    }

    #[test]
    fn what_is_no_envelope_is_told_apart() {
        assert_eq!(Envelope::parse(b"{\"v\":1}"), Err(EnvelopeError::Unsigned));
        assert_eq!(Envelope::parse(b""), Err(EnvelopeError::Unsigned));
        assert_eq!(Envelope::parse(b"toehold-signed/1"), Err(EnvelopeError::Damaged));
        assert_eq!(Envelope::parse(b"toehold-signed/1 {}\nx"), Err(EnvelopeError::Damaged));
        assert_eq!(Envelope::parse(b"toehold-signed/2 whatever\nx"), Err(EnvelopeError::Newer(2)));
        assert_eq!(
            Envelope::parse(&[b"toehold-signed/1 ".as_slice(), &[b' '; 2000], b"\n"].concat()),
            Err(EnvelopeError::Damaged)
        );
    }
}
