//! SSH signatures, as ssh-keygen makes and checks them, and OpenSSH's key files.
//!
//! Needs: openssh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers stop the test"
)]

#[path = "suite/envelope_support/mod.rs"]
mod envelope_support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use envelope_support::{at, document, key, keys, sealed, statement, trusting};
use toehold_specsign::sshsig::{self, NAMESPACE, SshSigError};
use toehold_specsign::{KeyError, RootState, Scheme, SignedStatement, SigningKey, TrustedKeys};

fn ssh_keygen(arguments: &[&str], input: &[u8]) -> bool {
    let mut child = Command::new("ssh-keygen")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait().unwrap().success()
}

fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_str().unwrap().to_owned()
}

#[test]
fn openssh_accepts_an_envelopes_signature() {
    let directory = tempfile::tempdir().unwrap();
    let (allowed, signature) = (path(directory.path(), "allowed"), path(directory.path(), "sig"));
    let key = key(1);
    std::fs::write(&allowed, format!("ops@example.net namespaces=\"{NAMESPACE}\" {}\n", key.verifying_key().to_ssh().unwrap()))
        .unwrap();
    let unsigned = SignedStatement::unsigned(statement(1, b"[]")).unwrap();
    let made = key.sign(&unsigned.signing_bytes(Scheme::SshSig));
    let signed = unsigned.with_signature(key.verifying_key(), made, Scheme::SshSig);
    std::fs::write(&signature, signed.ssh_signatures().next().unwrap()).unwrap();
    let verify = |namespace: &str, message: &[u8]| {
        ssh_keygen(&["-Y", "verify", "-f", &allowed, "-I", "ops@example.net", "-n", namespace, "-s", &signature], message)
    };
    assert!(verify(NAMESPACE, signed.bytes()));
    assert!(!verify("file", signed.bytes()));
    assert!(!verify(NAMESPACE, b"something else"));
    // And a root takes it like any other.
    let text = sealed(b"[]", signed, Vec::new());
    assert!(trusting(&[1], 1).admit(&RootState::default(), document(&text), at(0)).is_ok());
}

#[test]
fn a_signature_of_openssh_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let (id, message) = (path(directory.path(), "id"), path(directory.path(), "message"));
    assert!(ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "ops", "-f", &id], b""));
    let key = SigningKey::from_file(&std::fs::read(&id).unwrap(), None).unwrap();
    assert_eq!(std::fs::read_to_string(format!("{id}.pub")).unwrap().parse(), Ok(key.verifying_key()));
    std::fs::write(&message, b"a message").unwrap();
    assert!(ssh_keygen(&["-Y", "sign", "-f", &id, "-n", NAMESPACE, &message], b""));
    let armored = std::fs::read_to_string(format!("{message}.sig")).unwrap();
    let trusted = TrustedKeys::one(key.verifying_key());
    assert_eq!(sshsig::verify(&armored, NAMESPACE, b"a message", &trusted), Ok(key.verifying_key()));
    assert_eq!(sshsig::sign(&key, NAMESPACE, b"a message"), armored, "Ed25519 is deterministic");
    assert_eq!(sshsig::verify(&armored, NAMESPACE, b"b message", &trusted), Err(SshSigError::Untrusted));
    assert_eq!(sshsig::verify(&armored, NAMESPACE, b"a message", &keys(&[1], 1)), Err(SshSigError::Untrusted));
    assert_eq!(sshsig::verify(&armored, "file", b"a message", &trusted), Err(SshSigError::Namespace));
    // A signature that was made elsewhere goes into an envelope.
    let (public, signature) = sshsig::read(&armored, NAMESPACE).unwrap();
    assert!(public.verifies(&sshsig::signing_bytes(NAMESPACE, b"a message"), &signature));
    for end in (0..armored.len() - 1).step_by(7) {
        assert!(sshsig::read(&armored[..end], NAMESPACE).is_err(), "cut at {end}");
    }
}

#[test]
fn key_files_of_openssh_with_and_without_a_passphrase() {
    let directory = tempfile::tempdir().unwrap();
    let make = |name: &str, kind: &[&str], passphrase: &str| {
        let file = path(directory.path(), name);
        assert!(ssh_keygen(&[&["-q", "-N", passphrase, "-f", &file][..], kind].concat(), b""));
        std::fs::read(file).unwrap()
    };
    let closed = make("closed", &["-t", "ed25519", "-a", "1"], "correct horse");
    assert!(matches!(SigningKey::from_file(&closed, None), Err(KeyError::NeedsPassphrase)));
    assert!(matches!(SigningKey::from_file(&closed, Some(b"wrong")), Err(KeyError::OpenSsh(_))));
    assert!(SigningKey::from_file(&closed, Some(b"correct horse")).is_ok());
    let other = make("other", &["-t", "ecdsa"], "");
    assert!(matches!(SigningKey::from_file(&other, None), Err(KeyError::OpenSsh(_))));
    assert!(matches!(SigningKey::from_file(&vec![b'0'; 20_000], None), Err(KeyError::TooLong { .. })));
}
