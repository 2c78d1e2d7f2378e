//! What is read where there is nothing, so that it costs what reading something costs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use toehold_core::{Entry, Key, Record, Revision, Timestamp};
use zeroize::Zeroizing;

use super::desk::{agent_key, token_key};
use super::error::Vault;
use super::record::{AgentRecord, AgentState, Protocol, TokenRecord};
use crate::encoding;
use crate::keyring::{Keyring, SharedKeys};
use crate::token::TokenId;
use crate::v3::TokenKey;

/// A token and an agent that are in no store, in the form in which others are. They let nobody in: what is read of them is thrown away.
#[derive(Debug)]
pub(super) struct Decoy {
    pub(super) token: Entry,
    pub(super) agent: Entry,
    pub(super) record: AgentRecord,
}

impl Decoy {
    /// The agent's id.
    pub(super) const AGENT: &str = "00000000000000000000000000000000";

    /// None where the vault seals nothing.
    pub(super) fn new(vault: &impl Vault) -> Option<Self> {
        let (id, role) = (TokenId::from_bytes([0; 6]), "agent".parse().ok()?);
        let (token_key, agent_key) = (token_key(id).ok()?, agent_key(Self::AGENT).ok()?);
        let token = TokenRecord {
            id,
            protocol: Protocol::V3 { key: *TokenKey::of_nobody() },
            role,
            uses: 1,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            labels: BTreeMap::new(),
            client_id: None,
            from: Vec::new(),
            may_extend: false,
        };
        let keyring = Keyring::of(SharedKeys::from_secret(&Zeroizing::new([0; 64]))).expose_json();
        let record = AgentRecord {
            state: AgentState::Joined,
            since: Timestamp::UNIX_EPOCH,
            token: id,
            token_expires_at: Timestamp::UNIX_EPOCH,
            key: Some(encoding::hex(&[0; 32])),
            attempt: Some(encoding::hex(&[0; 16])),
            role: token.role.clone(),
            labels: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            key_capabilities: Vec::new(),
            unconfirmed: BTreeSet::new(),
            sealed_keyring: Some(vault.seal(agent_key.as_str(), &keyring).ok()?),
            removed_at: None,
        };
        Some(Self { token: entry(token_key, &token)?, agent: entry(agent_key, &record)?, record })
    }
}

/// As a store would have it.
fn entry<T: Record + Serialize>(key: Key, record: &T) -> Option<Entry> {
    let mut document = serde_json::to_value(record).ok()?;
    let members = document.as_object_mut()?;
    members.insert("v".to_owned(), Value::from(T::VERSION));
    members.insert("readable_from".to_owned(), Value::from(T::READABLE_FROM));
    Some(Entry { key, value: serde_json::to_vec(&document).ok()?, revision: Revision(0), written_at: Timestamp::UNIX_EPOCH })
}
