//! Sealing and opening.

use std::fmt;
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use age::secrecy::ExposeSecret as _;
use age::ssh::ParseRecipientKeyError;
use age::{DecryptError, Decryptor, Encryptor};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256, Sha512};
use toehold_core::{Fingerprint, PublicKey, SecretBytes, SessionId};
use toehold_specsign::SigningKey;
use zeroize::Zeroizing;

use super::ssh_key::SshIdentity;

/// The most bytes that a sealed value may have; an RSA private key of 16,384 bits takes about 13,000.
const MAX_SEALED: usize = 1024 * 1024;

/// Whom something is sealed to: an age X25519 recipient, printed as `age1…`, or an SSH public key, `ssh-ed25519 …` or
/// `ssh-rsa …`. Public.
#[derive(Clone)]
pub struct Recipient(RecipientKind);

#[derive(Clone)]
enum RecipientKind {
    X25519(age::x25519::Recipient),
    Ssh(Box<age::ssh::Recipient>),
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Recipient {}

/// A text that is not a [`Recipient`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not an age recipient (age1…) or an SSH public key (ssh-ed25519 …, ssh-rsa …): {reason}")]
pub struct RecipientError {
    text: String,
    reason: &'static str,
}

impl Recipient {
    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        match &self.0 {
            RecipientKind::X25519(recipient) => recipient,
            RecipientKind::Ssh(recipient) => recipient.as_ref(),
        }
    }
}

impl Recipient {
    /// Its text, with the fingerprint of an SSH key in the place of the key.
    fn brief(&self) -> String {
        let text = self.to_string();
        match text.parse::<PublicKey>() {
            Ok(key) => format!("{} {}", key.algorithm(), key.fingerprint()),
            Err(_) => text,
        }
    }

    /// What the chain of the audit log is called that is written by whoever has this identity: an age recipient's own text, and for an SSH key,
    /// whose text is no segment of a key, `ssh-` and the SHA-256 of that text in hexadecimal.
    pub fn writer(&self) -> String {
        match &self.0 {
            RecipientKind::X25519(recipient) => recipient.to_string(),
            RecipientKind::Ssh(recipient) => {
                let digest = Sha256::digest(recipient.to_string());
                digest.iter().fold("ssh-".to_owned(), |name, byte| name + &format!("{byte:02x}"))
            }
        }
    }
}

impl From<age::x25519::Recipient> for Recipient {
    fn from(recipient: age::x25519::Recipient) -> Self {
        Self(RecipientKind::X25519(recipient))
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("sk-") {
            // The comment behind a key is no part of it.
            let key: Vec<&str> = text.split_ascii_whitespace().take(2).collect();
            return match key.join(" ").parse() {
                Ok(recipient) => Ok(Self(RecipientKind::Ssh(Box::new(recipient)))),
                Err(error) => Err(RecipientError { text: text.to_owned(), reason: unfit(text, &error) }),
            };
        }
        match text.parse() {
            Ok(recipient) => Ok(Self(RecipientKind::X25519(recipient))),
            Err(reason) => Err(RecipientError { text: text.to_owned(), reason }),
        }
    }
}

/// Why age does not seal to an SSH key.
fn unfit(text: &str, error: &ParseRecipientKeyError) -> &'static str {
    match error {
        ParseRecipientKeyError::RsaModulusTooLarge => "age seals to RSA keys of at most 4096 bits",
        ParseRecipientKeyError::RsaModulusTooSmall => "age seals to RSA keys of at least 2048 bits",
        ParseRecipientKeyError::Invalid(_) if text.starts_with("ssh-ed25519 ") || text.starts_with("ssh-rsa ") => "it is damaged",
        _ => "age seals to ed25519 and RSA keys only",
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            RecipientKind::X25519(recipient) => recipient.fmt(f),
            RecipientKind::Ssh(recipient) => recipient.fmt(f),
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// What a sealed value is. It is sealed together with the value, and only that value opens under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// The private half of the master key with this fingerprint, as an OpenSSH private key file.
    MasterKey(Fingerprint),
    /// The private half of a session's temporary key.
    TemporaryKey(SessionId),
    /// The secret under which a session's host proves its keys.
    ProofSecret(SessionId),
    /// The key under which gateways seal what they have to have in clear.
    GatewayKey,
}

