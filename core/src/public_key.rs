//! SSH public keys as the wire sees them, and their fingerprints.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Base64Unpadded, Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The most bytes that a key blob may have: four times the largest RSA key that OpenSSH accepts (16,384 bits).
pub const MAX_BLOB: usize = 16 * 1024;

/// An SSH public key: the key blob of RFC 4253 §6.6, whatever its algorithm.
///
/// The algorithm name inside the blob is the one that counts; the text form `ssh-ed25519 AAAA…` is accepted only where
/// both agree. Two keys are equal when their blobs are. Serialised as that text, without comment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    algorithm: String,
    blob: Vec<u8>,
}

/// Why bytes or a text are not a [`PublicKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// The text has no two fields.
    #[error("a public key is written as its algorithm, a blank and base64")]
    MissingField,
    /// The second field is not canonical base64.
    #[error("the key is not valid base64")]
    Base64,
    /// The blob does not begin with the length-prefixed name of an algorithm.
    #[error("the key blob does not begin with an algorithm name (RFC 4253 §6.6)")]
    NoAlgorithm,
    /// The name before the base64 is not the one inside the blob.
    #[error("the key says {outside} before the base64 and {inside} inside it")]
    AlgorithmMismatch {
        /// The first field of the text.
        outside: String,
        /// The name inside the blob.
        inside: String,
    },
    /// More than [`MAX_BLOB`] bytes.
    #[error("a key blob of {got} bytes is over the limit of {MAX_BLOB}")]
    TooLong {
        /// Bytes found.
        got: usize,
    },
}

impl PublicKey {
    /// Reads a key blob (RFC 4253 §6.6). The key material behind the algorithm's name is not judged.
    ///
    /// # Errors
    /// [`PublicKeyError::NoAlgorithm`] or [`PublicKeyError::TooLong`].
    pub fn from_blob(blob: &[u8]) -> Result<Self, PublicKeyError> {
        if blob.len() > MAX_BLOB {
            return Err(PublicKeyError::TooLong { got: blob.len() });
        }
        let (length, rest) = blob.split_first_chunk::<4>().ok_or(PublicKeyError::NoAlgorithm)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| PublicKeyError::NoAlgorithm)?;
        let name = rest.get(..length).ok_or(PublicKeyError::NoAlgorithm)?;
        if name.is_empty() || name.len() > 64 || !name.iter().all(|b| b.is_ascii_graphic() && *b != b',') {
            return Err(PublicKeyError::NoAlgorithm);
        }
        let algorithm = String::from_utf8_lossy(name).into_owned();
        Ok(Self { algorithm, blob: blob.to_vec() })
    }

    /// The algorithm's name, such as `ssh-ed25519` (RFC 8709), as it stands inside the blob.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The key blob of RFC 4253 §6.6.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The blob in padded base64: the second field of an `authorized_keys` or `.pub` line.
    pub fn base64(&self) -> String {
        Base64::encode_string(&self.blob)
    }

    /// The SHA-256 fingerprint, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(&self.blob).into())
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    /// Reads `algorithm base64 [comment]`; the comment is dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.split_ascii_whitespace();
        let (Some(outside), Some(base64)) = (fields.next(), fields.next()) else {
            return Err(PublicKeyError::MissingField);
        };
        if base64.len() > MAX_BLOB * 2 {
            return Err(PublicKeyError::TooLong { got: base64.len() / 4 * 3 });
        }
        let key = Self::from_blob(&Base64::decode_vec(base64).map_err(|_| PublicKeyError::Base64)?)?;
        if key.algorithm != outside {
            return Err(PublicKeyError::AlgorithmMismatch { outside: outside.to_owned(), inside: key.algorithm });
        }
        Ok(key)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.base64())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm, self.fingerprint())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// The SHA-256 of a key blob; written as OpenSSH does, `SHA256:` and 43 characters of unpadded base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// A text that is not a SHA-256 fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a fingerprint: SHA256: and 43 characters, as ssh-keygen -l prints it")]
pub struct FingerprintError(String);

impl Fingerprint {
    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash as 43 characters of `A–Z a–z 0–9 - _` (RFC 4648 §5), for names such as a segment of a store key, in which
    /// the `/` of the printed form cannot stand.
    pub fn to_segment(&self) -> String {
        Base64UrlUnpadded::encode_string(&self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || FingerprintError(text.to_owned());
        let mut bytes = [0; 32];
        let base64 = text.strip_prefix("SHA256:").ok_or_else(bad)?;
        match Base64Unpadded::decode(base64, &mut bytes) {
            Ok(decoded) if decoded.len() == 32 => Ok(Self(bytes)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", Base64Unpadded::encode_string(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Made with ssh-keygen -t ed25519; the fingerprint is what ssh-keygen -l printed for it.
    const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV someone@example.net";

    #[test]
    fn a_line_is_read_and_printed() {
        let key: PublicKey = LINE.parse().unwrap();
        assert_eq!(key.algorithm(), "ssh-ed25519");
        assert_eq!(format!("{key} someone@example.net"), LINE);
        assert_eq!(key.fingerprint().to_string().parse(), Ok(key.fingerprint()));
    }

    #[test]
    fn a_fingerprint_has_a_form_without_slashes() {
        let fingerprint = Fingerprint([0xff; 32]);
        assert!(fingerprint.to_string().contains('/'));
        assert_eq!(fingerprint.to_segment(), format!("{}8", "_".repeat(42)));
    }

    #[test]
    fn the_two_names_must_agree() {
        let error = LINE.replacen("ssh-ed25519", "ssh-rsa", 1).parse::<PublicKey>().unwrap_err();
        assert!(matches!(error, PublicKeyError::AlgorithmMismatch { .. }));
    }

    proptest! {
        #[test]
        fn blobs_never_panic(blob in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(key) = PublicKey::from_blob(&blob) {
                prop_assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
            }
        }

        #[test]
        fn texts_never_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<PublicKey>();
            let _ = text.parse::<Fingerprint>();
        }
    }
}
