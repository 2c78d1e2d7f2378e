//! The state directory as the commands see it.

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
    let made = state.init(NewIdentity::unprotected(), new_key(1), "fleet", NOW).await.unwrap();
    assert!(made.identity_created && made.master_key.created && made.recipient.is_some());
    assert_eq!(state.master_key().await.unwrap().public_key(), key_pair(1).public_key());
    drop(state);

    let identity = fs::read(path.join(FILE_NAME)).unwrap();
    let state = State::create(&path, unasked).unwrap();
    let again = state.init(NewIdentity::unprotected(), || panic!("a key was made"), "", NOW).await.unwrap();
    assert!(!again.identity_created && !again.master_key.created);
    assert_eq!(again.master_key.record, made.master_key.record);
    assert_eq!(fs::read(path.join(FILE_NAME)).unwrap(), identity);
}

#[tokio::test]
async fn the_passphrase_is_asked_for_once_and_only_when_needed() {
    let parent = directory();
    let path = parent.path().join("state");
    let how = NewIdentity::under(secret("correct horse")).with_work_factor(LITTLE_WORK);
    State::create(&path, unasked).unwrap().init(how, new_key(1), "", NOW).await.unwrap();

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
async fn n2_what_only_looks_reads_the_store_and_opens_no_identity() {
    let parent = directory();
    let path = parent.path().join("state");
    State::create(&path, unasked).unwrap().init(NewIdentity::unprotected(), new_key(1), "", NOW).await.unwrap();
    let state = State::open_to_look(&path).unwrap();
    assert_eq!(current_master_public(state.store()).await.unwrap(), *key_pair(1).public_key());
    assert!(matches!(state.vault().await, Err(StateError::OnlyLooks)));
    assert!(state.master_key().await.is_err());
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
    let vault = IdentityFile::create(&path, how, NOW).unwrap().unwrap();
    let state = State::create(&path, |_: &Path| Ok(Some(secret("p")))).unwrap();
    let made = state.init(NewIdentity::unprotected(), new_key(1), "", NOW).await.unwrap();
    assert!(!made.identity_created && made.master_key.created);
    assert_eq!(made.recipient, Some(vault.recipient()));
}

#[tokio::test]
async fn a_lost_identity_is_not_replaced_by_one_that_opens_nothing() {
    let parent = directory();
    let path = parent.path().join("state");
    let state = State::create(&path, NoPassphrase).unwrap();
    state.init(NewIdentity::unprotected(), new_key(1), "", NOW).await.unwrap();
    fs::remove_file(path.join(FILE_NAME)).unwrap();
    let state = State::create(&path, NoPassphrase).unwrap();
    let error = state.init(NewIdentity::unprotected(), new_key(2), "", NOW).await.unwrap_err();
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

#[test]
fn several_inits_at_once_agree() {
    let parent = directory();
    let path = parent.path().join("state");
    let at_once = std::sync::Barrier::new(4);
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let (path, at_once) = (&path, &at_once);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    at_once.wait();
                    runtime.block_on(async {
                        let state = State::create(path, unasked).unwrap();
                        state.init(NewIdentity::unprotected(), new_key(seed), "", NOW).await.unwrap()
                    })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|made| made.identity_created).count(), 1);
    let keys: std::collections::BTreeSet<_> = made.iter().map(|made| made.master_key.record.public_key.clone()).collect();
    assert_eq!(keys.len(), 1);
    let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [FILE_NAME, "state.db"]);
}
