//! The loop: wait until a renewal is due, take it, renew, note it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{Fingerprint, Store, StoreError, Stored, Timer, Timestamp};

use super::schedule::{Next, RenewalClaim, RenewalSchedule};
use super::terminate::Termination;
use super::{Renew, RenewalState};
use crate::error::describe;

/// How long the schedule is not looked at again at the most: somebody may have changed it.
const LOOK: Duration = Duration::from_hours(1);
/// How often a write is tried anew after somebody else's.
const TRIES: u32 = 16;

/// The times of a [`PeriodicalRenewal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made with a struct expression from the default")]
pub struct RenewalPace {
    /// Time between two renewals (default: 30 days).
    pub interval: Duration,
    /// By how much of that, at the most, each one comes earlier at random, so that many fleets do not renew at once; never
    /// later, for an interval is a promise (default: 1 hour; held below the interval).
    pub jitter: Duration,
    /// How long a process that has taken a renewal and says nothing more is taken for alive (default: 10 minutes).
    pub lease: Duration,
    /// How long after its first failure a renewal is tried again; each further failure doubles it (default: 1 minute).
    pub retry: Duration,
    /// What that grows to at the most (default: 6 hours).
    pub longest_retry: Duration,
}

impl Default for RenewalPace {
    fn default() -> Self {
        Self {
            interval: Duration::from_hours(30 * 24),
            jitter: Duration::from_hours(1),
            lease: Duration::from_mins(10),
            retry: Duration::from_mins(1),
            longest_retry: Duration::from_hours(6),
        }
    }
}

/// Something that happened, for a log or a display.
#[derive(Debug)]
#[non_exhaustive]
pub enum RenewalEvent {
    /// Nothing is to be done before then.
    Waiting {
        /// When the next renewal is due.
        until: Timestamp,
    },
    /// Another process is at it.
    Elsewhere,
    /// A renewal begins.
    Begun,
    /// It took place; also where it was another process that had not lived to note it.
    Renewed {
        /// The key that is current now.
        key: Fingerprint,
        /// When the next one is due.
        due_at: Timestamp,
    },
    /// It failed, and is tried again.
    Failed {
        /// Why, in words.
        reason: String,
        /// When.
        retry_at: Timestamp,
    },
    /// The schedule could not be read or written; that is tried again.
    StoreFailed(StoreError),
}

/// Renews periodically, until it is terminated; see the [module](super).
#[derive(Debug)]
pub struct PeriodicalRenewal<S, T> {
    store: S,
    timer: T,
    name: String,
    pace: RenewalPace,
    termination: Termination,
}

/// What one round came to.
enum Round {
    /// The next one is at this time.
    Sleep(Timestamp),
    /// The next one is at once.
    Again,
}

impl<S: Store, T: Timer> PeriodicalRenewal<S, T> {
    /// Renewals by the schedule `renewal/<name>` in `store`. Nothing happens before [`run`](PeriodicalRenewal::run).
    pub fn new(store: S, timer: T, name: impl Into<String>, pace: RenewalPace) -> Self {
        Self { store, timer, name: name.into(), pace, termination: Termination::new() }
    }

    /// What ends it.
    pub fn termination(&self) -> Termination {
        self.termination.clone()
    }

    /// Ends it gracefully: as [`Termination::terminate`].
    pub fn terminate(&self) {
        self.termination.terminate();
    }

