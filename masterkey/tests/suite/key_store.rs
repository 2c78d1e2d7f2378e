//! The master key in a file: what it reads, what it refuses, and that a kill while it saves loses nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use toehold_core::testing::block_on;
use toehold_masterkey::{
    FileSystemMasterKeyStore, KeyAlgorithm, KeyPair, MasterKeyStore as _, MasterKeyStoreError, generate_key,
};

/// Set for the copy of this program that saves until it is killed: the file to save to.
const SAVER: &str = "TOEHOLD_TEST_SAVER";

fn key(seed: u8) -> KeyPair {
    KeyPair::generate(&mut ChaCha20Rng::from_seed([seed; 32]), KeyAlgorithm::Ed25519).unwrap()
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/geofront").join(name)
}

fn place(content: &[u8], mode: u32) -> (tempfile::TempDir, FileSystemMasterKeyStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("id_master");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (directory, FileSystemMasterKeyStore::new(path))
}

#[test]
fn an_empty_store_is_an_error_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileSystemMasterKeyStore::new(directory.path().join("id_master"));
    assert!(matches!(block_on(store.load()), Err(MasterKeyStoreError::Empty(_))));
    block_on(store.save(&key(1))).unwrap();
    assert_eq!(block_on(store.load()).unwrap().public_key(), key(1).public_key());
    block_on(store.save(&key(2))).unwrap();
    assert_eq!(block_on(store.load()).unwrap().public_key(), key(2).public_key());
    assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn every_kind_of_key_is_kept() {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    for (algorithm, bits) in
        [("ed25519", None), ("ecdsa-p256", None), ("ecdsa-p384", None), ("ecdsa-p521", None), ("rsa", Some(2048))]
    {
        let pair = generate_key(&mut rng, algorithm.parse().unwrap(), bits).unwrap();
        let (_directory, store) = place(b"", 0o600);
        block_on(store.save(&pair)).unwrap();
        assert_eq!(block_on(store.load()).unwrap().public_key(), pair.public_key(), "{algorithm}");
    }
}

#[test]
fn files_that_geofront_wrote_are_read() {
    for name in ["rsa", "ecdsa"] {
        let content = fs::read(vector(name)).unwrap();
        let (_directory, store) = place(&content, 0o600);
        let public = fs::read_to_string(vector(&format!("{name}.pub"))).unwrap();
        assert_eq!(block_on(store.load()).unwrap().public_key(), &public.parse().unwrap(), "{name}");
    }
}

#[test]
fn a_file_that_a_killed_geofront_emptied_is_not_taken_for_an_empty_store() {
    let (_directory, store) = place(b"", 0o600);
    let error = block_on(store.load()).unwrap_err();
    assert!(matches!(error, MasterKeyStoreError::Damaged { .. }), "{error}");
}

#[test]
fn what_others_may_read_or_replace_is_refused() {
    let content = key(1).to_openssh("x").unwrap();
    for mode in [0o644, 0o640, 0o604, 0o660, 0o602] {
        let (_directory, store) = place(content.expose(), mode);
        let error = block_on(store.load()).unwrap_err();
        assert!(matches!(error, MasterKeyStoreError::Loose { .. }) && error.to_string().ends_with("chmod 600 it"), "{error}");
    }
    let (directory, store) = place(content.expose(), 0o600);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = block_on(store.save(&key(2))).unwrap_err();
    assert!(error.to_string().ends_with("chmod go-w it"), "{error}");
    assert_eq!(block_on(store.load()).unwrap().public_key(), key(1).public_key());
}

#[test]
fn a_link_or_a_directory_is_not_replaced() {
    let (directory, store) = place(key(1).to_openssh("x").unwrap().expose(), 0o600);
    let link = FileSystemMasterKeyStore::new(directory.path().join("link"));
    symlink(store.path(), link.path()).unwrap();
    assert!(matches!(block_on(link.save(&key(2))), Err(MasterKeyStoreError::NotAFile { .. })));
    assert_eq!(block_on(store.load()).unwrap().public_key(), key(1).public_key());
    let below = directory.path().join("below");
    fs::create_dir(&below).unwrap();
    for odd in [below.clone(), below.join("..")] {
        let odd = FileSystemMasterKeyStore::new(odd);
        assert!(matches!(block_on(odd.save(&key(2))), Err(MasterKeyStoreError::NotAFile { .. })), "{odd:?}");
    }
    assert!(matches!(block_on(FileSystemMasterKeyStore::new(below).load()), Err(MasterKeyStoreError::NotAFile { .. })));
}

#[test]
fn errors_and_debug_show_nothing_of_the_key() {
    let content = key(1).to_openssh("x").unwrap();
    let text = String::from_utf8_lossy(content.expose()).into_owned();
    let body = text.lines().nth(2).unwrap();
    let (_directory, store) = place(&content.expose()[..content.len() / 2], 0o600);
    let shown = format!("{store:?} {:?}", block_on(store.load()).unwrap_err());
    assert!(!shown.contains(body) && !shown.contains(&body[..20]));
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn saves_until_it_is_killed_where_it_is_told_to() {
    let Some(path) = std::env::var_os(SAVER) else { return };
    let store = FileSystemMasterKeyStore::new(path);
    for seed in [2, 3].into_iter().cycle() {
        block_on(store.save(&key(seed))).unwrap();
    }
}

#[test]
fn a_process_that_is_killed_while_it_saves_leaves_a_whole_key() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileSystemMasterKeyStore::new(directory.path().join("id_master"));
    let known = [1, 2, 3].map(|seed| key(seed).public_key().clone());
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let (mut saved, mut half_way) = (0, 0);
    for round in 0..40 {
        fs::write(store.path(), b"").unwrap();
        block_on(store.save(&key(1))).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "key_store::saves_until_it_is_killed_where_it_is_told_to", "--test-threads", "1"])
            .env(SAVER, store.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // It is at work as soon as its first key is there; then it goes at any moment.
        let patience = Instant::now() + Duration::from_secs(60);
        while *block_on(store.load()).unwrap().public_key() == known[0] {
            assert!(Instant::now() < patience, "it saves nothing");
            std::thread::yield_now();
        }
        let moment = Instant::now() + Duration::from_micros(u64::from(rng.next_u32() % 3000));
        while Instant::now() < moment {
            let there = block_on(store.load()).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(known.contains(there.public_key()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let there = block_on(store.load()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(known.contains(there.public_key()), "round {round}");
        saved += 1;
        half_way += usize::from(fs::read_dir(directory.path()).unwrap().count() > 1);
    }
    assert_eq!(saved, 40);
    assert!(half_way > 0, "no kill came between the staging and the rename; the test proves nothing");
    block_on(store.save(&key(1))).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn of_two_processes_that_save_at_once_one_comes_last() {
    let directory = tempfile::tempdir().unwrap();
    let store = FileSystemMasterKeyStore::new(directory.path().join("id_master"));
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..20 {
                    block_on(store.save(&key(seed))).unwrap();
                    block_on(store.load()).unwrap();
                }
            });
        }
    });
    let last = block_on(store.load()).unwrap();
    assert!((1..=4).any(|seed| key(seed).public_key() == last.public_key()));
}
