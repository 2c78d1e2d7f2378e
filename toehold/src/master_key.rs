//! The fleet's master key in the store: its private half sealed, and which one is current.
//!
//! `masterkey/<fingerprint>` holds a key, `masterkey/current` names one by its fingerprint only. They are written in this
//! order, so that the name never leads nowhere; an initialisation that stopped between the two is completed by the next.

use base64ct::{Base64, Encoding as _};
use toehold_core::{Fingerprint, Identity, Key, KeyError, PublicKey, SecretBytes, Store, StoreError, Stored, Timestamp};

use crate::adapters::identity::{Purpose, Vault, VaultError};

pub use toehold_core::{CurrentMasterKey, MasterKeyRecord};

/// Why there is no master key to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterKeyError {
    /// None was ever made.
    #[error("the store has no master key; run: toehold init")]
    Absent,
    /// The record is there, but what it holds is not that key.
    #[error("the record of the master key {fingerprint} does not hold it: {reason}; restore the store from a backup")]
    Damaged {
        /// Of the key that it should be.
        fingerprint: Fingerprint,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key cannot be named in the store.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store names a key that it does not hold. Nothing is made in its place: hosts know the lost one.
    #[error("the store names {fingerprint} as its master key but does not hold it; restore the store from a backup")]
    Lost {
        /// Of the key that is named.
        fingerprint: Fingerprint,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The private half cannot be sealed or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// What [`create_master_key`] found or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterKey {
    /// The key that is current now.
    pub record: MasterKeyRecord,
    /// Whether it is the one that was handed in.
    pub created: bool,
}

/// Makes `key` the master key, unless the store has one, which then stays. Durable on return.
///
/// Of several processes that do this at once, one wins and all return its key. One that stopped half-way left a key that is not
/// current yet: the next call makes that one current and drops the new one.
///
/// # Errors
/// [`MasterKeyError::Vault`] for a key that was left half-way and does not open in this vault; all others as they say.
pub async fn create_master_key<S: Store + ?Sized>(
    store: &S,
    vault: &Vault,
    key: &Identity,
    comment: &str,
    now: Timestamp,
) -> Result<MasterKey, MasterKeyError> {
    if let Some(record) = current_master_key(store).await? {
        return Ok(MasterKey { record, created: false });
    }
    if let Some(unfinished) = oldest(store).await? {
        // Nothing becomes current that we could not log in with.
        open_master_key(vault, &unfinished)?;
        return make_current(store, unfinished).await.map(|record| MasterKey { record, created: false });
    }

    let record = seal_master_key(vault, key, comment, now, 0)?;
    let stored = Stored::create(store, MasterKeyRecord::key(&record.public_key.fingerprint())?, record).await?;
    let current = make_current(store, stored.body.clone()).await?;
    if current.public_key == stored.body.public_key {
        return Ok(MasterKey { record: current, created: true });
    }
    // Somebody else was faster. Ours was never current and no host has it.
    store.delete(&stored.key, stored.revision).await?;
    Ok(MasterKey { record: current, created: false })
}

/// The current master key's record; `None` where none was ever made.
///
/// # Errors
/// [`MasterKeyError::Lost`], [`MasterKeyError::Damaged`], [`MasterKeyError::Store`].
pub async fn current_master_key<S: Store + ?Sized>(store: &S) -> Result<Option<MasterKeyRecord>, MasterKeyError> {
    let Some(current) = Stored::<CurrentMasterKey>::read(store, &CurrentMasterKey::key()?).await? else { return Ok(None) };
    let fingerprint = current.body.fingerprint;
    let stored = Stored::<MasterKeyRecord>::read(store, &MasterKeyRecord::key(&fingerprint)?).await?;
    let record = stored.ok_or(MasterKeyError::Lost { fingerprint })?.body;
    if record.public_key.fingerprint() != fingerprint {
        return Err(MasterKeyError::Damaged { fingerprint, reason: "it is about another key" });
    }
    Ok(Some(record))
}

/// The current master key's public half.
///
/// # Errors
/// As [`current_master_key`], and [`MasterKeyError::Absent`].
pub async fn current_master_public<S: Store + ?Sized>(store: &S) -> Result<PublicKey, MasterKeyError> {
    Ok(current_master_key(store).await?.ok_or(MasterKeyError::Absent)?.public_key)
}

/// The current master key, ready to log in with.
///
/// # Errors
/// As [`current_master_public`], and [`MasterKeyError::Vault`] for one that this vault cannot open.
pub async fn load_master_key<S: Store + ?Sized>(store: &S, vault: &Vault) -> Result<Identity, MasterKeyError> {
    open_master_key(vault, &current_master_key(store).await?.ok_or(MasterKeyError::Absent)?)
}

/// Every master key that the store holds, the current one first and then from the newest to the oldest: what hosts may know.
///
/// # Errors
/// As [`current_master_key`].
pub async fn held_master_keys<S: Store + ?Sized>(store: &S) -> Result<Vec<MasterKeyRecord>, MasterKeyError> {
    let current = current_master_key(store).await?.map(|record| record.public_key);
    let mut records = all(store).await?;
    records.sort_by_key(|record| {
        let newest = std::cmp::Reverse((record.generation, record.created_at));
        (Some(&record.public_key) != current.as_ref(), newest, record.public_key.fingerprint())
    });
    Ok(records)
}

/// The record of `key`, whose private half is sealed to `vault`.
///
/// # Errors
/// [`MasterKeyError::Damaged`] for a private half that is not in memory or not that of the public one, and
/// [`MasterKeyError::Vault`].
pub fn seal_master_key(
    vault: &Vault,
    key: &Identity,
    comment: &str,
    created_at: Timestamp,
    generation: u64,
) -> Result<MasterKeyRecord, MasterKeyError> {
    let public_key = key.public_key().clone();
    let fingerprint = public_key.fingerprint();
    let openssh = openssh(key)?;
    check_private_half(fingerprint, &public_key, openssh)?;
    let sealed = Base64::encode_string(&vault.seal_secret(Purpose::MasterKey(fingerprint), openssh)?);
    Ok(MasterKeyRecord { public_key, comment: comment.to_owned(), created_at, sealed, generation })
}

/// Opens a record's private half and sees that it is that of its public half: sealing alone does not say who sealed.
///
/// # Errors
/// [`MasterKeyError::Vault`] for one that this vault cannot open, [`MasterKeyError::Damaged`].
pub fn open_master_key(vault: &Vault, record: &MasterKeyRecord) -> Result<Identity, MasterKeyError> {
    let fingerprint = record.public_key.fingerprint();
    let sealed = Base64::decode_vec(&record.sealed)
        .map_err(|_| MasterKeyError::Damaged { fingerprint, reason: "the private half is not base64" })?;
    let openssh = vault.open_secret(Purpose::MasterKey(fingerprint), &sealed)?;
    check_private_half(fingerprint, &record.public_key, &openssh)?;
    Ok(Identity::PrivateKey { public_key: record.public_key.clone(), openssh })
}

fn openssh(key: &Identity) -> Result<&SecretBytes, MasterKeyError> {
    match key {
        Identity::PrivateKey { openssh, .. } => Ok(openssh),
        other => {
            let fingerprint = other.public_key().fingerprint();
            Err(MasterKeyError::Damaged { fingerprint, reason: "its private half is not in memory" })
        }
    }
}

fn check_private_half(fingerprint: Fingerprint, public_key: &PublicKey, openssh: &SecretBytes) -> Result<(), MasterKeyError> {
    let damaged = |reason| MasterKeyError::Damaged { fingerprint, reason };
    let pair = toehold_keygen::read_private_key_file(openssh.expose(), None)
        .map_err(|_| damaged("what was sealed is not a private key"))?;
    if pair.public_key() != public_key {
        return Err(damaged("the private half is that of another key"));
    }
    Ok(())
}

/// All keys in the store, in no order.
async fn all<S: Store + ?Sized>(store: &S) -> Result<Vec<MasterKeyRecord>, MasterKeyError> {
    let current = CurrentMasterKey::key()?;
    let mut records = Vec::new();
    for entry in store.list(&Key::new(["masterkey"])?).await?.iter().filter(|entry| entry.key != current) {
        records.push(Stored::<MasterKeyRecord>::decode(entry)?.body);
    }
    Ok(records)
}

/// The oldest key in the store, by the time that its record names.
async fn oldest<S: Store + ?Sized>(store: &S) -> Result<Option<MasterKeyRecord>, MasterKeyError> {
    Ok(all(store).await?.into_iter().min_by_key(|record| (record.created_at, record.public_key.fingerprint())))
}

/// Makes `record` current unless another one is; returns the one that is.
async fn make_current<S: Store + ?Sized>(store: &S, record: MasterKeyRecord) -> Result<MasterKeyRecord, MasterKeyError> {
    let current = CurrentMasterKey { fingerprint: record.public_key.fingerprint(), generation: 0 };
    match Stored::create(store, CurrentMasterKey::key()?, current).await {
        Ok(_) => Ok(record),
        Err(StoreError::Conflict { .. }) => current_master_key(store).await?.ok_or(MasterKeyError::Absent),
        Err(error) => Err(error.into()),
    }
}
