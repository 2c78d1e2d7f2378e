//! The identity's file, what is sealed to it, and the master key's records.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tempfile::TempDir;
use toehold::adapters::identity::{FILE_NAME, IdentityError, IdentityFile, NewIdentity, Purpose, Recipient, Vault, VaultError};
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
    IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap().unwrap()
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

mod file {
    use super::*;

    #[test]
    fn made_private_and_unlocked_again() {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        let vault = IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(&format!("# public key: {}\n", vault.recipient())) && text.contains("\nAGE-SECRET-KEY-1"),
            "{text}"
        );
        let file = IdentityFile::read(directory.path()).unwrap();
        assert!(!file.needs_passphrase());
        assert_eq!(file.unlock(None).unwrap().recipient(), vault.recipient());
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE_NAME]);
    }

    #[test]
    fn an_existing_one_is_never_replaced() {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        let created = IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap();
        assert!(created.is_some());
        let before = fs::read(&path).unwrap();
        assert!(IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap().is_none());
        assert_eq!(fs::read(&path).unwrap(), before);
        // Not even one that nobody can read, or that leads nowhere.
        fs::write(&path, "").unwrap();
        assert!(IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap().is_none());
        assert_eq!(fs::read(&path).unwrap(), b"");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap().is_none());
    }

    #[test]
    fn under_a_passphrase() {
        let directory = directory();
        let how = NewIdentity::under(secret("correct horse")).with_work_factor(LITTLE_WORK);
        let vault = IdentityFile::create(directory.path(), &how, NOW).unwrap().unwrap();
        let bytes = fs::read(directory.path().join(FILE_NAME)).unwrap();
        assert!(bytes.starts_with(b"age-encryption.org/v1\n-> scrypt "));
        assert!(!bytes.windows(14).any(|window| window == b"AGE-SECRET-KEY"));
        let file = IdentityFile::read(directory.path()).unwrap();
        assert!(file.needs_passphrase());
        assert_eq!(file.unlock(Some(&secret("correct horse"))).unwrap().recipient(), vault.recipient());
        assert!(matches!(file.unlock(Some(&secret("wrong horse"))), Err(IdentityError::WrongPassphrase { .. })));
        assert!(matches!(file.unlock(Some(&secret("correct horse\n"))), Err(IdentityError::WrongPassphrase { .. })));
        assert!(matches!(file.unlock(None), Err(IdentityError::NeedsPassphrase { .. })));
        assert!(matches!(file.unlock(Some(&secret(""))), Err(IdentityError::EmptyPassphrase)));
        let not_text = SecretBytes::new(vec![0xff]);
        assert!(matches!(file.unlock(Some(&not_text)), Err(IdentityError::PassphraseNotText)));
    }

    #[test]
    fn no_identity_is_made_under_a_passphrase_that_cannot_be_one() {
        let directory = directory();
        for bad in [secret(""), SecretBytes::new(vec![0xc3])] {
            let how = NewIdentity::under(bad).with_work_factor(LITTLE_WORK);
            assert!(IdentityFile::create(directory.path(), &how, NOW).is_err());
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn loose_permissions_are_refused_and_name_chmod() {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap();
        for (loose, mode, kept, advice) in [
            (path.as_path(), 0o644, 0o600, "chmod 600"),
            (path.as_path(), 0o620, 0o600, "chmod 600"),
            (directory.path(), 0o755, 0o700, "chmod 700"),
        ] {
            set_mode(loose, mode);
            let words = in_words(&IdentityFile::read(directory.path()).unwrap_err());
            assert!(words.contains(advice) && words.contains(loose.to_str().unwrap()), "{words}");
            set_mode(loose, kept);
        }
        IdentityFile::read(directory.path()).unwrap();
        set_mode(directory.path(), 0o755);
        fs::remove_file(&path).unwrap();
        assert!(IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn a_link_and_another_users_file_are_refused() {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap();
        let moved = directory.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &path).unwrap();
        let words = in_words(&IdentityFile::read(directory.path()).unwrap_err());
        assert!(words.contains("not a regular file"), "{words}");
        fs::remove_file(&path).unwrap();
        fs::rename(&moved, &path).unwrap();
        assert!(
            rustix::process::geteuid().is_root(),
            "this test gives a file to another user and has to be run by root for that"
        );
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let words = in_words(&IdentityFile::read(directory.path()).unwrap_err());
        assert!(words.contains("belongs to user id 12345"), "{words}");
    }

    #[test]
    fn what_is_not_an_identity_is_refused_in_words_that_show_none_of_it() {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        IdentityFile::create(directory.path(), &NewIdentity::unprotected(), NOW).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let key_line = good.lines().last().unwrap().to_owned();
        let two = format!("{good}{key_line}\n");
        let recipients = age::x25519::Identity::generate().to_public().to_string();
        let cases: [(&[u8], &str); 8] = [
            (b"", "holds no age secret key"),
            (b"# only a comment\n", "holds no age secret key"),
            (&key_line.as_bytes()[..40], "not an age secret key"),
            (recipients.as_bytes(), "not an age secret key"),
            (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "not an age secret key"),
            (two.as_bytes(), "several keys"),
            (b"\xff\xfe", "not text"),
            (&[b'#'; 70_000], "far too large"),
        ];
        for (content, expected) in cases {
            fs::write(&path, content).unwrap();
            let error = IdentityFile::read(directory.path()).and_then(|file| file.unlock(None)).unwrap_err();
            let words = in_words(&error);
            assert!(words.contains(expected) && words.contains(path.to_str().unwrap()), "{words}");
            assert!(!format!("{words}{error:?}").contains("AGE-SECRET"), "{words}");
        }
        fs::remove_file(&path).unwrap();
        let words = in_words(&IdentityFile::read(directory.path()).unwrap_err());
        assert!(words.contains("toehold init"), "{words}");
    }

    #[test]
    fn a_damaged_encrypted_identity_is_never_a_panic_and_never_unlocks() {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        let how = NewIdentity::under(secret("p")).with_work_factor(LITTLE_WORK);
        IdentityFile::create(directory.path(), &how, NOW).unwrap();
        let good = fs::read(&path).unwrap();
        let mut broken: Vec<Vec<u8>> = (0..good.len()).step_by(7).map(|length| good[..length].to_vec()).collect();
        for position in (0..good.len()).step_by(5) {
            let mut flipped = good.clone();
            flipped[position] ^= 0x01;
            broken.push(flipped);
        }
        for content in broken {
            fs::write(&path, &content).unwrap();
            let error = IdentityFile::read(directory.path()).unwrap().unlock(Some(&secret("p"))).unwrap_err();
            assert!(
                matches!(
                    error,
                    IdentityError::Malformed { .. } | IdentityError::WrongPassphrase { .. } | IdentityError::TooMuchWork { .. }
                ),
                "{error:?}"
            );
        }
    }

    #[test]
    fn absurd_work_is_refused_before_it_is_done() {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        let how = NewIdentity::under(secret("p")).with_work_factor(LITTLE_WORK);
        IdentityFile::create(directory.path(), &how, NOW).unwrap();
        let bytes = fs::read(&path).unwrap();
        let end = bytes.windows(3).position(|window| window == b" 2\n").unwrap();
        let dear = [&bytes[..end], b" 40\n", &bytes[end + 3..]].concat();
        fs::write(&path, dear).unwrap();
        let error = IdentityFile::read(directory.path()).unwrap().unlock(Some(&secret("p"))).unwrap_err();
        assert!(matches!(error, IdentityError::TooMuchWork { work_factor: 40, .. }), "{error:?}");
    }
}

mod sealing {
    use super::*;

    fn master_key(seed: u64) -> Purpose {
        Purpose::MasterKey(key_pair(seed).public_key().fingerprint())
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_alone() {
        let vault = vault();
        let purposes = [
            master_key(1),
            master_key(2),
            Purpose::TemporaryKey(session(1)),
            Purpose::TemporaryKey(session(2)),
            Purpose::ProofSecret(session(1)),
        ];
        for purpose in purposes {
            let sealed = vault.seal_secret(purpose, &secret("hunter2")).unwrap();
            assert!(sealed.starts_with(b"age-encryption.org/v1\n-> X25519 "));
            assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
            for other in purposes {
                let opened = vault.open_secret(other, &sealed);
                if other == purpose {
                    assert_eq!(opened.unwrap(), secret("hunter2"));
                } else {
                    assert!(matches!(opened, Err(VaultError::OtherPurpose { .. })), "{purpose} opened as {other}");
                }
            }
        }
    }

    #[test]
    fn a_secret_that_looks_like_a_purpose_does_not_move() {
        let vault = vault();
        let (one, two) = (Purpose::TemporaryKey(session(1)), Purpose::TemporaryKey(session(2)));
        let tricky = secret(&format!("toehold {two}\nhunter2"));
        let sealed = vault.seal_secret(one, &tricky).unwrap();
        assert!(matches!(vault.open_secret(two, &sealed), Err(VaultError::OtherPurpose { .. })));
        assert_eq!(vault.open_secret(one, &sealed).unwrap(), tricky);
    }

    #[test]
    fn any_length_comes_back() {
        let vault = vault();
        let purpose = master_key(1);
        for length in [0, 1, 65_535, 65_536, 200_000] {
            let bytes: Vec<u8> = (0..=255).cycle().take(length).collect();
            let sealed = vault.seal_secret(purpose, &SecretBytes::new(bytes.clone())).unwrap();
            assert_eq!(vault.open_secret(purpose, &sealed).unwrap().expose(), bytes);
        }
    }

    #[test]
    fn another_identity_cannot_open_it_unless_it_is_a_recipient() {
        let (ours, theirs) = (vault(), vault());
        let purpose = master_key(1);
        let sealed = ours.seal_secret(purpose, &secret("hunter2")).unwrap();
        let error = theirs.open_secret(purpose, &sealed).unwrap_err();
        assert!(matches!(&error, VaultError::OtherRecipient { recipient, .. } if *recipient == theirs.recipient()), "{error:?}");
        let ours = ours.also_sealing_to([theirs.recipient(), theirs.recipient()]);
        let sealed = ours.seal_secret(purpose, &secret("hunter2")).unwrap();
        for vault in [&ours, &theirs] {
            assert_eq!(vault.open_secret(purpose, &sealed).unwrap(), secret("hunter2"));
        }
    }

    #[test]
    fn no_changed_byte_and_no_cut_opens() {
        let vault = vault();
        let purpose = Purpose::ProofSecret(session(1));
        let sealed = vault.seal_secret(purpose, &secret("hunter2")).unwrap();
        for length in 0..sealed.len() {
            assert!(vault.open_secret(purpose, &sealed[..length]).is_err(), "{length} bytes of {}", sealed.len());
        }
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 0x20;
            assert!(vault.open_secret(purpose, &changed).is_err(), "byte {position}");
        }
        assert!(vault.open_secret(purpose, &[sealed, vec![0]].concat()).is_err());
        assert!(vault.open_secret(purpose, &vec![0; 2 * 1024 * 1024]).is_err());
    }

    #[test]
    fn recipients_are_read_and_printed() {
        let recipient = vault().recipient();
        assert!(recipient.to_string().starts_with("age1"));
        assert_eq!(recipient.to_string().parse::<Recipient>().unwrap(), recipient);
        for bad in ["", "age1", "age1qqqq", "ssh-ed25519 AAAA", "AGE-SECRET-KEY-1QQ"] {
            assert!(bad.parse::<Recipient>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        let directory = directory();
        let how = NewIdentity::under(secret("hunter2")).with_work_factor(LITTLE_WORK);
        let vault = IdentityFile::create(directory.path(), &how, NOW).unwrap().unwrap();
        let file = IdentityFile::read(directory.path()).unwrap();
        let wrong = file.unlock(Some(&secret("hunter3"))).unwrap_err();
        let printed = format!("{how:?} {vault:?} {file:?} {wrong:?} {wrong}");
        assert!(!printed.contains("hunter") && !printed.contains("AGE-SECRET"), "{printed}");
    }
}

mod master_key {
    use super::*;

    /// A store that fails from its n-th write on, before or after the write took place.
    struct Failing<'a> {
        store: &'a SqliteStore,
        writes_left: AtomicUsize,
        after: bool,
    }

    impl<'a> Failing<'a> {
        fn at(store: &'a SqliteStore, write: usize, after: bool) -> Self {
            Self { store, writes_left: AtomicUsize::new(write), after }
        }

        /// Whether this write still takes place, and whether it is reported.
        fn next(&self) -> (bool, bool) {
            let left = self.writes_left.load(Ordering::Relaxed);
            self.writes_left.store(left.saturating_sub(1), Ordering::Relaxed);
            (left > 1 || (left == 1 && self.after), left > 1)
        }
    }

    fn gone() -> StoreError {
        StoreError::Unavailable { doing: "writing".to_owned(), source: "the process has ended".into() }
    }

    impl Store for Failing<'_> {
        type Watch = <SqliteStore as Store>::Watch;

        async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
            self.store.get(key).await
        }

        async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
            let (takes_place, reported) = self.next();
            let result = if takes_place { self.store.put(key, value, expect).await } else { Err(gone()) };
            if reported { result } else { Err(gone()) }
        }

        async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
            let (takes_place, reported) = self.next();
            let result = if takes_place { self.store.delete(key, revision).await } else { Err(gone()) };
            if reported { result } else { Err(gone()) }
        }

        async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
            self.store.list(prefix).await
        }

        async fn watch(&self, prefix: &Key) -> Result<Self::Watch, StoreError> {
            self.store.watch(prefix).await
        }

        fn max_value(&self) -> usize {
            self.store.max_value()
        }
    }

    async fn records(store: &SqliteStore) -> Vec<Entry> {
        store.list(&Key::parse("masterkey").unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn made_once_and_loaded_again() {
        let directory = directory();
        let store = SqliteStore::create(directory.path()).unwrap();
        let vault = vault();
        let key = key_pair(1);
        assert!(matches!(load_master_key(&store, &vault).await, Err(MasterKeyError::Absent)));
        assert!(matches!(current_master_public(&store).await, Err(MasterKeyError::Absent)));
        assert_eq!(current_master_key(&store).await.unwrap(), None);

        let made = create_master_key(&store, &vault, &key, "fleet", NOW).await.unwrap();
        assert!(made.created);
        assert_eq!((made.record.comment.as_str(), made.record.created_at), ("fleet", NOW));
        let loaded = load_master_key(&store, &vault).await.unwrap();
        assert_eq!(loaded.public_key(), key.public_key());
        assert_eq!(openssh(&loaded), openssh(&key));
        assert_eq!(current_master_public(&store).await.unwrap(), *key.public_key());

        let before = records(&store).await;
        let again = create_master_key(&store, &vault, &key_pair(2), "other", NOW).await.unwrap();
        assert!(!again.created);
        assert_eq!(again.record, made.record);
        assert_eq!(records(&store).await, before);
        assert_eq!(before.len(), 2);
        for entry in before {
            assert!(!String::from_utf8(entry.value).unwrap().contains("PRIVATE KEY"));
        }
    }

    #[tokio::test]
    async fn a_crash_at_any_write_is_completed_by_the_next_init() {
        for write in 1..=2 {
            for after in [false, true] {
                let directory = directory();
                let store = SqliteStore::create(directory.path()).unwrap();
                let vault = vault();
                let (first, second) = (key_pair(1), key_pair(2));
                let crashed = create_master_key(&Failing::at(&store, write, after), &vault, &first, "", NOW).await;
                assert!(matches!(crashed, Err(MasterKeyError::Store(_))), "write {write}: {crashed:?}");
                let was_written = records(&store).await.len();
                assert_eq!(was_written, write - usize::from(!after));

                let next = create_master_key(&store, &vault, &second, "", NOW).await.unwrap();
                // Once the first key's record is there, it is that key; there are never two.
                let expected = if was_written == 0 { &second } else { &first };
                assert_eq!(next.record.public_key, *expected.public_key(), "write {write}, after {after}");
                assert_eq!(next.created, was_written == 0);
                assert_eq!(load_master_key(&store, &vault).await.unwrap().public_key(), expected.public_key());
                assert_eq!(records(&store).await.len(), 2);
            }
        }
    }

    #[tokio::test]
    async fn several_at_once_agree_on_one() {
        let directory = directory();
        let store = SqliteStore::create(directory.path()).unwrap();
        let vault = Arc::new(vault());
        let tasks: Vec<_> = (0..8)
            .map(|seed| {
                let (store, vault) = (store.clone(), Arc::clone(&vault));
                tokio::spawn(async move { create_master_key(&store, &vault, &key_pair(seed), "", NOW).await.unwrap() })
            })
            .collect();
        let mut keys = Vec::new();
        for task in tasks {
            keys.push(task.await.unwrap().record.public_key);
        }
        keys.dedup();
        assert_eq!(keys, [current_master_public(&store).await.unwrap()]);
        assert_eq!(records(&store).await.len(), 2, "a key that lost was left");
    }

    #[tokio::test]
    async fn an_unfinished_key_that_cannot_be_opened_does_not_become_current() {
        let directory = directory();
        let store = SqliteStore::create(directory.path()).unwrap();
        let crashed = create_master_key(&Failing::at(&store, 1, true), &vault(), &key_pair(1), "", NOW).await;
        assert!(crashed.is_err());
        let error = create_master_key(&store, &vault(), &key_pair(2), "", NOW).await.unwrap_err();
        assert!(matches!(error, MasterKeyError::Vault(VaultError::OtherRecipient { .. })), "{error:?}");
        assert_eq!(records(&store).await.len(), 1);
    }

    #[tokio::test]
    async fn a_sealed_half_moved_to_another_record_is_refused() {
        let directory = directory();
        let store = SqliteStore::create(directory.path()).unwrap();
        let vault = vault();
        let (ours, theirs) = (key_pair(1), key_pair(2));
        create_master_key(&store, &vault, &ours, "", NOW).await.unwrap();
        let place = MasterKeyRecord::key(&ours.public_key().fingerprint()).unwrap();
        let good = Stored::<MasterKeyRecord>::read(&store, &place).await.unwrap().unwrap();

        // The sealed value of another key, in the place of ours.
        let other_directory = super::directory();
        let other = SqliteStore::create(other_directory.path()).unwrap();
        create_master_key(&other, &vault, &theirs, "", NOW).await.unwrap();
        let moved = current_master_key(&other).await.unwrap().unwrap().sealed;
        // Another private key, sealed by somebody who knows the recipient and the purpose.
        let forged = vault.seal_secret(Purpose::MasterKey(ours.public_key().fingerprint()), openssh(&theirs)).unwrap();
        let forged = <base64ct::Base64 as base64ct::Encoding>::encode_string(&forged);
        let rubbish = vault.seal_secret(Purpose::MasterKey(ours.public_key().fingerprint()), &secret("rubbish")).unwrap();
        let rubbish = <base64ct::Base64 as base64ct::Encoding>::encode_string(&rubbish);
        for (sealed, expected) in [
            (moved, "sealed as something else"),
            (forged, "that of another key"),
            (rubbish, "not a private key"),
            ("***".to_owned(), "not base64"),
            (String::new(), "damaged"),
        ] {
            let mut stored = Stored::<MasterKeyRecord>::read(&store, &place).await.unwrap().unwrap();
            stored.body.sealed = sealed;
            stored.save(&store).await.unwrap();
            let words = in_words(&load_master_key(&store, &vault).await.unwrap_err());
            assert!(words.contains(expected), "{words}");
        }
        // The whole record in the place of another.
        let mut stored = Stored::<MasterKeyRecord>::read(&store, &place).await.unwrap().unwrap();
        stored.body = good.body.clone();
        stored.body.public_key = theirs.public_key().clone();
        stored.save(&store).await.unwrap();
        assert!(matches!(load_master_key(&store, &vault).await, Err(MasterKeyError::Damaged { .. })));
        stored.body = good.body;
        stored.save(&store).await.unwrap();
        load_master_key(&store, &vault).await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_key_is_not_replaced() {
        let directory = directory();
        let store = SqliteStore::create(directory.path()).unwrap();
        let vault = vault();
        let key = key_pair(1);
        create_master_key(&store, &vault, &key, "", NOW).await.unwrap();
        let place = MasterKeyRecord::key(&key.public_key().fingerprint()).unwrap();
        let entry = store.get(&place).await.unwrap().unwrap();
        store.delete(&place, entry.revision).await.unwrap();
        for error in [
            create_master_key(&store, &vault, &key_pair(2), "", NOW).await.map(drop).unwrap_err(),
            load_master_key(&store, &vault).await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(error, MasterKeyError::Lost { .. }), "{error:?}");
        }
        let left: Vec<_> = records(&store).await.into_iter().map(|entry| entry.key).collect();
        assert_eq!(left, [CurrentMasterKey::key().unwrap()]);
    }

    #[tokio::test]
    async fn a_key_pair_whose_halves_differ_is_not_stored() {
        let directory = directory();
        let store = SqliteStore::create(directory.path()).unwrap();
        let Identity::PrivateKey { openssh, .. } = key_pair(1) else { panic!() };
        let mixed = Identity::PrivateKey { public_key: key_pair(2).public_key().clone(), openssh };
        assert!(create_master_key(&store, &vault(), &mixed, "", NOW).await.is_err());
        assert!(records(&store).await.is_empty());
    }
}

mod state {
    use super::*;

    fn unasked(_: &Path) -> Result<Option<SecretBytes>, PassphraseError> {
        panic!("the passphrase was asked for")
    }

    fn new_key(seed: u64) -> impl FnOnce() -> Result<Identity, toehold_core::Source> {
        move || Ok(key_pair(seed))
    }

    #[tokio::test]
    async fn init_makes_everything_once() {
        let parent = directory();
        let path = parent.path().join("a/b/toehold");
        let state = State::create(&path, unasked).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        let made = state.init(&NewIdentity::unprotected(), new_key(1), "fleet", NOW).await.unwrap();
        assert!(made.identity_created && made.master_key.created && made.recipient.is_some());
        assert_eq!(state.master_key().await.unwrap().public_key(), key_pair(1).public_key());
        drop(state);

        let identity = fs::read(path.join(FILE_NAME)).unwrap();
        let state = State::create(&path, unasked).unwrap();
        let again = state.init(&NewIdentity::unprotected(), || panic!("a key was made"), "", NOW).await.unwrap();
        assert!(!again.identity_created && !again.master_key.created);
        assert_eq!(again.master_key.record, made.master_key.record);
        assert_eq!(fs::read(path.join(FILE_NAME)).unwrap(), identity);
    }

    #[tokio::test]
    async fn the_passphrase_is_asked_for_once_and_only_when_needed() {
        let parent = directory();
        let path = parent.path().join("state");
        let how = NewIdentity::under(secret("correct horse")).with_work_factor(LITTLE_WORK);
        State::create(&path, unasked).unwrap().init(&how, new_key(1), "", NOW).await.unwrap();

        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let state = State::open(&path, move |identity: &Path| {
            assert!(identity.ends_with(FILE_NAME));
            // Mistyped at the first time.
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            Ok(Some(secret(if first { "correct house" } else { "correct horse" })))
        })
        .unwrap();
        state.store().list(&Key::parse("session").unwrap()).await.unwrap();
        current_master_public(state.store()).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        let words = in_words(&state.master_key().await.unwrap_err());
        assert!(words.contains("wrong passphrase"), "{words}");
        state.master_key().await.unwrap();
        state.vault().await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);

        let state = State::open(&path, NoPassphrase).unwrap();
        assert!(matches!(state.vault().await, Err(StateError::Identity(IdentityError::NeedsPassphrase { .. }))));
    }

    #[tokio::test]
    async fn init_after_a_stop_anywhere_completes() {
        let parent = directory();
        // Stopped after the directory, after the store, after the identity.
        let path = parent.path().join("state");
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o700);
        drop(SqliteStore::create(&path).unwrap());
        let how = NewIdentity::under(secret("p")).with_work_factor(LITTLE_WORK);
        let vault = IdentityFile::create(&path, &how, NOW).unwrap().unwrap();
        let state = State::create(&path, |_: &Path| Ok(Some(secret("p")))).unwrap();
        let made = state.init(&NewIdentity::unprotected(), new_key(1), "", NOW).await.unwrap();
        assert!(!made.identity_created && made.master_key.created);
        assert_eq!(made.recipient, Some(vault.recipient()));
    }

    #[tokio::test]
    async fn a_lost_identity_is_not_replaced_by_one_that_opens_nothing() {
        let parent = directory();
        let path = parent.path().join("state");
        let state = State::create(&path, NoPassphrase).unwrap();
        state.init(&NewIdentity::unprotected(), new_key(1), "", NOW).await.unwrap();
        fs::remove_file(path.join(FILE_NAME)).unwrap();
        let state = State::create(&path, NoPassphrase).unwrap();
        let error = state.init(&NewIdentity::unprotected(), new_key(2), "", NOW).await.unwrap_err();
        assert!(matches!(error, StateError::IdentityLost { .. }), "{error:?}");
        assert!(!path.join(FILE_NAME).exists());
    }

    #[test]
    fn what_is_not_a_state_directory_is_refused_in_words() {
        let parent = directory();
        let path = parent.path().join("state");
        let words = in_words(&State::open(&path, NoPassphrase).unwrap_err());
        assert!(words.contains("toehold init") && words.contains("state"), "{words}");
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o755);
        for opened in [State::open(&path, NoPassphrase), State::create(&path, NoPassphrase)] {
            let words = in_words(&opened.unwrap_err());
            assert!(words.contains("chmod 700"), "{words}");
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(State::create(&file, NoPassphrase).is_err());
        assert!(State::create(&file.join("below"), NoPassphrase).is_err());
    }

    #[test]
    fn passphrase_files() {
        let directory = directory();
        let path = directory.path().join("passphrase");
        let read = |content: &[u8], mode| {
            fs::write(&path, content).unwrap();
            set_mode(&path, mode);
            PassphraseFile(path.clone()).passphrase(Path::new("identity"))
        };
        for (content, expected) in [
            (b"correct horse".as_slice(), "correct horse"),
            (b"correct horse\n", "correct horse"),
            (b"correct horse\r\n", "correct horse"),
            (b" correct horse \nsecond line\n", " correct horse "),
            (b"", ""),
        ] {
            assert_eq!(read(content, 0o600).unwrap().unwrap(), secret(expected));
        }
        let words = in_words(&read(b"hunter2", 0o644).unwrap_err());
        assert!(words.contains("chmod 600") && !words.contains("hunter2"), "{words}");
        assert!(matches!(read(&[b'x'; 5000], 0o600), Err(PassphraseError::TooLong { .. })));
        assert!(PassphraseFile(directory.path().join("none")).read().is_err());
    }

    #[test]
    fn the_default_lies_in_the_users_data_directory() {
        assert!(State::default_directory().unwrap().ends_with("toehold"));
    }
}
