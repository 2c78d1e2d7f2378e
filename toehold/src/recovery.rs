//! The recovery copy: all that it takes to have the fleet back when the store is lost.
//!
//! A copy is an age file, sealed to somebody who is not this machine. Inside are the master keys as OpenSSH private key files,
//! the current one first, so that what `age -d` gives is a file to log in with (`ssh -i`); then one line for Toehold: the
//! hosts, their host keys, and what else the store knows of the keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toehold_core::{
    Account, Expect, Fingerprint, HostRecord, Identity, Key, KeyError, Record, SecretBytes, Store, StoreError, Stored, Timestamp,
};
use zeroize::Zeroizing;

use crate::adapters::identity::{OtherIdentity, OtherIdentityError, Recipient, Vault, seal_to};
use crate::master_key::{self, CurrentMasterKey, MasterKeyError, MasterKeyRecord};

/// The most bytes that a copy may have: that of 50,000 hosts.
pub const MAX_COPY: usize = 64 * 1024 * 1024;

/// What the line for Toehold begins with.
const MARK: &str = "# toehold-recovery ";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// What is copied beside the keys: everything that tells which host has which key, and by which host key it is known; whom else
/// we have let in, and until when; and when the keys are to be renewed.
pub const COPIED: [&str; 6] = ["grant", "host", "knownhost", "renewal", "retired", "rotation"];

/// What is kept in the store and left out of a copy, and why. What is in neither list has been forgotten.
pub const LEFT_OUT: [(&str, &str); 16] = [
    ("agent", "a joined machine is bound to the gateway's keys, which are sealed to the store's own identity: it joins anew"),
    ("agentpins", "of a joined machine"),
    ("audit", "each writer's chain goes on where it was written; a restored store begins one of its own"),
    ("auditwriter", "which chains there are in this store's log"),
    ("claim", "of a session that is under way"),
    ("gateway", "sealed to the store's own identity"),
    ("lease", "who is at it at this moment"),
    ("masterkey", "sealed to the store's own identities; the private halves stand in the copy, and which of them is current"),
    (
        "operator",
        "the members of a shared store; a copy is brought back into an embedded one, which has none, or an empty shared one, which has its own",
    ),
    ("pod", "it ends with its connection, and without anybody of us when its owner in the cluster lapses"),
    ("podkey", "who may have a pod; opens no host, and is added again"),
    ("recovery", "about copies of this store"),
    ("session", "sealed to the store's own identities, and its line on the host ends by itself"),
    ("slot", "who is at it at this moment"),
    ("spec", "signed elsewhere, and put there again"),
    ("token", "good for an hour, and made anew"),
];

