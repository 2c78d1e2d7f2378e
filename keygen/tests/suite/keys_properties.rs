//! Properties: what we write we read, and no file makes the reader panic.

use std::sync::LazyLock;

use crate::keys_common::{all_vectors, rng, vector};
use proptest::prelude::*;
use toehold_core::Identity;
use toehold_keygen::{FromPatterns, KeyAlgorithm, KeyPair, read_private_key_file};

static VECTORS: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| all_vectors().iter().filter(|name| !name.contains("8192")).map(|name| vector(name)).collect());

fn quick_algorithm() -> impl Strategy<Value = KeyAlgorithm> {
    prop_oneof![
        Just(KeyAlgorithm::Ed25519),
        Just(KeyAlgorithm::EcdsaP256),
        Just(KeyAlgorithm::EcdsaP384),
        Just(KeyAlgorithm::EcdsaP521),
    ]
}

#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, mask)| Change::Flip(at, mask)),
        1 => (any::<prop::sample::Index>(), 1usize..80).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (any::<prop::sample::Index>(), 1usize..80).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        Change::Flip(at, mask) => *at.get_mut(bytes) ^= mask,
        Change::Remove(at, count) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Change::Insert(at, new) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Repeat(at, count) => {
            let at = at.index(bytes.len());
            let part = bytes[at..(at + count).min(bytes.len())].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

/// The bytes inside a PEM block are changed, so that the change passes the base64.
fn apply_inside(file: &[u8], changes: &[Change]) -> Vec<u8> {
    use base64ct::{Base64, Encoding as _};
    let text = String::from_utf8_lossy(file);
    let lines: Vec<_> = text.lines().collect();
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return file.to_vec() };
    let body: String = lines.iter().filter(|line| !line.starts_with('-')).copied().collect();
    let Ok(mut bytes) = Base64::decode_vec(&body) else { return file.to_vec() };
    for change in changes {
        apply(&mut bytes, change);
    }
    format!("{first}\n{}\n{last}\n", Base64::encode_string(&bytes)).into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_pair_is_written_and_read_back(seed: u8, algorithm in quick_algorithm(), comment in "[ -~]{0,40}") {
        let pair = KeyPair::generate(&mut rng(seed), algorithm).unwrap();
        let written = pair.to_openssh(&comment).unwrap();
        let read = read_private_key_file(written.expose(), None).unwrap();
        prop_assert_eq!(read.algorithm(), algorithm);
        prop_assert_eq!(read.public_key(), pair.public_key());
        prop_assert_eq!(read.to_openssh(&comment).unwrap(), written);
        let Identity::PrivateKey { public_key, openssh } = read.identity().unwrap() else { unreachable!() };
        prop_assert_eq!(&public_key, pair.public_key());
        prop_assert_eq!(openssh, pair.to_openssh("").unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn an_encrypted_pair_is_written_and_read_back(seed: u8, algorithm in quick_algorithm(), passphrase in "\\PC{1,40}") {
        let pair = KeyPair::generate(&mut rng(seed), algorithm).unwrap();
        let passphrase = passphrase.into_bytes().into();
        let first = pair.to_openssh_encrypted(&mut rng(1), "", &passphrase).unwrap();
        let second = pair.to_openssh_encrypted(&mut rng(2), "", &passphrase).unwrap();
        prop_assert_ne!(&first, &second, "the salt is fresh");
        let read = read_private_key_file(first.expose(), Some(&passphrase)).unwrap();
        prop_assert_eq!(read.to_openssh("").unwrap(), pair.to_openssh("").unwrap());
    }
}

// Without passphrase: a changed file may ask for thousands of rounds. What lies behind the decryption is the same reader.
proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_files_never_panic(which: prop::sample::Index, changes in prop::collection::vec(change(), 1..4)) {
        let mut bytes = which.get::<Vec<u8>>(&VECTORS).clone();
        for change in &changes {
            apply(&mut bytes, change);
        }
        let _ = read_private_key_file(&bytes, None);
    }

    #[test]
    fn files_changed_behind_the_base64_never_panic(which: prop::sample::Index, changes in prop::collection::vec(change(), 1..4)) {
        let bytes = apply_inside(which.get::<Vec<u8>>(&VECTORS), &changes);
        let _ = read_private_key_file(&bytes, None);
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_private_key_file(&bytes, None);
        let _ = read_private_key_file(&[b"\x30".as_slice(), &bytes].concat(), None);
    }

    #[test]
    fn names_of_algorithms_are_read_back(text in "\\PC{0,20}", bits: usize) {
        if let Ok(algorithm) = text.parse::<KeyAlgorithm>() {
            prop_assert!(text == "rsa" || algorithm.to_string().parse() == Ok(algorithm));
        }
        for algorithm in [KeyAlgorithm::default(), KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::EcdsaP521, KeyAlgorithm::Rsa { bits }] {
            prop_assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
    }

    /// Whatever is taken cannot end the quotes or the line that it stands in.
    #[test]
    fn source_patterns_stay_inside_their_quotes(text in "(\\PC|[\"\\\\\n ,!*0-9./:]){0,40}") {
        if let Ok(from) = text.parse::<FromPatterns>() {
            prop_assert_eq!(from.as_str(), &text);
            let harmless = |b: u8| b.is_ascii_graphic() && !b"\"\\'`$;&|<>(){}[]#".contains(&b);
            prop_assert!(text.bytes().all(harmless));
        }
    }
}
