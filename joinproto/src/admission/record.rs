//! What is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toehold_core::{Record, Timestamp};

use crate::names;
use crate::token::TokenId;
use crate::v3::TokenKey;

/// What a machine joins as: 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or digit. Fixed when the token is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Role(String);

/// A text that is not a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit")]
pub struct RoleError;

impl Role {
    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        if names::is_friendly_name(text) { Ok(Self(text.to_owned())) } else { Err(RoleError) }
    }
}

impl TryFrom<String> for Role {
    type Error = RoleError;

    fn try_from(text: String) -> Result<Self, RoleError> {
        text.parse()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.0
    }
}

/// Which protocol a token is for, and what the gateway needs to have of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// v1 and v2: the gateway signs with the secret in its hands, so that it is kept, sealed.
    Opni {
        /// The token's text form, sealed.
        sealed_token: String,
    },
    /// v3: the public half alone.
    V3 {
        /// That half.
        key: TokenKey,
    },
}

/// A token as the gateway has it: `token/<id>`. Never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub protocol: Protocol,
    /// What machines join as.
    pub role: Role,
    /// How often it can be used; at least once.
    pub uses: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// Labels of the agents that join with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The only client that may join with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The networks from which it may be used; empty: from everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNet>,
    /// v1 alone: whether an agent that has joined with it may join again for another capability.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_extend: bool,
}

impl Record for TokenRecord {}

/// To whom a use is bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// v3: an identity key, in hex.
    Key(String),
    /// v1 and v2: the id that the client has chosen; in v1 for one capability.
    Id {
        /// The id.
        id: String,
        /// What it joined for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capability: Option<String>,
    },
}

/// A use that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// By whom.
    pub holder: Holder,
    /// Since when.
    pub since: Timestamp,
    /// How often the holder has come with it; from 1.
    pub tries: u32,
}

/// One use of a token: `token/<id>/<n>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UseRecord {
    /// By whom it is taken; nobody, where the token was revoked before it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// When the token was revoked: neither a new client nor the holder may come with it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

impl Record for UseRecord {}

/// How far an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// v1 and v2: the id is kept for who came first, until `token` ends. No agent yet.
    Reserved,
    /// v1 and v2: it was answered, and has not yet shown that it has the keys.
    Pending,
    /// It has shown that it has its keys.
    Joined,
    /// It was removed: only a token that was made later brings it back (J2).
    Removed,
}

/// An agent: `agent/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// How far it is.
    pub state: AgentState,
    /// When it came to that.
    pub since: Timestamp,
    /// The token that it joined with last.
    pub token: TokenId,
    /// Until when that token can be used.
    pub token_expires_at: Timestamp,
    /// v3: its identity key, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The attempt that stored these keys, in hex: a writer that does not know whether its write took place finds out by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// What it joined as.
    pub role: Role,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// v1: what it joined for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<String>,
    /// v1: for which of them each of its keys was made; the newest first, as in the keyring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_capabilities: Vec<String>,
    /// v1: those of them whose keys nobody has shown yet, so that who has the token may have them made anew.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unconfirmed: BTreeSet<String>,
    /// Its keyring's JSON, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_keyring: Option<String>,
    /// When an agent of this id was removed last. It outlives what came after: a token that was made before brings nobody back, also
    /// where somebody with a later one has kept the id meanwhile (J2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
}

impl AgentRecord {
    /// When an agent of this id was removed last, if one was.
    pub fn last_removed(&self) -> Option<Timestamp> {
        self.removed_at.or((self.state == AgentState::Removed).then_some(self.since))
    }

    /// Whether nobody has shown yet that it has the keys that were made for this capability.
    pub fn is_open(&self, capability: &str) -> bool {
        self.state == AgentState::Pending || self.unconfirmed.contains(capability)
    }
}

impl Record for AgentRecord {}
