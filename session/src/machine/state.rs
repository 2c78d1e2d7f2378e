//! Where a run stands.

use toehold_core::{PublicKey, Timestamp};

use super::action::{Credential, End};

/// Where the machine stands. Each state has exactly one action under way, which follows from it and from the record.
///
/// `tries` counts from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    // Towards a managed host.
    Opening {
        tries: u32,
    },
    TakingAccount {
        tries: u32,
    },
    Showing,
    Refreshing,
    Knocking,
    Pausing {
        until: Timestamp,
    },
    CheckingProof {
        host_key: PublicKey,
    },
    /// A proof was judged, on the way forward or back: its secret goes from the record before anything else is done.
    Burning {
        then: AfterProof,
        tries: u32,
    },
    Asking {
        host_key: PublicKey,
    },
    Inspecting,
    Committing {
        missing: Vec<PublicKey>,
        over: Credential,
        tries: u32,
    },
    Adding {
        missing: Vec<PublicKey>,
        over: Credential,
    },
    ProvingMaster {
        tries: u32,
    },
    Settling {
        tries: u32,
    },
    Clearing {
        tries: u32,
    },
    ReconnectingMaster {
        tries: u32,
    },
    RecordingHost {
        tries: u32,
    },
    // Away from it.
    UndoLogin {
        with: Credential,
        tries: u32,
    },
    UndoProof {
        host_key: PublicKey,
        tries: u32,
    },
    Undoing {
        over: Credential,
        tries: u32,
    },
    UndoQuery {
        tries: u32,
    },
    // Recovery.
    Reclaiming {
        tries: u32,
    },
    RetakingAccount {
        tries: u32,
    },
    RecoveringMaster {
        tries: u32,
    },
    RecoveringInspection,
    RecoveringTemporary,
    // Everywhere.
    Resting {
        until: Timestamp,
        then: Box<Self>,
    },
    Closing {
        end: End,
        tries: u32,
    },
    Done {
        end: End,
    },
}

/// What the judgement of a proof leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AfterProof {
    /// The host is the right one: its files are looked at.
    Inspect,
    /// It is not, for this reason.
    Refuse(String),
    /// What was begun is undone; the host's word counts if the proof was good.
    Undo { tries: u32 },
}

impl State {
    /// For people; never holds a secret.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Opening { .. } => "opening",
            Self::TakingAccount { .. } => "claiming the account",
            Self::Showing => "showing the command",
            Self::Refreshing => "reading the record again",
            Self::Knocking => "logging in with the temporary key",
            Self::Pausing { .. } => "waiting for the command to be run",
            Self::CheckingProof { .. } => "reading the proof",
            Self::Burning { .. } => "burning the secret of the proof",
            Self::Asking { .. } => "asking the operator",
            Self::Inspecting => "reading authorized_keys",
            Self::Committing { .. } => "recording that lines will be added",
            Self::Adding { .. } => "adding lines",
            Self::ProvingMaster { .. } => "logging in with the master key",
            Self::Settling { .. } => "recording that the master key works",
            Self::Clearing { .. } => "removing the temporary key",
            Self::ReconnectingMaster { .. } => "logging in with the master key again",
            Self::RecordingHost { .. } => "recording the host",
            Self::UndoLogin { .. } => "logging in to undo",
            Self::UndoProof { .. } => "reading the proof to undo",
            Self::Undoing { .. } => "undoing",
            Self::UndoQuery { .. } => "asking whether the key is refused",
            Self::Reclaiming { .. } => "taking the session up",
            Self::RetakingAccount { .. } => "claiming the account to recover",
            Self::RecoveringMaster { .. } => "logging in with the master key to recover",
            Self::RecoveringInspection => "reading authorized_keys to recover",
            Self::RecoveringTemporary => "logging in with the temporary key to recover",
            Self::Resting { .. } => "waiting to try again",
            Self::Closing { end: End::Completed, .. } => "closing as completed",
            Self::Closing { .. } => "closing",
            Self::Done { .. } => "done",
        }
    }

    /// The same state at the next try.
    pub(super) fn again(mut self) -> Self {
        match &mut self {
            Self::Opening { tries }
            | Self::TakingAccount { tries }
            | Self::Burning { tries, .. }
            | Self::Committing { tries, .. }
            | Self::ProvingMaster { tries }
            | Self::Settling { tries }
            | Self::Clearing { tries }
            | Self::ReconnectingMaster { tries }
            | Self::RecordingHost { tries }
            | Self::UndoLogin { tries, .. }
            | Self::UndoProof { tries, .. }
            | Self::Undoing { tries, .. }
            | Self::UndoQuery { tries }
            | Self::Reclaiming { tries }
            | Self::RetakingAccount { tries }
            | Self::RecoveringMaster { tries }
            | Self::Closing { tries, .. } => *tries += 1,
            _ => {}
        }
        self
    }

    /// How often it was tried, where that is counted.
    pub(super) fn tries(&self) -> u32 {
        match self {
            Self::Opening { tries }
            | Self::TakingAccount { tries }
            | Self::Burning { tries, .. }
            | Self::Committing { tries, .. }
            | Self::ProvingMaster { tries }
            | Self::Settling { tries }
            | Self::Clearing { tries }
            | Self::ReconnectingMaster { tries }
            | Self::RecordingHost { tries }
            | Self::UndoLogin { tries, .. }
            | Self::UndoProof { tries, .. }
            | Self::Undoing { tries, .. }
            | Self::UndoQuery { tries }
            | Self::Reclaiming { tries }
            | Self::RetakingAccount { tries }
            | Self::RecoveringMaster { tries }
            | Self::Closing { tries, .. } => *tries,
            _ => 1,
        }
    }
}
