//! What we write, read by the real `ssh-keygen`.

use std::sync::LazyLock;

use crate::keys_common::{PASSPHRASE, passphrase, private_file, rng, ssh_keygen, ssh_keygen_says, vector};
use toehold_core::{SessionId, Timestamp};
use toehold_keygen::{DEFAULT_LIFETIME, KeyAlgorithm, KeyPair, TemporaryKeyPair, read_private_key_file};

/// One of each kind; RSA is made once, at its smallest.
static PAIRS: LazyLock<Vec<KeyPair>> = LazyLock::new(|| {
    let kinds = [
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::EcdsaP521,
        KeyAlgorithm::Rsa { bits: 2048 },
    ];
    let mut pairs: Vec<_> = kinds.into_iter().map(|kind| KeyPair::generate(&mut rng(11), kind).unwrap()).collect();
    pairs.push(read_private_key_file(&vector("short-scalar.openssh"), None).unwrap());
    pairs.push(read_private_key_file(&vector("rsa-3072.pkcs1"), None).unwrap());
    pairs
});

#[test]
fn it_derives_our_public_half_from_our_private_half() {
    let directory = tempfile::tempdir().unwrap();
    for (n, pair) in PAIRS.iter().enumerate() {
        let file = pair.to_openssh("one two").unwrap();
        let path = private_file(directory.path(), &n.to_string(), file.expose());
        let public = ssh_keygen_says(&["-y", "-f", &path]);
        assert_eq!(public.trim_end(), format!("{} one two", pair.public_key()));

        let listed = ssh_keygen_says(&["-l", "-f", &path]);
        assert!(listed.contains(&format!(" {} ", pair.public_key().fingerprint())), "{listed}");
    }
}

#[test]
fn it_opens_our_encryption_with_the_passphrase_alone() {
    let directory = tempfile::tempdir().unwrap();
    for (n, pair) in PAIRS.iter().enumerate() {
        let file = pair.to_openssh_encrypted(&mut rng(12), "one two", &passphrase()).unwrap();
        let path = private_file(directory.path(), &n.to_string(), file.expose());
        let public = ssh_keygen_says(&["-y", "-P", PASSPHRASE, "-f", &path]);
        assert_eq!(public.trim_end(), format!("{} one two", pair.public_key()));

        let wrong = ssh_keygen(&["-y", "-P", "wrong", "-f", &path]);
        assert!(!wrong.status.success());
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("incorrect passphrase"), "{wrong:?}");
    }
}

/// A signature is the proof that the private half works, not only that it is there.
#[test]
fn it_signs_with_our_private_half() {
    let directory = tempfile::tempdir().unwrap();
    for (n, pair) in PAIRS.iter().enumerate() {
        let path = private_file(directory.path(), &n.to_string(), pair.to_openssh("").unwrap().expose());
        let message = private_file(directory.path(), &format!("{n}.message"), b"hello");
        ssh_keygen_says(&["-Y", "sign", "-q", "-n", "test", "-f", &path, &message]);
        let signers = private_file(directory.path(), &format!("{n}.signers"), format!("me {}\n", pair.public_key()).as_bytes());
        let verified = std::process::Command::new("ssh-keygen")
            .args(["-Y", "verify", "-n", "test", "-I", "me", "-f", &signers, "-s", &format!("{message}.sig")])
            .stdin(std::fs::File::open(&message).unwrap())
            .output()
            .unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

#[test]
fn it_reads_the_line_of_a_temporary_key() {
    let directory = tempfile::tempdir().unwrap();
    let session = SessionId::generate(&mut rng(13));
    let key = TemporaryKeyPair::generate(&mut rng(14), session, Timestamp::UNIX_EPOCH, DEFAULT_LIFETIME).unwrap();
    for from in [None, Some("192.0.2.0/24,2001:db8::/32,!198.51.100.7,*.example.net".parse().unwrap())] {
        let name = from.as_ref().map_or("without", |_| "with");
        let line = key.authorized_keys_line(from.as_ref());
        let path = private_file(directory.path(), name, format!("{line}\n").as_bytes());
        let listed = ssh_keygen_says(&["-l", "-f", &path]);
        assert_eq!(listed.trim_end(), format!("256 {} {} (ED25519)", key.public_key().fingerprint(), key.comment()));
    }
    let path = private_file(directory.path(), "private", key.expose_openssh().unwrap().expose());
    assert_eq!(ssh_keygen_says(&["-y", "-f", &path]).trim_end(), format!("{} {}", key.public_key(), key.comment()));
}
