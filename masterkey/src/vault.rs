//! Where private halves are at rest.

use toehold_core::{Fingerprint, SecretBytes};

/// Seals the private halves of master keys for rest in a store, and opens them.
///
/// What is sealed has to be durable by itself: an implementation that keeps the key in an agent's memory, or wraps it with
/// something that a restart forgets, loses the fleet.
pub trait KeyVault: Send + Sync {
    /// Seals the private half of the master key with this fingerprint, an OpenSSH private key file without passphrase; only
    /// [`KeyVault::open`] with the same fingerprint brings it back.
    ///
    /// # Errors
    /// Why not, in words, without the secret.
    fn seal(&self, fingerprint: Fingerprint, openssh: &SecretBytes) -> Result<String, String>;

    /// Opens what [`KeyVault::seal`] made.
    ///
    /// # Errors
    /// Why not, in words.
    fn open(&self, fingerprint: Fingerprint, sealed: &str) -> Result<SecretBytes, String>;
}

impl<V: KeyVault + ?Sized> KeyVault for &V {
    fn seal(&self, fingerprint: Fingerprint, openssh: &SecretBytes) -> Result<String, String> {
        (**self).seal(fingerprint, openssh)
    }

    fn open(&self, fingerprint: Fingerprint, sealed: &str) -> Result<SecretBytes, String> {
        (**self).open(fingerprint, sealed)
    }
}
