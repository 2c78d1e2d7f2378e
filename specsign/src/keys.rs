//! Ed25519 keys as Choria prints them and as OpenSSH keeps them, and sets of keys that are trusted together.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::Signer as _;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::hex;

/// The most bytes that a private key file may have.
pub const MAX_KEY_FILE: usize = 16 * 1024;

/// The most keys of a [`TrustedKeys`].
pub const MAX_TRUSTED_KEYS: usize = 64;

/// Why bytes or a text are no key of ours. Never holds any part of a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 64 hex digits.
    #[error("a public key is 64 hex digits, or an OpenSSH line that begins with ssh-ed25519")]
    NotPublic,
    /// Not 128 hex digits (seed and public half), nor an OpenSSH private key file.
    #[error("a private key is 128 hex digits (seed and public half), a file with 64 (seed), or an OpenSSH private key file")]
    NotPrivate,
    /// The 32 bytes are no point of the curve, or not its one canonical encoding.
    #[error("the public key is no canonical point of Ed25519")]
    NotAPoint,
    /// A point of small order: anybody can forge signatures that it verifies.
    #[error("the public key has a small order, so that everybody could sign for it")]
    SmallOrder,
    /// The second half of the private key does not belong to the first. Signing with it would give the key away.
    #[error("the two halves of the private key do not belong together")]
    HalvesDiffer,
    /// The file is in OpenSSH's format, and no Ed25519 key could be read from it.
    #[error("the OpenSSH private key file cannot be used: {0}")]
    OpenSsh(&'static str),
    /// The OpenSSH private key file is encrypted, and no passphrase was given.
    #[error("the OpenSSH private key file needs its passphrase")]
    NeedsPassphrase,
    /// Longer than [`MAX_KEY_FILE`].
    #[error("a key file of {got} bytes is over the limit of {MAX_KEY_FILE}")]
    TooLong {
        /// Its size in bytes.
        got: usize,
    },
    /// A set of trusted keys that could never verify anything, or that nobody can keep track of.
    #[error(
        "{threshold} of {keys} keys cannot be asked for; the threshold is from 1 to the number of keys, of which there are 1 to {MAX_TRUSTED_KEYS}"
    )]
    Threshold {
        /// Distinct keys.
        keys: usize,
        /// How many have to sign.
        threshold: usize,
    },
}

