//! What is sealed opens for its purpose and its recipients alone.

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
    let operators = vec![ours.recipient(), theirs.recipient()];
    ours.seal_to(Audience { operators, gateways: Vec::new() });
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
    let described = format!("{how:?}");
    let vault = IdentityFile::create(directory.path(), how, NOW).unwrap().unwrap();
    let file = IdentityFile::read(directory.path()).unwrap();
    let wrong = file.unlock(Some(&secret("hunter3"))).unwrap_err();
    let printed = format!("{described} {vault:?} {file:?} {wrong:?} {wrong}");
    assert!(!printed.contains("hunter") && !printed.contains("AGE-SECRET"), "{printed}");
}
