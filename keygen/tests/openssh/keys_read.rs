//! Private keys that `ssh-keygen` and `openssl` wrote (`vectors/keys/README.md`), in every format that is read.

use crate::keys_common::{NAMES, all_vectors, directory, passphrase, public_half, vector};
use base64ct::{Base64, Encoding as _};
use toehold_core::{Fingerprint, Identity};
use toehold_keygen::{KeyAlgorithm, KeyPair, PrivateKeyError, read_private_key_file};

const PLAIN: [&str; 11] = [
    "openssh",
    "pkcs8",
    "pkcs1",
    "sec1",
    "sec1-compressed",
    "sec1-no-public",
    "sec1-with-parameters",
    "pkcs8-after-certificate",
    "pkcs8.der",
    "pkcs1.der",
    "sec1.der",
];
const ENCRYPTED: [&str; 11] = [
    "openssh-encrypted",
    "openssh-default-rounds",
    "openssh-aes128-cbc",
    "openssh-aes192-ctr",
    "openssh-aes256-gcm",
    "openssh-chacha20-poly1305",
    "pkcs8-encrypted",
    "pkcs8-encrypted.der",
    "pkcs8-scrypt",
    "pkcs8-des3-sha1",
    "pkcs8-aes128-sha512",
];

/// The private halves are compared as we write them: what is written depends on nothing but the key.
fn written(pair: &KeyPair) -> Vec<u8> {
    pair.to_openssh("").unwrap().expose().to_vec()
}

fn files(name: &str, suffixes: &[&str]) -> Vec<String> {
    suffixes.iter().map(|suffix| format!("{name}.{suffix}")).filter(|file| directory().join(file).exists()).collect()
}

#[test]
fn every_format_of_a_key_reads_as_the_same_pair() {
    let mut read = 0;
    for (name, algorithm) in NAMES {
        let first = read_private_key_file(&vector(&format!("{name}.openssh")), None).unwrap();
        for file in files(name, &PLAIN) {
            let pair = read_private_key_file(&vector(&file), None).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(pair.algorithm(), algorithm, "{file}");
            assert_eq!(pair.public_key(), &public_half(name), "{file}");
            assert_eq!(written(&pair), written(&first), "{file}");
            read += 1;
        }
        for file in files(name, &ENCRYPTED) {
            let pair =
                read_private_key_file(&vector(&file), Some(&passphrase())).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(pair.public_key(), &public_half(name), "{file}");
            assert_eq!(written(&pair), written(&first), "{file}");
            read += 1;
        }
    }
    assert_eq!(read, 51, "a vector is missing, or this number was not raised with them");
}

