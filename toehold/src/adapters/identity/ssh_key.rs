//! Identities that are SSH keys: those that people have already.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use age::ssh;
use hkdf::Hkdf;
use sha2::Sha512;
use ssh_key::private::KeypairData;
use toehold_core::{PublicKey, SecretBytes};
use toehold_keygen::{KeyPair, MAX_PRIVATE_KEY_FILE, PrivateKeyError, read_private_key_file};
use toehold_specsign::SigningKey;
use zeroize::Zeroizing;

use super::file::IdentityError;
use super::vault::{Recipient, read_wiped};
use crate::private;

/// A file with an SSH private key, read but not unlocked.
pub struct SshKeyFile {
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SshKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshKeyFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SshKeyFile {
    /// Reads the key in a file that is its owner's alone, as ssh(1) wants it, also by a link to it.
    ///
    /// # Errors
    /// [`IdentityError::Private`] for a file that others may use, or that the system does not hand out.
    pub fn read(path: &Path) -> Result<Self, IdentityError> {
        private::check_linked_file(path)?;
        let file = fs::File::open(path).map_err(private::io_error("reading", path))?;
        // What is larger is refused as no key, with its size.
        let limit = MAX_PRIVATE_KEY_FILE + 1;
        let content = read_wiped(file.take(limit as u64), limit).map_err(private::io_error("reading", path))?;
        Ok(Self::of(path.to_owned(), content))
    }

    /// What is in this file.
    pub(super) fn of(path: PathBuf, content: Zeroizing<Vec<u8>>) -> Self {
        Self { path, content }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether unlocking it takes a passphrase.
    pub fn needs_passphrase(&self) -> bool {
        matches!(read_private_key_file(&self.content, None), Err(PrivateKeyError::PassphraseNeeded))
    }

    /// Unlocks it; a passphrase for a key that has none is not looked at. Under a passphrase this computes for as long as the file says.
    ///
    /// # Errors
    /// [`IdentityError::NeedsPassphrase`], [`IdentityError::WrongPassphrase`], [`IdentityError::SshKey`] for what is no private key, and
    /// [`IdentityError::UnfitKey`] for a key of a kind that age does not seal to.
    pub fn unlock(&self, passphrase: Option<&SecretBytes>) -> Result<SshIdentity, IdentityError> {
        let path = || self.path.clone();
        let passphrase = passphrase.filter(|_| self.needs_passphrase());
        let pair = read_private_key_file(&self.content, passphrase).map_err(|source| match source {
            PrivateKeyError::PassphraseNeeded => IdentityError::NeedsPassphrase { path: path() },
            PrivateKeyError::WrongPassphrase => IdentityError::WrongPassphrase { path: path() },
            source => IdentityError::SshKey { path: path(), source },
        })?;
        let unfit = || IdentityError::UnfitKey { path: path(), algorithm: pair.public_key().algorithm().to_owned() };
        SshIdentity::of(&pair).ok_or_else(unfit)
    }
}

/// An unlocked SSH key that opens what is sealed to it. Wiped on drop.
pub struct SshIdentity {
    key: ssh::Identity,
    public_key: PublicKey,
    recipient: Recipient,
    /// Of the key that signs for it.
    seed: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for SshIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshIdentity").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

impl SshIdentity {
    /// `None` for a key of a kind or a size that age does not seal to.
    fn of(pair: &KeyPair) -> Option<Self> {
        let recipient: Recipient = pair.public_key().to_string().parse().ok()?;
        let plain = pair.to_openssh("").ok()?;
        let key = ssh::Identity::from_buffer(plain.expose(), None).ok()?;
        let seed = signing_seed(&plain)?;
        matches!(key, ssh::Identity::Unencrypted(_)).then(|| Self { key, public_key: pair.public_key().clone(), recipient, seed })
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    pub(super) fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    pub(super) fn as_age(&self) -> &dyn age::Identity {
        &self.key
    }

    pub(super) fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.seed)
    }
}

/// What the key that signs is made of: nothing that an SSH key signs is a record of a store, and the other way round. It is derived from what
/// alone makes the key: the seed of RFC 8032 §5.1.5, or the two primes of RFC 8017 §3.2, the smaller one first, since files hold the same RSA key
/// with its primes in either order, and with either of two exponents.
fn signing_seed(plain: &SecretBytes) -> Option<Zeroizing<[u8; 32]>> {
    let key = ssh_key::PrivateKey::from_openssh(plain.expose()).ok()?;
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_PRIVATE_KEY_FILE));
    let kind = match key.key_data() {
        KeypairData::Ed25519(pair) => {
            secret.extend_from_slice(&pair.private.to_bytes());
            "ssh-ed25519"
        }
        KeypairData::Rsa(pair) => {
            let of = |number: &'_ ssh_key::Mpint| number.as_positive_bytes().map(<[u8]>::to_vec).map(Zeroizing::new);
            let mut primes = [of(pair.private().p())?, of(pair.private().q())?];
            primes.sort_by(|one, other| (one.len(), &***one).cmp(&(other.len(), &***other)));
            for prime in primes {
                secret.extend_from_slice(&u32::try_from(prime.len()).ok()?.to_be_bytes());
                secret.extend_from_slice(&prime);
            }
            "ssh-rsa"
        }
        _ => return None,
    };
    let mut seed = Zeroizing::new([0; 32]);
    let kdf = Hkdf::<Sha512>::new(Some(b"toehold signing key of an ssh key v1"), &secret);
    kdf.expand_multi_info(&[b"shared store records\n", kind.as_bytes()], &mut *seed).ok()?;
    Some(seed)
}
