//! Key pairs: what they are made with, and how they are written.

use std::fmt;
use std::str::FromStr;

use rand_core::CryptoRng;
use ssh_key::encoding::{Encode as _, Mpint};
use ssh_key::private::{EcdsaKeypair, Ed25519Keypair, Ed25519PrivateKey, KeypairData, RsaKeypair, RsaPrivateKey};
use ssh_key::public::{Ed25519PublicKey, KeyData, RsaPublicKey};
use ssh_key::{Cipher, EcdsaCurve, Kdf, LineEnding};
use toehold_core::{Identity, PublicKey, SecretBytes};
use zeroize::Zeroizing;

use crate::private_key::{PrivateKeyError, openssh};

/// The smallest RSA modulus that is made or read, in bits. What NIST SP 800-131A asks for; OpenSSH itself stops at 1024.
pub const MIN_RSA_BITS: usize = 2048;
/// The largest RSA modulus that is made or read, in bits. Larger ones only cost time.
pub const MAX_RSA_BITS: usize = 8192;

/// Rounds of bcrypt-pbkdf for a passphrase: the default of `ssh-keygen -a` since OpenSSH 9.4.
const BCRYPT_ROUNDS: u32 = 24;
/// Bytes of salt, as `ssh-keygen` uses.
const BCRYPT_SALT: usize = 16;
/// The most bytes that a comment may have.
const MAX_COMMENT: usize = 1024;

const ED25519: &[u8; 11] = b"ssh-ed25519";

/// A kind of key pair. Written as `ed25519`, `ecdsa-p256`, `ecdsa-p384`, `ecdsa-p521`, `rsa-3072`; `rsa` means 3072 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8709): small, fast, accepted by every OpenSSH since 6.5 and dropbear since 2020.79.
    #[default]
    Ed25519,
    /// ECDSA on NIST P-256 (RFC 5656).
    EcdsaP256,
    /// ECDSA on NIST P-384 (RFC 5656).
    EcdsaP384,
    /// ECDSA on NIST P-521 (RFC 5656).
    EcdsaP521,
    /// RSA (RFC 4253 §6.6, RFC 8332) with the public exponent 65537.
    Rsa {
        /// Bits of the modulus, a multiple of 8 from [`MIN_RSA_BITS`] to [`MAX_RSA_BITS`].
        bits: usize,
    },
}

/// A text that names no [`KeyAlgorithm`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a kind of key: ed25519, ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa or rsa-BITS")]
pub struct KeyAlgorithmError(String);

impl KeyAlgorithm {
    /// The size of RSA key that `rsa` alone means, in bits: what `ssh-keygen -t rsa` makes.
    pub const DEFAULT_RSA_BITS: usize = 3072;

    /// The same kind in a size that is given apart, as `ssh-keygen -b` takes it; `None` leaves the size.
    ///
    /// # Errors
    /// [`KeyGenerationError::Bits`] for another size than the one that the kind has. An RSA key's is judged by
    /// [`KeyPair::generate`].
    pub fn with_bits(self, bits: Option<usize>) -> Result<Self, KeyGenerationError> {
        let has = match (self, bits) {
            (_, None) => return Ok(self),
            (Self::Rsa { .. }, Some(bits)) => return Ok(Self::Rsa { bits }),
            (Self::Ed25519 | Self::EcdsaP256, _) => 256,
            (Self::EcdsaP384, _) => 384,
            (Self::EcdsaP521, _) => 521,
        };
        match bits {
            Some(asked) if asked != has => Err(KeyGenerationError::Bits { algorithm: self, asked, has }),
            _ => Ok(self),
        }
    }
}

impl FromStr for KeyAlgorithm {
    type Err = KeyAlgorithmError;

    /// The size of an RSA key is judged by [`KeyPair::generate`], which can say what is wrong with it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ed25519" => Ok(Self::Ed25519),
            "ecdsa-p256" => Ok(Self::EcdsaP256),
            "ecdsa-p384" => Ok(Self::EcdsaP384),
            "ecdsa-p521" => Ok(Self::EcdsaP521),
            "rsa" => Ok(Self::Rsa { bits: Self::DEFAULT_RSA_BITS }),
            _ => text
                .strip_prefix("rsa-")
                .filter(|bits| bits.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|bits| bits.parse().ok())
                .map(|bits| Self::Rsa { bits })
                .ok_or_else(|| KeyAlgorithmError(text.to_owned())),
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("ed25519"),
            Self::EcdsaP256 => f.write_str("ecdsa-p256"),
            Self::EcdsaP384 => f.write_str("ecdsa-p384"),
            Self::EcdsaP521 => f.write_str("ecdsa-p521"),
            Self::Rsa { bits } => write!(f, "rsa-{bits}"),
        }
    }
}

