//! The key that the gateway shows: made at its first start, kept in its state directory.

use std::path::Path;

use russh::keys::PrivateKey;
use toehold_core::PublicKey;
use toehold_keygen::{KeyAlgorithm, KeyPair};

use super::PodsError;
use crate::gateway::system_rng;
use crate::private;

const FILE: &str = "ssh_host_ed25519_key";
/// An Ed25519 key in OpenSSH's format has about 400 bytes.
const MAX_FILE: usize = 16 * 1024;

/// The host key in the directory, made where there is none; of two that start at once, both show the same.
pub(super) fn load(directory: &Path) -> Result<(PrivateKey, PublicKey), PodsError> {
    let bad = |error: &dyn std::fmt::Display| PodsError::HostKey(error.to_string());
    let path = directory.join(FILE);
    if private::read(&path, MAX_FILE)?.is_none() {
        let pair = KeyPair::generate(&mut system_rng(), KeyAlgorithm::Ed25519).map_err(|error| bad(&error))?;
        let text = pair.to_openssh("toehold pods").map_err(|error| bad(&error))?;
        private::write_new(&path, text.expose())?;
    }
    let text = private::read(&path, MAX_FILE)?.ok_or_else(|| bad(&"it is gone again"))?;
    let key = PrivateKey::from_openssh(text.as_slice()).map_err(|error| bad(&error))?;
    let blob = key.public_key().to_bytes().map_err(|error| bad(&error))?;
    let public = PublicKey::from_blob(&blob).map_err(|error| bad(&error))?;
    Ok((key, public))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn it_is_made_once_and_kept_private() {
        let directory = tempfile::tempdir().unwrap();
        let (_, first) = load(directory.path()).unwrap();
        let (_, second) = load(directory.path()).unwrap();
        assert_eq!(first, second);
        let path = directory.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(load(directory.path()), Err(PodsError::HostKey(_))));
    }
}