impl fmt::Display for Purpose {
    /// The purpose's name and what it is about, in one line. This text is what is sealed: it never changes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MasterKey(fingerprint) => write!(f, "masterkey {fingerprint}"),
            Self::TemporaryKey(session) => write!(f, "temporarykey {session}"),
            Self::ProofSecret(session) => write!(f, "proofsecret {session}"),
            Self::GatewayKey => f.write_str("gatewaykey"),
        }
    }
}

impl Purpose {
    /// What stands before the secret: no text of one purpose begins one of another, since it ends with its only newline.
    fn header(self) -> String {
        format!("toehold {self}\n")
    }
}

/// Why something could not be sealed or opened. Never holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// It is not an age file, is cut short, or was changed.
    #[error("the sealed {purpose} is damaged: {reason}")]
    Damaged {
        /// What it should be.
        purpose: Purpose,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It opened, but it was sealed as something else: somebody moved it here.
    #[error("what is stored as the sealed {purpose} was sealed as something else; do not use it")]
    OtherPurpose {
        /// What it should be.
        purpose: Purpose,
    },
    /// It is sealed to identities other than this one.
    #[error("the sealed {purpose} is not sealed to this identity ({})", recipient.brief())]
    OtherRecipient {
        /// What it should be.
        purpose: Purpose,
        /// Our recipient.
        recipient: Recipient,
    },
    /// Sealing failed.
    #[error("sealing the {purpose} failed")]
    Sealing {
        /// What was to be sealed.
        purpose: Purpose,
        /// What the cipher's code said.
        #[source]
        source: io::Error,
    },
}

/// An unlocked identity, an age X25519 key or an SSH key: seals secrets, and opens those that were sealed to it.
///
/// The identity is wiped on drop. Sealing passes a secret through a buffer of the age library that is freed without being
/// wiped; keep core dumps off where that matters.
pub struct Vault {
    identity: IdentityKind,
    audience: Mutex<Audience>,
}

/// Whom something is sealed to, by what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// To whom everything is sealed.
    pub operators: Vec<Recipient>,
    /// To whom is also sealed what gateways have to open: [`Purpose::GatewayKey`].
    pub gateways: Vec<Recipient>,
}

impl Audience {
    fn of(&self, purpose: Purpose) -> impl Iterator<Item = &Recipient> {
        let gateways: &[Recipient] = if purpose == Purpose::GatewayKey { &self.gateways } else { &[] };
        self.operators.iter().chain(gateways)
    }
}

enum IdentityKind {
    X25519(age::x25519::Identity),
    Ssh(Box<SshIdentity>),
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("audience", &*self.audience()).finish_non_exhaustive()
    }
}

impl Vault {
    /// The vault of an identity, which seals to this identity alone.
    pub(super) fn new(identity: age::x25519::Identity) -> Self {
        Self::of(IdentityKind::X25519(identity))
    }

    /// The same of an SSH key.
    pub(super) fn of_ssh_key(key: SshIdentity) -> Self {
        Self::of(IdentityKind::Ssh(Box::new(key)))
    }

    fn of(identity: IdentityKind) -> Self {
        let vault = Self { identity, audience: Mutex::default() };
        vault.seal_to(Audience { operators: vec![vault.recipient()], gateways: Vec::new() });
        vault
    }

    /// Whom this vault's own identity is known as.
    pub fn recipient(&self) -> Recipient {
        match &self.identity {
            IdentityKind::X25519(identity) => identity.to_public().into(),
            IdentityKind::Ssh(key) => key.recipient().clone(),
        }
    }

    /// Whose chain of the audit log is this identity's ([`Recipient::writer`]).
    pub fn writer(&self) -> String {
        self.recipient().writer()
    }

