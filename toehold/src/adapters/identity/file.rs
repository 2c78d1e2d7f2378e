//! The identity's file.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret as _, SecretString};
use age::{DecryptError, Decryptor, Encryptor, scrypt, x25519};
use toehold_core::{PublicKey, SecretBytes, Timestamp};
use toehold_keygen::PrivateKeyError;
use zeroize::Zeroizing;

use super::ssh_key::{SshIdentity, SshKeyFile};
use super::vault::{Vault, read_wiped};
use crate::private::{self, PrivateError};

/// The identity's name in the state directory.
pub const FILE_NAME: &str = "identity";

/// The most bytes that are read: many times what an identity takes.
const MAX_FILE: usize = 64 * 1024;

/// What stands before the place of an SSH key that is the identity.
const SSH_KEY: &str = "ssh-key: ";
/// What stands before its public half.
const PUBLIC_KEY: &str = "public-key: ";

/// The first line of an age file.
const AGE_MAGIC: &[u8] = b"age-encryption.org/";

/// The most that scrypt may be asked to do, as the logarithm of its N: 4 GiB of memory. The file is the operator's own, so
/// that this only keeps a damaged one from taking the machine down.
const MAX_WORK_FACTOR: u8 = 22;

/// Why an identity could not be made or unlocked. Never holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no identity.
    #[error("there is no identity {}; run: toehold init", path.display())]
    Absent {
        /// Where it should be.
        path: PathBuf,
    },
    /// The SSH key that is the identity does not lie where it did.
    #[error("the SSH key {} is not there, and it is the identity: bring it back, or write into {} where it is now", key.display(), path.display())]
    AbsentKey {
        /// The identity's file.
        path: PathBuf,
        /// Where the key should be.
        key: PathBuf,
    },
    /// The passphrase has no characters.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// The file holds something else, or is damaged.
    #[error("{} is not an identity: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The identity is under a passphrase and none was given.
    #[error("the identity {} is under a passphrase, and none was given", path.display())]
    NeedsPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// Where the identity's SSH key was, another one is now.
    #[error("{} is another key than the one that is the identity {}", key.display(), path.display())]
    OtherKey {
        /// The identity's file.
        path: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The passphrase is not UTF-8.
    #[error("the passphrase is not text in UTF-8")]
    PassphraseNotText,
    /// The file is not private, not ours, or the system refused.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The path of an SSH key cannot be written down.
    #[error("the path {} cannot be written down: it is not text in one line", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// It is no SSH private key that can be read.
    #[error("{} is not an identity", path.display())]
    SshKey {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PrivateKeyError,
    },
    /// Unlocking it would take more work than is sensible.
    #[error("unlocking the identity {} takes scrypt with 2^{work_factor}, and at most 2^{MAX_WORK_FACTOR} is done", path.display())]
    TooMuchWork {
        /// The file.
        path: PathBuf,
        /// The logarithm of scrypt's N.
        work_factor: u8,
    },
    /// It is an SSH key to which age does not seal.
    #[error("{} is of the kind {algorithm}: an identity is an ssh-ed25519 key, or an ssh-rsa key of 2048 to 4096 bits", path.display())]
    UnfitKey {
        /// The key's file.
        path: PathBuf,
        /// Its algorithm.
        algorithm: String,
    },
    /// The passphrase is not the one that the identity was made with.
    #[error("wrong passphrase for the identity {}", path.display())]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
}

/// How a new identity is to be kept.
#[derive(Debug, Default)]
pub struct NewIdentity {
    passphrase: Option<SecretBytes>,
    work_factor: Option<u8>,
    ssh_key: Option<(PathBuf, SshIdentity)>,
}

impl NewIdentity {
    /// One without a passphrase: the file's permissions are all that protects it.
    pub fn unprotected() -> Self {
        Self::default()
    }

    /// One under `passphrase`, with scrypt work that takes this machine about a second.
    pub fn under(passphrase: SecretBytes) -> Self {
        Self { passphrase: Some(passphrase), ..Self::default() }
    }