/// Why there is no copy to be had, or nothing to be had out of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// What the copy holds is not what a copy holds.
    #[error("the recovery copy is damaged: {0}")]
    Damaged(&'static str),
    /// A key cannot be named in the store.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The keys cannot be read here.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// It was written by a newer release.
    #[error("the recovery copy was made by a newer release of Toehold (format {0}, this release reads format 1)")]
    Newer(u32),
    /// The store that is to be restored has another master key.
    #[error("this store has the master key {0} already, which is not the copy's")]
    Occupied(Fingerprint),
    /// It does not open.
    #[error("the recovery copy does not open")]
    Opening(#[from] OtherIdentityError),
    /// It could not be sealed.
    #[error("the recovery copy could not be sealed")]
    Sealing(#[source] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is on record of the last copy that holds a master key: `recovery/<fingerprint>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRecord {
    /// Whom it was sealed to.
    pub recipients: Vec<String>,
    /// When.
    pub made_at: Timestamp,
    /// When a copy with this key was last opened and found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested_at: Option<Timestamp>,
}

impl Record for CopyRecord {}

impl CopyRecord {
    /// `recovery/<fingerprint>`.
    ///
    /// # Errors
    /// None in practice.
    pub fn key(fingerprint: &Fingerprint) -> Result<Key, KeyError> {
        Key::new(["recovery", &fingerprint.to_segment()])
    }

    /// What is on record for this master key.
    ///
    /// # Errors
    /// What the store says.
    pub async fn of<S: Store + ?Sized>(store: &S, fingerprint: &Fingerprint) -> Result<Option<Self>, StoreError> {
        Ok(Stored::<Self>::read(store, &Self::key(fingerprint)?).await?.map(|stored| stored.body))
    }

    /// Notes that a copy was made, or, without `recipients`, that one was tested. Of two that do so at once one is kept.
    async fn note<S: Store + ?Sized>(
        store: &S,
        fingerprint: &Fingerprint,
        recipients: Option<&[Recipient]>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let key = Self::key(fingerprint)?;
        let made = |recipients: &[Recipient]| recipients.iter().map(ToString::to_string).collect();
        let written = match Stored::<Self>::read(store, &key).await? {
            None => {
                let recipients = recipients.map(made).unwrap_or_default();
                let record = Self { recipients, made_at: now, tested_at: None };
                Stored::create(store, key, record).await.map(drop)
            }
            Some(mut stored) => {
                match recipients {
                    Some(recipients) => stored.body = Self { recipients: made(recipients), made_at: now, tested_at: None },
                    None => stored.body.tested_at = Some(now),
                }
                stored.save(store).await
            }
        };
        match written {
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// An opened copy, or one that is about to be sealed.
#[derive(Debug)]
pub struct RecoveryCopy {
    /// When it was made.
    pub made_at: Timestamp,
    /// The master keys, the current one first.
    pub keys: Vec<(CopiedKey, Identity)>,
    /// Older keys that do not open here: they are in the copy only as the store has them, sealed.
    pub closed: Vec<Fingerprint>,
    records: BTreeMap<String, Value>,
}

/// What is known of a copied key beside itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedKey {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// The comment that stands in its file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The number of the rotation that it was made for.
    #[serde(default)]
    pub generation: u64,
}

/// The line for Toehold.
#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    made_at: Timestamp,
    keys: Vec<CopiedKey>,
    records: BTreeMap<String, Value>,
}

impl RecoveryCopy {
    /// Copies what this store holds.
    ///
    /// # Errors
    /// Where there is no master key, or one of them cannot be opened here.
    pub async fn of<S: Store + ?Sized>(store: &S, vault: &Vault, now: Timestamp) -> Result<Self, RecoveryError> {
        // Read before the keys: a rotation that begins in between adds a key to those that are copied.
        let mut records = BTreeMap::new();
        for prefix in COPIED {
            for entry in store.list(&Key::new([prefix])?).await? {
                let value = serde_json::from_slice(&entry.value)
                    .map_err(|_| StoreError::Corrupt { key: entry.key.clone(), reason: "it is not JSON".to_owned() })?;
                records.insert(entry.key.to_string(), value);
            }
        }
        let current = store.get(&CurrentMasterKey::key()?).await?.ok_or(MasterKeyError::Absent)?;
        let value = serde_json::from_slice(&current.value).map_err(|_| RecoveryError::Damaged("masterkey/current"))?;
        records.insert(current.key.to_string(), value);
        let mut keys = Vec::new();
        let mut closed = Vec::new();
        for record in master_key::held_master_keys(store).await? {
            let fingerprint = record.public_key.fingerprint();
            let identity = match master_key::open_master_key(vault, &record) {
                Ok(identity) => identity,
                Err(error) if keys.is_empty() => return Err(error.into()),
                Err(_) => {
                    // Whoever can open it finds it in the restored store as it is sealed here.
                    let key = MasterKeyRecord::key(&fingerprint)?;
                    let sealed = store.get(&key).await?.ok_or(MasterKeyError::Lost { fingerprint })?;
                    let value = serde_json::from_slice(&sealed.value).map_err(|_| RecoveryError::Damaged("a sealed key"))?;
                    records.insert(key.to_string(), value);
                    closed.push(fingerprint);
                    continue;
                }
            };
            keys.push((
                CopiedKey { fingerprint, comment: record.comment, created_at: record.created_at, generation: record.generation },
                identity,
            ));
        }
        Ok(Self { made_at: now, keys, closed, records })
    }

    /// Seals it, and puts that on record.
    ///
    /// # Errors
    /// [`RecoveryError::Sealing`] and [`RecoveryError::Store`].
    pub async fn seal<S: Store + ?Sized>(&self, store: &S, recipients: &[Recipient]) -> Result<Vec<u8>, RecoveryError> {
        let line = Line {
            v: 1,
            made_at: self.made_at,
            keys: self.keys.iter().map(|(key, _)| key.clone()).collect(),
            records: self.records.clone(),
        };
        let line = serde_json::to_string(&line).map_err(|error| RecoveryError::Sealing(error.into()))?;
        let size: usize = self.keys.iter().map(|(_, identity)| openssh(identity).map_or(0, SecretBytes::len) + 1).sum();
        // Sized beforehand: a buffer that grows leaves its old halves in freed memory.
        let mut text = Zeroizing::new(Vec::with_capacity(size + MARK.len() + line.len() + 1));
        for (_, identity) in &self.keys {
            let key = openssh(identity).ok_or(RecoveryError::Damaged("a private half is not in memory"))?;
            text.extend_from_slice(key.expose());
            if !text.ends_with(b"\n") {
                text.push(b'\n');
            }
        }
        text.extend_from_slice(MARK.as_bytes());
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
        let sealed = seal_to(recipients, &text).map_err(RecoveryError::Sealing)?;
        for (key, _) in &self.keys {
            CopyRecord::note(store, &key.fingerprint, Some(recipients), self.made_at).await?;
        }
        Ok(sealed)
    }

    /// Opens a sealed copy, and sees that every key in it is whole.
    ///
    /// # Errors
    /// [`RecoveryError::Opening`], [`RecoveryError::Damaged`] and [`RecoveryError::Newer`].
    pub fn open(sealed: &[u8], identity: &OtherIdentity) -> Result<Self, RecoveryError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let text = identity.open(sealed)?;
        let text = std::str::from_utf8(&text).map_err(|_| RecoveryError::Damaged("it is not text"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(MARK)).ok_or(RecoveryError::Damaged("it ends too early"))?;
        let version: Version = serde_json::from_str(line).map_err(|_| RecoveryError::Damaged("its last line is not whole"))?;
        if version.v != 1 {
            return Err(RecoveryError::Newer(version.v));
        }
        let line: Line = serde_json::from_str(line).map_err(|_| RecoveryError::Damaged("its last line is not whole"))?;
        let mut keys = Vec::new();
        let mut rest = text;
        for known in line.keys {
            let start = rest.find(BEGIN).ok_or(RecoveryError::Damaged("a key is missing"))?;
            let after = rest.get(start..).unwrap_or_default();
            let end = after.find(END).ok_or(RecoveryError::Damaged("a key is cut short"))? + END.len();
            let pair = toehold_keygen::read_private_key_file(after.get(..end).unwrap_or_default().as_bytes(), None)
                .map_err(|_| RecoveryError::Damaged("a key is not one"))?;
            if pair.public_key().fingerprint() != known.fingerprint {
                return Err(RecoveryError::Damaged("a key is not the one that it should be"));
            }
            let identity = pair.identity().map_err(|_| RecoveryError::Damaged("a key is not one"))?;
            keys.push((known, identity));
            rest = after.get(end..).unwrap_or_default();
        }
        if keys.is_empty() {
            return Err(RecoveryError::Damaged("it holds no key"));
        }
        let current = CurrentMasterKey::key()?;
        let sealed = line.records.iter().filter(|(name, _)| name.starts_with("masterkey/") && *name != current.as_str());
        let record = |value: &Value| serde_json::from_value::<MasterKeyRecord>(value.clone()).ok();
        let closed = sealed.filter_map(|(_, value)| Some(record(value)?.public_key.fingerprint())).collect();
        Ok(Self { made_at: line.made_at, keys, closed, records: line.records })
    }

    /// The key that was current when it was made.
    pub fn current(&self) -> Option<&(CopiedKey, Identity)> {
        self.keys.first()
    }

    /// The hosts in it.
    pub fn hosts(&self) -> Vec<Account> {
        let host = |name: &String| name.strip_prefix("host/")?.parse().ok();
        self.records.keys().filter_map(host).collect()
    }

    /// The record of a host in it.
    pub fn host(&self, account: &Account) -> Option<HostRecord> {
        serde_json::from_value(self.records.get(&format!("host/{account}"))?.clone()).ok()
    }

    /// Puts on record that it was opened and found good.
    ///
    /// # Errors
    /// What the store says.
    pub async fn tested<S: Store + ?Sized>(&self, store: &S, now: Timestamp) -> Result<(), RecoveryError> {
        for (key, _) in &self.keys {
            CopyRecord::note(store, &key.fingerprint, None, now).await?;
        }
        Ok(())
    }

    /// Fills an empty store with it, sealed to `vault`. Safe to interrupt and to run again: the name of the current key comes
    /// last, and what is there already stays. How many records were not there.
    ///
    /// # Errors
    /// [`RecoveryError::Occupied`] for a store with another master key; nothing was written then.
    pub async fn restore<S: Store + ?Sized>(&self, store: &S, vault: &Vault) -> Result<usize, RecoveryError> {
        let (current, _) = self.current().ok_or(RecoveryError::Damaged("it holds no key"))?;
        if let Some(found) = master_key::current_master_key(store).await?.map(|record| record.public_key.fingerprint())
            && found != current.fingerprint
        {
            return Err(RecoveryError::Occupied(found));
        }
        let name = CurrentMasterKey::key()?;
        let mut written = 0;
        for (key, value) in self.records.iter().filter(|(key, _)| key.as_str() != name.as_str()) {
            written += usize::from(put(store, &Key::parse(key)?, value).await?);
        }
        for (known, identity) in &self.keys {
            let record = master_key::seal_master_key(vault, identity, &known.comment, known.created_at, known.generation)?;
            match Stored::create(store, MasterKeyRecord::key(&known.fingerprint)?, record).await {
                Ok(_) => written += 1,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let current = self.records.get(name.as_str()).ok_or(RecoveryError::Damaged("it names no current key"))?;
        Ok(written + usize::from(put(store, &name, current).await?))
    }
}

/// Writes a record, unless it is there already: `false`.
async fn put<S: Store + ?Sized>(store: &S, key: &Key, value: &Value) -> Result<bool, RecoveryError> {
    match store.put(key, value.to_string().as_bytes(), Expect::Absent).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn openssh(identity: &Identity) -> Option<&SecretBytes> {
    match identity {
        Identity::PrivateKey { openssh, .. } => Some(openssh),
        _ => None,
    }
}
