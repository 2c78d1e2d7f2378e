//! What is sealed in records, found by where it stands: to be sealed anew when members come and go.

use base64ct::{Base64, Encoding as _};
use serde_json::Value;
use toehold_core::{Key, PublicKey, SessionId};

use super::chain::OperatorSet;
use super::roles::Role;
use crate::adapters::identity::{Audience, Purpose, Vault, VaultError};

/// Why something could not be sealed anew. Never holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// The record is not one of its kind.
    #[error("{key} cannot be read, and what is sealed in it cannot be sealed anew")]
    Record {
        /// Its key.
        key: Key,
    },
    /// A member cannot be sealed to.
    #[error("this release cannot seal to {name}")]
    Member {
        /// Who.
        name: String,
    },
    /// It does not open, or cannot be sealed.
    #[error("what is sealed in {key} cannot be sealed anew")]
    Vault {
        /// The record's key.
        key: Key,
        /// Why not.
        #[source]
        source: VaultError,
    },
}

/// Whether a record with this key can have something sealed in it.
pub fn may_hold(key: &Key) -> bool {
    match key.segments().collect::<Vec<_>>().as_slice() {
        ["masterkey", name] => *name != "current",
        ["rotation" | "session", _] => true,
        ["gateway", name] => *name == "vault",
        _ => false,
    }
}

/// The kinds of records that can have something sealed in them.
pub const KINDS: [&str; 4] = ["gateway", "masterkey", "rotation", "session"];

/// To whom things are sealed in a store with these members.
///
/// # Errors
/// [`SealedError::Member`].
pub fn audience(members: &OperatorSet) -> Result<Audience, SealedError> {
    let of = |role| -> Result<Vec<_>, SealedError> {
        let recipients = members.with_role(role);
        recipients.map(|member| member.recipient().ok_or_else(|| SealedError::Member { name: member.name.clone() })).collect()
    };
    Ok(Audience { operators: of(Role::Operator)?, gateways: of(Role::Gateway)? })
}

/// What is sealed in a record: as what, and the base64 text.
fn fields<'v>(key: &Key, document: &'v mut Value) -> Option<Vec<(Purpose, &'v mut Value)>> {
    let master_key = |record: &'v mut Value| {
        let public_key: PublicKey = serde_json::from_value(record.get("public_key")?.clone()).ok()?;
        Some((Purpose::MasterKey(public_key.fingerprint()), record.get_mut("sealed")?))
    };
    let found = match key.segments().collect::<Vec<_>>().as_slice() {
        ["masterkey", _] => vec![master_key(document)?],
        ["rotation", _] => match document.get_mut("sealed_key") {
            None | Some(Value::Null) => Vec::new(),
            Some(record) => vec![master_key(record)?],
        },
        ["session", id] => {
            let id: SessionId = id.parse().ok()?;
            let members = document.as_object_mut()?.iter_mut();
            members
                .filter(|(name, value)| {
                    matches!(name.as_str(), "sealed_temporary_key" | "sealed_proof_secret") && !value.is_null()
                })
                .map(|(_, value)| (Purpose::TemporaryKey(id), value))
                .collect()
        }
        ["gateway", _] => vec![(Purpose::GatewayKey, document.get_mut("sealed_key")?)],
        _ => Vec::new(),
    };
    Some(found)
}

fn bytes(text: &Value) -> Option<Vec<u8>> {
    Base64::decode_vec(text.as_str()?).ok()
}

/// The record with everything in it sealed to these; `None` where nothing is sealed in it.
///
/// # Errors
/// [`SealedError`].
pub fn reseal(vault: &Vault, audience: &Audience, key: &Key, value: &[u8]) -> Result<Option<Vec<u8>>, SealedError> {
    if !may_hold(key) {
        return Ok(None);
    }
    let no_record = || SealedError::Record { key: key.clone() };
    let mut document: Value = serde_json::from_slice(value).map_err(|_| no_record())?;
    let fields = fields(key, &mut document).ok_or_else(no_record)?;
    if fields.is_empty() {
        return Ok(None);
    }
    for (purpose, text) in fields {
        let sealed = bytes(text).ok_or_else(no_record)?;
        let anew = vault.seal_anew(purpose, &sealed, audience);
        let anew = anew.map_err(|source| SealedError::Vault { key: key.clone(), source })?;
        *text = Value::from(Base64::encode_string(&anew));
    }
    serde_json::to_vec(&document).map(Some).map_err(|_| no_record())
}

/// Whether two values are one record, apart from whom what is in it is sealed to.
pub fn alike(key: &Key, one: &[u8], other: &[u8]) -> bool {
    let bare = |value: &[u8]| {
        let mut document: Value = serde_json::from_slice(value).ok()?;
        for (_, text) in fields(key, &mut document)? {
            *text = Value::Null;
        }
        Some(document)
    };
    one == other || (may_hold(key) && bare(one).is_some_and(|bare_one| bare(other) == Some(bare_one)))
}

/// Whether all that is sealed in a record opens.
///
/// # Errors
/// [`SealedError`].
pub fn opens(vault: &Vault, key: &Key, value: &[u8]) -> Result<(), SealedError> {
    if !may_hold(key) {
        return Ok(());
    }
    let no_record = || SealedError::Record { key: key.clone() };
    let mut document: Value = serde_json::from_slice(value).map_err(|_| no_record())?;
    for (purpose, text) in fields(key, &mut document).ok_or_else(no_record)? {
        let sealed = bytes(text).ok_or_else(no_record)?;
        vault.open_secret(purpose, &sealed).map_err(|source| SealedError::Vault { key: key.clone(), source })?;
    }
    Ok(())
}
