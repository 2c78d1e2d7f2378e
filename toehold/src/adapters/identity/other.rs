//! Identities that are not this machine's: those that recovery copies are sealed to.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{DecryptError, Decryptor, Encryptor};
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
    /// It is under a passphrase, and there is nobody to ask for it.
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
}

/// An age identity, in a file as `age-keygen` writes it, or an SSH private key. Either may be under a passphrase.
pub struct OtherIdentity {
    path: PathBuf,
    vault: Vault,
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
        let passphrase = if file.needs_passphrase() { passphrase().map_err(OtherIdentityError::Passphrase)? } else { None };
        let vault = file.unlock(passphrase.as_ref()).map_err(|error| match error {
            IdentityError::NeedsPassphrase { path } => OtherIdentityError::NeedsPassphrase { path },
            error => error.into(),
        })?;
        Ok(Self { path: path.to_owned(), vault })
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
        let reader = decryptor.decrypt(std::iter::once(self.vault.as_age()));
        read_wiped(reader.map_err(refused)?, sealed.len()).map_err(|_| OtherIdentityError::Damaged("it was changed or cut short"))
    }
}
