//! Who is let in, and what is encrypted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use toehold::adapters::nats::{NatsAddress, NatsOptions, NatsStore};
use toehold_core::{Expect, Store};

use crate::server::Nats;
use crate::support::server::write_private;
use crate::{in_words, key};

async fn works(address: &NatsAddress, options: &NatsOptions) {
    let store = NatsStore::create(address, options, 1).await.unwrap();
    store.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    assert_eq!(store.get(&key("a/1")).await.unwrap().unwrap().value, b"one");
}

async fn refused(address: &NatsAddress, options: &NatsOptions) -> String {
    in_words(&NatsStore::create(address, options, 1).await.unwrap_err())
}

#[tokio::test]
async fn an_nkey_opens_and_nothing_else_does() {
    let pair = nkeys::KeyPair::new_user();
    let nats = Nats::start(&format!("authorization {{ users: [ {{ nkey: {} }} ] }}", pair.public_key()));
    let address = nats.address("toehold");
    let file = nats.path().join("seed");
    write_private(&file, pair.seed().unwrap() + "\n");
    let options = NatsOptions { nkey: Some(file.clone()), ..NatsOptions::default() };
    works(&address, &options).await;

    let words = refused(&address, &NatsOptions::default()).await;
    assert!(words.contains("can be used"), "{words}");
    let other = nkeys::KeyPair::new_user();
    write_private(&file, other.seed().unwrap());
    refused(&address, &options).await;
    for damaged in ["", "SUNOTASEED", "\u{ff}"] {
        write_private(&file, damaged);
        let words = refused(&address, &options).await;
        assert!(!words.contains("NOTASEED"), "{words}");
    }
    // A seed that others can read is not used, nor one that is not there.
    write_private(&file, pair.seed().unwrap());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let words = refused(&address, &options).await;
    assert!(words.contains("can be used by others"), "{words}");
    fs::remove_file(&file).unwrap();
    assert!(refused(&address, &options).await.contains("there"), "{words}");
}

/// A certificate for `localhost` and 127.0.0.1, and the block of the configuration that presents it.
pub fn certificate(directory: &std::path::Path) -> (std::path::PathBuf, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let (cert_file, key_file) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&cert_file, certificate.pem()).unwrap();
    write_private(&key_file, key.serialize_pem());
    let block = format!("tls {{ cert_file: \"{}\", key_file: \"{}\" }}", cert_file.display(), key_file.display());
    (cert_file, block)
}

#[tokio::test]
async fn tls_goes_by_the_certificates_that_were_named() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, tls) = certificate(directory.path());
    let nats = Nats::start(&tls);
    let address = nats.address("toehold");
    works(&address, &NatsOptions { ca: Some(ca.clone()), ..NatsOptions::default() }).await;
    // The system trusts nobody who signed that one.
    let words = refused(&address, &NatsOptions::default()).await;
    assert!(words.contains("certificate"), "{words}");
    let elsewhere = tempfile::tempdir().unwrap();
    let (other, _) = certificate(elsewhere.path());
    let words = refused(&address, &NatsOptions { ca: Some(other), ..NatsOptions::default() }).await;
    assert!(words.contains("certificate"), "{words}");
    fs::write(&ca, "not a certificate").unwrap();
    let words = refused(&address, &NatsOptions { ca: Some(ca), ..NatsOptions::default() }).await;
    assert!(words.contains("is no list of certificates"), "{words}");
}

/// N5. To which servers nothing is said that is not encrypted, `NatsAddress::is_loopback` tells; here one of those is asked for more.
#[tokio::test]
async fn n5_what_is_to_be_encrypted_is_not_sent_to_a_server_that_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, _) = certificate(directory.path());
    let nats = Nats::start("");
    let words = refused(&nats.address("toehold"), &NatsOptions { ca: Some(ca), ..NatsOptions::default() }).await;
    assert!(words.contains("does not encrypt"), "{words}");
}
