//! OpenSSH's own format (`PROTOCOL.key`), read, and written for Ed25519.
//!
//! Taken apart here and not by ssh-key, whose reader refuses the one P-256 key in 512 with a short scalar, runs as many
//! rounds of bcrypt as the file asks for, believes the public half, and does not tell a wrong passphrase from damage.
//! Its writer moves keys about on the stack, where they stay; a temporary key must be gone when it is wiped.

use base64ct::{Base64, Encoder, LineEnding};
use ssh_key::{Cipher, Kdf};
use toehold_core::{PublicKey, SecretBytes};
use zeroize::Zeroizing;

use super::{PrivateKeyError, RsaNumbers, printable, rsa, rsa_size, unencrypted};
use crate::key_pair::{KeyAlgorithm, KeyPair};

const MAGIC: &[u8] = b"openssh-key-v1\0";
/// The most rounds of bcrypt-pbkdf that are run: about 40 times what `ssh-keygen -a 100` asks for.
const MAX_ROUNDS: u32 = 4096;

/// Columns of the armour's lines.
const LINE_WIDTH: usize = 70;

/// An Ed25519 key without passphrase, armour included. No copy of the seed is left behind.
pub(crate) fn write_ed25519(seed: &[u8; 32], public: &PublicKey, comment: &str) -> Result<SecretBytes, PrivateKeyError> {
    const BEGIN: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----\n";
    const END: &[u8] = b"\n-----END OPENSSH PRIVATE KEY-----\n";
    let blob = public.blob();
    let (Some(point), Ok(blob_length), Ok(comment_length)) =
        (blob.last_chunk::<32>(), u32::try_from(blob.len()), u32::try_from(comment.len()))
    else {
        return Err(PrivateKeyError::Encoding);
    };
    // Two check numbers, the blob with its name, the 64 bytes of private and public half, the comment; in blocks of 8.
    let unpadded = 8 + blob_length + 4 + 64 + 4 + comment_length;
    let padded = unpadded.next_multiple_of(8);
    let padding = [1, 2, 3, 4, 5, 6, 7].into_iter().take((padded - unpadded) as usize).collect::<Vec<u8>>();
    let [blob_length, comment_length, padded] = [blob_length, comment_length, padded].map(u32::to_be_bytes);
    // The check numbers tell a wrong passphrase; without one, any that are equal will do.
    let check = point.first_chunk::<4>().ok_or(PrivateKeyError::Encoding)?;
    let parts: [&[u8]; 14] = [
        MAGIC,
        b"\0\0\0\x04none\0\0\0\x04none\0\0\0\0\0\0\0\x01",
        &blob_length,
        blob,
        &padded,
        check,
        check,
        blob,
        b"\0\0\0\x40",
        seed,
        point,
        &comment_length,
        comment.as_bytes(),
        &padding,
    ];
    let encoded = parts.iter().map(|part| part.len()).sum::<usize>().div_ceil(3) * 4;
    let mut body = Zeroizing::new(vec![0; encoded + (encoded - 1) / LINE_WIDTH]);
    let body = armour(&parts, &mut body).map_err(|_| PrivateKeyError::Encoding)?;
    let mut file = Zeroizing::new(Vec::with_capacity(BEGIN.len() + body.len() + END.len()));
    file.extend_from_slice(BEGIN);
    file.extend_from_slice(body.as_bytes());
    file.extend_from_slice(END);
    Ok(file.into())
}

/// Base64 in lines, straight into its place.
fn armour<'a>(parts: &[&[u8]], place: &'a mut [u8]) -> Result<&'a str, base64ct::Error> {
    let mut encoder = Encoder::<Base64>::new_wrapped(place, LINE_WIDTH, LineEnding::LF)?;
    parts.iter().try_for_each(|part| encoder.encode(part))?;
    encoder.finish()
}

/// Reads what the armour holds.
pub(super) fn read(bytes: &[u8], passphrase: Option<&SecretBytes>) -> Result<KeyPair, PrivateKeyError> {
    let mut outer = Fields(bytes.strip_prefix(MAGIC).ok_or(damaged("it does not begin with openssh-key-v1"))?);
    let cipher = outer.string()?;
    let kdf = outer.string()?;
    let mut kdf_options = Fields(outer.string()?);
    if outer.u32()? != 1 {
        return Err(damaged("it holds other than one key"));
    }
    let public = PublicKey::from_blob(outer.string()?).map_err(|_| damaged("its public half is not valid"))?;
    // Before the passphrase is asked for: a key that cannot be used should not cost a question.
    check_public(&public)?;
    let private = outer.string()?;
    if cipher == b"none" {
        if kdf != b"none" || !outer.0.is_empty() {
            return Err(damaged("it is not encrypted, yet says how"));
        }
        unencrypted(passphrase)?;
        return read_private(private, &public, None);
    }
    if kdf != b"bcrypt" {
        return Err(PrivateKeyError::UnsupportedEncryption { what: printable(kdf) });
    }
    let unsupported = || PrivateKeyError::UnsupportedEncryption { what: printable(cipher) };
    let cipher = std::str::from_utf8(cipher).ok().and_then(|name| Cipher::new(name).ok()).ok_or_else(unsupported)?;
    let salt = kdf_options.string()?;
    let rounds = kdf_options.u32()?;
    if salt.is_empty() || rounds == 0 || !kdf_options.0.is_empty() {
        return Err(damaged("the parameters of bcrypt are not valid"));
    }
    if rounds > MAX_ROUNDS {
        return Err(PrivateKeyError::TooCostly { unit: "rounds of bcrypt", asked: rounds.into(), limit: MAX_ROUNDS.into() });
    }
    if !private.len().is_multiple_of(cipher.block_size()) {
        return Err(damaged("its encrypted part is not whole blocks"));
    }
    let tag = match outer.0 {
        [] if !cipher.has_tag() => None,
        tag if cipher.has_tag() => {
            Some(<[u8; 16]>::try_from(tag).map_err(|_| damaged("its authentication tag is not 16 bytes"))?)
        }
        _ => return Err(damaged("something follows it")),
    };
    let passphrase = passphrase.ok_or(PrivateKeyError::PassphraseNeeded)?;
    if passphrase.is_empty() {
        return Err(PrivateKeyError::WrongPassphrase);
    }
    let kdf = Kdf::Bcrypt { salt: salt.to_vec(), rounds };
    let (key, iv) = kdf.derive_key_and_iv(cipher, passphrase.expose()).map_err(|_| unsupported())?;
    let iv = Zeroizing::new(iv);
    let mut plain = Zeroizing::new(private.to_vec());
    cipher.decrypt(&key, &iv, &mut plain, tag.map(Into::into)).map_err(|error| match error {
        ssh_key::cipher::Error::UnsupportedCipher(_) => unsupported(),
        _ => PrivateKeyError::WrongPassphrase,
    })?;
    read_private(&plain, &public, Some(cipher))
}

