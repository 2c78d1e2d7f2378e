//! Runs a task turn by turn, whatever becomes of a turn.

use std::time::Duration;

use toehold_core::{Clock as _, Store};
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::board::{Board, Condition};
use super::lease::{Held, Lease, Lost, Standing};
use crate::adapters::system_clock::SystemClock;
use crate::cli::{Exit, Failure, Signals};

/// A turn that lasted so long was well before it failed: the pauses begin anew.
const LONG: Duration = Duration::from_secs(60);

/// How long is waited after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// After a turn that ended well.
    pub every: Duration,
    /// After the first one that failed; each further failure doubles it.
    pub retry: Duration,
    /// What that grows to at the most.
    pub longest_retry: Duration,
    /// Whether a turn goes on for as long as it can, and says itself on the board when it has come so far as to be running.
    pub is_long: bool,
}

impl Pace {
    /// So long between two turns; after a failure 1 s, up to 5 min.
    pub fn every(every: Duration) -> Self {
        Self { every, retry: Duration::from_secs(1), longest_retry: Duration::from_secs(300), is_long: false }
    }

    /// For a turn that goes on until it is told to leave.
    pub fn long() -> Self {
        Self { is_long: true, ..Self::every(Duration::from_secs(1)) }
    }

    fn after(self, failures: u32) -> Duration {
        let doubled = self.retry.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.longest_retry)
    }
}

/// Runs a task until `stop`: `turn` again and again, each on a thread of its own, with signals that tell it to leave. Where there is a
/// lease, only while it is ours; it is given back in the end.
///
/// A turn that is told to leave is waited for, however long it takes: whoever cannot wait drops the future.
pub async fn supervise<S, F>(name: &'static str, board: Board, lease: Option<Lease<S>>, pace: Pace, stop: Signals, turn: F)
where
    S: Store,
    F: Fn(Signals) -> Result<Exit, Failure> + Clone + Send + 'static,
{
    let mut supervisor = Supervisor { name, board, pace, stop, failures: 0 };
    loop {
        let mut held = match &lease {
            None => None,
            Some(lease) => match supervisor.acquire(lease).await {
                Some(held) => Some(held),
                None => return,
            },
        };
        let lost = supervisor.lead(held.as_mut(), turn.clone()).await;
        match (lost, held) {
            (Some(lost), _) => tracing::warn!(task = name, "{lost}"),
            (None, held) => {
                if let Some(held) = held
                    && let Err(error) = held.release().await
                {
                    tracing::warn!(task = name, "the lease is left to end by itself: {}", crate::cli::chain(&error));
                }
                return;
            }
        }
    }
}

struct Supervisor {
    name: &'static str,
    board: Board,
    pace: Pace,
    stop: Signals,
    failures: u32,
}

impl Supervisor {
    /// Waits for the lease; `None`: told to stop.
    async fn acquire<'l, S: Store>(&mut self, lease: &'l Lease<S>) -> Option<Held<'l, S>> {
        let (board, name) = (&self.board, self.name);
        let report = |standing| {
            let condition = match standing {
                Standing::Elsewhere { holder } => Condition::Standby { holder },
                Standing::Unknown { reason } => Condition::Failing { reason },
            };
            board.set(name, condition, SystemClock.now());
        };
        tokio::select! {
            biased;
            () = self.stop.wait() => None,
            held = lease.acquire(report) => Some(held),
        }
    }

    /// Turn after turn. `None`: told to stop.
    async fn lead<S, F>(&mut self, held: Option<&mut Held<'_, S>>, turn: F) -> Option<Lost>
    where
        S: Store,
        F: Fn(Signals) -> Result<Exit, Failure> + Clone + Send + 'static,
    {
        // One for all of them: no renewal that is under way is dropped where a turn or a pause ends.
        let mut lost = std::pin::pin!(keep(held));
        loop {
            let (leave, signals) = Signals::by_hand();
            let begun = Instant::now();
            let turn = turn.clone();
            let mut work = spawn_blocking(move || turn(signals));
            if self.failures == 0 && !self.pace.is_long {
                self.board.set(self.name, Condition::Running, SystemClock.now());
            }
            let mut end = None;
            let result = tokio::select! {
                result = &mut work => result,
                lost = lost.as_mut() => {
                    end = Some(Some(lost));
                    leave_and_wait(&leave, work).await
                }
                () = self.stop.wait() => {
                    end = Some(None);
                    leave_and_wait(&leave, work).await
                }
            };
            let pause = self.judge(result, begun.elapsed());
            if let Some(end) = end {
                return end;
            }
            tokio::select! {
                biased;
                () = self.stop.wait() => return None,
                lost = lost.as_mut() => return Some(lost),
                () = sleep(pause) => {}
            }
        }
    }

    /// Tells what a turn came to; how long to wait after it.
    fn judge(&mut self, result: Result<Result<Exit, Failure>, JoinError>, took: Duration) -> Duration {
        let now = SystemClock.now();
        let failed = match result {
            Ok(Ok(_)) => {
                self.board.ran(self.name, None, now);
                self.failures = 0;
                return self.pace.every;
            }
            // It did what it could, and something is owed: by hosts that are away, say.
            Ok(Err(failure)) if failure.exit == Exit::Partly => {
                self.board.ran(self.name, Some(failure.message), now);
                self.failures = 0;
                return self.pace.every;
            }
            Ok(Err(failure)) => failure.message,
            Err(_) => "a fault of the program ended it".to_owned(),
        };
        tracing::error!(task = self.name, "{}", crate::cli::printable(&failed));
        self.failures = if took >= LONG { 1 } else { self.failures.saturating_add(1) };
        self.board.failed(self.name, failed, now);
        self.pace.after(self.failures)
    }
}

