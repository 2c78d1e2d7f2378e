//! Which session may put managed lines into an account's file, or take them out.

use serde::{Deserialize, Serialize};
use toehold_core::{Account, Key, KeyError, ManagedKey, PublicKey, Record, SessionId};

/// The claim on an account: `claim/<account>`.
///
/// Of all sessions for one account only the one that holds the claim adds managed lines or takes them away, and each such
/// write on the host happens between two looks at this record: it is written over, with the revision last seen, after the new
/// file is staged on the host and before it is renamed. Whoever takes the claim over writes it first and then locks the host,
/// which sweeps what others have staged. So a write of the former holder is either seen by the new one or never happens.
///
/// The record goes with the session's close, unless it has to remember keys that were not seen gone: those are in it before
/// their session is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountClaim {
    /// Whose it is.
    pub session: SessionId,
    /// Which attempt of that session, see [`SessionRecord::attempt`](crate::SessionRecord::attempt).
    pub attempt: u32,
    /// The lines that were not on the host before, and that this session, or those that it took the claim over from, may have
    /// put there: what an undo takes away, the last one first. Written before the first of them is there, from the very file
    /// that they are added to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<AddedLine>,
    /// Whether the master key has logged in: from here on the session is led to its end and no longer undone. What is left
    /// of [`adding`](Self::adding) are lines of former sessions that this one does not want.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub managed: bool,
    /// What closed sessions have added and could not be seen to take away again, since the host refused every key of ours: the
    /// next session over the same route answers for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<LeftLine>,
    /// Keys of closed sessions whose lines may still be in the file, where they let nobody in any more: the next session that
    /// gets there takes them away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<DeadKey>,
}

/// A line that a session has put into an account's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedLine {
    /// The line. An undo takes away this one and no other with its key.
    #[serde(flatten)]
    pub line: ManagedKey,
    /// Where it was ours before, and only its options were changed: the former ones, which an undo puts back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options_before: Option<String>,
}

/// A line that a closed session may have left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftLine {
    /// The line.
    #[serde(flatten)]
    pub added: AddedLine,
    /// The jump hosts of that session's route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jumps: Vec<Account>,
}

/// The temporary key of a session that was closed without seeing its line gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadKey {
    /// Whose it was.
    pub session: SessionId,
    /// The key.
    pub public_key: PublicKey,
    /// The jump hosts of that session's route: over another one, the account is on another host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jumps: Vec<Account>,
}

impl Record for AccountClaim {}

impl AccountClaim {
    /// The claim of an attempt that has added nothing yet.
    pub(crate) fn new(session: SessionId, attempt: u32) -> Self {
        Self { session, attempt, adding: Vec::new(), managed: false, left: Vec::new(), dead: Vec::new() }
    }

    /// Whether there is nothing that a later session has to answer for.
    pub(crate) fn is_empty(&self) -> bool {
        self.adding.is_empty() && self.left.is_empty() && self.dead.is_empty()
    }

    /// The keys of the lines that an undo acts on, each once.
    pub(crate) fn keys(&self) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> = Vec::new();
        for added in &self.adding {
            if !keys.contains(&added.line.public_key) {
                keys.push(added.line.public_key.clone());
            }
        }
        keys
    }

    /// `claim/<account>`.
    ///
    /// # Errors
    /// [`KeyError`] for an account whose text no key can hold.
    pub fn key(account: &Account) -> Result<Key, KeyError> {
        Key::new(["claim", &account.to_string()])
    }
}
