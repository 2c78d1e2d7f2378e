//! The one-time secret of an install line, and the proof of the host's keys that the line leaves behind.
//!
//! For a host key whose `.pub` line reads `type B comment`, with the secret `S` of 62 hex digits and `\n` one byte:
//!
//! ```text
//! digest = hex(SHA-256(B "\n"))
//! inner  = hex(SHA-256(S "i\n" digest "\n"))
//! tag    = hex(SHA-256(S "o\n" inner  "\n"))
//! ```
//!
//! `S "i\n"` and `S "o\n"` fill one block of SHA-256 (64 bytes) each, so the secret keys two independent compression
//! functions before a message byte is seen: the nested construction that HMAC is an instance of (RFC 2104; Bellare, Canetti,
//! Krawczyk, "Keying Hash Functions for Message Authentication", 1996), with two suffixes in the place of HMAC's pads. Both
//! hashes run over fixed lengths, so nothing can be appended. A shell computes it from text alone.

use std::fmt;

use rand_core::CryptoRng;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use toehold_core::{Fingerprint, PublicKey, SessionId};
use zeroize::Zeroizing;

/// Hex digits of a [`ProofSecret`]: with a suffix of two bytes they fill one block of SHA-256. 248 bits.
const SECRET_DIGITS: usize = 62;

/// Hex digits of a tag.
const TAG_DIGITS: usize = 64;

/// The most bytes that a proof file may have: room for 1,000 host keys.
pub const MAX_PROOF_FILE: usize = 64 * 1024;

/// The one-time secret of an install line, under which the host proves its keys: 248 random bits.
///
/// Wiped on drop, printed as `[redacted]`; not `Clone`, not `Display`, not serialisable.
pub struct ProofSecret(Box<Zeroizing<[u8; SECRET_DIGITS]>>);

/// A text that is not a [`ProofSecret`]. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a proof secret is written as {SECRET_DIGITS} lower-case hex digits")]
pub struct ProofSecretError;

/// Why a proof file does not prove a host key. Each of them is a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// There is no line for this key: the connection does not end at the host on which the line was pasted, or that host's
    /// SSH server uses a key that the line did not find.
    #[error(
        "the host did not prove the host key {host_key}: either somebody is in the middle, or the install line did not find this \
         key on the host (its proof names {tags} keys)"
    )]
    NotProven {
        /// The key of the connection.
        host_key: Fingerprint,
        /// How many tags the file holds.
        tags: usize,
    },
    /// More than [`MAX_PROOF_FILE`] bytes; nothing was looked at.
    #[error("the host's proof of its keys has {got} bytes, over the limit of {MAX_PROOF_FILE}")]
    TooLong {
        /// Bytes found.
        got: usize,
    },
}

/// The proof's name within the account's `.ssh`: `toehold-proof-<session id>`.
pub fn proof_file_name(session: SessionId) -> String {
    format!("toehold-proof-{session}")
}

impl ProofSecret {
    /// A fresh secret.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; SECRET_DIGITS / 2]);
        rng.fill_bytes(bytes.as_mut_slice());
        let mut digits = Box::new(Zeroizing::new([0; SECRET_DIGITS]));
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(bytes.iter()) {
            *pair = hex_digits(*byte);
        }
        Self(digits)
    }

    /// The secret whose [`expose`](Self::expose) was kept, sealed, in a session's record.
    ///
    /// # Errors
    /// [`ProofSecretError`] where the text is not 62 lower-case hex digits.
    pub fn from_hex(text: &str) -> Result<Self, ProofSecretError> {
        if text.len() != SECRET_DIGITS || !text.bytes().all(is_hex_digit) {
            return Err(ProofSecretError);
        }
        let mut digits = Box::new(Zeroizing::new([0; SECRET_DIGITS]));
        digits.copy_from_slice(text.as_bytes());
        Ok(Self(digits))
    }

    /// Lends the 62 hex digits. Do not keep a copy.
    pub fn expose(&self) -> &str {
        // Hex digits are ASCII; the empty text would be no secret and prove nothing.
        std::str::from_utf8(self.0.as_slice()).unwrap_or_default()
    }

    /// The 64 hex digits that prove `host_key` under this secret, as the host's shell computes them.
    fn tag(&self, host_key: &PublicKey) -> [u8; TAG_DIGITS] {
        let digest = hex(&Sha256::new().chain_update(host_key.base64()).chain_update("\n").finalize().into());
        let inner = self.keyed(*b"i\n", &digest);
        self.keyed(*b"o\n", &inner)
    }

    fn keyed(&self, suffix: [u8; 2], message: &[u8; TAG_DIGITS]) -> [u8; TAG_DIGITS] {
        let hash = Sha256::new().chain_update(self.0.as_slice()).chain_update(suffix).chain_update(message).chain_update("\n");
        hex(&hash.finalize().into())
    }
}

impl fmt::Debug for ProofSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProofSecret([redacted])")
    }
}

/// What the install line left on the host: tags of the host's keys, and what it had to make.
///
/// Only the tags are authenticated. What the file says of things made is worth something only after
/// [`verify`](Self::verify) succeeded for the connection over which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofFile {
    tags: Vec<[u8; TAG_DIGITS]>,
    created_directory: bool,
    created_file: bool,
    added_newline: bool,
}

