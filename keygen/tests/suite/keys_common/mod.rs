//! What the tests of key pairs share: the vectors, and the real `ssh-keygen`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "helpers of tests; none of them uses all")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::{PublicKey, SecretBytes};
use toehold_keygen::KeyAlgorithm;

/// What opens every encrypted vector.
pub const PASSPHRASE: &str = "correct horse";

/// The names under which a key is there in several formats, and what it is.
pub const NAMES: [(&str, KeyAlgorithm); 7] = [
    ("ed25519", KeyAlgorithm::Ed25519),
    ("ecdsa-p256", KeyAlgorithm::EcdsaP256),
    ("ecdsa-p384", KeyAlgorithm::EcdsaP384),
    ("ecdsa-p521", KeyAlgorithm::EcdsaP521),
    ("rsa-2048", KeyAlgorithm::Rsa { bits: 2048 }),
    ("rsa-3072", KeyAlgorithm::Rsa { bits: 3072 }),
    ("short-scalar", KeyAlgorithm::EcdsaP256),
];

pub fn passphrase() -> SecretBytes {
    SecretBytes::new(PASSPHRASE.as_bytes().to_vec())
}

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys")
}

pub fn vector(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn public_half(name: &str) -> PublicKey {
    String::from_utf8(vector(&format!("{name}.pub"))).unwrap().parse().unwrap()
}

/// The names of all vectors that hold a key, as make.sh left them.
pub fn all_vectors() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["README.md", "make.sh", "fingerprints.txt"].contains(&name.as_str()))
        .collect();
    names.sort();
    assert!(names.len() > 70, "the vectors are missing");
    names
}

pub fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

/// Runs the real `ssh-keygen`.
pub fn ssh_keygen(arguments: &[&str]) -> Output {
    Command::new("ssh-keygen")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("this test needs ssh-keygen: install openssh-client ({error})"))
}

/// What `ssh-keygen` printed; it must have been content.
pub fn ssh_keygen_says(arguments: &[&str]) -> String {
    let output = ssh_keygen(arguments);
    assert!(output.status.success(), "ssh-keygen {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A file that `ssh-keygen` will read: its mode is 0600.
pub fn private_file(directory: &Path, name: &str, bytes: &[u8]) -> String {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = directory.join(name);
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap().write_all(bytes).unwrap();
    path.into_os_string().into_string().unwrap()
}
