//! Points in time, and where they come from.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time: whole seconds since 1970-01-01T00:00:00Z, as `authorized_keys` and SFTP count them.
///
/// From year 1 to 9999. Printed and serialised as RFC 3339 in UTC, `2026-11-23T01:00:00Z`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

/// A text or number that is no [`Timestamp`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a time in UTC such as 2026-11-23T01:00:00Z")]
pub struct TimestampError(String);

const MIN: i64 = -62_135_596_800;
const MAX: i64 = 253_402_207_200;

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// From seconds since 1970-01-01T00:00:00Z; held to the years that can be printed.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.clamp(MIN, MAX))
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(self) -> i64 {
        self.0
    }

    /// This instant plus `duration`, whose fraction of a second is dropped; stops at the last printable instant.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self::from_unix_seconds(self.0.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }

    /// This instant minus `duration`, whose fraction of a second is dropped; stops at the first printable instant.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self::from_unix_seconds(self.0.saturating_sub(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    fn civil(self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }

    /// Printed by a `strftime` format in UTC, such as `%Y%m%d%H%M%SZ` for the `expiry-time` of sshd(8).
    pub fn strftime(self, format: &str) -> String {
        self.civil().strftime(format).to_string()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.civil(), f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time: jiff::Timestamp = text.parse().map_err(|_| TimestampError(text.to_owned()))?;
        Ok(Self::from_unix_seconds(time.as_second()))
    }
}

impl TryFrom<String> for Timestamp {
    type Error = TimestampError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The present time in UTC.
    fn now(&self) -> Timestamp;
}

/// A clock that one can wait for.
pub trait Timer: Clock {
    /// Ends at `deadline` by this clock, or at once where that has passed. It may end late, never early.
    fn sleep_until(&self, deadline: Timestamp) -> impl Future<Output = ()> + Send;
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

impl<T: Timer + ?Sized> Timer for &T {
    fn sleep_until(&self, deadline: Timestamp) -> impl Future<Output = ()> + Send {
        (**self).sleep_until(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn printed_as_rfc_3339_and_as_sshd_reads_it() {
        let time = Timestamp::from_unix_seconds(1_795_395_600);
        assert_eq!(time.to_string(), "2026-11-23T01:00:00Z");
        assert_eq!(time.strftime("%Y%m%d%H%M%SZ"), "20261123010000Z");
    }

    proptest! {
        #[test]
        fn every_time_is_printed_and_read_back(seconds in any::<i64>()) {
            let time = Timestamp::from_unix_seconds(seconds);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }

        #[test]
        fn arithmetic_saturates(seconds in any::<i64>(), by in any::<u64>()) {
            let time = Timestamp::from_unix_seconds(seconds);
            prop_assert!(time.saturating_add(Duration::from_secs(by)) >= time);
            prop_assert!(time.saturating_sub(Duration::from_secs(by)) <= time);
        }
    }
}
