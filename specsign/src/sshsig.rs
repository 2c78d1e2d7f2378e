//! Signatures as `ssh-keygen -Y` makes and checks them (OpenSSH's PROTOCOL.sshsig), for Ed25519 keys.

use base64ct::{Base64, Encoding as _};
use sha2::{Digest as _, Sha512};

use crate::keys::{Signature, SigningKey, TrustedKeys, VerifyingKey};

/// The namespace of envelopes: `ssh-keygen -Y verify -n spec@toehold`.
pub const NAMESPACE: &str = "spec@toehold";

pub(crate) const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
const HASH: &str = "sha512";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// The most bytes of an armored signature.
const MAX_ARMORED: usize = 4096;

/// Why a text is no SSH signature, or not a good one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SshSigError {
    /// No such armor, or something else inside it.
    #[error("this is no SSH signature of version 1")]
    Malformed,
    /// Made with another kind of key, or over another hash than SHA-512.
    #[error("the SSH signature is of a kind that is not taken; Ed25519 over SHA-512 is")]
    Kind,
    /// Made for another purpose.
    #[error("the SSH signature was made for another namespace")]
    Namespace,
    /// Its key is not trusted, or it is over something else.
    #[error("the SSH signature is by none of the trusted keys, or over something else")]
    Untrusted,
}

/// The bytes that an SSH signature over `message` covers, for a key that lives elsewhere (an agent signs them as they are).
pub fn signing_bytes(namespace: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for field in [namespace.as_bytes(), b"", HASH.as_bytes(), &Sha512::digest(message)] {
        string(&mut bytes, field);
    }
    bytes
}

/// Signs `message` and puts the signature into its armor: the content of a `.sig` file.
pub fn sign(key: &SigningKey, namespace: &str, message: &[u8]) -> String {
    armor(&key.verifying_key(), namespace, &key.sign(&signing_bytes(namespace, message)))
}

/// Puts a signature over [`signing_bytes`] into its armor.
pub fn armor(key: &VerifyingKey, namespace: &str, signature: &Signature) -> String {
    let mut inner = Vec::new();
    string(&mut inner, b"ssh-ed25519");
    string(&mut inner, signature.as_bytes());
    let mut blob = MAGIC.to_vec();
    blob.extend_from_slice(&VERSION.to_be_bytes());
    for field in [key.ssh_blob().as_slice(), namespace.as_bytes(), b"", HASH.as_bytes(), &inner] {
        string(&mut blob, field);
    }
    let base64 = Base64::encode_string(&blob);
    let mut text = format!("{BEGIN}\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(70));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// Checks an armored signature, and returns the trusted key that made it.
///
/// # Errors
/// [`SshSigError`].
pub fn verify(armored: &str, namespace: &str, message: &[u8], trusted: &TrustedKeys) -> Result<VerifyingKey, SshSigError> {
    let (key, signature) = read(armored, namespace)?;
    if trusted.contains(&key) && key.verifies(&signing_bytes(namespace, message), &signature) {
        return Ok(key);
    }
    Err(SshSigError::Untrusted)
}

/// The key and the signature inside an armor, unjudged.
///
/// # Errors
/// [`SshSigError`], without [`SshSigError::Untrusted`].
pub fn read(armored: &str, namespace: &str) -> Result<(VerifyingKey, Signature), SshSigError> {
    use SshSigError::Malformed;
    if armored.len() > MAX_ARMORED {
        return Err(Malformed);
    }
    let inside = armored.trim_ascii().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).ok_or(Malformed)?;
    let base64: String = inside.lines().map(str::trim_ascii).collect();
    let blob = Base64::decode_vec(&base64).map_err(|_| Malformed)?;
    let rest = blob.strip_prefix(MAGIC).ok_or(Malformed)?;
    let rest = rest.strip_prefix(&VERSION.to_be_bytes()).ok_or(Malformed)?;
    let (public_key, rest) = take(rest).ok_or(Malformed)?;
    let (found_namespace, rest) = take(rest).ok_or(Malformed)?;
    let (reserved, rest) = take(rest).ok_or(Malformed)?;
    let (hash, rest) = take(rest).ok_or(Malformed)?;
    let (inner, rest) = take(rest).ok_or(Malformed)?;
    if !rest.is_empty() || !reserved.is_empty() {
        return Err(Malformed);
    }
    let key = toehold_core::PublicKey::from_blob(public_key).map_err(|_| Malformed)?;
    let key = VerifyingKey::from_ssh(&key).map_err(|_| SshSigError::Kind)?;
    let (algorithm, inner) = take(inner).ok_or(Malformed)?;
    let (signature, inner) = take(inner).ok_or(Malformed)?;
    if algorithm != b"ssh-ed25519" || hash != HASH.as_bytes() {
        return Err(SshSigError::Kind);
    }
    let signature = signature.try_into().ok().filter(|_| inner.is_empty()).ok_or(Malformed)?;
    if found_namespace != namespace.as_bytes() {
        return Err(SshSigError::Namespace);
    }
    Ok((key, Signature::from_bytes(signature)))
}

fn string(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(field);
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}