    /// No new key, but the SSH key in this file, which stays there; it keeps the passphrase that it has. What is written is where it
    /// lies, and its public half.
    ///
    /// # Errors
    /// As [`SshKeyFile::unlock`]; [`IdentityError::Path`] for a path that cannot be written in one line, and [`IdentityError::Private`] where
    /// the working directory is not known.
    pub fn ssh_key(file: &SshKeyFile, passphrase: Option<&SecretBytes>) -> Result<Self, IdentityError> {
        let path = std::path::absolute(file.path()).map_err(private::io_error("finding", file.path()))?;
        if path.to_str().is_none_or(|path| path.contains(char::is_control)) {
            return Err(IdentityError::Path { path });
        }
        Ok(Self { ssh_key: Some((path, file.unlock(passphrase)?)), ..Self::default() })
    }

    /// With `work_factor` as the logarithm of scrypt's N (held to 1..=22) in place of one that takes a second; for tests.
    #[must_use]
    pub fn with_work_factor(mut self, work_factor: u8) -> Self {
        self.work_factor = Some(work_factor.clamp(1, MAX_WORK_FACTOR));
        self
    }
}

/// An identity's file, read but not unlocked.
pub struct IdentityFile {
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
    /// The SSH key that it names, or is, and the public half that was written down with its place.
    ssh_key: Option<(SshKeyFile, Option<PublicKey>)>,
}

impl std::fmt::Debug for IdentityFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl IdentityFile {
    /// Whether `directory` has an identity, whatever its state.
    pub fn exists(directory: &Path) -> bool {
        directory.join(FILE_NAME).symlink_metadata().is_ok()
    }

    /// Makes the identity of `directory` unless there is one, with mode 0600, durable on return. The file appears whole or
    /// not at all. `None`: there is one, and it was left as it is.
    ///
    /// # Errors
    /// [`IdentityError::EmptyPassphrase`], [`IdentityError::PassphraseNotText`], and [`IdentityError::Private`] for a
    /// directory that others may enter, or that cannot be written.
    pub fn create(directory: &Path, how: NewIdentity, now: Timestamp) -> Result<Option<Vault>, IdentityError> {
        private::check_directory(directory)?;
        let path = directory.join(FILE_NAME);
        if Self::exists(directory) {
            return Ok(None);
        }
        let (vault, content) = if let Some((place, key)) = how.ssh_key {
            let content = naming_text(&place, key.public_key(), now);
            (Vault::of_ssh_key(key), content)
        } else {
            let identity = x25519::Identity::generate();
            let text = plain_text(&identity, now);
            let content = match &how.passphrase {
                None => text,
                Some(passphrase) => under_passphrase(&text, passphrase, how.work_factor)?,
            };
            (Vault::new(identity), content)
        };
        let (mut file, staged) = private::create_beside(&path)?;
        let written = file.write_all(&content).and_then(|()| file.sync_all()).map_err(private::io_error("writing", &staged));
        let published = written.and_then(|()| private::publish(&staged, &path));
        if published.is_err() {
            // The error to report is the first one.
            drop(fs::remove_file(&staged));
        }
        Ok(published?.then_some(vault))
    }

    /// Reads the identity of `directory`.
    ///
    /// # Errors
    /// [`IdentityError::Absent`], [`IdentityError::Malformed`], [`IdentityError::AbsentKey`], and [`IdentityError::Private`] for a file or a
    /// directory that others may use, a link, or another user's file.
    pub fn read(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(FILE_NAME);
        let absent = |error: PrivateError| {
            if error.is_absent() { IdentityError::Absent { path: path.clone() } } else { error.into() }
        };
        private::check_directory(directory).map_err(absent)?;
        private::check_file(&path).map_err(absent)?;
        Self::read_at(path)
    }

