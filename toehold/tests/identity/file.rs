//! The identity's file: made once, private, unlocked by its passphrase alone.

use super::*;

#[test]
fn made_private_and_unlocked_again() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    let vault = IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&format!("# public key: {}\n", vault.recipient())) && text.contains("\nAGE-SECRET-KEY-1"), "{text}");
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
    let created = IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap();
    assert!(created.is_some());
    let before = fs::read(&path).unwrap();
    assert!(IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap().is_none());
    assert_eq!(fs::read(&path).unwrap(), before);
    // Not even one that nobody can read, or that leads nowhere.
    fs::write(&path, "").unwrap();
    assert!(IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap().is_none());
    assert_eq!(fs::read(&path).unwrap(), b"");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/nowhere", &path).unwrap();
    assert!(IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap().is_none());
}

#[test]
fn under_a_passphrase() {
    let directory = directory();
    let how = NewIdentity::under(secret("correct horse")).with_work_factor(LITTLE_WORK);
    let vault = IdentityFile::create(directory.path(), how, NOW).unwrap().unwrap();
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
        assert!(IdentityFile::create(directory.path(), how, NOW).is_err());
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn loose_permissions_are_refused_and_name_chmod() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap();
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
    assert!(IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).is_err());
    assert!(!path.exists());
}

#[test]
fn a_link_and_a_file_that_root_gave_away_are_refused() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap();
    let moved = directory.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &path).unwrap();
    let words = in_words(&IdentityFile::read(directory.path()).unwrap_err());
    assert!(words.contains("not a regular file"), "{words}");
    fs::remove_file(&path).unwrap();
    fs::rename(&moved, &path).unwrap();
    assert!(rustix::process::geteuid().is_root(), "this test gives a file to another user and has to be run by root for that");
    std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
    let words = in_words(&IdentityFile::read(directory.path()).unwrap_err());
    assert!(words.contains("belongs to user id 12345"), "{words}");
}

#[test]
fn what_is_not_an_identity_is_refused_in_words_that_show_none_of_it() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    IdentityFile::create(directory.path(), NewIdentity::unprotected(), NOW).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let key_line = good.lines().last().unwrap().to_owned();
    let two = format!("{good}{key_line}\n");
    let recipients = age::x25519::Identity::generate().to_public().to_string();
    let cases: [(&[u8], &str); 8] = [
        (b"", "holds no age secret key"),
        (b"# only a comment\n", "holds no age secret key"),
        (&key_line.as_bytes()[..40], "not an age secret key"),
        (recipients.as_bytes(), "not an age secret key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "the line that ends it is missing"),
        (two.as_bytes(), "several keys"),
        (b"\xff\xfe", "not text"),
        (&vec![b'#'; 70_000], "far too large"),
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
    IdentityFile::create(directory.path(), how, NOW).unwrap();
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
    IdentityFile::create(directory.path(), how, NOW).unwrap();
    let bytes = fs::read(&path).unwrap();
    let end = bytes.windows(3).position(|window| window == b" 2\n").unwrap();
    let dear = [&bytes[..end], b" 40\n", &bytes[end + 3..]].concat();
    fs::write(&path, dear).unwrap();
    let error = IdentityFile::read(directory.path()).unwrap().unlock(Some(&secret("p"))).unwrap_err();
    assert!(matches!(error, IdentityError::TooMuchWork { work_factor: 40, .. }), "{error:?}");
}