/// Why a key pair could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyGenerationError {
    /// Fewer than [`MIN_RSA_BITS`].
    #[error("an RSA key of {asked} bits is too weak: at least {MIN_RSA_BITS}")]
    RsaTooSmall {
        /// Bits asked for.
        asked: usize,
    },
    /// More than [`MAX_RSA_BITS`].
    #[error("an RSA key of {asked} bits is too large: at most {MAX_RSA_BITS}")]
    RsaTooLarge {
        /// Bits asked for.
        asked: usize,
    },
    /// Not a multiple of 8.
    #[error("an RSA key of {asked} bits does not end at a whole byte: a multiple of 8, such as 3072")]
    RsaNotWholeBytes {
        /// Bits asked for.
        asked: usize,
    },
    /// A size that this kind of key does not come in.
    #[error("an {algorithm} key has {has} bits, not {asked}")]
    Bits {
        /// The kind asked for.
        algorithm: KeyAlgorithm,
        /// Bits asked for.
        asked: usize,
        /// Bits that it has.
        has: usize,
    },
    /// The library for this kind of key found none. It does not happen with a working random number generator.
    #[error("no {algorithm} key could be made")]
    Failed {
        /// The kind asked for.
        algorithm: KeyAlgorithm,
    },
}

/// An SSH key pair. The private half is on the heap, is wiped on drop and is never printed.
///
/// Making an Ed25519 pair, reading it and writing it without passphrase leaves no copy of the private half in memory. The
/// libraries for ECDSA and RSA, and for encryption, wipe what they hold, but move it about on the stack before.
///
/// ```
/// # use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng as _};
/// use toehold_keygen::{KeyAlgorithm, KeyPair};
///
/// # let mut rng = ChaCha20Rng::from_seed([7; 32]); // Use a generator that the operating system seeds.
/// let pair = KeyPair::generate(&mut rng, KeyAlgorithm::default())?;
/// println!("{} {}", pair.public_key(), pair.public_key().fingerprint());
/// let file = pair.to_openssh("backup@example.net")?;
/// assert!(file.expose().starts_with(b"-----BEGIN OPENSSH PRIVATE KEY-----\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KeyPair {
    algorithm: KeyAlgorithm,
    public_key: PublicKey,
    private: Private,
}

/// Boxed, so that moving a pair leaves no copy of the private half behind.
enum Private {
    Ed25519(Box<Zeroizing<[u8; 32]>>),
    /// ECDSA and RSA; ssh-key wipes them on drop.
    Other(Box<KeypairData>),
}

