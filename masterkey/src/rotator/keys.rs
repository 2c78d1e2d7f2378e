//! The master keys that the store holds, opened.

use toehold_core::{
    Fingerprint, HostRecord, Identity, MasterKeyRecord, PublicKey, RetiredKey, SessionGlance, Store, StoreError, Stored,
};
use toehold_keygen::read_private_key_file;

use super::Rotator;
use crate::error::{RotationError, describe};
use crate::vault::KeyVault;

/// The keys that a run logs in with, in the machine's order: the arriving and the leaving one, then older ones.
#[derive(Debug)]
pub(super) struct Keys {
    identities: Vec<Identity>,
}

impl Keys {
    pub(super) fn public(&self) -> Vec<PublicKey> {
        self.identities.iter().map(|identity| identity.public_key().clone()).collect()
    }

    pub(super) fn identity(&self, key: usize) -> Option<&Identity> {
        self.identities.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.identities.len()
    }

    /// The arriving and the leaving key change places.
    pub(super) fn turn_back(&mut self) {
        if self.identities.len() > 1 {
            self.identities.swap(0, 1);
        }
    }
}

impl<S: Store, C, T, A, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Opens one key and sees that it is the one that its record says.
    pub(super) fn open_key(&self, record: &MasterKeyRecord) -> Result<Identity, RotationError> {
        let fingerprint = record.public_key.fingerprint();
        let refused = |reason| RotationError::NoDurableCopy { fingerprint, reason };
        let openssh = self.vault.open(fingerprint, &record.sealed).map_err(refused)?;
        let pair = read_private_key_file(openssh.expose(), None)
            .map_err(|error| refused(format!("what was sealed is not a private key: {}", describe(&error))))?;
        if *pair.public_key() != record.public_key {
            return Err(refused("the private half is that of another key".to_owned()));
        }
        Ok(Identity::PrivateKey { public_key: record.public_key.clone(), openssh })
    }

    pub(super) async fn key_record(&self, fingerprint: Fingerprint) -> Result<Stored<MasterKeyRecord>, RotationError> {
        let stored = Stored::<MasterKeyRecord>::read(&self.store, &MasterKeyRecord::key(&fingerprint)?).await?;
        let missing = "the store has no such key".to_owned();
        stored.ok_or(RotationError::NoDurableCopy { fingerprint, reason: missing })
    }

    /// Every key that the store holds, the newest first.
    pub(super) async fn held_keys(&self) -> Result<Vec<Stored<MasterKeyRecord>>, StoreError> {
        let mut held = Vec::new();
        for entry in self.store.list(&MasterKeyRecord::prefix()).await? {
            if entry.key.name() != "current" {
                held.push(Stored::<MasterKeyRecord>::decode(&entry)?);
            }
        }
        held.sort_by_key(|stored| std::cmp::Reverse((stored.body.generation, stored.body.created_at)));
        Ok(held)
    }

    /// Opens the keys of a run. Without the first two there is none; an older one that does not open is passed over.
    pub(super) async fn open_keys(
        &self,
        arriving: Fingerprint,
        leaving: Option<Fingerprint>,
        warn: impl Fn(String) + Send,
    ) -> Result<Keys, RotationError> {
        let mut identities = vec![self.open_key(&self.key_record(arriving).await?.body)?];
        if let Some(leaving) = leaving {
            identities.push(self.open_key(&self.key_record(leaving).await?.body)?);
        }
        for stored in self.held_keys().await? {
            let fingerprint = stored.body.public_key.fingerprint();
            if identities.iter().any(|known| known.public_key().fingerprint() == fingerprint) {
                continue;
            }
            match self.open_key(&stored.body) {
                Ok(identity) => identities.push(identity),
                Err(error) => warn(describe(&error)),
            }
        }
        Ok(Keys { identities })
    }

    /// Lets go of the private halves that no host and no session can need any more (R7), never of one of `named`.
    pub(super) async fn drop_unneeded(&self, named: &[Fingerprint]) -> Result<Vec<PublicKey>, StoreError> {
        let mut candidates = Vec::new();
        for stored in self.held_keys().await? {
            let fingerprint = stored.body.public_key.fingerprint();
            if named.contains(&fingerprint) {
                continue;
            }
            if let Some(retired) = Stored::<RetiredKey>::read(&self.store, &RetiredKey::key(&fingerprint)?).await? {
                candidates.push((stored, retired.body));
            }
        }
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        // What cannot be read may need any of them. Sessions first: one that ends meanwhile has written its host by then.
        let mut sessions = Vec::new();
        for session in Stored::<SessionGlance>::list(&self.store, &SessionGlance::prefix()).await? {
            let session = session?.body;
            if session.is_open() {
                sessions.push(session);
            }
        }
        for host in Stored::<HostRecord>::list(&self.store, &HostRecord::prefix()).await? {
            let settled = host?.body.settled;
            candidates.retain(|(_, retired)| {
                settled.is_some_and(|settled| {
                    settled.generation >= retired.generation && settled.fingerprint != retired.public_key.fingerprint()
                })
            });
        }
        candidates.retain(|(stored, _)| {
            !sessions.iter().any(|session| session.keys.iter().any(|key| key.public_key == stored.body.public_key))
        });
        let mut dropped = Vec::new();
        for (stored, _) in candidates {
            match self.store.delete(&stored.key, stored.revision).await {
                Ok(()) => dropped.push(stored.body.public_key),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }
}
