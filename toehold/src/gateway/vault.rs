//! What a gateway has to have in clear: agents' keyrings, its own key, and the tokens for Opni's agents.
//!
//! One random key of 32 bytes, itself sealed to the state directory's identity, seals each of them with XChaCha20-Poly1305 under
//! its place in the store, so that none can be moved to another place. Opening one costs microseconds, not an age file.

use std::fmt;

use base64ct::{Base64, Encoding as _};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use serde::{Deserialize, Serialize};
use toehold_core::{Key, Record, SecretBytes, StoreError, Stored};
use toehold_joinproto::admission;
use zeroize::Zeroizing;

use super::GatewayError;
use crate::adapters::identity::Purpose;
use crate::cli::chain;
use crate::state::State;

const NONCE: usize = 24;

/// The sealed key: `gateway/vault`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct VaultRecord {
    /// An age file in base64.
    sealed_key: String,
}

impl Record for VaultRecord {}

/// Sees that the record of the gateway's sealed key can be read.
///
/// # Errors
/// As [`Stored::decode`].
pub(crate) fn check_record(entry: &toehold_core::Entry) -> Result<(), StoreError> {
    Stored::<VaultRecord>::decode(entry).map(drop)
}

/// Seals what gateways have to have in clear.
pub struct GatewayVault {
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for GatewayVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayVault").finish_non_exhaustive()
    }
}

impl GatewayVault {
    /// The vault of a state directory; makes its key where there is none. Unlocks the identity.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn load(state: &State) -> Result<Self, GatewayError> {
        let store = state.store();
        let vault = state.vault().await?;
        let place = Key::new(["gateway", "vault"]).map_err(StoreError::from)?;
        loop {
            if let Some(stored) = Stored::<VaultRecord>::read(store, &place).await? {
                let sealed = Base64::decode_vec(&stored.body.sealed_key)
                    .map_err(|_| GatewayError::Sealed("the gateway's sealed key is not base64".to_owned()))?;
                let key = vault.open_secret(Purpose::GatewayKey, &sealed).map_err(|error| GatewayError::Sealed(chain(&error)))?;
                return Self::new(key.expose());
            }
            let mut key = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *key).map_err(|error| GatewayError::Sealed(error.to_string()))?;
            let sealed = vault
                .seal_secret(Purpose::GatewayKey, &SecretBytes::new(key.to_vec()))
                .map_err(|error| GatewayError::Sealed(chain(&error)))?;
            let record = VaultRecord { sealed_key: Base64::encode_string(&sealed) };
            match Stored::create(store, place.clone(), record).await {
                Ok(_) => return Self::new(&*key),
                // Another process was faster: its key is the one.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn new(key: &[u8]) -> Result<Self, GatewayError> {
        let cipher = XChaCha20Poly1305::new_from_slice(key)
            .map_err(|_| GatewayError::Sealed("the gateway's sealed key is not 32 bytes".to_owned()))?;
        Ok(Self { cipher })
    }
}

impl admission::Vault for GatewayVault {
    fn seal(&self, name: &str, secret: &SecretBytes) -> Result<String, String> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
        let payload = Payload { msg: secret.expose(), aad: name.as_bytes() };
        let sealed = self.cipher.encrypt(&nonce.into(), payload).map_err(|_| "it is too large".to_owned())?;
        Ok(Base64::encode_string(&[&nonce, sealed.as_slice()].concat()))
    }

    fn open(&self, name: &str, sealed: &str) -> Result<SecretBytes, String> {
        let bytes = Base64::decode_vec(sealed).map_err(|_| "it is not base64".to_owned())?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>().ok_or("it is cut short")?;
        let payload = Payload { msg: sealed, aad: name.as_bytes() };
        let opened = self.cipher.decrypt(nonce.into(), payload);
        opened.map(SecretBytes::new).map_err(|_| "it was changed, or sealed as something else".to_owned())
    }
}

/// For commands that open and seal nothing, so that they ask for no passphrase.
#[derive(Clone, Copy, Debug)]
pub struct NoVault;

impl admission::Vault for NoVault {
    fn seal(&self, _: &str, _: &SecretBytes) -> Result<String, String> {
        Err("the identity was not unlocked".to_owned())
    }

    fn open(&self, _: &str, _: &str) -> Result<SecretBytes, String> {
        Err("the identity was not unlocked".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use toehold_joinproto::admission::Vault as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let vault = GatewayVault::new(&[7; 32]).unwrap();
        let sealed = vault.seal("agent/a", &SecretBytes::new(b"secret".to_vec())).unwrap();
        assert_eq!(vault.open("agent/a", &sealed).unwrap().expose(), b"secret");
        assert!(vault.open("agent/b", &sealed).is_err());
        assert!(vault.open("agent/a", &sealed[..20]).is_err());
        assert!(vault.open("agent/a", "").is_err());
        assert_ne!(sealed, vault.seal("agent/a", &SecretBytes::new(b"secret".to_vec())).unwrap());
        assert!(GatewayVault::new(&[8; 32]).unwrap().open("agent/a", &sealed).is_err());
    }
}
