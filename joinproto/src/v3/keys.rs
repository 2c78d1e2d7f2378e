//! What is derived from a token's secret and from the agreement.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};
use zeroize::Zeroizing;

use super::transcript::Digest;
use crate::encoding;
use crate::keyring::SharedKeys;
use crate::token::{Token, TokenError};

pub(crate) const TOKEN_PROOF: &[u8] = b"toehold join v3 token proof\0";
pub(crate) const IDENTITY_PROOF: &[u8] = b"toehold join v3 identity proof\0";
const CLIENT_CONFIRMS: &[u8] = b"toehold join v3 client confirms\0";
const GATEWAY_CONFIRMS: &[u8] = b"toehold join v3 gateway confirms\0";

/// Bytes of a confirmation.
pub(crate) const MAC: usize = 64;

/// What is signed: which proof it is, and over which transcript.
pub(crate) fn proof_message(label: &[u8], digest: &Digest) -> Vec<u8> {
    [label, digest].concat()
}

/// The private half of a token: signs, and never travels.
pub struct TokenSigner(SigningKey);

impl TokenSigner {
    /// Derived from the token's secret.
    pub fn new(token: &Token) -> Self {
        let kdf = Hkdf::<Sha512>::new(Some(b"toehold join v3 token"), token.expose_secret());
        let mut seed = Zeroizing::new([0; 32]);
        // 32 bytes are far below what HKDF can give.
        let _ = kdf.expand(token.id().as_bytes(), &mut *seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// The half that the gateway stores.
    pub fn key(&self) -> TokenKey {
        TokenKey(self.0.verifying_key())
    }

    pub(crate) fn prove(&self, digest: &Digest) -> [u8; 64] {
        self.0.sign(&proof_message(TOKEN_PROOF, digest)).to_bytes()
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSigner([redacted])")
    }
}

/// The public half of a token: verifies. Who has it cannot join with it.
///
/// Written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenKey(VerifyingKey);

impl TokenKey {
    /// Verified against in place of a token that does not exist, so that it costs the same. Nobody knows its private half: it is
    /// the point that the hash of a text happens to encode.
    pub(crate) fn of_nobody() -> &'static Self {
        static NOBODY: LazyLock<TokenKey> = LazyLock::new(|| {
            let mut bytes: [u8; 32] = Sha256::digest(b"toehold join v3 nobody").into();
            loop {
                match VerifyingKey::from_bytes(&bytes) {
                    Ok(key) if !key.is_weak() => return TokenKey(key),
                    _ => bytes = Sha256::digest(bytes).into(),
                }
            }
        });
        &NOBODY
    }

    pub(crate) fn is_proven(&self, digest: &Digest, signature: &[u8; 64]) -> bool {
        self.0.verify_strict(&proof_message(TOKEN_PROOF, digest), &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encoding::hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({self})")
    }
}

impl FromStr for TokenKey {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes: Zeroizing<[u8; 32]> = encoding::unhex(text.as_bytes()).ok_or(TokenError::Text)?;
        VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak()).map(Self).ok_or(TokenError::Text)
    }
}

impl TryFrom<String> for TokenKey {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<TokenKey> for String {
    fn from(key: TokenKey) -> Self {
        key.to_string()
    }
}

/// The keys that both sides derive.
pub(crate) struct Secrets {
    pub(crate) shared: SharedKeys,
    client_confirms: Zeroizing<[u8; MAC]>,
    gateway_confirms: Zeroizing<[u8; MAC]>,
}

impl Secrets {
    /// From both results of the agreement and the transcript up to (and without) the gateway's MAC.
    pub(crate) fn derive(kem: &[u8], x25519: &[u8; 32], digest: &Digest) -> Self {
        let mut input = Zeroizing::new(Vec::with_capacity(kem.len() + x25519.len()));
        input.extend_from_slice(kem);
        input.extend_from_slice(x25519);
        let kdf = Hkdf::<Sha512>::new(Some(digest), &input);
        let expand = |label: &[u8], out: &mut [u8]| {
            // 64 bytes are far below what HKDF can give.
            let _ = kdf.expand_multi_info(&[b"toehold join v3 ", label], out);
        };
        let mut shared = Zeroizing::new([0; 64]);
        let (client, gateway) = shared.split_at_mut(32);
        expand(b"client key", client);
        expand(b"gateway key", gateway);
        let (mut client_confirms, mut gateway_confirms) = (Zeroizing::new([0; MAC]), Zeroizing::new([0; MAC]));
        expand(b"client confirms", &mut *client_confirms);
        expand(b"gateway confirms", &mut *gateway_confirms);
        Self { shared: SharedKeys::from_secret(&shared), client_confirms, gateway_confirms }
    }

    pub(crate) fn gateway_mac(&self, digest: &Digest) -> [u8; MAC] {
        mac(&self.gateway_confirms, GATEWAY_CONFIRMS, digest).map_or([0; MAC], |mac| mac.finalize().into_bytes().into())
    }

    pub(crate) fn client_mac(&self, digest: &Digest) -> [u8; MAC] {
        mac(&self.client_confirms, CLIENT_CONFIRMS, digest).map_or([0; MAC], |mac| mac.finalize().into_bytes().into())
    }

    pub(crate) fn is_gateways(&self, digest: &Digest, tag: &[u8; MAC]) -> bool {
        mac(&self.gateway_confirms, GATEWAY_CONFIRMS, digest).is_some_and(|mac| mac.verify_slice(tag).is_ok())
    }

    pub(crate) fn is_clients(&self, digest: &Digest, tag: &[u8; MAC]) -> bool {
        mac(&self.client_confirms, CLIENT_CONFIRMS, digest).is_some_and(|mac| mac.verify_slice(tag).is_ok())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets([redacted])")
    }
}

/// HMAC takes a key of any length, so that there always is one.
fn mac(key: &[u8; MAC], label: &[u8], digest: &Digest) -> Option<Hmac<Sha512>> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).ok()?;
    mac.update(label);
    mac.update(digest);
    Some(mac)
}