    /// Renews until it is terminated. The first renewal ever is due one interval from now.
    ///
    /// Dropping the future ends it at once; a renewal that is under way is then finished by whoever comes next.
    pub async fn run<W: Renew, R: CryptoRng + Send>(
        &self,
        renewal: &mut W,
        rng: &mut R,
        mut report: impl FnMut(RenewalEvent) + Send,
    ) {
        let run = format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64());
        let mut told = None;
        while !self.termination.is_terminated() {
            let wake = match self.round(&run, renewal, rng, &mut report, &mut told).await {
                Ok(Round::Again) => continue,
                Ok(Round::Sleep(until)) => until,
                Err(error) => {
                    report(RenewalEvent::StoreFailed(error));
                    self.timer.now().saturating_add(self.pace.retry.max(Duration::from_secs(1)))
                }
            };
            let look = self.timer.now().saturating_add(LOOK);
            let mut sleep = pin!(self.timer.sleep_until(wake.min(look)));
            either(sleep.as_mut(), pin!(self.termination.terminated())).await;
        }
    }

    async fn round<W: Renew, R: CryptoRng + Send>(
        &self,
        run: &str,
        renewal: &mut W,
        rng: &mut R,
        report: &mut (impl FnMut(RenewalEvent) + Send),
        told: &mut Option<Timestamp>,
    ) -> Result<Round, StoreError> {
        let Some(mut stored) = self.schedule(rng).await? else { return Ok(Round::Again) };
        let now = self.timer.now();
        match stored.body.next(now, run) {
            Next::Wait(until) => {
                if told.replace(until) != Some(until) {
                    report(RenewalEvent::Waiting { until });
                }
                return Ok(Round::Sleep(until));
            }
            Next::Elsewhere(until) => {
                report(RenewalEvent::Elsewhere);
                return Ok(Round::Sleep(until));
            }
            Next::Renew => {}
        }
        let state = match renewal.state().await {
            Ok(state) => state,
            Err(error) => return self.failed(stored, run, &error, report).await,
        };
        let RenewalState { current, open } = state;
        if !open && stored.body.from.is_some_and(|from| from != current) {
            return self.renewed(stored, current, rng, report).await;
        }
        let until = now.saturating_add(self.pace.lease);
        stored.body.claim = Some(RenewalClaim { run: run.to_owned(), until });
        stored.body.from.get_or_insert(current);
        match stored.save(&self.store).await {
            Ok(()) => {}
            // Somebody else was faster, or the write took place and nobody heard: what is there now tells.
            Err(StoreError::Conflict { .. }) => return Ok(Round::Again),
            Err(error) => return Err(error),
        }
        report(RenewalEvent::Begun);
        let result = self.renew(&mut stored, run, renewal).await;
        // Whatever the claim has become meanwhile, what the renewal came to is noted.
        match result {
            Ok(key) => self.renewed(stored, key, rng, report).await,
            Err(error) => self.failed(stored, run, &error, report).await,
        }
    }

    /// The schedule, made where there is none and brought to the interval that is wanted; `None` where somebody else was
    /// faster.
    async fn schedule<R: CryptoRng>(&self, rng: &mut R) -> Result<Option<Stored<RenewalSchedule>>, StoreError> {
        let key = RenewalSchedule::key(&self.name)?;
        let written = match Stored::<RenewalSchedule>::read(&self.store, &key).await? {
            None => {
                let first = RenewalSchedule::first(self.pace.interval, self.due(rng));
                Stored::create(&self.store, key, first).await
            }
            Some(stored) if stored.body.interval == self.pace.interval.as_secs() => return Ok(Some(stored)),
            Some(mut stored) => {
                // A shorter interval counts at once, a longer one from the next renewal on.
                stored.body.interval = self.pace.interval.as_secs();
                stored.body.due_at = stored.body.due_at.min(self.due(rng));
                stored.save(&self.store).await.map(|()| stored)
            }
        };
        match written {
            Ok(stored) => Ok(Some(stored)),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews, and says meanwhile that somebody is at it.
    async fn renew<W: Renew>(
        &self,
        stored: &mut Stored<RenewalSchedule>,
        run: &str,
        renewal: &mut W,
    ) -> Result<Fingerprint, W::Error> {
        let mut renewing = pin!(renewal.renew());
        loop {
            let beat = self.timer.now().saturating_add((self.pace.lease / 3).max(Duration::from_secs(1)));
            if let Some(result) = either(renewing.as_mut(), pin!(self.timer.sleep_until(beat))).await {
                return result;
            }
            let beat = async {
                if let Some(claim) = stored.body.claim.as_mut().filter(|claim| claim.run == run) {
                    claim.until = self.timer.now().saturating_add(self.pace.lease);
                    // A claim only saves work: one that cannot be extended costs some.
                    drop(stored.save(&self.store).await);
                }
            };
            // The renewal does not stand still while the store is written, or for as long as it does not answer.
            let mut beat = pin!(beat);
            let done = poll_fn(|context| match renewing.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => beat.as_mut().poll(context).map(|()| None),
            });
            if let Some(result) = done.await {
                return result;
            }
        }
    }

    async fn renewed<R: CryptoRng>(
        &self,
        stored: Stored<RenewalSchedule>,
        key: Fingerprint,
        rng: &mut R,
        report: &mut impl FnMut(RenewalEvent),
    ) -> Result<Round, StoreError> {
        let (now, due_at) = (self.timer.now(), self.due(rng));
        if self.note(stored, |schedule| schedule.renewed(now, key, due_at)).await? {
            report(RenewalEvent::Renewed { key, due_at });
        }
        Ok(Round::Again)
    }

    async fn failed(
        &self,
        stored: Stored<RenewalSchedule>,
        run: &str,
        error: &(dyn std::error::Error + Send + Sync + 'static),
        report: &mut impl FnMut(RenewalEvent),
    ) -> Result<Round, StoreError> {
        let reason = describe(error);
        let doubled = self.pace.retry.saturating_mul(1_u32.checked_shl(stored.body.failures).unwrap_or(u32::MAX));
        let wait = doubled.clamp(Duration::from_secs(1), self.pace.longest_retry.max(Duration::from_secs(1)));
        let retry_at = self.timer.now().saturating_add(wait);
        report(RenewalEvent::Failed { reason: reason.clone(), retry_at });
        self.note(stored, |schedule| schedule.failed(run, reason.clone(), retry_at)).await?;
        Ok(Round::Again)
    }

    /// Writes what came of the renewal that was due, unless somebody else has by now; whether it was written.
    async fn note(&self, mut stored: Stored<RenewalSchedule>, change: impl Fn(&mut RenewalSchedule)) -> Result<bool, StoreError> {
        let due_at = stored.body.due_at;
        for _ in 0..TRIES {
            change(&mut stored.body);
            let Err(error) = stored.save(&self.store).await else { return Ok(true) };
            match Stored::<RenewalSchedule>::read(&self.store, &stored.key).await? {
                Some(latest) if latest.body == stored.body => return Ok(true),
                Some(latest) if latest.body.due_at == due_at && matches!(error, StoreError::Conflict { .. }) => stored = latest,
                Some(latest) if latest.body.due_at == due_at => return Err(error),
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    /// An interval from now, and a little less.
    fn due<R: CryptoRng>(&self, rng: &mut R) -> Timestamp {
        let jitter = self.pace.jitter.min(self.pace.interval / 2).as_secs();
        let earlier = jitter.checked_add(1).map_or(0, |span| rng.next_u64() % span);
        let wait = self.pace.interval.saturating_sub(Duration::from_secs(earlier)).max(Duration::from_secs(1));
        self.timer.now().saturating_add(wait)
    }
}

/// What the first future came to, or `None` where the second was faster.
async fn either<A: Future, B: Future>(mut first: Pin<&mut A>, mut second: Pin<&mut B>) -> Option<A::Output> {
    poll_fn(|context| match first.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => second.as_mut().poll(context).map(|_| None),
    })
    .await
}
