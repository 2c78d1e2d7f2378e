//! Key pairs for logins.

use std::path::Path;
use std::process::Command;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::{Identity, PublicKey};
use toehold_keygen::{KeyAlgorithm, KeyPair};

/// A key pair and what the tests need of it.
#[derive(Debug)]
pub struct Key {
    pub public_key: PublicKey,
    pub identity: Identity,
}

impl Key {
    /// The line that lets it in.
    pub fn line(&self) -> String {
        format!("{}\n", self.public_key)
    }

    /// The line that lets it in under these options.
    pub fn line_with(&self, options: &str) -> String {
        format!("{options} {}\n", self.public_key)
    }
}

/// A generator for keys that nobody else has.
pub fn rng() -> ChaCha20Rng {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    ChaCha20Rng::from_seed(seed)
}

/// A new key pair, such as `ed25519`, `ecdsa-p256` or `rsa-3072`.
pub fn key(algorithm: &str) -> Key {
    let algorithm: KeyAlgorithm = algorithm.parse().unwrap();
    let pair = KeyPair::generate(&mut rng(), algorithm).unwrap();
    Key { public_key: pair.public_key().clone(), identity: pair.identity().unwrap() }
}

/// Makes a key file with OpenSSH's own tool and returns its public half.
pub fn ssh_keygen(path: &Path, arguments: &[&str]) -> PublicKey {
    let output = Command::new("ssh-keygen")
        .args(arguments)
        .args(["-q", "-N", "", "-C", "", "-f"])
        .arg(path)
        .output()
        .expect("ssh-keygen runs (apt-get install openssh-client)");
    assert!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(path.with_extension("pub")).unwrap().parse().unwrap()
}