fn decoded(file: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(file).unwrap();
    Base64::decode_vec(&text.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}

#[test]
fn what_is_written_is_what_ssh_keygen_wrote_but_for_the_check_numbers() {
    // It drops the zeros that these two scalars begin with; ssh-key keeps them, and ssh-keygen takes that as well.
    for (name, _) in NAMES.into_iter().filter(|(name, _)| !["short-scalar", "ecdsa-p521"].contains(name)) {
        let file = vector(&format!("{name}.openssh"));
        let pair = read_private_key_file(&file, None).unwrap();
        let ours = pair.to_openssh("toehold test key, authorizes nothing").unwrap();
        assert_eq!(ours.expose().len(), file.len(), "{name}");
        let (mut ours, mut theirs) = (decoded(ours.expose()), decoded(&file));
        let check = 15 + 8 + 8 + 4 + 4 + 4 + pair.public_key().blob().len() + 4;
        ours[check..check + 8].fill(0);
        theirs[check..check + 8].fill(0);
        assert!(ours == theirs, "{name}");
    }
}

/// The library that the connections are made with.
#[test]
fn what_is_written_is_read_by_ssh_key() {
    for (name, _) in NAMES {
        let pair = read_private_key_file(&vector(&format!("{name}.openssh")), None).unwrap();
        let Identity::PrivateKey { openssh, .. } = pair.identity().unwrap() else { unreachable!() };
        let read = ssh_key::PrivateKey::from_openssh(openssh.expose()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.public_key().to_openssh().unwrap().trim_end(), pair.public_key().to_string(), "{name}");
    }
}

#[test]
fn the_largest_rsa_key_is_read() {
    let pair = read_private_key_file(&vector("rsa-8192.openssh"), None).unwrap();
    assert_eq!(pair.algorithm(), KeyAlgorithm::Rsa { bits: 8192 });
    assert_eq!(pair.public_key(), &public_half("rsa-8192"));
}

#[test]
fn fingerprints_are_those_of_ssh_keygen() {
    let list = String::from_utf8(vector("fingerprints.txt")).unwrap();
    assert_eq!(list.lines().count(), 10);
    for line in list.lines() {
        let (name, fingerprint) = line.split_once(' ').unwrap();
        assert_eq!(public_half(name).fingerprint(), fingerprint.parse::<Fingerprint>().unwrap(), "{name}");
    }
}

/// RFC 8410 §10.3: one key, first as version 1, then with attributes and its public half.
#[test]
fn the_examples_of_rfc_8410_are_read() {
    let first = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    let second = "-----BEGIN PRIVATE KEY-----\n\
        MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n\
        Z9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PRIVATE KEY-----\n";
    let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh".parse().unwrap();
    assert_eq!(read_private_key_file(first.as_bytes(), None).unwrap().public_key(), &public);
    assert_eq!(read_private_key_file(second.as_bytes(), None).unwrap().public_key(), &public);

    // The same with the public half of another key: one bit of it flipped.
    let forged = second.replace("rXAxZuE=", "rXAxZuA=");
    let error = read_private_key_file(forged.as_bytes(), None).unwrap_err();
    assert_eq!(error.to_string(), "the PKCS#8 private key is damaged: its public half is not that of its private half");
}

#[test]
fn text_around_the_key_and_other_line_ends_do_not_matter() {
    for file in ["ed25519.openssh", "rsa-2048.pkcs1", "ecdsa-p256.sec1", "ed25519.pkcs8"] {
        let text = String::from_utf8(vector(file)).unwrap();
        let expected = read_private_key_file(text.as_bytes(), None).unwrap();
        let joined = {
            let (head, body) = text.trim_end().split_once('\n').unwrap();
            let (body, tail) = body.rsplit_once('\n').unwrap();
            format!("{head}\n{}\n{tail}", body.replace('\n', ""))
        };
        for variant in [
            text.replace('\n', "\r\n"),
            format!("\u{feff}{text}"),
            format!("Bag Attributes\n    friendlyName: mine\n{text}\nand so on\n"),
            format!("    {}", text.replace('\n', "  \n    ")),
            text.trim_end().to_owned(),
            joined,
        ] {
            let pair = read_private_key_file(variant.as_bytes(), None).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(pair.public_key(), expected.public_key());
        }
    }
}

#[test]
fn a_missing_a_wrong_and_a_needless_passphrase_are_told_apart() {
    for name in all_vectors() {
        let suffix = name.split_once('.').map_or("", |(_, suffix)| suffix);
        if PLAIN.contains(&suffix) && read_private_key_file(&vector(&name), None).is_ok() {
            let error = read_private_key_file(&vector(&name), Some(&passphrase())).unwrap_err();
            assert_eq!(error, PrivateKeyError::PassphraseNotNeeded, "{name}");
        }
        if ENCRYPTED.contains(&suffix) && !name.starts_with("weak") && !name.starts_with("dsa") {
            let error = read_private_key_file(&vector(&name), None).unwrap_err();
            assert_eq!(error, PrivateKeyError::PassphraseNeeded, "{name}");
            for wrong in ["correct horses", "", "Correct horse"] {
                let error = read_private_key_file(&vector(&name), Some(&wrong.as_bytes().to_vec().into())).unwrap_err();
                assert_eq!(error, PrivateKeyError::WrongPassphrase, "{name} {wrong:?}");
            }
        }
    }
}
