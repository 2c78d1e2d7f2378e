//! What a rotation is asked for.

use std::time::Duration;

use toehold_core::{OnUnreachable, RotationPolicy};
use toehold_keygen::KeyAlgorithm;

/// How long a line of the new key is good on a host until a login has proven it, by default: ten times the time limit of a
/// host. Should everything of ours die in between, the line ends by itself.
pub const DEFAULT_PROVISIONAL: Duration = Duration::from_mins(10);

/// How long the old key still logs in after the barrier, by default.
pub const DEFAULT_GRACE: Duration = Duration::from_hours(1);

/// A rotation to be begun.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RotationRequest {
    /// The kind of key to make.
    pub algorithm: KeyAlgorithm,
    /// The comment in the new private key file.
    pub comment: String,
    /// Who asks for it, for people.
    pub operator: String,
    /// How to go about it.
    pub policy: RotationPolicy,
}

impl RotationRequest {
    /// An Ed25519 key, a grace of an hour, everything or nothing.
    pub fn new(operator: impl Into<String>) -> Self {
        Self {
            algorithm: KeyAlgorithm::default(),
            comment: "toehold-master".to_owned(),
            operator: operator.into(),
            policy: RotationPolicy {
                on_unreachable: OnUnreachable::default(),
                grace: DEFAULT_GRACE.as_secs(),
                canary: None,
                wave: None,
                max_failures: None,
                provisional_for: DEFAULT_PROVISIONAL.as_secs(),
            },
        }
    }
}

/// Who takes up a rotation that somebody began, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TakeUp {
    /// Who, for people.
    pub operator: String,
    /// Also where its leader wrote less than [`Pace::lively`] ago. The fence makes that safe; it is rude all the same.
    pub take_over: bool,
    /// Another choice than the one that it began with, for hosts that cannot be taken along.
    pub on_unreachable: Option<OnUnreachable>,
}

impl TakeUp {
    /// By this operator, unless somebody is at it.
    pub fn new(operator: impl Into<String>) -> Self {
        Self { operator: operator.into(), take_over: false, on_unreachable: None }
    }
}

/// Times and bounds of the driver, the same whatever is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many hosts are worked on at once, each over one connection at a time (default 32).
    pub concurrency: usize,
    /// How long one try of a host may take, over all connections of that try and without the waits in between (default 60 s); also
    /// how long a single call of the store may.
    pub timeout: Duration,
    /// How often a host is tried that cannot be reached, or whose connection breaks (default 3). Only logging in and reading
    /// are tried again; what to write is then decided anew.
    pub attempts: u32,
    /// How long the second try waits, with up to as much again at random; each further one waits twice as long (default 1 s).
    pub backoff: Duration,
    /// How long a leader who writes nothing counts as alive (default 60 s).
    pub lively: Duration,
    /// Whether the end of the grace is waited for; else the run ends there, and a later one removes the old key.
    pub wait_for_grace: bool,
    /// How long the end waits for sessions that are putting the old key on a host at that moment (default 30 s).
    pub wait_for_sessions: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            concurrency: 32,
            timeout: Duration::from_mins(1),
            attempts: 3,
            backoff: Duration::from_secs(1),
            lively: Duration::from_mins(1),
            wait_for_grace: true,
            wait_for_sessions: Duration::from_secs(30),
        }
    }
}
