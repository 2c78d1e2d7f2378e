//! The master keys that the store holds, opened.

use toehold_core::{
    Fingerprint, HostRecord, Identity, MasterKeyRecord, PublicKey, RetiredKey, SessionGlance, Store, StoreError, Stored,
};
use toehold_keygen::read_private_key_file;

use super::Rotator;
use crate::error::{RotationError, describe};
use crate::vault::KeyVault;

/// The keys of a run, in the machine's order: the arriving and the leaving one, then older ones.
#[derive(Debug)]
pub(super) struct Keys(Vec<Held>);

/// A key that the store holds.
#[derive(Debug)]
enum Held {
    Open(Identity),
    /// One that does not open here, sealed to somebody else or damaged. It is ours all the same: what is known of its lines and
    /// what becomes of them does not hang on who runs this.
    Closed(PublicKey, String),
}

impl Held {
    fn public(&self) -> &PublicKey {
        match self {
            Self::Open(identity) => identity.public_key(),
            Self::Closed(key, _) => key,
        }
    }
}

impl Keys {
    pub(super) fn public(&self) -> Vec<PublicKey> {
        self.0.iter().map(|held| held.public().clone()).collect()
    }

    /// What is logged in with; `None` for a key that does not open.
    pub(super) fn identity(&self, key: usize) -> Option<&Identity> {
        match self.0.get(key)? {
            Held::Open(identity) => Some(identity),
            Held::Closed(..) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys that do not open, by their place, and why not.
    pub(super) fn closed(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().enumerate().filter_map(|(place, held)| match held {
            Held::Open(_) => None,
            Held::Closed(_, why) => Some((place, why.as_str())),
        })
    }

    /// The arriving and the leaving key change places.
    pub(super) fn turn_back(&mut self) {
        if self.0.len() > 1 {
            self.0.swap(0, 1);
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

    /// Opens the keys of a run. Without the first two there is none; an older one that does not open is not logged in with.
    pub(super) async fn open_keys(
        &self,
        arriving: Fingerprint,
        leaving: Option<Fingerprint>,
        warn: impl Fn(String) + Send,
    ) -> Result<Keys, RotationError> {
        let mut keys = vec![Held::Open(self.open_key(&self.key_record(arriving).await?.body)?)];
        if let Some(leaving) = leaving {
            keys.push(Held::Open(self.open_key(&self.key_record(leaving).await?.body)?));
        }
        for stored in self.held_keys().await? {
            let record = stored.body;
            if keys.iter().any(|known| *known.public() == record.public_key) {
                continue;
            }
            keys.push(match self.open_key(&record) {
                Ok(identity) => Held::Open(identity),
                Err(error) => {
                    warn(describe(&error));
                    Held::Closed(record.public_key, describe(&error))
                }
            });
        }
        Ok(Keys(keys))
    }

    /// Lets go of the private halves that no host and no session can need any more (R7), never of one of `named`. One that does
    /// not open here is for whoever can open it to let go: what is sealed in it nobody here has seen.
    pub(super) async fn drop_unneeded(
        &self,
        named: &[Fingerprint],
        warn: impl Fn(String) + Send,
    ) -> Result<Vec<PublicKey>, StoreError> {
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
            if let Err(error) = self.open_key(&stored.body) {
                warn(format!("no host needs this key any more, and it is kept all the same: {}", describe(&error)));
                continue;
            }
            match self.store.delete(&stored.key, stored.revision).await {
                Ok(()) => dropped.push(stored.body.public_key),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dropped)
    }
}
