//! What one host's journal is told, and what stops a writer that was taken over.

use toehold_core::{Account, Clock, HostPhase, HostProgress, PublicKey, Store, StoreError, Stored};

use crate::change::Change;
use crate::error::describe;
use crate::host::ARRIVING;
use crate::host_files::{Fence, NoPass};

/// How many conflicts that nobody seems to have caused are taken from a store before it counts as failed.
pub(super) const MAX_CONFLICTS: u32 = 16;

/// The journal of one host as this run knows it.
#[derive(Clone, Debug)]
pub(super) struct HostJournal {
    number: u64,
    account: Account,
    fence: u64,
    toward: PublicKey,
    stored: Option<Stored<HostProgress>>,
    /// Whether `stored` is what the store holds as far as this run knows; else it is read before anything is written.
    known: bool,
    /// Whether nobody heals the host under an earlier rotation any more.
    taken_from_healers: bool,
    /// Which other account was found to have the same file; `None` where this run has not said.
    #[expect(clippy::option_option, reason = "not said is not the same as none")]
    same_file_as: Option<Option<Account>>,
}

impl HostJournal {
    /// The journal of a host in a rotation that this run has begun itself: there is nothing to be read.
    pub(super) fn new(number: u64, account: Account, fence: u64, toward: PublicKey, known: bool) -> Self {
        Self { number, account, fence, toward, stored: None, known, taken_from_healers: false, same_file_as: None }
    }

    /// The journal of a host that is healed outside of a rotation: whoever claims it last has it.
    pub(super) fn healing(number: u64, account: Account, toward: PublicKey) -> Self {
        Self { number, account, fence: 0, toward, stored: None, known: false, taken_from_healers: true, same_file_as: None }
    }

    /// Which turn of the shared job this is.
    pub(super) fn fence(&self) -> u64 {
        self.fence
    }

    pub(super) fn head_for(&mut self, toward: &PublicKey) {
        self.toward = toward.clone();
    }

    /// How far the host had come when this was last read or written.
    pub(super) fn phase(&self) -> HostPhase {
        self.stored.as_ref().map_or(HostPhase::Untouched, |stored| stored.body.phase)
    }

    /// Makes the host this run's, before anybody logs in to it: whoever had it before cannot pass the fence any more. With
    /// `begin`, it also says that somebody will.
    pub(super) async fn claim<S: Store, T: Clock>(&mut self, store: &S, clock: &T, begin: bool) -> Result<(), NoPass> {
        if !self.known {
            let key = HostProgress::key(self.number, &self.account).map_err(|error| NoPass::Store(error.to_string()))?;
            self.stored = Stored::<HostProgress>::read(store, &key).await.map_err(|error| NoPass::Store(describe(&error)))?;
            if self.fence == 0 {
                self.fence = self.stored.as_ref().map_or(0, |stored| stored.body.fence).saturating_add(1);
            }
        }
        let begins = begin && self.phase() == HostPhase::Untouched;
        if !self.known || begins {
            self.write(store, clock, |progress| {
                if begins {
                    progress.phase = HostPhase::Begun;
                }
            })
            .await?;
        }
        self.known = true;
        Ok(())
    }

    /// Notes how far the host has come.
    pub(super) async fn note<S: Store, T: Clock>(
        &mut self,
        store: &S,
        clock: &T,
        phase: HostPhase,
        reason: Option<&str>,
    ) -> Result<(), NoPass> {
        self.write(store, clock, |progress| {
            progress.phase = phase;
            progress.reason = reason.map(str::to_owned);
            if phase != HostPhase::Quarantined {
                progress.about_to = None;
            }
        })
        .await
    }

    /// Takes the host from whoever heals it under the rotation before this one, by a write that makes theirs fail: they may have
    /// begun before this one had, and be anywhere by now. Done once.
    pub(super) async fn take_from_healers<S: Store, T: Clock>(&mut self, store: &S, clock: &T) -> Result<(), NoPass> {
        let (Some(earlier), false) = (self.number.checked_sub(1), self.taken_from_healers) else { return Ok(()) };
        let failed = |error: &StoreError| NoPass::Store(describe(error));
        let key = HostProgress::key(earlier, &self.account).map_err(|error| NoPass::Store(error.to_string()))?;
        let mut error = None;
        for _ in 0..MAX_CONFLICTS {
            let stored = Stored::<HostProgress>::read(store, &key).await.map_err(|error| failed(&error))?;
            if stored.as_ref().is_some_and(|stored| stored.body.taken_by.is_some()) {
                self.taken_from_healers = true;
                return Ok(());
            }
            // What is not known to be written, and was not, has failed.
            if let Some(error) = error {
                return Err(failed(&error));
            }
            let mut body = stored.as_ref().map_or_else(|| self.blank(clock), |stored| stored.body.clone());
            (body.taken_by, body.at) = (Some(self.number), clock.now());
            let written = match stored {
                None => Stored::create(store, key.clone(), body).await.map(|_| ()),
                Some(mut stored) => {
                    stored.body = body;
                    stored.save(store).await
                }
            };
            error = match written {
                Ok(()) | Err(StoreError::Conflict { .. }) => None,
                Err(error) => Some(error),
            };
        }
        Err(NoPass::Store(format!("{key} keeps changing")))
    }

