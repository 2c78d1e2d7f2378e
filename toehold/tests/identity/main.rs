//! The identity's file, what is sealed to it, and the master key's records.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod file;
mod master_key;
mod recovery;
mod sealing;
mod ssh_key;
mod state;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tempfile::TempDir;
use toehold::adapters::identity::{
    Audience, FILE_NAME, IdentityError, IdentityFile, NewIdentity, Purpose, Recipient, Vault, VaultError,
};
use toehold::adapters::sqlite::SqliteStore;
use toehold::master_key::{
    CurrentMasterKey, MasterKeyError, MasterKeyRecord, create_master_key, current_master_key, current_master_public,
    load_master_key,
};
use toehold::state::{NoPassphrase, PassphraseError, PassphraseFile, PassphraseSource, State, StateError};
use toehold_core::{Entry, Expect, Identity, Key, Revision, SecretBytes, SessionId, Store, StoreError, Stored, Timestamp};
use toehold_keygen::{KeyAlgorithm, KeyPair};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Quick to compute; a real one takes about a second.
const LITTLE_WORK: u8 = 2;

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    directory
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A vault whose file is gone.
fn vault() -> Vault {
    let directory = directory();
    IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap().unwrap()
}

fn session(seed: u64) -> SessionId {
    SessionId::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

/// A key from a seed, so that a failure can be looked at again.
fn key_pair(seed: u64) -> Identity {
    KeyPair::generate(&mut ChaCha20Rng::seed_from_u64(seed), KeyAlgorithm::Ed25519).unwrap().identity().unwrap()
}

fn openssh(identity: &Identity) -> &SecretBytes {
    match identity {
        Identity::PrivateKey { openssh, .. } => openssh,
        other => panic!("{other:?}"),
    }
}

fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