/// Reads the part that may have been encrypted, and holds it against the public half outside.
fn read_private(bytes: &[u8], public: &PublicKey, cipher: Option<Cipher>) -> Result<KeyPair, PrivateKeyError> {
    let mut fields = Fields(bytes);
    if fields.u32()? != fields.u32()? {
        return Err(if cipher.is_some() { PrivateKeyError::WrongPassphrase } else { damaged("its two check numbers differ") });
    }
    if fields.string()? != public.algorithm().as_bytes() {
        return Err(damaged("its two halves are of different kinds"));
    }
    let pair = match public.algorithm() {
        "ssh-ed25519" => {
            fields.string()?;
            let (seed, _public) = fields.string()?.split_first_chunk::<32>().ok_or(damaged("its private half is too short"))?;
            let mut place = Box::new(Zeroizing::new([0; 32]));
            place.copy_from_slice(seed);
            KeyPair::from_ed25519_seed(place)?
        }
        "ssh-rsa" => {
            let [modulus, exponent, private, _coefficient, p, q] = fields.strings()?;
            rsa("OpenSSH", &RsaNumbers { n: modulus, e: exponent, d: private, p, q })?
        }
        name => {
            let algorithm = ecdsa(name).ok_or_else(|| unsupported(name))?;
            let (_curve, _point) = (fields.string()?, fields.string()?);
            KeyPair::from_ecdsa_scalar(algorithm, fields.string()?).ok_or(damaged("its private half is out of range"))?
        }
    };
    let _comment = fields.string()?;
    if !(1..=u8::MAX).zip(fields.0).all(|(expected, byte)| expected == *byte) || fields.0.len() > 255 {
        return Err(damaged("its padding is not 1, 2, 3 and so on"));
    }
    if pair.public_key() != public {
        return Err(damaged("its public half is not that of its private half"));
    }
    Ok(pair)
}

/// Whether a key of this public half can be used.
fn check_public(public: &PublicKey) -> Result<(), PrivateKeyError> {
    match public.algorithm() {
        "ssh-ed25519" => Ok(()),
        "ssh-rsa" => {
            let mut fields = Fields(public.blob());
            let (_name, _exponent) = (fields.string()?, fields.string()?);
            rsa_size(fields.string()?)
        }
        name => ecdsa(name).map(|_| ()).ok_or_else(|| unsupported(name)),
    }
}

fn ecdsa(name: &str) -> Option<KeyAlgorithm> {
    match name {
        "ecdsa-sha2-nistp256" => Some(KeyAlgorithm::EcdsaP256),
        "ecdsa-sha2-nistp384" => Some(KeyAlgorithm::EcdsaP384),
        "ecdsa-sha2-nistp521" => Some(KeyAlgorithm::EcdsaP521),
        _ => None,
    }
}

fn unsupported(name: &str) -> PrivateKeyError {
    let kind = match name {
        "ssh-dss" => "ssh-dss (DSA)".to_owned(),
        _ if name.starts_with("sk-") => format!("{} (held by a security key)", printable(name.as_bytes())),
        _ => printable(name.as_bytes()),
    };
    PrivateKeyError::UnsupportedKey { kind }
}

fn damaged(what: &'static str) -> PrivateKeyError {
    PrivateKeyError::Damaged { format: "OpenSSH", what }
}

/// The data types of RFC 4251 §5, read one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn u32(&mut self) -> Result<u32, PrivateKeyError> {
        let (head, rest) = self.0.split_first_chunk::<4>().ok_or(damaged("it is cut short"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }

    /// A `string` or, for positive numbers, an `mpint`.
    fn string(&mut self) -> Result<&'a [u8], PrivateKeyError> {
        let length = usize::try_from(self.u32()?).map_err(|_| damaged("it is cut short"))?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(damaged("it is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    fn strings<const N: usize>(&mut self) -> Result<[&'a [u8]; N], PrivateKeyError> {
        let mut strings = [[].as_slice(); N];
        for string in &mut strings {
            *string = self.string()?;
        }
        Ok(strings)
    }
}
