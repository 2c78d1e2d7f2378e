//! The formats that OpenSSL writes: PKCS#8 (RFC 5958), PKCS#1 (RFC 8017) and SEC1 (RFC 5915).

use pkcs8::der::asn1::{ObjectIdentifier, OctetStringRef};
use pkcs8::der::{self, Decode as _, ErrorKind, Reader as _, SliceReader};
use pkcs8::pkcs5::pbes2::{Kdf, PBES2_OID};
use pkcs8::pkcs5::{self, EncryptionScheme};
use pkcs8::{AlgorithmIdentifierRef, EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use sec1::{EcParameters, EcPrivateKey};
use toehold_core::SecretBytes;
use zeroize::Zeroizing;

use super::{PrivateKeyError, RsaNumbers, rsa, unencrypted};
use crate::key_pair::{KeyAlgorithm, KeyPair};

const RSA: ObjectIdentifier = pkcs1::ALGORITHM_OID;
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// The most rounds of PBKDF2 that are run: over ten times what OWASP recommends.
const MAX_ITERATIONS: u32 = 10_000_000;
/// The most memory that scrypt may take, in bytes (128 × N × r): several times what OpenSSL and PKCS#8 writers ask for.
const MAX_SCRYPT_MEMORY: u64 = 256 * 1024 * 1024;
/// The most passes of scrypt over its memory.
const MAX_SCRYPT_PASSES: u16 = 16;

/// A DER file without armour. Each format is a SEQUENCE that no other format's reader takes.
pub(super) fn guess(der: &[u8], passphrase: Option<&SecretBytes>) -> Result<KeyPair, PrivateKeyError> {
    match EncryptedPrivateKeyInfoRef::from_der(der) {
        Ok(_) => return read_encrypted_pkcs8(der, passphrase),
        Err(error) => match not_encrypted_as_known(der, error) {
            PrivateKeyError::Damaged { .. } => {}
            error => return Err(error),
        },
    }
    let read: fn(&[u8]) -> Result<KeyPair, PrivateKeyError> = if PrivateKeyInfoRef::from_der(der).is_ok() {
        read_pkcs8
    } else if pkcs1::RsaPrivateKey::from_der(der).is_ok() {
        read_pkcs1
    } else if EcPrivateKey::from_der(der).is_ok() {
        |der| read_sec1(der, None)
    } else {
        return Err(PrivateKeyError::NotAPrivateKey);
    };
    unencrypted(passphrase)?;
    read(der)
}

/// `PrivateKeyInfo`.
pub(super) fn read_pkcs8(der: &[u8]) -> Result<KeyPair, PrivateKeyError> {
    let bad = |what| PrivateKeyError::Damaged { format: "PKCS#8", what };
    let info = PrivateKeyInfoRef::from_der(der).map_err(|_| bad("it is not a PrivateKeyInfo"))?;
    let key = info.private_key.as_bytes();
    match info.algorithm.oid {
        RSA => read_pkcs1(key),
        EC => {
            let curve = info.algorithm.parameters_oid().map_err(|_| bad("its curve is not named"))?;
            read_sec1(key, Some(curve))
        }
        ED25519 => {
            // CurvePrivateKey (RFC 8410 §7): an OCTET STRING inside the OCTET STRING.
            let seed = key.strip_prefix(&[4, 32]).filter(|seed| seed.len() == 32).ok_or(bad("an Ed25519 key has 32 bytes"))?;
            let mut place = Box::new(Zeroizing::new([0; 32]));
            place.copy_from_slice(seed);
            let pair = KeyPair::from_ed25519_seed(place)?;
            if info
                .public_key
                .is_some_and(|public| public.as_bytes().is_none_or(|public| !pair.public_key().blob().ends_with(public)))
            {
                return Err(bad("its public half is not that of its private half"));
            }
            Ok(pair)
        }
        oid => Err(PrivateKeyError::UnsupportedKey { kind: name(oid) }),
    }
}

/// `EncryptedPrivateKeyInfo`.
pub(super) fn read_encrypted_pkcs8(der: &[u8], passphrase: Option<&SecretBytes>) -> Result<KeyPair, PrivateKeyError> {
    let bad = |what| PrivateKeyError::Damaged { format: "PKCS#8", what };
    let info = EncryptedPrivateKeyInfoRef::from_der(der).map_err(|error| not_encrypted_as_known(der, error))?;
    let scheme = &info.encryption_algorithm;
    let EncryptionScheme::Pbes2(parameters) = scheme else {
        return Err(PrivateKeyError::UnsupportedEncryption { what: name(scheme.oid()) });
    };
    check_cost(&parameters.kdf)?;
    let passphrase = passphrase.ok_or(PrivateKeyError::PassphraseNeeded)?;
    let mut buffer = Zeroizing::new(info.encrypted_data.as_bytes().to_vec());
    let plain = scheme.decrypt_in_place(passphrase.expose(), &mut buffer).map_err(|error| match error {
        pkcs5::Error::UnsupportedAlgorithm { oid } => PrivateKeyError::UnsupportedEncryption { what: name(oid) },
        pkcs5::Error::AlgorithmParametersInvalid { .. } => bad("the parameters of its encryption are not valid"),
        _ => PrivateKeyError::WrongPassphrase,
    })?;
    // A wrong passphrase passes the check of the padding once in 256 times, and then there is no PrivateKeyInfo.
    if PrivateKeyInfoRef::from_der(plain).is_err() {
        return Err(PrivateKeyError::WrongPassphrase);
    }
    read_pkcs8(plain)
}

/// What to say of an `EncryptedPrivateKeyInfo` that the library does not take: the cipher that it does not know, if that is it.
fn not_encrypted_as_known(der: &[u8], error: der::Error) -> PrivateKeyError {
    let scheme = || -> der::Result<ObjectIdentifier> {
        SliceReader::new(der)?.sequence(|reader| {
            let scheme = AlgorithmIdentifierRef::decode(reader)?;
            <&OctetStringRef>::decode(reader)?;
            Ok::<_, der::Error>(scheme.oid)
        })
    };
    match (error.kind(), scheme()) {
        (ErrorKind::OidUnknown { oid }, Ok(_)) => PrivateKeyError::UnsupportedEncryption { what: name(oid) },
        (_, Ok(oid)) if oid != PBES2_OID => PrivateKeyError::UnsupportedEncryption { what: name(oid) },
        (_, Ok(_)) => PrivateKeyError::Damaged { format: "PKCS#8", what: "the parameters of its encryption are not valid" },
        (_, Err(_)) => PrivateKeyError::Damaged { format: "PKCS#8", what: "it is not an EncryptedPrivateKeyInfo" },
    }
}

fn check_cost(kdf: &Kdf) -> Result<(), PrivateKeyError> {
    let (unit, asked, limit) = match kdf {
        Kdf::Pbkdf2(pbkdf2) => ("rounds of PBKDF2", pbkdf2.iteration_count.into(), MAX_ITERATIONS.into()),
        Kdf::Scrypt(scrypt) if scrypt.parallelization > MAX_SCRYPT_PASSES => {
            ("passes of scrypt", scrypt.parallelization.into(), MAX_SCRYPT_PASSES.into())
        }
        Kdf::Scrypt(scrypt) => {
            let memory = scrypt.cost_parameter.saturating_mul(128).saturating_mul(scrypt.block_size.into());
            ("bytes of scrypt's memory", memory, MAX_SCRYPT_MEMORY)
        }
        _ => return Err(PrivateKeyError::UnsupportedEncryption { what: name(kdf.oid()) }),
    };
    if asked > limit { Err(PrivateKeyError::TooCostly { unit, asked, limit }) } else { Ok(()) }
}

/// `RSAPrivateKey`.
pub(super) fn read_pkcs1(der: &[u8]) -> Result<KeyPair, PrivateKeyError> {
    let bad = PrivateKeyError::Damaged { format: "PKCS#1", what: "it is not an RSAPrivateKey" };
    let key = pkcs1::RsaPrivateKey::from_der(der).map_err(|_| bad)?;
    if key.version() != pkcs1::Version::TwoPrime {
        return Err(PrivateKeyError::UnsupportedKey { kind: "RSA of more than two primes".to_owned() });
    }
    let numbers = RsaNumbers {
        n: key.modulus.as_bytes(),
        e: key.public_exponent.as_bytes(),
        d: key.private_exponent.as_bytes(),
        p: key.prime1.as_bytes(),
        q: key.prime2.as_bytes(),
    };
    rsa("PKCS#1", &numbers)
}

/// `ECPrivateKey`. The curve is the one named around it, the one named in it (both, if they agree), else it is told by the
/// length of the scalar.
pub(super) fn read_sec1(der: &[u8], outside: Option<ObjectIdentifier>) -> Result<KeyPair, PrivateKeyError> {
    let bad = |what| PrivateKeyError::Damaged { format: "SEC1", what };
    let key = EcPrivateKey::from_der(der).map_err(|_| bad("it is not an ECPrivateKey on a named curve"))?;
    let inside = key.parameters.and_then(EcParameters::named_curve);
    let algorithm = match (outside.or(inside), key.private_key.len()) {
        (Some(curve), _) if inside.is_some_and(|inside| inside != curve) => return Err(bad("it names two curves")),
        (Some(P256), _) | (None, 32) => KeyAlgorithm::EcdsaP256,
        (Some(P384), _) | (None, 48) => KeyAlgorithm::EcdsaP384,
        (Some(P521), _) | (None, 66) => KeyAlgorithm::EcdsaP521,
        (Some(curve), _) => return Err(PrivateKeyError::UnsupportedKey { kind: name(curve) }),
        (None, _) => return Err(bad("its curve is not named")),
    };
    let pair = KeyPair::from_ecdsa_scalar(algorithm, key.private_key).ok_or(bad("its private half is out of range"))?;
    if key.public_key.is_some_and(|public| !is_point(pair.public_key().blob(), public)) {
        return Err(bad("its public half is not that of its private half"));
    }
    Ok(pair)
}

/// Whether `point` (SEC1 §2.3.3, compressed or not) is the one at the end of a key blob (RFC 5656 §3.1).
fn is_point(blob: &[u8], point: &[u8]) -> bool {
    match point {
        [4, ..] => blob.ends_with(point),
        [parity @ (2 | 3), x @ ..] => {
            let whole = blob.get(blob.len().saturating_sub(2 * x.len() + 1)..).unwrap_or_default();
            let (Some(own_x), Some(last)) = (whole.get(1..=x.len()), whole.last()) else { return false };
            own_x == x && last & 1 == parity & 1
        }
        _ => false,
    }
}

/// The name of an algorithm that somebody may meet, with its identifier.
fn name(oid: ObjectIdentifier) -> String {
    let dotted = oid.to_string();
    let name = match dotted.as_str() {
        "1.2.840.10040.4.1" => "ssh-dss (DSA)",
        "1.2.840.113549.1.1.10" => "RSASSA-PSS",
        "1.2.840.113549.1.5.3" => "pbeWithMD5AndDES-CBC",
        "1.2.840.113549.1.12.1.3" => "pbeWithSHAAnd3-KeyTripleDES-CBC",
        "1.2.392.200011.61.1.1.1.2" => "camellia128-cbc",
        "1.3.101.110" => "X25519",
        "1.3.101.111" => "X448",
        "1.3.101.113" => "Ed448",
        "1.3.132.0.10" => "secp256k1",
        _ => return dotted,
    };
    format!("{name} ({dotted})")
}
