//! Making master keys.

use rand_core::CryptoRng;
use toehold_keygen::{KeyAlgorithm, KeyGenerationError, KeyPair};

/// Makes a new master key of this kind. `bits` is for RSA alone, where it takes the place of the size that `algorithm` names;
/// `None` leaves that.
///
/// # Errors
/// [`KeyGenerationError`]: a size that no RSA key has, or that is too weak. Other kinds have one size each; asking for it is
/// fine, asking for another is [`KeyGenerationError::Bits`].
pub fn generate_key<R: CryptoRng + ?Sized>(
    rng: &mut R,
    algorithm: KeyAlgorithm,
    bits: Option<usize>,
) -> Result<KeyPair, KeyGenerationError> {
    KeyPair::generate(rng, algorithm.with_bits(bits)?)
}
