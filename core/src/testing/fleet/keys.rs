//! Public keys out of nothing.

use sha2::{Digest as _, Sha256};

use crate::connect::Identity;
use crate::public_key::PublicKey;
use crate::secret::SecretBytes;

fn push_string(blob: &mut Vec<u8>, bytes: &[u8]) {
    blob.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    blob.extend(bytes);
}

/// A public key with the right wire form (RFC 4253 §6.6, RFC 5656, RFC 8709) and nobody's private half: the same for the
/// same `algorithm` and `seed`. For `ssh-ed25519`, `ecdsa-sha2-nistp256` and `ssh-rsa` (2048 bits); any other name gets a
/// blob with that name and 32 bytes.
pub fn sample_public_key(algorithm: &str, seed: &str) -> PublicKey {
    let random = |part: u8| Sha256::digest([&[part], algorithm.as_bytes(), b":", seed.as_bytes()].concat());
    let mut blob = Vec::new();
    push_string(&mut blob, algorithm.as_bytes());
    match algorithm {
        "ecdsa-sha2-nistp256" => {
            push_string(&mut blob, b"nistp256");
            push_string(&mut blob, &[&[4], random(0).as_slice(), random(1).as_slice()].concat());
        }
        "ssh-rsa" => {
            push_string(&mut blob, &[1, 0, 1]);
            let mut modulus: Vec<u8> = (0..8).flat_map(random).collect();
            if let Some(first) = modulus.first_mut() {
                *first |= 0x80;
            }
            modulus.insert(0, 0);
            push_string(&mut blob, &modulus);
        }
        _ => push_string(&mut blob, &random(0)),
    }
    PublicKey::from_blob(&blob).unwrap_or_else(|error| unreachable!("{algorithm:?} is no name of a key algorithm: {error}"))
}

/// An identity with this public half and no private one: enough for a simulated host, which takes possession on trust.
pub fn sample_identity(public_key: &PublicKey) -> Identity {
    Identity::PrivateKey { public_key: public_key.clone(), openssh: SecretBytes::new(Vec::new()) }
}
