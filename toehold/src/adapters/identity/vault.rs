//! Sealing and opening.

use std::fmt;
use std::io::{self, Write as _};
use std::str::FromStr;

use age::{DecryptError, Decryptor, Encryptor};
use toehold_core::{Fingerprint, SecretBytes, SessionId};
use zeroize::Zeroizing;

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
                Err(_) => Err(RecipientError { text: text.to_owned(), reason: "age seals to ed25519 and RSA keys only" }),
            };
        }
        match text.parse() {
            Ok(recipient) => Ok(Self(RecipientKind::X25519(recipient))),
            Err(reason) => Err(RecipientError { text: text.to_owned(), reason }),
        }
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
    #[error("the sealed {purpose} is not sealed to this identity ({recipient})")]
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

/// An unlocked identity: seals secrets, and opens those that were sealed to it.
///
/// The identity is wiped on drop. Sealing passes a secret through a buffer of the age library that is freed without being
/// wiped; keep core dumps off where that matters.
pub struct Vault {
    identity: IdentityKind,
    recipients: Vec<Recipient>,
}

// Identities that are SSH keys will be further kinds.
enum IdentityKind {
    X25519(age::x25519::Identity),
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("recipients", &self.recipients).finish_non_exhaustive()
    }
}

impl Vault {
    /// The vault of an identity, which seals to this identity alone.
    pub(super) fn new(identity: age::x25519::Identity) -> Self {
        let recipients = vec![identity.to_public().into()];
        Self { identity: IdentityKind::X25519(identity), recipients }
    }

    /// Whom this vault's own identity is known as.
    pub fn recipient(&self) -> Recipient {
        match &self.identity {
            IdentityKind::X25519(identity) => identity.to_public().into(),
        }
    }

    pub(super) fn as_age(&self) -> &dyn age::Identity {
        let IdentityKind::X25519(identity) = &self.identity;
        identity
    }

    /// Seals to `others` too from now on. Its own identity always remains among the recipients.
    #[must_use]
    pub fn also_sealing_to(mut self, others: impl IntoIterator<Item = Recipient>) -> Self {
        for other in others {
            if !self.recipients.contains(&other) {
                self.recipients.push(other);
            }
        }
        self
    }

    /// Seals `secret` as `purpose`: a binary age file.
    ///
    /// # Errors
    /// [`VaultError::Sealing`].
    pub fn seal_secret(&self, purpose: Purpose, secret: &SecretBytes) -> Result<Vec<u8>, VaultError> {
        let failed = |source| VaultError::Sealing { purpose, source };
        let recipients = self.recipients.iter().map(Recipient::as_age);
        let encryptor = Encryptor::with_recipients(recipients).map_err(|error| failed(io::Error::other(error)))?;
        let mut sealed = Vec::new();
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(failed)?;
        writer.write_all(purpose.header().as_bytes()).map_err(failed)?;
        writer.write_all(secret.expose()).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(sealed)
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