    /// Reads the identity in this very file, whoever may read it.
    pub(super) fn read_at(path: PathBuf) -> Result<Self, IdentityError> {
        let file = fs::File::open(&path).map_err(private::io_error("reading", &path))?;
        let content = read_wiped(file.take(MAX_FILE as u64 + 1), MAX_FILE + 1).map_err(private::io_error("reading", &path))?;
        if content.len() > MAX_FILE {
            return Err(IdentityError::Malformed { path, reason: "it is far too large" });
        }
        let ssh_key = if content.starts_with(b"-----BEGIN ") {
            Some((SshKeyFile::of(path.clone(), content.clone()), None))
        } else {
            named(&path, &content)?.map(|(key, public_key)| (key, Some(public_key)))
        };
        Ok(Self { path, content, ssh_key })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file with the secret: another one than [`IdentityFile::path`] where the identity is an SSH key. What a passphrase is asked for, and of
    /// what there should be a copy elsewhere.
    pub fn secret_path(&self) -> &Path {
        self.ssh_key.as_ref().map_or(&self.path, |(key, _)| key.path())
    }

    /// The public half of the SSH key that is the identity, as it was written down.
    pub fn ssh_public_key(&self) -> Option<&PublicKey> {
        self.ssh_key.as_ref()?.1.as_ref()
    }

    /// Whether unlocking it takes a passphrase.
    pub fn needs_passphrase(&self) -> bool {
        match &self.ssh_key {
            Some((key, _)) => key.needs_passphrase(),
            None => self.content.starts_with(AGE_MAGIC),
        }
    }

    /// Unlocks it; a passphrase for an identity that has none is not looked at. Under a passphrase this computes for about a
    /// second.
    ///
    /// # Errors
    /// [`IdentityError::NeedsPassphrase`], [`IdentityError::WrongPassphrase`], [`IdentityError::Malformed`],
    /// [`IdentityError::TooMuchWork`]; for an SSH key [`IdentityError::OtherKey`], and as [`SshKeyFile::unlock`].
    pub fn unlock(&self, passphrase: Option<&SecretBytes>) -> Result<Vault, IdentityError> {
        if let Some((key, public_key)) = &self.ssh_key {
            let unlocked = key.unlock(passphrase)?;
            if public_key.as_ref().is_some_and(|public_key| public_key != unlocked.public_key()) {
                return Err(IdentityError::OtherKey { path: self.path.clone(), key: key.path().to_owned() });
            }
            return Ok(Vault::of_ssh_key(unlocked));
        }
        if !self.needs_passphrase() {
            return self.parse(&self.content);
        }
        let malformed = |reason| IdentityError::Malformed { path: self.path.clone(), reason };
        let passphrase = passphrase.ok_or_else(|| IdentityError::NeedsPassphrase { path: self.path.clone() })?;
        let mut unlocker = scrypt::Identity::new(passphrase_text(passphrase)?);
        unlocker.set_max_work_factor(MAX_WORK_FACTOR);
        let decryptor = Decryptor::new_buffered(self.content.as_slice()).map_err(|_| malformed("it is a damaged age file"))?;
        if !decryptor.is_scrypt() {
            return Err(malformed("it is an age file that is not under a passphrase"));
        }
        let unlocker: &dyn age::Identity = &unlocker;
        let reader = decryptor.decrypt(std::iter::once(unlocker)).map_err(|error| match error {
            DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed | DecryptError::NoMatchingKeys => {
                IdentityError::WrongPassphrase { path: self.path.clone() }
            }
            DecryptError::ExcessiveWork { required, .. } => {
                IdentityError::TooMuchWork { path: self.path.clone(), work_factor: required }
            }
            _ => malformed("it is a damaged age file"),
        })?;
        let text = read_wiped(reader, MAX_FILE).map_err(|_| malformed("it was changed or cut short"))?;
        self.parse(&text)
    }

    /// Reads the format of `age-keygen`: comments and one key.
    fn parse(&self, text: &[u8]) -> Result<Vault, IdentityError> {
        let malformed = |reason| IdentityError::Malformed { path: self.path.clone(), reason };
        let text = std::str::from_utf8(text).map_err(|_| malformed("it is not text"))?;
        let mut identity = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let parsed: x25519::Identity = line.parse().map_err(|_| malformed("a line of it is not an age secret key"))?;
            if identity.replace(parsed).is_some() {
                return Err(malformed("it holds several keys, and one is what can be used"));
            }
        }
        identity.map(Vault::new).ok_or_else(|| malformed("it holds no age secret key"))
    }
}

