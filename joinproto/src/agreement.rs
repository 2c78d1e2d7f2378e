//! The keys of v1 and v2: X25519, and BLAKE2b-512 over the result and both public keys.

use std::fmt;

use blake2::{Blake2b512, Digest as _};
use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::keyring::SharedKeys;

/// Bytes of an X25519 public key.
pub const PUBLIC_KEY_LENGTH: usize = 32;

/// Which side of the agreement we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The joining machine.
    Client,
    /// The gateway.
    Gateway,
}

/// A peer's key that cannot be agreed with: of a wrong length, or of small order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's X25519 key is not 32 bytes, or a point of small order")]
pub struct PeerKeyError;

/// An X25519 key for one join. Wiped when dropped, never printed.
pub struct Ephemeral {
    secret: StaticSecret,
    public: PublicKey,
}

impl Ephemeral {
    /// A fresh key.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        Self::from_secret(StaticSecret::random_from_rng(rng))
    }

    /// From the bytes of its private half, as known answers give them.
    pub fn from_bytes(bytes: &Zeroizing<[u8; 32]>) -> Self {
        Self::from_secret(StaticSecret::from(**bytes))
    }

    fn from_secret(secret: StaticSecret) -> Self {
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    /// Its public half.
    pub fn public(&self) -> &[u8; PUBLIC_KEY_LENGTH] {
        self.public.as_bytes()
    }

    /// The raw result with a peer's key.
    ///
    /// # Errors
    /// [`PeerKeyError`]: then the result would be known to everybody.
    pub(crate) fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 32]>, PeerKeyError> {
        let peer: [u8; PUBLIC_KEY_LENGTH] = peer.try_into().map_err(|_| PeerKeyError)?;
        let result = self.secret.diffie_hellman(&PublicKey::from(peer));
        if result.was_contributory() { Ok(Zeroizing::new(result.to_bytes())) } else { Err(PeerKeyError) }
    }

    /// The keys of v1 and v2 with a peer's public key, which is hashed as it was sent.
    ///
    /// # Errors
    /// [`PeerKeyError`].
    pub fn derive(&self, side: Side, peer: &[u8]) -> Result<SharedKeys, PeerKeyError> {
        let result = self.agree(peer)?;
        let (client, gateway) = match side {
            Side::Client => (self.public().as_slice(), peer),
            Side::Gateway => (peer, self.public().as_slice()),
        };
        let mut hash = Blake2b512::new();
        hash.update(*result);
        hash.update(client);
        hash.update(gateway);
        let secret: Zeroizing<[u8; 64]> = Zeroizing::new(hash.finalize().into());
        Ok(SharedKeys::from_secret(&secret))
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ephemeral").finish_non_exhaustive()
    }
}
