//! Temporary keys and master keys, sealed to this machine's identity.

use base64ct::{Base64, Encoding as _};
use toehold_core::{Fingerprint, SecretBytes, SessionId};
use toehold_masterkey::KeyVault;
use toehold_session::Sealer;

use super::identity::{Purpose, Vault};
use crate::cli::chain;

/// Seals with a [`Vault`]; what is stored is an age file in base64.
#[derive(Debug)]
pub struct VaultSealer<'v>(pub &'v Vault);

impl Sealer for VaultSealer<'_> {
    fn seal(&self, session: SessionId, secret: &SecretBytes) -> Result<String, String> {
        let sealed = self.0.seal_secret(Purpose::TemporaryKey(session), secret).map_err(|error| chain(&error))?;
        Ok(Base64::encode_string(&sealed))
    }

    fn open(&self, session: SessionId, sealed: &str) -> Result<SecretBytes, String> {
        let sealed = Base64::decode_vec(sealed).map_err(|_| "it is not base64".to_owned())?;
        self.0.open_secret(Purpose::TemporaryKey(session), &sealed).map_err(|error| chain(&error))
    }
}

impl KeyVault for VaultSealer<'_> {
    fn seal(&self, fingerprint: Fingerprint, secret: &SecretBytes) -> Result<String, String> {
        let sealed = self.0.seal_secret(Purpose::MasterKey(fingerprint), secret).map_err(|error| chain(&error))?;
        Ok(Base64::encode_string(&sealed))
    }

    fn open(&self, fingerprint: Fingerprint, sealed: &str) -> Result<SecretBytes, String> {
        let sealed = Base64::decode_vec(sealed).map_err(|_| "it is not base64".to_owned())?;
        self.0.open_secret(Purpose::MasterKey(fingerprint), &sealed).map_err(|error| chain(&error))
    }
}
