//! Keeping the temporary private half at rest, where the operator wants that.

use toehold_core::{AuditSink, Connector, Identity, SecretBytes, SessionId, Store, Timer};
use toehold_keygen::TemporaryKeyPair;
use toehold_keygen::install::ProofSecret;

use super::Onboarder;
use crate::error::SessionError;
use crate::operator::Sealer;
use crate::record::SessionRecord;

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    /// The proof's secret, a line feed, and the private half as an OpenSSH file, sealed.
    pub(super) fn seal(&self, id: SessionId, temporary: &Identity, secret: &ProofSecret) -> Result<String, SessionError> {
        let Identity::PrivateKey { openssh, .. } = temporary else {
            return Err(SessionError::Sealing("its private half is not in memory".to_owned()));
        };
        let secret = secret.expose().as_bytes();
        let mut both = Vec::with_capacity(secret.len() + 1 + openssh.len());
        both.extend_from_slice(secret);
        both.push(b'\n');
        both.extend_from_slice(openssh.expose());
        self.sealer.seal(id, &SecretBytes::new(both)).map_err(SessionError::Sealing)
    }

    /// What [`Self::seal`] sealed, if it is this record's.
    pub(super) fn open_sealed(&self, record: &SessionRecord, sealed: &str) -> Result<(Identity, ProofSecret), String> {
        let both = self.sealer.open(record.id, sealed)?;
        let mut parts = both.expose().splitn(2, |byte| *byte == b'\n');
        let (Some(secret), Some(openssh)) = (parts.next(), parts.next()) else {
            return Err("it does not hold a key and a secret".to_owned());
        };
        let secret = std::str::from_utf8(secret)
            .ok()
            .and_then(|text| ProofSecret::from_hex(text).ok())
            .ok_or("it does not hold a secret")?;
        let openssh = SecretBytes::new(openssh.to_vec());
        let pair = TemporaryKeyPair::from_parts(record.id, record.created_at, record.expires_at, &openssh)
            .map_err(|error| super::describe_error(&error))?;
        if *pair.public_key() != record.temporary_key {
            return Err("it holds another session's key".to_owned());
        }
        Ok((Identity::PrivateKey { public_key: record.temporary_key.clone(), openssh }, secret))
    }
}
