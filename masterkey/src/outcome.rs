//! How a run ended, and where a fleet stands.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toehold_core::{Account, HostPhase, PublicKey, RotationRecord, Settled, Timestamp};

/// How a run over a rotation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum End {
    /// The rotation is done. Hosts that were deferred are owed: [`Outcome::owed`].
    Done,
    /// The rotation is rolled back. Hosts that could not be reached for it are owed.
    RolledBack,
    /// The new key is current, and the old one logs in until [`RotationRecord::retire_at`]; resume it then.
    Grace,
    /// It stands still, and is open: [`Outcome::reason`] says why. Resume it, or roll it back.
    Stopped,
    /// Somebody else has taken the lead.
    LetGo,
}

/// What a run over a rotation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// In what way it ended.
    pub end: End,
    /// The rotation as it stands now.
    pub rotation: RotationRecord,
    /// Every host that the run had to do with, in the order of their accounts.
    pub hosts: Vec<HostOutcome>,
    /// Why it did not come to where it was to go.
    pub reason: Option<String>,
}

impl Outcome {
    /// The hosts that are not where the rotation has left the fleet.
    pub fn owed(&self) -> impl Iterator<Item = &HostOutcome> {
        self.hosts.iter().filter(|host| host.phase == HostPhase::Quarantined)
    }
}

/// What became of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostOutcome {
    /// Which.
    pub account: Account,
    /// The operator's name for it.
    pub label: Option<String>,
    /// How far it has come.
    pub phase: HostPhase,
    /// Why no further, in words.
    pub reason: Option<String>,
    /// How long was worked on it, all runs over it together.
    pub took: Duration,
}

/// What a healing came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettleOutcome {
    /// How many hosts there are, settled or not.
    pub managed: usize,
    /// Every host that was not settled, in the order of their accounts.
    pub hosts: Vec<HostOutcome>,
    /// The retired keys whose private halves the store has let go of, since no host can need them.
    pub dropped: Vec<PublicKey>,
}

/// What a rotation would do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// The number that it would have.
    pub rotation: u64,
    /// The hosts in the order in which they would get the new key: those of a wave side by side, one wave after the other.
    pub waves: Vec<Vec<Account>>,
}

/// Where the fleet stands, by the store alone: no host is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FleetStatus {
    /// The current key.
    pub current: PublicKey,
    /// When it was made.
    pub created_at: Timestamp,
    /// The number of the last rotation that ended.
    pub generation: u64,
    /// The rotation that is open.
    pub rotation: Option<RotationRecord>,
    /// Every host.
    pub hosts: Vec<HostStatus>,
    /// The retired keys whose private halves the store still holds.
    pub held: Vec<PublicKey>,
}

/// Where one host stands, by the store alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostStatus {
    /// Which.
    pub account: Account,
    /// The operator's name for it.
    pub label: Option<String>,
    /// The master key that it is recorded with.
    pub key: Option<PublicKey>,
    /// When it was last seen settled; `None` where no rotation has had to do with it.
    pub settled: Option<Settled>,
    /// Whether it holds the current key alone, as far as is known.
    pub is_settled: bool,
    /// Whether it was left behind: by a rotation that has ended, or so far by the open one. What the open one has still to lead
    /// on is neither owed nor settled.
    pub is_owed: bool,
    /// How far the open rotation, or the last one, has come with it.
    pub phase: Option<HostPhase>,
    /// Why no further, in words.
    pub reason: Option<String>,
}