/// An identity's file with more than the SSH key that it names.
const MIXED: &str = "it names an SSH key, and has more in it";

/// The SSH key that an identity's file names, and its public half; `None` where it names none.
fn named(path: &Path, content: &[u8]) -> Result<Option<(SshKeyFile, PublicKey)>, IdentityError> {
    let Ok(text) = std::str::from_utf8(content) else { return Ok(None) };
    let malformed = |reason| IdentityError::Malformed { path: path.to_owned(), reason };
    let (mut place, mut public_key) = (None, None);
    for line in text.lines() {
        let is_second = if let Some(found) = line.strip_prefix(SSH_KEY) {
            place.replace(Path::new(found)).is_some()
        } else if let Some(found) = line.strip_prefix(PUBLIC_KEY) {
            public_key.replace(found).is_some()
        } else if line.is_empty() || line.starts_with('#') {
            false
        } else {
            return if place.is_some() || public_key.is_some() { Err(malformed(MIXED)) } else { Ok(None) };
        };
        if is_second {
            return Err(malformed("it names several SSH keys, and one is what can be used"));
        }
    }
    let Some(place) = place else { return Ok(None) };
    let public_key =
        public_key.and_then(|text| text.parse().ok()).ok_or_else(|| malformed("it names no public half of its SSH key"))?;
    if !place.is_absolute() {
        return Err(malformed("the path of its SSH key does not begin at the root"));
    }
    let key = SshKeyFile::read(place).map_err(|error| match error {
        IdentityError::Private(error) if error.is_absent() => {
            IdentityError::AbsentKey { path: path.to_owned(), key: place.to_owned() }
        }
        error => error,
    })?;
    Ok(Some((key, public_key)))
}

/// What is written of an SSH key that is the identity.
fn naming_text(place: &Path, public_key: &PublicKey, now: Timestamp) -> Zeroizing<Vec<u8>> {
    let text = format!(
        "# Toehold's identity is an SSH key, which stays where it is. It opens every key in the store: keep a copy of it elsewhere.\n\
         # created: {now}\n\
         {SSH_KEY}{}\n\
         {PUBLIC_KEY}{public_key}\n",
        place.display()
    );
    Zeroizing::new(text.into_bytes())
}

fn plain_text(identity: &x25519::Identity, now: Timestamp) -> Zeroizing<Vec<u8>> {
    let key = identity.to_string();
    let comment = format!(
        "# Toehold's identity. It opens every key in the store beside it: keep a copy where the store is not.\n\
         # created: {now}\n\
         # public key: {}\n",
        identity.to_public()
    );
    let mut text = Zeroizing::new(Vec::with_capacity(comment.len() + key.expose_secret().len() + 1));
    text.extend_from_slice(comment.as_bytes());
    text.extend_from_slice(key.expose_secret().as_bytes());
    text.push(b'\n');
    text
}

fn under_passphrase(text: &[u8], passphrase: &SecretBytes, work_factor: Option<u8>) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let mut recipient = scrypt::Recipient::new(passphrase_text(passphrase)?);
    if let Some(work_factor) = work_factor {
        recipient.set_work_factor(work_factor);
    }
    let recipient: &dyn age::Recipient = &recipient;
    let encrypt = || -> io::Result<Vec<u8>> {
        let encryptor = Encryptor::with_recipients(std::iter::once(recipient)).map_err(io::Error::other)?;
        let mut content = Vec::new();
        let mut writer = encryptor.wrap_output(&mut content)?;
        writer.write_all(text)?;
        writer.finish()?;
        Ok(content)
    };
    encrypt().map(Zeroizing::new).map_err(|error| private::io_error("encrypting", Path::new(FILE_NAME))(error).into())
}

fn passphrase_text(passphrase: &SecretBytes) -> Result<SecretString, IdentityError> {
    if passphrase.is_empty() {
        return Err(IdentityError::EmptyPassphrase);
    }
    let text = std::str::from_utf8(passphrase.expose()).map_err(|_| IdentityError::PassphraseNotText)?;
    Ok(SecretString::from(text))
}
