//! A grant as it is kept in the store.

use serde::{Deserialize, Serialize};
use toehold_core::{Account, Key, KeyError, PublicKey, Record, Route, Timestamp};
use toehold_keygen::GRANT_COMMENT_PREFIX;

use super::id::GrantId;

/// Where a grant stands. A grant that has ended and was seen gone has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GrantStatus {
    /// Its line is about to be written, or was; whoever asked has not been told that it is there.
    Granting,
    /// Its line was read back on the host.
    Live,
    /// Its line is being taken away, or that was tried.
    Ending,
}

impl GrantStatus {
    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granting => "granting",
            Self::Live => "live",
            Self::Ending => "ending",
        }
    }
}

/// A grant: `grant/<id>`. In the store as long as its line may be on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// Its name.
    pub id: GrantId,
    /// The account and the way to it.
    #[serde(flatten)]
    pub route: Route,
    /// The account's home directory where it is not what the SFTP server starts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The key that is let in.
    pub public_key: PublicKey,
    /// The options of its line, without the end; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// Whose key it is, for people; empty where nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// The last second at which the key is good, by UTC.
    pub expires_at: Timestamp,
    /// Whether the line carries no end of its own, because the host reads none: then it ends when it is swept, not before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_expiry: bool,
    /// Where it stands.
    pub status: GrantStatus,
    /// How many times somebody took it up. It stands in the names of staged files.
    pub attempt: u32,
    /// Drawn anew by everybody who takes it up, so that of two who do so at once neither takes the other's record for its own.
    pub run: String,
    /// How many seconds the host's clock was ahead of ours when the line was written: it ends by so much earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_error: Option<i64>,
    /// Why its line could not be taken away yet, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Record for GrantRecord {}

impl GrantRecord {
    /// `grant/<id>`.
    ///
    /// # Errors
    /// None in practice.
    pub fn key(id: GrantId) -> Result<Key, KeyError> {
        Key::new(["grant", &id.to_string()])
    }

    /// `grant`, below which all of them lie.
    ///
    /// # Errors
    /// None in practice.
    pub fn prefix() -> Result<Key, KeyError> {
        Key::new(["grant"])
    }

    /// The account.
    pub fn account(&self) -> &Account {
        &self.route.account
    }

    /// Whether its end has come by our clock. Of a grant with an end of its own sshd has seen to it, but for the difference
    /// between the clocks.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        now > self.expires_at
    }

    /// Whether its line should be gone and is not known to be: it has ended, or was revoked.
    pub fn is_owed(&self, now: Timestamp) -> bool {
        self.status == GrantStatus::Ending || self.has_ended(now)
    }

    /// What the comment on its line begins with, up to the end or a blank.
    pub fn marker(&self) -> String {
        format!("{GRANT_COMMENT_PREFIX}{}", self.id)
    }

    /// Under which name a grant locks and stages on the host.
    pub fn holder(&self) -> String {
        format!("grant-{}", self.id)
    }
}