/// A public key. Written as 64 lower-case hex digits; upper case is read, too.
///
/// What is not the canonical encoding of a point, or is of small order, is no `VerifyingKey`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// From the 32 bytes of RFC 8032 §5.1.2.
    ///
    /// # Errors
    /// [`KeyError::NotAPoint`] or [`KeyError::SmallOrder`].
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotAPoint)?;
        if key.is_weak() {
            return Err(KeyError::SmallOrder);
        }
        // Decompression takes a y of the field's size or more, and a sign for x = 0.
        if key.to_edwards().compress().to_bytes() != bytes {
            return Err(KeyError::NotAPoint);
        }
        Ok(Self(bytes))
    }

    /// From an OpenSSH public key.
    ///
    /// # Errors
    /// [`KeyError::NotPublic`] where that is no Ed25519 key, otherwise as [`VerifyingKey::from_bytes`].
    pub fn from_ssh(key: &toehold_core::PublicKey) -> Result<Self, KeyError> {
        let point = key.blob().strip_prefix(b"\0\0\0\x0bssh-ed25519\0\0\0\x20").ok_or(KeyError::NotPublic)?;
        Self::from_bytes(point.try_into().map_err(|_| KeyError::NotPublic)?)
    }

    /// The same key as OpenSSH knows it.
    ///
    /// # Errors
    /// Never for an Ed25519 key; the other crate's type is checked all the same.
    pub fn to_ssh(&self) -> Result<toehold_core::PublicKey, toehold_core::PublicKeyError> {
        toehold_core::PublicKey::from_blob(&self.ssh_blob())
    }

    /// The key blob of RFC 8709 §4.
    pub(crate) fn ssh_blob(&self) -> Vec<u8> {
        [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &self.0].concat()
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` over `message` was made with this key. A signature with a small-order R or an S that is not
    /// reduced never was.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        self.verifier().is_some_and(|verifier| verifier.verifies(message, signature))
    }

    /// The same key for whoever verifies much with it: what it takes to read it is done once.
    pub fn verifier(&self) -> Option<Verifier> {
        ed25519_dalek::VerifyingKey::from_bytes(&self.0).ok().map(Verifier)
    }
}

/// A public key that is ready to verify with: [`VerifyingKey::verifier`].
#[derive(Clone, Debug)]
pub struct Verifier(ed25519_dalek::VerifyingKey);

impl Verifier {
    /// As [`VerifyingKey::verifies`].
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

impl FromStr for VerifyingKey {
    type Err = KeyError;

    /// Reads 64 hex digits in either case, or an OpenSSH line `ssh-ed25519 AAAA… [comment]`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("ssh-ed25519 ") {
            return Self::from_ssh(&text.parse().map_err(|_| KeyError::NotPublic)?);
        }
        let mut bytes = [0; 32];
        if !hex::decode_into(text, true, &mut bytes) {
            return Err(KeyError::NotPublic);
        }
        Self::from_bytes(bytes)
    }
}

impl TryFrom<String> for VerifyingKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VerifyingKey> for String {
    fn from(key: VerifyingKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

/// A signature. Written as 128 lower-case hex digits, and read in no other way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature([u8; 64]);

impl Signature {
    /// From the 64 bytes of RFC 8032 §5.1.6, such as an agent gives.
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

/// A text that is no [`Signature`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature is 128 lower-case hex digits")]
pub struct SignatureError;

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode(text).map(Self).ok_or(SignatureError)
    }
}

impl TryFrom<String> for Signature {
    type Error = SignatureError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        hex::encode(&signature.0)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// A private key: wiped when dropped, never printed.
pub struct SigningKey(Box<ed25519_dalek::SigningKey>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey([redacted], {})", self.verifying_key())
    }
}

impl SigningKey {
    /// A fresh key.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// From the 32 bytes of its seed, such as a derived one.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Box::new(ed25519_dalek::SigningKey::from_bytes(seed)))
    }

    /// Reads 128 hex digits in either case: seed and public half, as `mms keys` prints them.
    ///
    /// # Errors
    /// [`KeyError::NotPrivate`]; [`KeyError::HalvesDiffer`], where signing would give the key away.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut pair = Zeroizing::new([0; 64]);
        if !hex::decode_into(text, true, &mut *pair) {
            return Err(KeyError::NotPrivate);
        }
        let key = ed25519_dalek::SigningKey::from_keypair_bytes(&pair).map_err(|_| KeyError::HalvesDiffer)?;
        Ok(Self(Box::new(key)))
    }

    /// Reads 64 hex digits in either case: the seed alone, as Choria's plugins tool keeps it in a file.
    ///
    /// # Errors
    /// [`KeyError::NotPrivate`].
    pub fn from_seed_hex(text: &str) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        if !hex::decode_into(text, true, &mut *seed) {
            return Err(KeyError::NotPrivate);
        }
        Ok(Self(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed))))
    }

    /// Reads a key file: hex as [`SigningKey::from_hex`] or [`SigningKey::from_seed_hex`] with at most one line end behind
    /// it, or OpenSSH's own format, with `passphrase` where it is encrypted.
    ///
    /// # Errors
    /// As those two; [`KeyError::OpenSsh`], [`KeyError::NeedsPassphrase`] and [`KeyError::TooLong`].
    pub fn from_file(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<Self, KeyError> {
        if bytes.len() > MAX_KEY_FILE {
            return Err(KeyError::TooLong { got: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| KeyError::NotPrivate)?;
        if text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") {
            return Self::from_openssh(text, passphrase);
        }
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.len() == 64 { Self::from_seed_hex(text) } else { Self::from_hex(text) }
    }

    fn from_openssh(text: &str, passphrase: Option<&[u8]>) -> Result<Self, KeyError> {
        let mut key = ssh_key::PrivateKey::from_openssh(text).map_err(|_| KeyError::OpenSsh("it is damaged"))?;
        if key.is_encrypted() {
            let passphrase = passphrase.ok_or(KeyError::NeedsPassphrase)?;
            key = key.decrypt(passphrase).map_err(|_| KeyError::OpenSsh("the passphrase does not open it"))?;
        }
        let pair = key.key_data().ed25519().ok_or(KeyError::OpenSsh("it is not an Ed25519 key"))?;
        let own = Self(Box::new(ed25519_dalek::SigningKey::from_bytes(pair.private.as_ref())));
        if own.0.verifying_key().to_bytes() == pair.public.0 { Ok(own) } else { Err(KeyError::HalvesDiffer) }
    }

    /// The 128 hex digits that `mms keys` prints: seed and public half.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(self.0.to_keypair_bytes());
        Zeroizing::new(hex::encode(&*pair))
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key().to_bytes())
    }

    /// The signature over bytes that a format of this crate gave out.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

/// Keys that are trusted together: at least `threshold` distinct ones of them have to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Members", into = "Members")]
pub struct TrustedKeys {
    keys: BTreeSet<VerifyingKey>,
    threshold: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    keys: Vec<VerifyingKey>,
    threshold: usize,
}

impl TryFrom<Members> for TrustedKeys {
    type Error = KeyError;

    fn try_from(members: Members) -> Result<Self, Self::Error> {
        let listed = members.keys.len();
        let trusted = Self::new(members.keys, members.threshold)?;
        // A key that stands there twice would look like two to whoever reads the list.
        if trusted.keys.len() == listed {
            Ok(trusted)
        } else {
            Err(KeyError::Threshold { keys: trusted.keys.len(), threshold: trusted.threshold })
        }
    }
}

impl From<TrustedKeys> for Members {
    fn from(trusted: TrustedKeys) -> Self {
        Self { keys: trusted.keys.into_iter().collect(), threshold: trusted.threshold }
    }
}

impl TrustedKeys {
    /// `threshold` of `keys`; a key that comes twice counts once.
    ///
    /// # Errors
    /// [`KeyError::Threshold`].
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>, threshold: usize) -> Result<Self, KeyError> {
        let keys: BTreeSet<VerifyingKey> = keys.into_iter().collect();
        if threshold == 0 || threshold > keys.len() || keys.len() > MAX_TRUSTED_KEYS {
            return Err(KeyError::Threshold { keys: keys.len(), threshold });
        }
        Ok(Self { keys, threshold })
    }

    /// One key, which suffices.
    pub fn one(key: VerifyingKey) -> Self {
        Self { keys: BTreeSet::from([key]), threshold: 1 }
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.keys.iter()
    }

    /// How many of them have to sign.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &VerifyingKey) -> bool {
        self.keys.contains(key)
    }

    /// Those of the trusted keys that made one of `signatures` over `message`. A signature that is named for a key and
    /// does not verify counts for nothing; each key counts once.
    pub(crate) fn signers<'a>(
        &self,
        message: &[u8],
        signatures: impl IntoIterator<Item = (&'a VerifyingKey, &'a Signature)>,
    ) -> BTreeSet<VerifyingKey> {
        let mut signers = BTreeSet::new();
        for (key, signature) in signatures {
            if self.contains(key) && !signers.contains(key) && key.verifies(message, signature) {
                signers.insert(*key);
            }
        }
        signers
    }
}