/// Renews the lease, where there is one.
async fn keep<S: Store>(held: Option<&mut Held<'_, S>>) -> Lost {
    match held {
        Some(held) => held.keep().await,
        None => std::future::pending().await,
    }
}

async fn leave_and_wait<T>(leave: &watch::Sender<bool>, work: tokio::task::JoinHandle<T>) -> Result<T, JoinError> {
    leave.send_replace(true);
    work.await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use toehold_core::Timestamp;
    use toehold_core::testing::MemoryStore;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);
    const QUICK: Pace = Pace { every: MOMENT, retry: MOMENT, longest_retry: Duration::from_millis(4), is_long: false };

    async fn until(board: &Board, wanted: impl Fn(&Board) -> bool) {
        let mut changes = board.changes();
        let waiting = async {
            while !wanted(board) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it does not come to that");
    }

    fn failures(board: &Board, name: &str) -> u64 {
        board.tasks().iter().find(|task| task.name == name).unwrap().failures
    }

    #[tokio::test]
    async fn one_that_panics_or_fails_is_begun_again_and_the_other_goes_on() {
        let board = Board::new(&["bad", "good"], Timestamp::UNIX_EPOCH, |_| {});
        let (stop, signals) = Signals::by_hand();
        let turns = Arc::new(AtomicU32::new(0));
        let bad = move |_| match turns.fetch_add(1, Ordering::Relaxed) {
            0..3 => panic!("on purpose"),
            3..6 => Err(Failure::new("on purpose")),
            _ => Ok(Exit::Done),
        };
        let none = || None::<Lease<MemoryStore>>;
        let bad = tokio::spawn(supervise("bad", board.clone(), none(), QUICK, signals.clone(), bad));
        let good = tokio::spawn(supervise("good", board.clone(), none(), QUICK, signals, |_| Ok(Exit::Done)));
        until(&board, |board| failures(board, "bad") == 6 && board.reasons().is_empty()).await;
        assert_eq!(failures(&board, "good"), 0);
        stop.send_replace(true);
        bad.await.unwrap();
        good.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_fails_is_told_and_what_is_only_owed_is_no_failure() {
        let board = Board::new(&["bad", "owing"], Timestamp::UNIX_EPOCH, |_| {});
        let (_stop, signals) = Signals::by_hand();
        let none = || None::<Lease<MemoryStore>>;
        tokio::spawn(supervise("bad", board.clone(), none(), QUICK, signals.clone(), |_| Err(Failure::new("why"))));
        tokio::spawn(supervise("owing", board.clone(), none(), QUICK, signals, |_| Err(Failure::new("a host").partly())));
        let both = |board: &Board| board.reasons() == ["bad: why"] && board.tasks().iter().any(|task| task.note.is_some());
        until(&board, both).await;
        let owing = board.tasks().into_iter().find(|task| task.name == "owing").unwrap();
        assert_eq!((owing.condition, owing.note.as_deref()), (Condition::Running, Some("a host")));
    }

    /// The lease is there for the next one as soon as the turn that was told to leave has left.
    #[tokio::test]
    async fn told_to_stop_it_lets_its_turn_leave_and_gives_the_lease_back() {
        let store = MemoryStore::new();
        let board = Board::new(&["one"], Timestamp::UNIX_EPOCH, |_| {});
        let (stop, signals) = Signals::by_hand();
        let left = Arc::new(AtomicU32::new(0));
        let turn = {
            let left = Arc::clone(&left);
            move |mut signals: Signals| {
                tokio::runtime::Handle::current().block_on(signals.wait());
                left.fetch_add(1, Ordering::Relaxed);
                Ok(Exit::Done)
            }
        };
        let lease = Lease::new(store.clone(), "one", "me", Duration::from_secs(30)).unwrap();
        let task = tokio::spawn(supervise("one", board.clone(), Some(lease), QUICK, signals, turn));
        until(&board, |board| board.reasons().is_empty()).await;
        let place = crate::serve::lease::LeaseRecord::key("one").unwrap();
        assert!(store.get(&place).await.unwrap().is_some());
        stop.send_replace(true);
        task.await.unwrap();
        assert_eq!(left.load(Ordering::Relaxed), 1);
        assert!(store.get(&place).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn n5_a_task_of_short_turns_and_pauses_stays_where_it_is() {
        const LENGTH: Duration = Duration::from_secs(30);
        let store = MemoryStore::new();
        let (_stop, signals) = Signals::by_hand();
        let begins = |holder: &str| {
            let board = Board::new(&["one"], Timestamp::UNIX_EPOCH, |_| {});
            let turns = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&turns);
            let turn = move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(Exit::Done)
            };
            let lease = Lease::new(store.clone(), "one", holder, LENGTH).unwrap();
            tokio::spawn(supervise("one", board.clone(), Some(lease), Pace::every(LENGTH / 6), signals.clone(), turn));
            (board, turns)
        };
        let (first, turns) = begins("first");
        until(&first, |board| board.tasks()[0].condition == Condition::Running).await;
        let (second, others) = begins("second");
        let waits = Condition::Standby { holder: "first".to_owned() };
        until(&second, |board| board.tasks()[0].condition == waits).await;
        sleep(LENGTH * 20).await;
        assert_eq!((others.load(Ordering::Relaxed), &second.tasks()[0].condition), (0, &waits));
        assert!(turns.load(Ordering::Relaxed) >= 100);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let pace = Pace::every(Duration::from_secs(60));
        let after = |failures| pace.after(failures).as_secs();
        assert_eq!([after(1), after(2), after(3), after(9), after(10), after(u32::MAX)], [1, 2, 4, 256, 300, 300]);
    }
}
