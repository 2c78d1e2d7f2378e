//! The journal of a rotation: what sessions and rotations tell each other, and what lets anybody finish what another began.

use serde::{Deserialize, Serialize};

use crate::account::{Account, Route};
use crate::host::ManagedKey;
use crate::id::SessionId;
use crate::master_key::MasterKeyRecord;
use crate::public_key::PublicKey;
use crate::record::Record;
use crate::store::{Key, KeyError};
use crate::time::Timestamp;

/// Where a rotation of the master key stands, for the fleet as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RotationPhase {
    /// Recorded; no host knows of the new key.
    Planned,
    /// The hosts get the new key and prove it, wave by wave.
    Installing,
    /// Every wave is through; hosts that came late catch up.
    Proving,
    /// The barrier: the store's current key changes.
    Switching,
    /// The old key goes.
    Retiring,
    /// The new key alone is on every host that counts.
    Done,
    /// The way back.
    RollingBack,
    /// The old key alone is on every host that counts.
    RolledBack,
}

impl RotationPhase {
    /// Whether the rotation has ended.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack)
    }

    /// The name as it stands in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Installing => "installing",
            Self::Proving => "proving",
            Self::Switching => "switching",
            Self::Retiring => "retiring",
            Self::Done => "done",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
        }
    }
}

impl std::fmt::Display for RotationPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.name().replace('_', "-"))
    }
}

/// What becomes of a rotation when a host cannot be taken along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "an operator chooses one of these")]
pub enum OnUnreachable {
    /// Before the barrier: every reachable host gets back to the old key. After it: the rotation stays open for that host.
    #[default]
    Abort,
    /// The rest goes on; the host keeps the old key, whose private half stays in the store, until it is settled.
    Defer,
}

/// How a rotation goes about it; chosen when it begins, and kept for whoever resumes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationPolicy {
    /// What becomes of it when a host cannot be taken along.
    #[serde(default)]
    pub on_unreachable: OnUnreachable,
    /// Seconds for which the old key still logs in after the barrier, ended by each host itself; 0 removes it at once.
    #[serde(default)]
    pub grace: u64,
    /// The label, or the tag (`name` or `name=value`), of the hosts that go first and alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// How many hosts get the new key before the next ones begin; `None` for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// How many hosts may fail before a deferring rotation stops; `None` for no limit. An aborting one stops at the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// Seconds for which the new key's line is good on a host until a login has proven it.
    pub provisional_for: u64,
}

/// A rotation: `rotation/<number>`. Creating it is the lock, and whoever writes it raises its revision: of two that lead one
/// rotation, the next write of the one that was taken over fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationRecord {
    /// Its number: that of [`CurrentMasterKey::generation`](crate::CurrentMasterKey::generation) plus one.
    pub number: u64,
    /// The key that is current when it begins.
    pub old: PublicKey,
    /// The key that is to be current.
    pub new: PublicKey,
    /// The new key with its private half, sealed, from the write that begins the rotation until its leader has given it a place of
    /// its own, `masterkey/<fingerprint>`: so there is never one without the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_key: Option<Box<MasterKeyRecord>>,
    /// Where it stands.
    pub phase: RotationPhase,
    /// How it goes about it.
    pub policy: RotationPolicy,
    /// Who leads it, for people.
    pub operator: String,
    /// Drawn anew by everybody who takes the lead.
    pub run: String,
    /// How many times somebody took the lead. It stands in the names of the files that are staged on hosts.
    pub fence: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When its leader last wrote.
    pub seen_at: Timestamp,
    /// When the grace of the old key ends, once the last host's line has an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_at: Option<Timestamp>,
    /// Accounts whose session came in while it ran; writing them here makes the leader look again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<Account>,
    /// Why it goes back, or stands still, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether its leader has left it, and says so: nobody has to be taken over from.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_rest: bool,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
}

impl Record for RotationRecord {}

impl RotationRecord {
    /// `rotation/<number>`.
    ///
    /// # Errors
    /// None in practice.
    pub fn key(number: u64) -> Result<Key, KeyError> {
        Key::new(["rotation", &number.to_string()])
    }
}

/// How far a rotation, or the healing after it, has come with one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostPhase {
    /// Nobody has logged in to it.
    Untouched,
    /// Somebody has logged in, or is about to; its files are as they were.
    Begun,
    /// Something was about to be written, or was.
    Touched,
    /// It has the arriving key without expiry, and that key has logged in.
    Proven,
    /// The leaving key has an end.
    Softened,
    /// The arriving key alone is there, and the leaving one was seen refused.
    Settled,
    /// It could not be taken along.
    Quarantined,
}

impl HostPhase {
    /// The name as it stands in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Begun => "begun",
            Self::Touched => "touched",
            Self::Proven => "proven",
            Self::Softened => "softened",
            Self::Settled => "settled",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One host in a rotation: `rotation/<number>/<account>`. What may have been done to it, never evidence of what its files hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostProgress {
    /// The [fence](RotationRecord::fence) of the leader who wrote it.
    pub fence: u64,
    /// How far it has come.
    pub phase: HostPhase,
    /// The key that it is being led to.
    pub toward: PublicKey,
    /// The last change that was about to be made to its files, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about_to: Option<String>,
    /// Why it is quarantined, or what went wrong last, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The later rotation that has taken the host up: from then on nobody leads or heals it under this one any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<u64>,
    /// Another account that has the same file, as far as the line's marker and the host key tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_file_as: Option<Account>,
    /// When this was written.
    pub at: Timestamp,
}

impl Record for HostProgress {}

impl HostProgress {
    /// `rotation/<number>/<account>`.
    ///
    /// # Errors
    /// [`KeyError`] for an account whose text no key can hold.
    pub fn key(number: u64, account: &Account) -> Result<Key, KeyError> {
        Key::new(["rotation", &number.to_string(), &account.to_string()])
    }
}

/// What a rotation has to know of a session: `session/<id>`, of which this reads a part. Never written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionGlance {
    /// Its name.
    pub id: SessionId,
    /// The account that it brings in.
    #[serde(flatten)]
    pub route: Route,
    /// The lines that the host is to hold.
    pub keys: Vec<ManagedKey>,
    /// Where it stands, in its own words.
    pub status: String,
}

impl Record for SessionGlance {}

impl SessionGlance {
    /// `session`, below which all of them lie.
    pub fn prefix() -> Key {
        Key::literal("session")
    }

    /// Whether it may still put its lines on the host, or may have.
    pub fn is_open(&self) -> bool {
        !matches!(self.status.as_str(), "completed" | "failed")
    }

    /// Whether it is putting its lines on the host.
    pub fn is_committing(&self) -> bool {
        self.status == "committing"
    }
}
