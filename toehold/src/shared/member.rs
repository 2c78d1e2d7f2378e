//! Members of a shared store, and the word by which a newcomer asks to become one.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use toehold_core::{Key, Timestamp};
use toehold_specsign::VerifyingKey;

use super::roles::Role;
use crate::adapters::identity::{Recipient, Vault};

/// Which store: 32 hex digits, made when its first operator made it. A record that was signed for one store is none of another.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId(String);

/// A text that is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id of {digits} hex digits was expected")]
pub struct IdError {
    digits: usize,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn checked(text: &str, digits: usize) -> Result<String, IdError> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { Ok(text.to_owned()) } else { Err(IdError { digits }) }
}

impl StoreId {
    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(hex(&bytes))
    }

    /// The 32 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for StoreId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        checked(&text, 32).map(Self)
    }
}

impl From<StoreId> for String {
    fn from(id: StoreId) -> Self {
        id.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({})", self.0)
    }
}

/// Who signed: 16 hex digits of the digest of a member's key. A name to look it up by; what is verified is the key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberId(String);

impl MemberId {
    /// Of the member with this key.
    pub fn of(key: &VerifyingKey) -> Self {
        let digest = Sha256::new().chain_update(b"toehold member v1\n").chain_update(key.as_bytes()).finalize();
        Self(hex(digest.get(..8).unwrap_or_default()))
    }

    /// The id of no member.
    pub fn nobody() -> Self {
        Self("0".repeat(16))
    }

    /// The 16 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MemberId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        checked(text, 16).map(Self)
    }
}

impl TryFrom<String> for MemberId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MemberId> for String {
    fn from(id: MemberId) -> Self {
        id.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemberId({})", self.0)
    }
}

/// A member of a shared store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Of its key.
    pub id: MemberId,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whom private halves are sealed to, as [`Recipient`] prints it.
    pub recipient: String,
    /// What verifies its signatures.
    pub key: VerifyingKey,
    /// Since when.
    pub added_at: Timestamp,
}

impl Member {
    /// Whom private halves are sealed to; `None` for one that this release cannot seal to.
    pub fn recipient(&self) -> Option<Recipient> {
        self.recipient.parse().ok()
    }

    /// Whether this member may write a record under this key: of the audit log, where it is no operator, what is of its own chain alone
    /// (N4).
    pub fn may_write(&self, key: &Key) -> bool {
        let is_own = self.role == Role::Operator
            || writer_of(key).is_none_or(|writer| self.recipient().is_some_and(|own| own.writer() == writer));
        is_own && self.role.may_write(key)
    }
}

/// Whose chain of the audit log a record belongs to, where it belongs to one.
pub(super) fn writer_of(key: &Key) -> Option<&str> {
    let mut segments = key.segments();
    matches!(segments.next(), Some("audit" | "auditwriter")).then(|| segments.next()).flatten()
}

/// What a newcomer's `init` prints, in one word: whom to seal to, and what verifies what it signs. An SSH key stands in it with a colon in the
/// place of its blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Whom to seal to.
    pub recipient: Recipient,
    /// What verifies its signatures.
    pub key: VerifyingKey,
}

/// A text that is no [`NewMember`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the word that a newcomer's `toehold init` prints (age1….….… or ssh-….….…): {0}")]
pub struct NewMemberError(&'static str);

impl NewMember {
    /// Of an unlocked identity.
    pub fn of(vault: &Vault) -> Self {
        Self { recipient: vault.recipient(), key: vault.signing_key().verifying_key() }
    }

    /// Who signs with its key.
    pub fn id(&self) -> MemberId {
        MemberId::of(&self.key)
    }

    /// Keeps a slip of the pen from making a member that nobody is.
    fn check(recipient: &str, key: &VerifyingKey) -> String {
        let digest = Sha256::new().chain_update(b"toehold recipient v1\n").chain_update(recipient).chain_update(key.as_bytes());
        hex(digest.finalize().get(..3).unwrap_or_default())
    }
}

impl fmt::Display for NewMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recipient = self.recipient.to_string();
        let key = Base64UrlUnpadded::encode_string(self.key.as_bytes());
        let check = Self::check(&recipient, &self.key);
        write!(f, "{}.{key}.{check}", recipient.replacen(' ', ":", 1))
    }
}

impl FromStr for NewMember {
    type Err = NewMemberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let (Some(recipient), Some(key), Some(check), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(NewMemberError("it has three parts with dots between them"));
        };
        let no_recipient = || NewMemberError("its first part is an age recipient or an SSH key to which age seals");
        if recipient.contains(char::is_whitespace) {
            return Err(no_recipient());
        }
        let recipient = recipient.replacen(':', " ", 1);
        let parsed: Recipient = recipient.parse().map_err(|_| no_recipient())?;
        let bytes = Base64UrlUnpadded::decode_vec(key).ok().and_then(|bytes| bytes.try_into().ok());
        let key = bytes
            .and_then(|bytes| VerifyingKey::from_bytes(bytes).ok())
            .ok_or(NewMemberError("its second part is an Ed25519 key"))?;
        if check != Self::check(&recipient, &key) {
            return Err(NewMemberError("a part of it was changed or left out"));
        }
        Ok(Self { recipient: parsed, key })
    }
}