impl KeyPair {
    /// Makes a key pair. Ed25519 and ECDSA take well under a millisecond, RSA from a fraction of a second (2048 bits) to
    /// about a minute (8192).
    ///
    /// # Errors
    /// [`KeyGenerationError`]: an RSA size out of bounds.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R, algorithm: KeyAlgorithm) -> Result<Self, KeyGenerationError> {
        let failed = |_| KeyGenerationError::Failed { algorithm };
        let curve = match algorithm {
            KeyAlgorithm::Ed25519 => {
                let mut seed = Box::new(Zeroizing::new([0; 32]));
                rng.fill_bytes(&mut **seed);
                return Self::from_ed25519_seed(seed).map_err(failed);
            }
            KeyAlgorithm::Rsa { bits } => {
                check_rsa_bits(bits)?;
                let pair = RsaKeypair::random(rng, bits).map_err(|_| KeyGenerationError::Failed { algorithm })?;
                return Self::from_data(algorithm, KeypairData::Rsa(pair)).map_err(failed);
            }
            KeyAlgorithm::EcdsaP256 => EcdsaCurve::NistP256,
            KeyAlgorithm::EcdsaP384 => EcdsaCurve::NistP384,
            KeyAlgorithm::EcdsaP521 => EcdsaCurve::NistP521,
        };
        let pair = EcdsaKeypair::random(rng, curve).map_err(|_| KeyGenerationError::Failed { algorithm })?;
        Self::from_data(algorithm, KeypairData::Ecdsa(pair)).map_err(failed)
    }

    /// The kind of key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The pair as an OpenSSH private key file (`PROTOCOL.key`) without passphrase, ready to be written with mode 0600.
    ///
    /// # Errors
    /// [`PrivateKeyError::Comment`] where `comment` is longer than 1024 bytes or holds a control character.
    pub fn to_openssh(&self, comment: &str) -> Result<SecretBytes, PrivateKeyError> {
        match &self.private {
            Private::Ed25519(seed) => {
                check_comment(comment)?;
                openssh::write_ed25519(seed, &self.public_key, comment)
            }
            Private::Other(_) => to_pem(&self.to_ssh_key(comment)?),
        }
    }

    /// The pair as an OpenSSH private key file under a passphrase: aes256-ctr with a key from bcrypt-pbkdf in 24 rounds, as
    /// `ssh-keygen` writes it. The comment is encrypted too.
    ///
    /// # Errors
    /// [`PrivateKeyError::EmptyPassphrase`]; [`PrivateKeyError::Comment`] as for [`KeyPair::to_openssh`].
    pub fn to_openssh_encrypted<R: CryptoRng + ?Sized>(
        &self,
        rng: &mut R,
        comment: &str,
        passphrase: &SecretBytes,
    ) -> Result<SecretBytes, PrivateKeyError> {
        if passphrase.is_empty() {
            return Err(PrivateKeyError::EmptyPassphrase);
        }
        let mut salt = vec![0; BCRYPT_SALT];
        rng.fill_bytes(&mut salt);
        let kdf = Kdf::Bcrypt { salt, rounds: BCRYPT_ROUNDS };
        let plain = self.to_ssh_key(comment)?;
        let sealed = plain
            .encrypt_with(Cipher::Aes256Ctr, kdf, rng.next_u32(), passphrase.expose())
            .map_err(|_| PrivateKeyError::Encoding)?;
        to_pem(&sealed)
    }

    /// What a [`Connector`](toehold_core::Connector) logs in with. Holds a copy of the private half, wiped when it goes.
    ///
    /// # Errors
    /// [`PrivateKeyError::Encoding`], which would be a fault in a library.
    pub fn identity(&self) -> Result<Identity, PrivateKeyError> {
        Ok(Identity::PrivateKey { public_key: self.public_key.clone(), openssh: self.to_openssh("")? })
    }

    /// From the 32 bytes of RFC 8032 §5.1.5.
    pub(crate) fn from_ed25519_seed(seed: Box<Zeroizing<[u8; 32]>>) -> Result<Self, PrivateKeyError> {
        let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().to_bytes();
        let mut blob = Vec::with_capacity(4 + ED25519.len() + 4 + public.len());
        blob.extend_from_slice(&[0, 0, 0, 11]);
        blob.extend_from_slice(ED25519);
        blob.extend_from_slice(&[0, 0, 0, 32]);
        blob.extend_from_slice(&public);
        let public_key = PublicKey::from_blob(&blob).map_err(|_| PrivateKeyError::Encoding)?;
        Ok(Self { algorithm: KeyAlgorithm::Ed25519, public_key, private: Private::Ed25519(seed) })
    }

    /// From a secret scalar of up to the field's size, big-endian. `None` where it is zero or not below the curve's order.
    pub(crate) fn from_ecdsa_scalar(algorithm: KeyAlgorithm, scalar: &[u8]) -> Option<Self> {
        let pair = match algorithm {
            KeyAlgorithm::EcdsaP256 => {
                let private = p256::SecretKey::from_bytes(&(*padded::<32>(scalar)?).into()).ok()?;
                EcdsaKeypair::NistP256 { public: private.public_key().into(), private: private.into() }
            }
            KeyAlgorithm::EcdsaP384 => {
                let private = p384::SecretKey::from_bytes(&(*padded::<48>(scalar)?).into()).ok()?;
                EcdsaKeypair::NistP384 { public: private.public_key().into(), private: private.into() }
            }
            KeyAlgorithm::EcdsaP521 => {
                let private = p521::SecretKey::from_bytes(&(*padded::<66>(scalar)?).into()).ok()?;
                EcdsaKeypair::NistP521 { public: private.public_key().into(), private: private.into() }
            }
            KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa { .. } => return None,
        };
        Self::from_data(algorithm, KeypairData::Ecdsa(pair)).ok()
    }

    /// From the numbers of RFC 8017 §3.2, big-endian; the exponents of the Chinese remainder are worked out anew.
    /// The size must have been checked. `None` where the numbers are no key.
    pub(crate) fn from_rsa(numbers: &RsaNumbers<'_>) -> Option<Self> {
        let number = Mpint::from_positive_bytes;
        let public = RsaPublicKey::new(number(numbers.e), number(numbers.n)).ok()?;
        // The coefficient is not looked at; one that passes the check for positive numbers stands in.
        let private = RsaPrivateKey::new(number(numbers.d), number(&[1]), number(numbers.p), number(numbers.q)).ok()?;
        // This is where the library proves that n = pq and that e and d undo each other.
        let key = rsa::RsaPrivateKey::try_from(&RsaKeypair::new(public, private).ok()?).ok()?;
        let pair = RsaKeypair::try_from(&key).ok()?;
        let bits = rsa_bits(numbers.n);
        Self::from_data(KeyAlgorithm::Rsa { bits }, KeypairData::Rsa(pair)).ok()
    }

    fn from_data(algorithm: KeyAlgorithm, data: KeypairData) -> Result<Self, PrivateKeyError> {
        let data = Box::new(data);
        let blob = KeyData::try_from(&*data).ok().and_then(|public| public.encode_vec().ok()).ok_or(PrivateKeyError::Encoding)?;
        let public_key = PublicKey::from_blob(&blob).map_err(|_| PrivateKeyError::Encoding)?;
        Ok(Self { algorithm, public_key, private: Private::Other(data) })
    }

    fn to_ssh_key(&self, comment: &str) -> Result<ssh_key::PrivateKey, PrivateKeyError> {
        check_comment(comment)?;
        let data = match &self.private {
            Private::Ed25519(seed) => {
                let public = self.public_key.blob().last_chunk::<32>().ok_or(PrivateKeyError::Encoding)?;
                KeypairData::Ed25519(Ed25519Keypair {
                    public: Ed25519PublicKey(*public),
                    private: Ed25519PrivateKey::from_bytes(seed),
                })
            }
            Private::Other(data) => KeypairData::clone(data),
        };
        ssh_key::PrivateKey::new(data, comment).map_err(|_| PrivateKeyError::Encoding)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("algorithm", &self.algorithm)
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

/// The numbers of an RSA key that are not worked out from others; big-endian.
pub(crate) struct RsaNumbers<'a> {
    pub(crate) n: &'a [u8],
    pub(crate) e: &'a [u8],
    pub(crate) d: &'a [u8],
    pub(crate) p: &'a [u8],
    pub(crate) q: &'a [u8],
}

