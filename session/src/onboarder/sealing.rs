//! Keeping the temporary private half at rest, where the operator wants that.

use toehold_core::{AuditSink, Connector, Identity, SecretBytes, SessionId, Store, Timer};
use toehold_keygen::TemporaryKeyPair;
use toehold_keygen::install::ProofSecret;

use super::Onboarder;
use crate::error::SessionError;
use crate::operator::Sealer;
use crate::record::SessionRecord;

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    /// The private half as an OpenSSH file, sealed.
    pub(super) fn seal_key(&self, id: SessionId, temporary: &Identity) -> Result<String, SessionError> {
        let Identity::PrivateKey { openssh, .. } = temporary else {
            return Err(SessionError::Sealing("its private half is not in memory".to_owned()));
        };
        self.sealer.seal(id, openssh).map_err(SessionError::Sealing)
    }

    /// The proof's secret, sealed by itself, so that it can go from the record while the key is still needed.
    pub(super) fn seal_secret(&self, id: SessionId, secret: &ProofSecret) -> Result<String, SessionError> {
        self.sealer.seal(id, &SecretBytes::new(secret.expose().as_bytes().to_vec())).map_err(SessionError::Sealing)
    }

    /// What [`Self::seal_key`] sealed, if it is this record's.
    pub(super) fn open_key(&self, record: &SessionRecord, sealed: &str) -> Result<Identity, String> {
        let openssh = self.sealer.open(record.id, sealed)?;
        let pair = TemporaryKeyPair::from_parts(record.id, record.created_at, record.expires_at, &openssh)
            .map_err(|error| super::describe_error(&error))?;
        if *pair.public_key() != record.temporary_key {
            return Err("it holds another session's key".to_owned());
        }
        Ok(Identity::PrivateKey { public_key: record.temporary_key.clone(), openssh })
    }

    /// What [`Self::seal_secret`] sealed.
    pub(super) fn open_secret(&self, id: SessionId, sealed: &str) -> Result<ProofSecret, String> {
        let opened = self.sealer.open(id, sealed)?;
        let text = std::str::from_utf8(opened.expose()).ok();
        text.and_then(|text| ProofSecret::from_hex(text).ok()).ok_or_else(|| "it does not hold a secret".to_owned())
    }
}
