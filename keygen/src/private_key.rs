//! Private key files of other programs: which format it is, and the pair in it.

mod der;
pub(crate) mod openssh;
mod pem;

use toehold_core::{PublicKey, SecretBytes};

use crate::key_pair::{KeyPair, MAX_RSA_BITS, MIN_RSA_BITS, RsaNumbers, rsa_bits, significant};

/// The most bytes that a private key file may have: several times an RSA key of 16,384 bits.
pub const MAX_PRIVATE_KEY_FILE: usize = 64 * 1024;

/// Why a private key file cannot be used, or a private key not be written. Holds no bytes of the file but names of
/// algorithms, and those only if they are plain ASCII.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateKeyError {
    /// Longer than [`MAX_PRIVATE_KEY_FILE`]; nothing was read.
    #[error("a private key file of {got} bytes is over the limit of {MAX_PRIVATE_KEY_FILE}")]
    TooLarge {
        /// Bytes given.
        got: usize,
    },
    /// No known format.
    #[error("this is no private key in a known format (OpenSSH, PKCS#8, PKCS#1 or SEC1)")]
    NotAPrivateKey,
    /// The public half, or a certificate, was given.
    #[error("this is a public key ({algorithm}); the private key is wanted, mostly the file of the same name without .pub")]
    PublicKey {
        /// The algorithm's name, or the title of the PEM block.
        algorithm: String,
    },
    /// The key is encrypted and no passphrase was given.
    #[error("the private key is encrypted: its passphrase is needed")]
    PassphraseNeeded,
    /// The passphrase does not open the key.
    #[error("the passphrase does not open this private key (or the key is damaged)")]
    WrongPassphrase,
    /// A passphrase was given for a key without one.
    #[error("a passphrase was given, but the private key is not encrypted")]
    PassphraseNotNeeded,
    /// An empty passphrase to encrypt with.
    #[error("a private key cannot be encrypted with an empty passphrase")]
    EmptyPassphrase,
    /// Encrypted in the way of OpenSSL before PKCS#8 (`Proc-Type: 4,ENCRYPTED`), which takes one round of MD5.
    #[error("the private key is encrypted in the old PEM way (Proc-Type: 4,ENCRYPTED); convert it with: ssh-keygen -p -f FILE")]
    LegacyEncryption,
    /// A known format that is not read.
    #[error("{format} is not read; convert it with: {convert}")]
    UnsupportedFormat {
        /// Its name.
        format: &'static str,
        /// The command that makes an OpenSSH private key of it.
        convert: &'static str,
    },
    /// A kind of key that is not used here.
    #[error("keys of kind {kind} are not supported: use Ed25519, ECDSA on P-256, P-384 or P-521, or RSA")]
    UnsupportedKey {
        /// Its name or object identifier.
        kind: String,
    },
    /// A cipher or key derivation that is not used here.
    #[error("the private key is encrypted with {what}, which is not supported; convert it with: ssh-keygen -p -f FILE")]
    UnsupportedEncryption {
        /// Its name or object identifier.
        what: String,
    },
    /// A key derivation that would take very long; not begun.
    #[error("the private key's passphrase is guarded by {asked} {unit}, over the limit of {limit}")]
    TooCostly {
        /// What is counted.
        unit: &'static str,
        /// What the file says.
        asked: u64,
        /// The most that is done.
        limit: u64,
    },
    /// An RSA key below [`MIN_RSA_BITS`].
    #[error("an RSA key of {bits} bits is too weak: at least {MIN_RSA_BITS}")]
    RsaTooSmall {
        /// Bits of its modulus.
        bits: usize,
    },
    /// An RSA key above [`MAX_RSA_BITS`].
    #[error("an RSA key of {bits} bits is too large: at most {MAX_RSA_BITS}")]
    RsaTooLarge {
        /// Bits of its modulus.
        bits: usize,
    },
    /// A known format, with something wrong in it.
    #[error("the {format} private key is damaged: {what}")]
    Damaged {
        /// Which format.
        format: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A comment that cannot be written.
    #[error("a key's comment is at most 1024 bytes and has no control characters")]
    Comment,
    /// A library refused to write a key that it had made: a fault in the program.
    #[error("the private key could not be encoded")]
    Encoding,
}