/// How many bits a big-endian number has.
pub(crate) fn rsa_bits(number: &[u8]) -> usize {
    let number = significant(number);
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// A big-endian number without leading zero bytes.
pub(crate) fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn check_rsa_bits(asked: usize) -> Result<(), KeyGenerationError> {
    match asked {
        ..MIN_RSA_BITS => Err(KeyGenerationError::RsaTooSmall { asked }),
        MIN_RSA_BITS..=MAX_RSA_BITS if !asked.is_multiple_of(8) => Err(KeyGenerationError::RsaNotWholeBytes { asked }),
        MIN_RSA_BITS..=MAX_RSA_BITS => Ok(()),
        _ => Err(KeyGenerationError::RsaTooLarge { asked }),
    }
}

/// A number at its full width. OpenSSH drops leading zero bytes of a scalar, which one key in 256 has.
fn padded<const N: usize>(scalar: &[u8]) -> Option<Zeroizing<[u8; N]>> {
    let scalar = significant(scalar);
    let mut bytes = Zeroizing::new([0; N]);
    bytes.get_mut(N.checked_sub(scalar.len())?..)?.copy_from_slice(scalar);
    Some(bytes)
}

fn check_comment(comment: &str) -> Result<(), PrivateKeyError> {
    let writable = comment.len() <= MAX_COMMENT && !comment.chars().any(char::is_control);
    if writable { Ok(()) } else { Err(PrivateKeyError::Comment) }
}

fn to_pem(key: &ssh_key::PrivateKey) -> Result<SecretBytes, PrivateKeyError> {
    let mut text = key.to_openssh(LineEnding::LF).map_err(|_| PrivateKeyError::Encoding)?;
    Ok(std::mem::take(&mut *text).into_bytes().into())
}
