//! Which session may put managed lines into an account's file, or take them out.

use serde::{Deserialize, Serialize};
use toehold_core::{Account, Key, KeyError, PublicKey, Record, SessionId};

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
    /// The keys whose lines were not on the host before, and that this session, or those that it took the claim over from,
    /// may have put there: what an undo takes away. Written before the first of them is there, from the very file that they
    /// are added to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<PublicKey>,
    /// Whether the master key has logged in: from here on the session is led to its end and no longer undone. What is left
    /// of [`adding`](Self::adding) are lines of former sessions that this one does not want.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub managed: bool,
    /// Keys of closed sessions whose lines may still be in the file, where they let nobody in any more: the next session that
    /// gets there takes them away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<DeadKey>,
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
    /// `claim/<account>`.
    ///
    /// # Errors
    /// [`KeyError`] for an account whose text no key can hold.
    pub fn key(account: &Account) -> Result<Key, KeyError> {
        Key::new(["claim", &account.to_string()])
    }
}
