//! Files that are no private key, or none that is used: each is refused in words that help.

use crate::keys_common;
use crate::keys_common::{passphrase, rng, vector};
use base64ct::{Base64, Encoding as _};
use toehold_keygen::{
    KeyAlgorithm, KeyGenerationError, KeyPair, MAX_PRIVATE_KEY_FILE, MAX_RSA_BITS, PrivateKeyError, read_private_key_file,
};

fn refusal(bytes: &[u8]) -> PrivateKeyError {
    read_private_key_file(bytes, None).unwrap_err()
}

/// The `string` of RFC 4251 §5.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// An OpenSSH file without passphrase, of a public blob and the part that would be encrypted.
fn openssh(public: &[u8], private: &[u8]) -> Vec<u8> {
    let parts = [
        b"openssh-key-v1\0".to_vec(),
        string(b"none"),
        string(b"none"),
        string(b""),
        vec![0, 0, 0, 1],
        string(public),
        string(private),
    ];
    format!(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
        Base64::encode_string(&parts.concat())
    )
    .into_bytes()
}

fn decoded(file: &str) -> Vec<u8> {
    let text = String::from_utf8(vector(file)).unwrap();
    Base64::decode_vec(&text.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}

fn armoured(bytes: &[u8]) -> Vec<u8> {
    format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n", Base64::encode_string(bytes))
        .into_bytes()
}

#[test]
fn a_public_key_is_recognized() {
    for (file, name) in [
        ("ed25519.pub", "ssh-ed25519"),
        ("rsa-2048.pub", "ssh-rsa"),
        ("public.certificate", "ssh-ed25519-cert-v01@openssh.com"),
        ("public.spki", "PUBLIC-KEY"),
        ("public.pkcs1", "RSA-PUBLIC-KEY"),
        ("public.ssh2", "SSH2 PUBLIC KEY"),
    ] {
        assert_eq!(refusal(&vector(file)), PrivateKeyError::PublicKey { algorithm: name.to_owned() }, "{file}");
    }
    let line = [b"# mine\nrestrict,from=\"10.0.0.1\" ".to_vec(), vector("ed25519.pub")].concat();
    assert!(refusal(&line).to_string().starts_with("this is a public key (ssh-ed25519)"));
}

#[test]
fn a_file_of_something_else_is_no_private_key() {
    for bytes in [
        b"".as_slice(),
        b"\n",
        b"hello",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"0\x82",
        b"-----BEGIN AGE PRIVATE KEY-----\nAAAA\n-----END AGE PRIVATE KEY-----\n",
        &[0xff; 300],
    ] {
        assert_eq!(refusal(bytes), PrivateKeyError::NotAPrivateKey, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_file_over_the_limit_is_not_read() {
    let mut bytes = vector("ed25519.openssh");
    bytes.resize(MAX_PRIVATE_KEY_FILE, b'\n');
    assert!(read_private_key_file(&bytes, None).is_ok());
    bytes.push(b'\n');
    assert_eq!(refusal(&bytes), PrivateKeyError::TooLarge { got: 65_537 });
    assert_eq!(refusal(&bytes).to_string(), "a private key file of 65537 bytes is over the limit of 65536");
}

#[test]
fn formats_that_are_not_read_say_how_to_convert() {
    let putty = refusal(b"PuTTY-User-Key-File-3: ssh-ed25519\r\nEncryption: none\r\n");
    assert_eq!(putty.to_string(), "PuTTY's format is not read; convert it with: puttygen FILE -O private-openssh-new -o NEW");
    let ssh_com =
        refusal(b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nP2/56wAAAgIAAAAm\n---- END SSH2 ENCRYPTED PRIVATE KEY ----\n");
    assert!(ssh_com.to_string().ends_with("convert it with: ssh-keygen -i -f FILE > NEW"));
    for file in ["legacy-encrypted.pkcs1", "legacy-encrypted.sec1"] {
        for passphrase in [None, Some(&passphrase())] {
            let error = read_private_key_file(&vector(file), passphrase).unwrap_err();
            assert_eq!(error, PrivateKeyError::LegacyEncryption, "{file}");
            assert!(error.to_string().ends_with("convert it with: ssh-keygen -p -f FILE"));
        }
    }
}

#[test]
fn keys_of_other_kinds_are_named() {
    for (file, kind) in [
        ("dsa.openssh", "ssh-dss (DSA)"),
        ("dsa.openssh-encrypted", "ssh-dss (DSA)"),
        ("dsa.pem", "ssh-dss (DSA)"),
        ("dsa.pkcs8", "ssh-dss (DSA) (1.2.840.10040.4.1)"),
        ("secp256k1.pkcs8", "secp256k1 (1.3.132.0.10)"),
        ("secp256k1.sec1", "secp256k1 (1.3.132.0.10)"),
        ("ed448.pkcs8", "Ed448 (1.3.101.113)"),
        ("x25519.pkcs8", "X25519 (1.3.101.110)"),
        ("rsa-pss.pkcs8", "RSASSA-PSS (1.2.840.113549.1.1.10)"),
    ] {
        assert_eq!(refusal(&vector(file)), PrivateKeyError::UnsupportedKey { kind: kind.to_owned() }, "{file}");
    }
    for name in ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"] {
        let error = refusal(&openssh(&string(name.as_bytes()), &string(b"")));
        assert_eq!(error, PrivateKeyError::UnsupportedKey { kind: format!("{name} (held by a security key)") });
    }
    let odd = refusal(&openssh(&string(b"ssh-\x1b[2Jnew"), &[]));
    assert!(!format!("{odd:?}{odd}").contains('\u{1b}'), "a name from a file must not steer the terminal");
    assert!(matches!(refusal(&vector("explicit-curve.sec1")), PrivateKeyError::Damaged { format: "SEC1", .. }));
    assert!(matches!(
        refusal(&vector("rsa-three-primes.pkcs8")),
        PrivateKeyError::UnsupportedKey { .. } | PrivateKeyError::Damaged { .. }
    ));
}

#[test]
fn ciphers_that_are_not_read_are_named() {
    for (file, what) in [
        ("ed25519.openssh-3des-cbc", "3des-cbc"),
        ("ed25519.pkcs8-pbes1", "pbeWithSHAAnd3-KeyTripleDES-CBC (1.2.840.113549.1.12.1.3)"),
        ("ed25519.pkcs8-camellia", "camellia128-cbc (1.2.392.200011.61.1.1.1.2)"),
    ] {
        let error = read_private_key_file(&vector(file), Some(&passphrase())).unwrap_err();
        assert_eq!(error, PrivateKeyError::UnsupportedEncryption { what: what.to_owned() }, "{file}");
    }
}

/// Nothing is derived: this would take the better part of an hour.
#[test]
fn a_costly_key_derivation_is_not_begun() {
    let error = read_private_key_file(&vector("ed25519.pkcs8-slow"), Some(&passphrase())).unwrap_err();
    assert_eq!(error, PrivateKeyError::TooCostly { unit: "rounds of PBKDF2", asked: 20_000_000, limit: 10_000_000 });

    let mut bytes = decoded("ed25519.openssh-encrypted");
    let rounds = bytes.windows(4).position(|window| window == [0, 0, 0, 2]).unwrap();
    bytes[rounds..rounds + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = read_private_key_file(&armoured(&bytes), Some(&passphrase())).unwrap_err();
    assert_eq!(error, PrivateKeyError::TooCostly { unit: "rounds of bcrypt", asked: u32::MAX.into(), limit: 4096 });
}

#[test]
fn a_weak_rsa_key_is_refused_with_the_minimum() {
    for suffix in ["openssh", "openssh-encrypted", "pkcs8", "pkcs1"] {
        let error = refusal(&vector(&format!("weak-rsa-1024.{suffix}")));
        assert_eq!(error, PrivateKeyError::RsaTooSmall { bits: 1024 }, "{suffix}");
        assert_eq!(error.to_string(), "an RSA key of 1024 bits is too weak: at least 2048");
    }
}

/// Judged by bits and not by bytes, and before any arithmetic.
#[test]
fn the_bounds_of_rsa_are_exact_to_the_bit() {
    let with_modulus = |modulus: &[u8]| refusal(&openssh(&[string(b"ssh-rsa"), string(&[3]), string(modulus)].concat(), &[]));
    let mut modulus = vec![0xff; 256];
    modulus[0] = 0x7f;
    assert_eq!(with_modulus(&modulus), PrivateKeyError::RsaTooSmall { bits: 2047 });
    let mut modulus = vec![0xff; 1026];
    modulus[..2].copy_from_slice(&[0, 1]);
    assert_eq!(with_modulus(&modulus), PrivateKeyError::RsaTooLarge { bits: 8193 });
    assert_eq!(with_modulus(&[]), PrivateKeyError::RsaTooSmall { bits: 0 });
}

#[test]
fn sizes_of_rsa_that_are_not_made() {
    let error = |bits| KeyPair::generate(&mut rng(1), KeyAlgorithm::Rsa { bits }).unwrap_err();
    for asked in [0, 1024, 2040, 2047] {
        assert_eq!(error(asked), KeyGenerationError::RsaTooSmall { asked });
    }
    for asked in [MAX_RSA_BITS + 8, 16_384, usize::MAX] {
        assert_eq!(error(asked), KeyGenerationError::RsaTooLarge { asked });
    }
    assert_eq!(error(3071), KeyGenerationError::RsaNotWholeBytes { asked: 3071 });
    assert_eq!(error(1024).to_string(), "an RSA key of 1024 bits is too weak: at least 2048");
    assert_eq!(error(16_384).to_string(), "an RSA key of 16384 bits is too large: at most 8192");
}

#[test]
fn a_public_half_of_another_key_is_refused() {
    // The last byte of a blob belongs to the key; ECDSA and Ed25519 carry it inside the encrypted part as well.
    for name in ["ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048"] {
        let mut bytes = decoded(&format!("{name}.openssh"));
        let blob = keys_common::public_half(name).blob().to_vec();
        let at = bytes.windows(blob.len()).position(|window| window == blob).unwrap() + blob.len() - 1;
        bytes[at] ^= 4;
        assert!(matches!(refusal(&armoured(&bytes)), PrivateKeyError::Damaged { format: "OpenSSH", .. }), "{name}");
    }
    // In SEC1 the public half is the end of the file.
    let mut bytes = vector("ecdsa-p256.sec1.der");
    *bytes.last_mut().unwrap() ^= 1;
    assert!(refusal(&bytes).to_string().ends_with("its public half is not that of its private half"));
}

#[test]
fn numbers_that_are_no_rsa_key_are_refused() {
    // One bit of the private exponent, which is the fourth number, and of the prime, which is the fifth.
    let whole = vector("rsa-2048.pkcs1.der");
    for at in [4 + 3 + 4 + 257 + 5 + 4 + 100, whole.len() - 5 * 130] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert_eq!(refusal(&bytes).to_string(), "the PKCS#1 private key is damaged: its numbers are not those of an RSA key");
    }
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    for file in ["ed25519.openssh", "ecdsa-p256.sec1", "rsa-2048.pkcs8", "ed25519.pkcs8.der", "ed25519.pkcs8-encrypted"] {
        let whole = vector(file);
        let end = whole.trim_ascii_end().len();
        for length in 0..end {
            let error = refusal(&whole[..length]);
            assert!(
                matches!(error, PrivateKeyError::NotAPrivateKey | PrivateKeyError::Damaged { .. }),
                "{file} {length}: {error}"
            );
        }
    }
}

#[test]
fn every_byte_of_an_openssh_key_is_under_check() {
    // Only the comment and one of the four check numbers' bits carry no meaning, and the former is left out here.
    let bytes = decoded("ed25519.openssh");
    let comment = bytes.windows(7).position(|window| window == b"toehold").unwrap();
    for at in 0..comment {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let second_public = 161 - 4 - 32..161 - 4;
        let third_public = 161 + 32..161 + 64;
        let result = read_private_key_file(&armoured(&bytes), None);
        if second_public.contains(&at) || third_public.contains(&at) {
            // Copies of the public half that are worked out anew.
            assert!(result.is_ok(), "{at}");
        } else {
            assert!(result.is_err(), "byte {at} is not looked at");
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let pair = KeyPair::generate(&mut rng(2), KeyAlgorithm::Ed25519).unwrap();
    for comment in ["two\nlines", "nul\0", "\u{1b}[2J", &"x".repeat(1025)] {
        assert_eq!(pair.to_openssh(comment).unwrap_err(), PrivateKeyError::Comment);
    }
    let empty = Vec::new().into();
    assert_eq!(pair.to_openssh_encrypted(&mut rng(3), "", &empty).unwrap_err(), PrivateKeyError::EmptyPassphrase);
}
