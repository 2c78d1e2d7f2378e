//! The whole of a renewal in one call, for people who keep their key in a [`MasterKeyStore`].

use rand_core::CryptoRng;
use toehold_core::{Connector, Timer};
use toehold_keygen::{KeyAlgorithm, KeyGenerationError, KeyPair, PrivateKeyError};

use crate::key_store::{MasterKeyStore, MasterKeyStoreError, Unfinished};
use crate::keys::generate_key;
use crate::request::Pace;
use crate::two_phase::{NotAllowed, NotRetired, Server, TwoPhaseRenewal};

/// What a renewal reaches its servers with.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made by callers")]
pub struct Means<'m, C, T> {
    /// Makes the connections.
    pub connector: &'m C,
    /// Tells the time and waits.
    pub timer: &'m T,
    /// Times and bounds.
    pub pace: Pace,
}

/// Why a master key was not renewed, or not everywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The key store failed. Servers that allow both keys are led on by the next call.
    #[error(transparent)]
    Store(#[from] MasterKeyStoreError),
    /// No key of this kind can be made; nothing was changed.
    #[error(transparent)]
    Generation(#[from] KeyGenerationError),
    /// A key cannot be written; nothing was changed.
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    /// A server did not take the new key; the old one is the stored one, and all that could be reached have it alone.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// The new key is the stored one and on every server, and the old one is still on some. The next call leads those on.
    #[error(transparent)]
    NotRetired(#[from] NotRetired),
    /// The store notes an unfinished renewal of other keys than the one that it holds: somebody else has saved a key meanwhile.
    #[error("an unfinished renewal is on record whose keys are not the stored one; no server was touched")]
    AnotherKey,
}

/// Renews the master key: makes a new one, lets every server allow both, puts the new one in the store's place, and retires the
/// old one. Returns the new key.
///
/// A renewal that was begun and not finished, by this process or by one that died, is finished instead, with its own two keys:
/// neither half of it is lost at any moment ([`MasterKeyStore::save_unfinished`]). Two at once are not possible
/// ([`MasterKeyStore::hold`]).
///
/// # Errors
/// [`RenewError`].
pub async fn renew_master_key<C: Connector, T: Timer, K: MasterKeyStore, R: CryptoRng + Send>(
    means: Means<'_, C, T>,
    servers: Vec<Server>,
    key_store: &K,
    algorithm: KeyAlgorithm,
    bits: Option<usize>,
    rng: &mut R,
) -> Result<KeyPair, RenewError> {
    let _hold = key_store.hold().await?;
    let stored = key_store.load().await?;
    let (Unfinished { old, new }, resumed) = match key_store.load_unfinished().await? {
        Some(unfinished) => (unfinished, true),
        None => {
            let new = generate_key(rng, algorithm, bits)?;
            key_store.save_unfinished(Some((&stored, &new))).await?;
            (Unfinished { old: key_store.load().await?, new }, false)
        }
    };
    let is_saved = stored.public_key() == new.public_key();
    if !is_saved && stored.public_key() != old.public_key() {
        return Err(RenewError::AnotherKey);
    }
    let Means { connector, timer, pace } = means;
    let begin = if resumed { TwoPhaseRenewal::resumed } else { TwoPhaseRenewal::new };
    let renewal = begin(connector, timer, servers, &old, &new, pace)?;
    let both = match renewal.allow_both_unless(is_saved, rng).await {
        Ok(both) => both,
        Err(error) => {
            if error.left.is_empty() {
                key_store.save_unfinished(None).await?;
            }
            return Err(error.into());
        }
    };
    if !is_saved {
        key_store.save(&new).await?;
    }
    let saved = match both.saved_in(key_store).await {
        Ok(saved) => saved,
        Err(error) => return Err(error.source.map_or(RenewError::AnotherKey, RenewError::Store)),
    };
    saved.retire_old(rng).await?;
    key_store.save_unfinished(None).await?;
    Ok(new)
}