impl ProofFile {
    /// Reads a proof file. Lines that are neither a tag nor a known mark are passed over.
    ///
    /// # Errors
    /// [`ProofError::TooLong`].
    pub fn parse(file: &[u8]) -> Result<Self, ProofError> {
        if file.len() > MAX_PROOF_FILE {
            return Err(ProofError::TooLong { got: file.len() });
        }
        let mut proof = Self { tags: Vec::new(), created_directory: false, created_file: false, added_newline: false };
        for line in file.split(|b| *b == b'\n') {
            match line {
                b"new:.ssh" => proof.created_directory = true,
                b"new:authorized_keys" => proof.created_file = true,
                b"new:newline" => proof.added_newline = true,
                _ => proof.tags.extend(<[u8; TAG_DIGITS]>::try_from(line).ok()),
            }
        }
        Ok(proof)
    }

    /// Whether the host that wrote this file has `host_key`: one of the tags is the one that `secret` gives for it. The
    /// comparison takes the same time wherever they differ.
    ///
    /// # Errors
    /// [`ProofError::NotProven`]: send nothing of value over this connection.
    pub fn verify(&self, secret: &ProofSecret, host_key: &PublicKey) -> Result<(), ProofError> {
        let wanted = secret.tag(host_key);
        let found = self.tags.iter().fold(Choice::from(0), |found, tag| found | tag.ct_eq(&wanted));
        if found.into() { Ok(()) } else { Err(ProofError::NotProven { host_key: host_key.fingerprint(), tags: self.tags.len() }) }
    }

    /// Whether the line made the account's `.ssh`; to leave the host as it was, that goes once it is empty.
    pub fn created_directory(&self) -> bool {
        self.created_directory
    }

    /// Whether the line made `authorized_keys`; to leave the host as it was, that goes once it is empty.
    pub fn created_file(&self) -> bool {
        self.created_file
    }

    /// Whether the line ended a last line of `authorized_keys` that had no newline; to leave the file as it was, the newline
    /// before the temporary line goes with it.
    pub fn added_newline(&self) -> bool {
        self.added_newline
    }
}

fn is_hex_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn hex_digits(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) };
    [digit(byte >> 4), digit(byte & 15)]
}

fn hex(hash: &[u8; 32]) -> [u8; TAG_DIGITS] {
    let mut digits = [0; TAG_DIGITS];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(hash) {
        *pair = hex_digits(*byte);
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOW";
    const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee";
    // Made with openssl dgst -sha256 by the formula at the top of this file.
    const TAG: &str = "807860b0783bdfa5cf58419278d915481c950b0190dd7d173787d3d606aa140f";

    #[test]
    fn o4_the_tag_is_the_one_that_openssl_gives() {
        let secret = ProofSecret::from_hex(SECRET).unwrap();
        let file = format!("new:.ssh\n{}\n{TAG}\nnew:newline\n", "0".repeat(64));
        let proof = ProofFile::parse(file.as_bytes()).unwrap();
        assert_eq!(proof.verify(&secret, &KEY.parse().unwrap()), Ok(()));
        assert!(proof.created_directory() && proof.added_newline() && !proof.created_file());
    }

    #[test]
    fn o1_a_missing_or_wrong_proof_is_a_refusal() {
        let secret = ProofSecret::from_hex(SECRET).unwrap();
        let key: PublicKey = KEY.parse().unwrap();
        let other_secret = ProofSecret::from_hex(&SECRET.replace('0', "1")).unwrap();
        let proof = ProofFile::parse(format!("{TAG}\n").as_bytes()).unwrap();
        assert!(proof.verify(&secret, &OTHER.parse().unwrap()).is_err());
        assert!(proof.verify(&other_secret, &key).is_err());
        for file in ["", "\n", &TAG[1..], &TAG.to_uppercase(), &format!("{TAG} "), &format!("{TAG}\r\n"), &format!("x{TAG}")] {
            let error = ProofFile::parse(file.as_bytes()).unwrap().verify(&secret, &key).unwrap_err();
            assert!(matches!(error, ProofError::NotProven { .. }), "{file:?}");
        }
        assert_eq!(ProofFile::parse(&vec![b'\n'; MAX_PROOF_FILE + 1]), Err(ProofError::TooLong { got: MAX_PROOF_FILE + 1 }));
    }

    #[test]
    fn a_secret_is_kept_as_hex_and_never_shown() {
        let secret = ProofSecret::generate(&mut ChaCha20Rng::from_seed([7; 32]));
        assert_eq!(secret.expose().len(), SECRET_DIGITS);
        assert_eq!(ProofSecret::from_hex(secret.expose()).unwrap().expose(), secret.expose());
        assert_eq!(format!("{secret:?}"), "ProofSecret([redacted])");
        for bad in ["", &SECRET[1..], &SECRET.to_uppercase(), &format!("{SECRET}0"), &SECRET.replace('0', "g")] {
            assert_eq!(ProofSecret::from_hex(bad).unwrap_err(), ProofSecretError);
        }
    }

    proptest! {
        #[test]
        fn a_strangers_file_never_panics_nor_proves(file in prop::collection::vec(any::<u8>(), 0..400)) {
            let secret = ProofSecret::from_hex(SECRET).unwrap();
            prop_assert!(ProofFile::parse(&file).unwrap().verify(&secret, &KEY.parse().unwrap()).is_err());
        }
    }
}
