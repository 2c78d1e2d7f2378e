//! What the service manager is told, where there is one: `NOTIFY_SOCKET` and `WATCHDOG_USEC` as `sd_notify(3)` has them.

use std::time::Duration;

use sd_notify::NotifyState;

/// Everything is there that there is to begin with.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("running")]);
}

/// It ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// How it is, in a sentence.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// It is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often the service manager wants to hear that we are alive; half of what it waits for. `None`: it does not ask.
pub fn beat() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(100)))
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, and one that does not listen does not matter.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("the service manager was not told: {error}");
    }
}
