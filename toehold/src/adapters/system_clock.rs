//! The machine's own clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use toehold_core::{Clock, Timer, Timestamp};

/// The machine's real time, by which tokio waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::from_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

impl Timer for SystemClock {
    async fn sleep_until(&self, deadline: Timestamp) {
        loop {
            let left = deadline.saturating_since(self.now());
            if left.is_zero() {
                return;
            }
            // In short steps, since the real time may be set while the monotonic one goes on.
            tokio::time::sleep(left.min(Duration::from_secs(30))).await;
        }
    }
}
