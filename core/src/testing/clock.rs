//! A clock that tests turn by hand.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::lock;
use crate::time::{Clock, Timer, Timestamp};

/// Where a [`ManualClock`] starts unless told otherwise: 2026-11-23T01:00:00Z.
pub const START: i64 = 1_795_395_600;

/// A clock that stands still until a test moves it. Clones show the same time.
///
/// With [`ManualClock::auto_advance`] it jumps to the next deadline as soon as everybody sleeps, so that a driver that polls
/// for half an hour runs in no time: a sleeper lets everything else run once before it moves the clock, and the earliest
/// deadline comes first whoever waits for it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    now: Timestamp,
    auto_advance: bool,
    sleepers: BTreeMap<u64, Sleeper>,
    next: u64,
}

#[derive(Debug)]
struct Sleeper {
    deadline: Timestamp,
    waker: Waker,
}

impl State {
    fn set(&mut self, now: Timestamp) {
        self.now = now;
        for sleeper in self.sleepers.values().filter(|s| s.deadline <= now) {
            sleeper.waker.wake_by_ref();
        }
    }
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(State { now: start, auto_advance: false, sleepers: BTreeMap::new(), next: 0 })))
    }

    /// The same clock, which from now on jumps to the next deadline by itself when everybody sleeps.
    #[must_use]
    pub fn auto_advance(self) -> Self {
        self.set_auto_advance(true);
        self
    }

    /// Whether the clock jumps to the next deadline by itself when everybody sleeps.
    pub fn set_auto_advance(&self, on: bool) {
        let mut state = lock(&self.0);
        state.auto_advance = on;
        for sleeper in state.sleepers.values() {
            sleeper.waker.wake_by_ref();
        }
    }

    /// Moves the clock forward and wakes whoever waited for a time up to the new one.
    pub fn advance(&self, by: Duration) {
        let mut state = lock(&self.0);
        let now = state.now.saturating_add(by);
        state.set(now);
    }

    /// Puts the clock at `now`, which may lie in its past, and wakes whoever waited for a time up to that.
    pub fn set(&self, now: Timestamp) {
        lock(&self.0).set(now);
    }

    /// How many sleeps are under way.
    pub fn sleepers(&self) -> usize {
        lock(&self.0).sleepers.len()
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new(Timestamp::from_unix_seconds(START))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        lock(&self.0).now
    }
}

impl Timer for ManualClock {
    fn sleep_until(&self, deadline: Timestamp) -> impl Future<Output = ()> + Send {
        Sleep { clock: self.clone(), deadline, id: None }
    }
}

/// A sleep under way; registered with the clock from its first poll to its end.
#[derive(Debug)]
struct Sleep {
    clock: ManualClock,
    deadline: Timestamp,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (deadline, known) = (self.deadline, self.id);
        let mut guard = lock(&self.clock.0);
        let state = &mut *guard;
        // Everything else has had its turn since the first poll.
        if known.is_some() && state.auto_advance && state.now < deadline {
            let now = state.now;
            if let Some(earliest) = state.sleepers.values().map(|s| s.deadline).filter(|d| *d > now).min() {
                state.set(earliest);
            }
        }
        if state.now >= deadline {
            return Poll::Ready(());
        }
        let id = known.unwrap_or_else(|| {
            state.next += 1;
            state.next
        });
        state.sleepers.insert(id, Sleeper { deadline, waker: context.waker().clone() });
        if state.auto_advance {
            context.waker().wake_by_ref();
        }
        drop(guard);
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            lock(&self.clock.0).sleepers.remove(&id);
        }
    }
}