    /// Whether nobody who heals the host under the rotation before this one can pass a fence any more.
    pub(super) fn is_taken_from_healers(&self) -> bool {
        self.taken_from_healers
    }

    /// Which other account has the same file, as far as was found out; it is written with whatever is written next.
    pub(super) fn same_file_as(&mut self, account: Option<Account>) {
        self.same_file_as = Some(account);
    }

    /// Whether the store does not know yet which other account has the same file.
    pub(super) fn owes_same_file(&self) -> bool {
        let known = self.stored.as_ref().and_then(|stored| stored.body.same_file_as.as_ref());
        self.same_file_as.as_ref().is_some_and(|found| found.as_ref() != known)
    }

    /// Whether the last thing that is known to have been about to happen there made the arriving key's line permanent, or took it away
    /// again, and nobody has said since that the key logged in.
    pub(super) fn may_have_probed(&self) -> bool {
        let names = [Change::Promote, Change::Delete(ARRIVING)].map(Change::name);
        let promoting = |progress: &HostProgress| progress.about_to.as_deref().is_some_and(|about| names.contains(&about));
        let proven = |phase| matches!(phase, HostPhase::Proven | HostPhase::Softened | HostPhase::Settled);
        self.stored
            .as_ref()
            .is_some_and(|stored| promoting(&stored.body) && !proven(stored.body.phase) && stored.body.toward == self.toward)
    }

    /// Writes the journal over what this run last knew of it. What the store holds decides where it is in doubt.
    async fn write<S: Store, T: Clock>(
        &mut self,
        store: &S,
        clock: &T,
        change: impl Fn(&mut HostProgress) + Send,
    ) -> Result<(), NoPass> {
        let failed = |error: &StoreError| NoPass::Store(describe(error));
        let key = HostProgress::key(self.number, &self.account).map_err(|error| NoPass::Store(error.to_string()))?;
        for _ in 0..MAX_CONFLICTS {
            let mut body = self.stored.as_ref().map_or_else(|| self.blank(clock), |stored| stored.body.clone());
            if is_anothers(&body, self.fence) {
                return Err(NoPass::Fenced);
            }
            (body.fence, body.at) = (self.fence, clock.now());
            if body.toward != self.toward {
                // What was about to happen was about the other key.
                body.about_to = None;
                body.toward.clone_from(&self.toward);
            }
            if let Some(found) = &self.same_file_as {
                body.same_file_as.clone_from(found);
            }
            change(&mut body);
            let written = match &self.stored {
                None => Stored::create(store, key.clone(), body.clone()).await,
                Some(known) => {
                    let mut next = known.clone();
                    next.body = body.clone();
                    next.save(store).await.map(|()| next)
                }
            };
            let error = match written {
                Ok(stored) => {
                    self.stored = Some(stored);
                    return Ok(());
                }
                Err(error) => error,
            };
            let latest = Stored::<HostProgress>::read(store, &key).await.map_err(|error| failed(&error))?;
            let before = self.stored.as_ref().map(|stored| stored.revision);
            match latest {
                Some(latest) if is_anothers(&latest.body, self.fence) => return Err(NoPass::Fenced),
                // The write has taken place all the same.
                Some(latest) if latest.body == body && Some(latest.revision) != before => {
                    self.stored = Some(latest);
                    return Ok(());
                }
                latest => self.stored = latest,
            }
            if !matches!(error, StoreError::Conflict { .. }) {
                return Err(failed(&error));
            }
        }
        Err(NoPass::Store(format!("{key} keeps changing")))
    }

    fn blank<T: Clock>(&self, clock: &T) -> HostProgress {
        HostProgress {
            fence: self.fence,
            phase: HostPhase::Untouched,
            toward: self.toward.clone(),
            about_to: None,
            reason: None,
            taken_by: None,
            same_file_as: None,
            at: clock.now(),
        }
    }
}

/// Whether this was written by a later leader, or taken by a later rotation.
fn is_anothers(progress: &HostProgress, fence: u64) -> bool {
    progress.fence > fence || progress.taken_by.is_some()
}

/// The journal on the way to a host: what [`Fence::pass`] writes.
pub(super) struct Passing<'a, S, T> {
    pub(super) journal: &'a mut HostJournal,
    pub(super) store: &'a S,
    pub(super) clock: &'a T,
    pub(super) told: &'a (dyn Fn(Change) + Send + Sync),
}

impl<S: Store, T: Clock> Fence for Passing<'_, S, T> {
    async fn pass(&mut self, change: Change) -> Result<(), NoPass> {
        (self.told)(change);
        self.journal
            .write(self.store, self.clock, |progress| {
                progress.about_to = Some(change.name().to_owned());
                if !matches!(progress.phase, HostPhase::Proven | HostPhase::Softened) {
                    progress.phase = HostPhase::Touched;
                }
            })
            .await
    }
}
