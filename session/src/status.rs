//! Where a session stands, and where it may go from there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a session as it is kept in the store.
///
/// ```text
/// active ──► committing ──► completed
///   │  ╲         │   ╲
///   │   ╲        │    ╲
///   ▼    ▼       ▼     ▼
/// failed  orphaned ──► completed | failed | committing | orphaned
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "whoever acts on a status has to know them all")]
pub enum Status {
    /// The command is out, or about to be; nobody has logged in yet.
    Active,
    /// The host is proven to be the right one; managed lines are being written.
    Committing,
    /// The host is managed and the temporary key was seen gone.
    Completed,
    /// Given up; the temporary key was seen gone or refused.
    Failed,
    /// Given up or interrupted while the temporary key may still be on the host. Stays on the list and is tried again.
    Orphaned,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Active, Self::Committing, Self::Completed, Self::Failed, Self::Orphaned];

    /// Whether a session in this status is on the list of those that somebody still has to see to an end.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Active | Self::Committing | Self::Orphaned)
    }

    /// Whether a session may go from this status to `next`. Staying in an open status is legal (another attempt).
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Active => matches!(next, Self::Active | Self::Committing | Self::Failed | Self::Orphaned),
            Self::Committing => matches!(next, Self::Committing | Self::Completed | Self::Failed | Self::Orphaned),
            Self::Orphaned => matches!(next, Self::Committing | Self::Completed | Self::Failed | Self::Orphaned),
            Self::Completed | Self::Failed => false,
        }
    }

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Committing => "committing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_transition_table() {
        let mut table = String::new();
        for from in Status::ALL {
            let row: Vec<&str> = Status::ALL.into_iter().filter(|to| from.may_become(*to)).map(Status::as_str).collect();
            table.extend([from.as_str(), " -> ", &row.join(" "), "\n"]);
        }
        assert_eq!(
            table,
            "active -> active committing failed orphaned\n\
             committing -> committing completed failed orphaned\n\
             completed -> \n\
             failed -> \n\
             orphaned -> committing completed failed orphaned\n"
        );
    }

    #[test]
    fn a_closed_session_never_opens_again() {
        for from in Status::ALL.into_iter().filter(|s| !s.is_open()) {
            assert!(Status::ALL.into_iter().all(|to| !from.may_become(to)));
        }
    }
}
