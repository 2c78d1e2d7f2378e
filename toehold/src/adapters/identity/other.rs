//! Identities that are not this machine's: those that recovery copies are sealed to.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::SecretString;
use age::{Callbacks, DecryptError, Decryptor, Encryptor, ssh};
use toehold_core::{SecretBytes, Source};
use zeroize::Zeroizing;

use super::file::{IdentityError, IdentityFile};
use super::vault::{Recipient, Vault, read_wiped};

/// Seals `content` to each of these recipients: an age file in its text form, which `age -d` opens.
///
/// # Errors
/// What the cipher's code says; it has nothing to say about a recipient that was parsed.
pub fn seal_to(recipients: &[Recipient], content: &[u8]) -> io::Result<Vec<u8>> {
    let encryptor = Encryptor::with_recipients(recipients.iter().map(Recipient::as_age)).map_err(io::Error::other)?;
    let mut writer = encryptor.wrap_output(ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?)?;
    writer.write_all(content)?;
    writer.finish()?.finish()
}

/// Why something could not be opened with an [`OtherIdentity`]. Never holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtherIdentityError {
    /// It is not an age file, is cut short, or was changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The file holds no identity that can be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An SSH key under a passphrase, and nobody to ask for it.
    #[error("{} is under a passphrase; name a file that holds it with --passphrase-file", path.display())]
    NeedsPassphrase {
        /// The key's file.
        path: PathBuf,
    },
    /// It is sealed to others.
    #[error("it is not sealed to {}, or the passphrase is wrong", path.display())]
    NotForUs {
        /// The identity's file.
        path: PathBuf,
    },
    /// The passphrase was to be had and could not be read.
    #[error("no passphrase")]
    Passphrase(#[source] Source),
    /// An SSH key of a kind that age does not seal to.
    #[error("{} is neither an age identity nor an ed25519 or RSA private key", path.display())]
    Unsupported {
        /// The key's file.
        path: PathBuf,
    },
}

/// An age identity, in a file as `age-keygen` writes it, or an SSH private key. Either may be under a passphrase.
pub struct OtherIdentity {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Age(Vault),
    Ssh(ssh::Identity, Known),
}

impl fmt::Debug for OtherIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherIdentity").field("path", &self.path).finish_non_exhaustive()
    }
}

impl OtherIdentity {
    /// Reads one; `passphrase` is asked at most once, and only for an identity that is under one.
    ///
    /// # Errors
    /// All but [`OtherIdentityError::NotForUs`].
    pub fn read(
        path: &Path,
        passphrase: impl FnOnce() -> Result<Option<SecretBytes>, Source>,
    ) -> Result<Self, OtherIdentityError> {
        let file = IdentityFile::read_at(path.to_owned())?;
        let path = path.to_owned();
        if !file.content().starts_with(b"-----BEGIN ") {
            let passphrase = if file.needs_passphrase() { passphrase().map_err(OtherIdentityError::Passphrase)? } else { None };
            return Ok(Self { kind: Kind::Age(file.unlock(passphrase.as_ref())?), path });
        }
        let key = ssh::Identity::from_buffer(file.content(), None)
            .map_err(|_| OtherIdentityError::Unsupported { path: path.clone() })?;
        let known = match &key {
            ssh::Identity::Unencrypted(_) => Known(None),
            ssh::Identity::Encrypted(_) => {
                let given = passphrase().map_err(OtherIdentityError::Passphrase)?;
                let text = given.as_ref().and_then(|given| std::str::from_utf8(given.expose()).ok());
                let text = text.ok_or_else(|| OtherIdentityError::NeedsPassphrase { path: path.clone() })?;
                Known(Some(Arc::new(SecretString::from(text))))
            }
            ssh::Identity::Unsupported(_) => return Err(OtherIdentityError::Unsupported { path }),
        };
        Ok(Self { kind: Kind::Ssh(key, known), path })
    }

    /// Opens an age file, in its text form or binary.
    ///
    /// # Errors
    /// [`OtherIdentityError::Damaged`] and [`OtherIdentityError::NotForUs`].
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OtherIdentityError> {
        let decryptor = Decryptor::new_buffered(ArmoredReader::new(sealed))
            .map_err(|_| OtherIdentityError::Damaged("it is not an age file"))?;
        let not_for_us = || OtherIdentityError::NotForUs { path: self.path.clone() };
        let refused = |error| match error {
            DecryptError::InvalidHeader | DecryptError::InvalidMac => OtherIdentityError::Damaged("its header was changed"),
            _ => not_for_us(),
        };
        let reader = match &self.kind {
            Kind::Age(vault) => decryptor.decrypt(std::iter::once(vault.as_age())),
            Kind::Ssh(key, known) => {
                let key = key.clone().with_callbacks(known.clone());
                let key: &dyn age::Identity = &key;
                decryptor.decrypt(std::iter::once(key))
            }
        };
        read_wiped(reader.map_err(refused)?, sealed.len()).map_err(|_| OtherIdentityError::Damaged("it was changed or cut short"))
    }
}

/// A passphrase that was asked for beforehand.
#[derive(Clone)]
struct Known(Option<Arc<SecretString>>);

impl Callbacks for Known {
    fn display_message(&self, _: &str) {}

    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, _: &str) -> Option<SecretString> {
        self.0.as_deref().cloned()
    }
}