/// Reads a private key file, whatever its format: OpenSSH, PKCS#8 (plain or PBES2), PKCS#1 (`RSA PRIVATE KEY`) or SEC1
/// (`EC PRIVATE KEY`), in PEM or bare DER. Text and certificates around the PEM block are skipped.
///
/// The pair is checked: the numbers of the private half belong together, and the public half stored with it is its own.
/// The key derivation that guards a passphrase is only begun where its cost is bearable (about a minute at the very most).
///
/// # Errors
/// [`PrivateKeyError`]. To find out whether a passphrase is needed, call without one:
/// [`PrivateKeyError::PassphraseNeeded`] is only returned for a key that can be used.
pub fn read_private_key_file(bytes: &[u8], passphrase: Option<&SecretBytes>) -> Result<KeyPair, PrivateKeyError> {
    if bytes.len() > MAX_PRIVATE_KEY_FILE {
        return Err(PrivateKeyError::TooLarge { got: bytes.len() });
    }
    if let Some(block) = pem::find_private_key(bytes)? {
        return match block.label.as_str() {
            _ if block.legacy_encryption => Err(PrivateKeyError::LegacyEncryption),
            "OPENSSH PRIVATE KEY" => openssh::read(&block.decode("OpenSSH")?, passphrase),
            "PRIVATE KEY" => unencrypted(passphrase).and_then(|()| der::read_pkcs8(&block.decode("PKCS#8")?)),
            "ENCRYPTED PRIVATE KEY" => der::read_encrypted_pkcs8(&block.decode("PKCS#8")?, passphrase),
            "RSA PRIVATE KEY" => unencrypted(passphrase).and_then(|()| der::read_pkcs1(&block.decode("PKCS#1")?)),
            "EC PRIVATE KEY" => unencrypted(passphrase).and_then(|()| der::read_sec1(&block.decode("SEC1")?, None)),
            "DSA PRIVATE KEY" => Err(PrivateKeyError::UnsupportedKey { kind: "ssh-dss (DSA)".to_owned() }),
            _ => Err(PrivateKeyError::NotAPrivateKey),
        };
    }
    if bytes.first() == Some(&0x30) {
        return der::guess(bytes, passphrase);
    }
    Err(not_a_private_key(bytes))
}

fn unencrypted(passphrase: Option<&SecretBytes>) -> Result<(), PrivateKeyError> {
    passphrase.map_or(Ok(()), |_| Err(PrivateKeyError::PassphraseNotNeeded))
}

/// What else people hand in.
fn not_a_private_key(bytes: &[u8]) -> PrivateKeyError {
    if bytes.starts_with(b"PuTTY-User-Key-File-") {
        return PrivateKeyError::UnsupportedFormat {
            format: "PuTTY's format",
            convert: "puttygen FILE -O private-openssh-new -o NEW",
        };
    }
    if bytes.starts_with(b"SSH PRIVATE KEY FILE FORMAT 1.1") {
        return PrivateKeyError::UnsupportedKey { kind: "SSH protocol 1".to_owned() };
    }
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if line.starts_with("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY") {
            return PrivateKeyError::UnsupportedFormat { format: "ssh.com's format", convert: "ssh-keygen -i -f FILE > NEW" };
        }
        if line.starts_with("---- BEGIN SSH2 PUBLIC KEY") {
            return PrivateKeyError::PublicKey { algorithm: "SSH2 PUBLIC KEY".to_owned() };
        }
        let mut fields = line.split_ascii_whitespace().peekable();
        while let (Some(name), Some(base64)) = (fields.next(), fields.peek()) {
            if base64.starts_with("AAAA")
                && let Ok(key) = format!("{name} {base64}").parse::<PublicKey>()
            {
                return PrivateKeyError::PublicKey { algorithm: key.algorithm().to_owned() };
            }
        }
    }
    PrivateKeyError::NotAPrivateKey
}

/// A pair of the numbers in a file of `format`; their sizes are checked first, since arithmetic with huge ones takes long.
fn rsa(format: &'static str, numbers: &RsaNumbers<'_>) -> Result<KeyPair, PrivateKeyError> {
    rsa_size(numbers.n)?;
    let length = significant(numbers.n).len();
    let bad = PrivateKeyError::Damaged { format, what: "its numbers are not those of an RSA key" };
    if [numbers.d, numbers.p, numbers.q].iter().any(|number| !(1..=length).contains(&significant(number).len()))
        || !(1..=8).contains(&significant(numbers.e).len())
    {
        return Err(bad);
    }
    KeyPair::from_rsa(numbers).ok_or(bad)
}

fn rsa_size(modulus: &[u8]) -> Result<(), PrivateKeyError> {
    match rsa_bits(modulus) {
        bits @ ..MIN_RSA_BITS => Err(PrivateKeyError::RsaTooSmall { bits }),
        MIN_RSA_BITS..=MAX_RSA_BITS => Ok(()),
        bits => Err(PrivateKeyError::RsaTooLarge { bits }),
    }
}

/// A name out of a file, fit for a terminal.
fn printable(name: &[u8]) -> String {
    if !name.is_empty() && name.len() <= 64 && name.iter().all(u8::is_ascii_graphic) {
        String::from_utf8_lossy(name).into_owned()
    } else {
        "an unknown name".to_owned()
    }
}
