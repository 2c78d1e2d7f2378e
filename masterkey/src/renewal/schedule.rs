//! When the next renewal is due, and who is at it: durable, and changed by conditional writes alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use toehold_core::{Fingerprint, Key, KeyError, Record, Timestamp};

/// The schedule of a renewal: `renewal/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalSchedule {
    /// Seconds between two renewals, as asked for last.
    pub interval: u64,
    /// When the next one is due.
    pub due_at: Timestamp,
    /// Before when the one that is due is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// How often the one that is due has failed.
    #[serde(default)]
    pub failures: u32,
    /// Why it failed last, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The key that was current when the one that is due was begun first. Once another key is current and nothing is open, it
    /// has taken place, whoever did not live to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Fingerprint>,
    /// Who is at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<RenewalClaim>,
    /// The last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Renewed>,
}

/// Who is at the renewal that is due. It only saves work: that two renewals do no harm is the renewal's own affair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalClaim {
    /// Drawn anew by every process.
    pub run: String,
    /// Until when others leave it alone; kept in the future by a process that is alive.
    pub until: Timestamp,
}

/// A renewal that took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// When it was seen to be over.
    pub at: Timestamp,
    /// The key that was current then.
    pub key: Fingerprint,
}

impl Record for RenewalSchedule {}

/// What is to be done about a schedule now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before then.
    Wait(Timestamp),
    /// Somebody else is at it, until then at the least.
    Elsewhere(Timestamp),
    /// It is due.
    Renew,
}

impl RenewalSchedule {
    /// `renewal/<name>`.
    ///
    /// # Errors
    /// [`KeyError`] for a name that no key can hold.
    pub fn key(name: &str) -> Result<Key, KeyError> {
        Key::new(["renewal", name])
    }

    pub(super) fn first(interval: Duration, due_at: Timestamp) -> Self {
        Self {
            interval: interval.as_secs(),
            due_at,
            retry_at: None,
            failures: 0,
            reason: None,
            from: None,
            claim: None,
            last: None,
        }
    }

    pub(super) fn next(&self, now: Timestamp, run: &str) -> Next {
        let due = self.retry_at.map_or(self.due_at, |retry| retry.max(self.due_at));
        match &self.claim {
            Some(claim) if claim.run != run && claim.until > now => Next::Elsewhere(claim.until),
            _ if due > now => Next::Wait(due),
            _ => Next::Renew,
        }
    }

    /// It took place.
    pub(super) fn renewed(&mut self, at: Timestamp, key: Fingerprint, due_at: Timestamp) {
        *self = Self { last: Some(Renewed { at, key }), due_at, interval: self.interval, ..Self::first(Duration::ZERO, due_at) };
    }

    /// It failed for this process.
    pub(super) fn failed(&mut self, run: &str, reason: String, retry_at: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        self.reason = Some(reason);
        self.retry_at = Some(retry_at);
        self.claim.take_if(|claim| claim.run == run);
    }
}
