//! A session as it is kept in the store: everything that a repair needs, and nothing secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toehold_core::{Fingerprint, HostKeyTrust, Key, KeyError, ManagedKey, PublicKey, Record, Route, SessionId, Timestamp};

use crate::status::Status;

/// How a session decides whether the host that answers is the right one. Chosen by the operator before the first contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostKeyCheck {
    /// The host proves its key with the secret in the installed command (the default).
    Proof,
    /// The key is known from an earlier contact. Not for choosing: a known host is always held to its key.
    Known(PublicKey),
    /// The operator named the fingerprint.
    Fingerprint(Fingerprint),
    /// The first key seen is taken.
    AcceptNew,
    /// The operator is shown the fingerprint and asked.
    Ask,
}

/// The host key that a session has settled on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedHostKey {
    /// The key.
    pub public_key: PublicKey,
    /// Why it is trusted; `None` where it was known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<HostKeyTrust>,
}

/// On what grounds a session was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Evidence {
    /// The host's file was read back and the temporary key is not in it.
    SeenGone,
    /// The host, whose key is trusted, refused the temporary key (RFC 4252 §7).
    Refused,
    /// After the key's expiry, whoever answers at that address refused it; the host's key was never established.
    RefusedAfterExpiry,
    /// The command with the key was never shown to anybody.
    NeverShown,
    /// After the key's expiry the operator said that the host is to be forgotten, and nothing was seen.
    OperatorsWord,
}

/// A session: `session/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its name.
    pub id: SessionId,
    /// The account that is to be managed and the way to it.
    #[serde(flatten)]
    pub route: Route,
    /// The home directory to use instead of the account's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The operator's own name for the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The operator's tags for the host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The lines that the host is to hold; the first is the master key's.
    pub keys: Vec<ManagedKey>,
    /// Where it stands.
    pub status: Status,
    /// When it began.
    pub created_at: Timestamp,
    /// When the temporary key ends, on the host as here.
    pub expires_at: Timestamp,
    /// The temporary key's public half.
    pub temporary_key: PublicKey,
    /// The temporary key's private half, sealed; only where the operator asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_temporary_key: Option<String>,
    /// The proof's secret, sealed; only there, and only until the first proof was judged by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_proof_secret: Option<String>,
    /// How the host's key is judged.
    pub host_key_check: HostKeyCheck,
    /// The host key, once it was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<TrustedHostKey>,
    /// Whether the temporary key is known to have come to the host: the command reported success, or the key logged in. As
    /// long as nobody knows, somebody may still run the command.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub installed: bool,
    /// Keys that an undo takes away with the temporary one, as far as this run knew; for people. What counts is
    /// [`AccountClaim::adding`](crate::AccountClaim::adding).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<PublicKey>,
    /// Whether the line on the host has no expiry, because the server does not know one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_expiry: bool,
    /// How many times somebody took this session up. A lower number's writes on the host are swept away by a higher one's.
    #[serde(default)]
    pub attempt: u32,
    /// Drawn anew by every run that takes the session up, so that of two that do so at once neither takes the other's
    /// record for its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// Whether the operator wants it undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
    /// Why it is failed or orphaned, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// On what grounds it was closed, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
}

/// The end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// When.
    pub at: Timestamp,
    /// On what grounds.
    pub evidence: Evidence,
}

impl Record for SessionRecord {}

impl SessionRecord {
    /// `session/<id>`.
    ///
    /// # Errors
    /// Never for a session id; the store's key type is checked all the same.
    pub fn key(id: SessionId) -> Result<Key, KeyError> {
        Key::new(["session", &id.to_string()])
    }

    /// `session`, below which all of them lie.
    ///
    /// # Errors
    /// Never; see [`SessionRecord::key`].
    pub fn prefix() -> Result<Key, KeyError> {
        Key::new(["session"])
    }

    /// Whether the temporary key has ended, here and on the host.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// Under which name this session locks and stages on the host. A later attempt takes over at once what an earlier one
    /// left: the store lets only one of them go on.
    pub fn holder(&self) -> String {
        self.id.to_string()
    }
}
