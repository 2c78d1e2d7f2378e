//! Private halves and passphrases are never printed, and a wiped key is gone.

use std::fmt::Write as _;

use crate::keys_common::{PASSPHRASE, all_vectors, passphrase, rng, vector};
use base64ct::{Base64, Encoding as _};
use toehold_core::{Identity, SessionId, Timestamp};
use toehold_keygen::{DEFAULT_LIFETIME, KeyAlgorithm, KeyPair, TemporaryKeyError, TemporaryKeyPair, read_private_key_file};

/// Pieces of what a file holds, in each way that a careless `Debug` would print them.
fn pieces(file: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(file);
    let body: String = text.lines().filter(|line| !line.starts_with('-') && !line.contains(':')).collect();
    let bytes = Base64::decode_vec(&body).unwrap_or_else(|_| file.to_vec());
    let mut pieces: Vec<String> = Vec::new();
    pieces.extend(text.lines().filter(|line| !line.starts_with('-') && !line.contains(':')).flat_map(|line| chunks(line, 12)));
    for part in bytes.chunks_exact(6).filter(|part| part.iter().any(|byte| *byte != 0)) {
        pieces.push(part.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        }));
        pieces.push(part.iter().map(u8::to_string).collect::<Vec<_>>().join(", "));
    }
    pieces
}

fn chunks(line: &str, length: usize) -> Vec<String> {
    line.as_bytes().chunks_exact(length).map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect()
}

fn assert_silent(name: &str, printed: &str, file: &[u8]) {
    let lower = printed.to_lowercase();
    for piece in pieces(file) {
        assert!(!printed.contains(&piece) && !lower.contains(&piece), "{name}: {piece:?} in {printed}");
    }
    assert!(!lower.contains(PASSPHRASE), "{name}: {printed}");
}

#[test]
fn never_on_disk_nothing_that_is_printed_holds_a_secret() {
    let wrong = PASSPHRASE.to_uppercase().into_bytes().into();
    for name in all_vectors().iter().filter(|name| !name.contains("pub") && !name.contains("8192")) {
        let whole = vector(name);
        for file in [&whole[..], &whole[..whole.len() * 2 / 3], &whole.to_ascii_lowercase()] {
            for passphrase in [None, Some(&passphrase()), Some(&wrong)] {
                let printed = match read_private_key_file(file, passphrase) {
                    Ok(pair) => format!("{pair:?} {pair:#?} {:?}", pair.identity().unwrap()),
                    Err(error) => format!("{error:?} {error}"),
                };
                assert_silent(name, &printed, &whole);
            }
        }
    }
}

#[test]
fn a_pair_prints_its_public_half_alone() {
    for algorithm in [KeyAlgorithm::Ed25519, KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::EcdsaP521] {
        let pair = KeyPair::generate(&mut rng(21), algorithm).unwrap();
        let printed = format!("{pair:?}");
        assert!(printed.contains(&pair.public_key().fingerprint().to_string()), "{printed}");
        assert_silent("pair", &printed, pair.to_openssh("").unwrap().expose());
    }
}

#[test]
fn never_on_disk_a_temporary_key_prints_no_secret_and_is_gone_when_wiped() {
    let session = SessionId::generate(&mut rng(22));
    let now = Timestamp::from_unix_seconds(1_795_395_600);
    let mut key = TemporaryKeyPair::generate(&mut rng(23), session, now, DEFAULT_LIFETIME).unwrap();
    let private = key.expose_openssh().unwrap();
    let line = key.authorized_keys_line(None);
    assert_silent("temporary key", &format!("{key:?} {:?} {private:?}", key.identity().unwrap()), private.expose());

    key.wipe();
    assert!(key.is_wiped());
    assert_eq!(key.identity().unwrap_err(), TemporaryKeyError::Wiped { session });
    assert_eq!(key.expose_openssh().unwrap_err(), TemporaryKeyError::Wiped { session });
    assert_eq!(key.authorized_keys_line(None), line, "the public half stays, to find the line by");
    key.wipe();
    assert!(format!("{key:?}").contains("wiped: true"));
}

#[test]
fn a_sealed_temporary_key_comes_back() {
    let session = SessionId::generate(&mut rng(24));
    let now = Timestamp::from_unix_seconds(1_795_395_600);
    let key = TemporaryKeyPair::generate(&mut rng(25), session, now, DEFAULT_LIFETIME).unwrap();
    let sealed = key.expose_openssh().unwrap();
    let back = TemporaryKeyPair::from_parts(session, key.created_at(), key.expires_at(), &sealed).unwrap();
    assert_eq!(back.authorized_keys_line(None), key.authorized_keys_line(None));
    assert_eq!(back.expose_openssh().unwrap(), sealed);
    assert_eq!((back.session(), back.created_at(), back.expires_at()), (session, now, now.saturating_add(DEFAULT_LIFETIME)));
    let Identity::PrivateKey { public_key, .. } = back.identity().unwrap() else { unreachable!() };
    assert_eq!(&public_key, key.public_key());

    let other = KeyPair::generate(&mut rng(26), KeyAlgorithm::EcdsaP256).unwrap().to_openssh("").unwrap();
    let refused = |openssh| TemporaryKeyPair::from_parts(session, now, key.expires_at(), openssh).unwrap_err();
    assert_eq!(refused(&other), TemporaryKeyError::NotEd25519 { session, algorithm: KeyAlgorithm::EcdsaP256 });
    assert!(matches!(refused(&Vec::new().into()), TemporaryKeyError::PrivateKey { .. }));
    let backwards = TemporaryKeyPair::from_parts(session, key.expires_at(), now, &sealed).unwrap_err();
    assert!(matches!(backwards, TemporaryKeyError::Lifetime { .. }));
}