    pub(super) fn as_age(&self) -> &dyn age::Identity {
        match &self.identity {
            IdentityKind::X25519(identity) => identity,
            IdentityKind::Ssh(key) => key.as_age(),
        }
    }

    fn audience(&self) -> MutexGuard<'_, Audience> {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals to these from now on, and to no others: whether its own identity is among them is for the list of members to say.
    pub fn seal_to(&self, audience: Audience) {
        *self.audience() = audience;
    }

    /// The key that signs for this identity in a shared store. It is derived from the identity, so that there is one file to keep; what
    /// it is derived with is used for nothing else, and it signs nothing but records of shared stores.
    pub fn signing_key(&self) -> SigningKey {
        let identity = match &self.identity {
            IdentityKind::X25519(identity) => identity,
            IdentityKind::Ssh(key) => return key.signing_key(),
        };
        let text = identity.to_string();
        let mut seed = Zeroizing::new([0; 32]);
        let kdf = Hkdf::<Sha512>::new(Some(b"toehold signing key v1"), text.expose_secret().as_bytes());
        // 32 bytes are less than what the function can give.
        let expanded = kdf.expand(b"shared store records", &mut *seed);
        debug_assert!(expanded.is_ok());
        SigningKey::from_seed(&seed)
    }

    /// Seals `secret` as `purpose`: a binary age file.
    ///
    /// # Errors
    /// [`VaultError::Sealing`].
    pub fn seal_secret(&self, purpose: Purpose, secret: &SecretBytes) -> Result<Vec<u8>, VaultError> {
        let audience = self.audience().clone();
        seal(&audience, purpose, secret)
    }

    /// Opens what was sealed as `purpose`, and seals it to others.
    ///
    /// # Errors
    /// As [`Vault::open_secret`] and [`Vault::seal_secret`].
    pub fn seal_anew(&self, purpose: Purpose, sealed: &[u8], audience: &Audience) -> Result<Vec<u8>, VaultError> {
        seal(audience, purpose, &self.open_secret(purpose, sealed)?)
    }

    /// Opens what was sealed as `purpose`.
    ///
    /// # Errors
    /// [`VaultError::OtherRecipient`], [`VaultError::OtherPurpose`], or [`VaultError::Damaged`].
    pub fn open_secret(&self, purpose: Purpose, sealed: &[u8]) -> Result<SecretBytes, VaultError> {
        let damaged = |reason| VaultError::Damaged { purpose, reason };
        if sealed.len() > MAX_SEALED {
            return Err(damaged("it is larger than any secret"));
        }
        let identity = self.as_age();
        let decryptor = Decryptor::new_buffered(sealed).map_err(|_| damaged("it is not an age file"))?;
        let reader = decryptor.decrypt(std::iter::once(identity)).map_err(|error| match error {
            DecryptError::NoMatchingKeys => VaultError::OtherRecipient { purpose, recipient: self.recipient() },
            _ => damaged("its header was changed"),
        })?;
        let opened = read_wiped(reader, sealed.len()).map_err(|_| damaged("it was changed or cut short"))?;
        let header = purpose.header();
        let secret = opened.strip_prefix(header.as_bytes()).ok_or(VaultError::OtherPurpose { purpose })?;
        Ok(SecretBytes::new(secret.to_vec()))
    }
}

fn seal(audience: &Audience, purpose: Purpose, secret: &SecretBytes) -> Result<Vec<u8>, VaultError> {
    let failed = |source| VaultError::Sealing { purpose, source };
    let recipients = audience.of(purpose).map(Recipient::as_age);
    let encryptor = Encryptor::with_recipients(recipients).map_err(|error| failed(io::Error::other(error)))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).map_err(failed)?;
    writer.write_all(purpose.header().as_bytes()).map_err(failed)?;
    writer.write_all(secret.expose()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(sealed)
}

/// Reads to the end into a buffer that never moves and is wiped, of at most `limit` bytes.
pub(crate) fn read_wiped(mut reader: impl io::Read, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; limit]);
    let mut filled = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
        match reader.read(free) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
