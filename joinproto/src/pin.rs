//! Fingerprints of public keys, by which a client knows its gateway.

use std::fmt;
use std::str::FromStr;

use blake2::Blake2b;
use blake2::digest::consts::U32;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::encoding;

/// How a pin's digest is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PinAlgorithm {
    /// `BLAKE2b` with a digest of 256 bits, written `b2b256`.
    Blake2b256,
    /// SHA-256, written `sha256`.
    Sha256,
}

impl PinAlgorithm {
    /// Its name in a pin's text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blake2b256 => "b2b256",
            Self::Sha256 => "sha256",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Blake2b256, Self::Sha256].into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// The fingerprint of a public key: a digest over its DER `SubjectPublicKeyInfo`. Public.
///
/// Written as the algorithm, a colon, and the digest in base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin {
    algorithm: PinAlgorithm,
    digest: [u8; 32],
}

/// Why a text is not a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Not a known algorithm.
    #[error("a pin begins with \"sha256:\" or \"b2b256:\"")]
    Algorithm,
    /// Not 32 bytes in base64url without padding and stray bits.
    #[error("a pin's digest is 32 bytes in base64url, without padding and stray bits")]
    Digest,
}

impl Pin {
    /// The pin of a key, given as DER `SubjectPublicKeyInfo`.
    pub fn of_key(algorithm: PinAlgorithm, spki: &[u8]) -> Self {
        let digest = match algorithm {
            PinAlgorithm::Blake2b256 => Blake2b::<U32>::digest(spki).into(),
            PinAlgorithm::Sha256 => Sha256::digest(spki).into(),
        };
        Self { algorithm, digest }
    }

    /// From its parts.
    pub fn new(algorithm: PinAlgorithm, digest: [u8; 32]) -> Self {
        Self { algorithm, digest }
    }

    /// How its digest was made.
    pub fn algorithm(&self) -> PinAlgorithm {
        self.algorithm
    }

    /// Its digest.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether it is the pin of this key, given as DER `SubjectPublicKeyInfo`.
    pub fn fits(&self, spki: &[u8]) -> bool {
        Self::of_key(self.algorithm, spki) == *self
    }

    pub(crate) fn from_named(name: &str, digest: &[u8]) -> Result<Self, PinError> {
        let algorithm = PinAlgorithm::from_name(name).ok_or(PinError::Algorithm)?;
        Ok(Self { algorithm, digest: digest.try_into().map_err(|_| PinError::Digest)? })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), encoding::base64url(&self.digest))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let (name, digest) = text.split_once(':').ok_or(PinError::Algorithm)?;
        let algorithm = PinAlgorithm::from_name(name).ok_or(PinError::Algorithm)?;
        let digest = encoding::unbase64url(digest.as_bytes()).ok_or(PinError::Digest)?;
        Ok(Self { algorithm, digest })
    }
}

impl TryFrom<String> for Pin {
    type Error = PinError;

    fn try_from(text: String) -> Result<Self, PinError> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}
