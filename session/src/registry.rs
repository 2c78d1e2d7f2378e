//! The list of sessions: looking, cancelling, and seeing to those that nobody is working on.

use std::future::Future;
use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{AuditEvent, AuditSink, Connector, Identity, SessionId, Store, StoreError, Stored, Timer};

use crate::error::SessionError;
use crate::machine::End;
use crate::onboarder::{Onboarder, Outcome};
use crate::operator::{Operator, Sealer};
use crate::record::{Closed, Evidence, SessionRecord};
use crate::status::Status;
use crate::wait::first_of;

/// What became of one session in a run over all of them.
pub type Recovered = (SessionId, Result<Outcome, SessionError>);

/// Every session in the store, closed ones too; a record that cannot be read is an error of its own.
///
/// # Errors
/// As [`Store::list`].
pub async fn list<S: Store>(store: &S) -> Result<Vec<Result<SessionRecord, StoreError>>, SessionError> {
    let listed = Stored::<SessionRecord>::list(store, &SessionRecord::prefix().map_err(StoreError::from)?).await?;
    Ok(listed.into_iter().map(|stored| stored.map(|stored| stored.body)).collect())
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    /// The sessions that somebody still has to see to an end.
    ///
    /// # Errors
    /// As [`Store::list`], or the first record that cannot be read: it might be open.
    pub async fn open_sessions(&self) -> Result<Vec<SessionRecord>, SessionError> {
        let mut open = Vec::new();
        for record in list(&self.store).await? {
            let record = record?;
            if record.status.is_open() {
                open.push(record);
            }
        }
        Ok(open)
    }

    /// Marks a session as cancelled: whoever is working on it undoes it, and so does the next recovery.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Closed`], or what the store says.
    pub async fn mark_cancelled(&self, id: SessionId) -> Result<SessionRecord, SessionError> {
        loop {
            let mut stored = self.read(id).await?;
            if !stored.body.status.is_open() {
                return Err(SessionError::Closed { id, status: stored.body.status });
            }
            if stored.body.cancelled {
                return Ok(stored.body);
            }
            stored.body.cancelled = true;
            match stored.save(&self.store).await {
                Ok(()) => return Ok(stored.body),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Cancels a session that nobody is working on, and undoes it as far as it can be undone now.
    ///
    /// # Errors
    /// As [`Onboarder::mark_cancelled`] and [`Onboarder::recover`].
    pub async fn cancel<R: CryptoRng + Send, O: Operator>(
        &self,
        id: SessionId,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
    ) -> Result<Outcome, SessionError> {
        self.mark_cancelled(id).await?;
        self.recover(id, master, rng, operator).await
    }

    /// Closes a session on the operator's word that its host is gone for good. Only after the temporary key has ended.
    ///
    /// # Errors
    /// [`SessionError::TooEarly`] before that; [`SessionError::NotFound`], [`SessionError::Closed`], or what the store says.
    pub async fn forget(&self, id: SessionId) -> Result<SessionRecord, SessionError> {
        loop {
            let mut stored = self.read(id).await?;
            let now = self.timer.now();
            if !stored.body.status.is_open() {
                return Err(SessionError::Closed { id, status: stored.body.status });
            }
            if !stored.body.is_expired(now) {
                return Err(SessionError::TooEarly { id, expires_at: stored.body.expires_at });
            }
            stored.body.status = Status::Failed;
            stored.body.closed = Some(Closed { at: now, evidence: Evidence::OperatorsWord });
            stored.body.sealed_temporary_key = None;
            stored.body.sealed_proof_secret = None;
            self.remember(&stored.body).await?;
            match stored.save(&self.store).await {
                Ok(()) => {
                    self.release_account(&stored.body, &[]).await;
                    let event = AuditEvent::new(now, "session.forgotten", id.to_string())
                        .with("account", stored.body.route.account.to_string());
                    self.audit.record(event).await?;
                    return Ok(stored.body);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes up every open session for which `is_abandoned` says that nobody is working on it.
    ///
    /// # Errors
    /// What the store says to listing them; what becomes of each session is its own result, also that its record cannot be
    /// read.
    pub async fn recover_all<R: CryptoRng + Send, O: Operator>(
        &self,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
        mut is_abandoned: impl FnMut(&SessionRecord) -> bool + Send,
    ) -> Result<Vec<Recovered>, SessionError> {
        self.take_up_all(master, rng, operator, false, &mut is_abandoned).await
    }

    /// Cancels every open session that nobody is working on.
    ///
    /// # Errors
    /// As [`Onboarder::recover_all`].
    pub async fn cancel_all<R: CryptoRng + Send, O: Operator>(
        &self,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
        mut is_abandoned: impl FnMut(&SessionRecord) -> bool + Send,
    ) -> Result<Vec<Recovered>, SessionError> {
        self.take_up_all(master, rng, operator, true, &mut is_abandoned).await
    }

    async fn take_up_all<R: CryptoRng + Send, O: Operator>(
        &self,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
        cancel: bool,
        is_abandoned: &mut (impl FnMut(&SessionRecord) -> bool + Send),
    ) -> Result<Vec<Recovered>, SessionError> {
        let mut results = Vec::new();
        for entry in self.store.list(&SessionRecord::prefix().map_err(StoreError::from)?).await? {
            if operator.is_leaving() {
                break;
            }
            match Stored::<SessionRecord>::decode(&entry) {
                Ok(stored) if !stored.body.status.is_open() || !is_abandoned(&stored.body) => {}
                Ok(stored) => {
                    let id = stored.body.id;
                    let result = if cancel {
                        self.cancel(id, master, rng, operator).await
                    } else {
                        self.recover(id, master, rng, operator).await
                    };
                    results.push((id, result));
                }
                // It might be open, and must not keep the others from being seen to.
                Err(error) => {
                    if let Ok(id) = entry.key.name().parse() {
                        results.push((id, Err(error.into())));
                    }
                }
            }
        }
        Ok(results)
    }

    /// Takes up the open sessions whose temporary key has ended and that nobody is working on.
    ///
    /// # Errors
    /// As [`Onboarder::recover_all`].
    pub async fn clean_up_expired<R: CryptoRng + Send, O: Operator>(
        &self,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
        mut is_abandoned: impl FnMut(&SessionRecord) -> bool + Send,
    ) -> Result<Vec<Recovered>, SessionError> {
        let now = self.timer.now();
        self.recover_all(master, rng, operator, |record| record.is_expired(now) && is_abandoned(record)).await
    }

    /// The reaper: cleans up expired and orphaned sessions every `interval` until `stop` ends. A round that fails is
    /// reported and the next one comes all the same.
    #[expect(clippy::too_many_arguments, reason = "a loop with nothing to keep between its rounds")]
    pub async fn reap<R: CryptoRng + Send, O: Operator>(
        &self,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
        interval: Duration,
        is_abandoned: impl Fn(&SessionRecord) -> bool + Send + Sync,
        stop: impl Future<Output = ()> + Send,
        mut report: impl FnMut(Result<Vec<Recovered>, SessionError>) + Send,
    ) {
        let mut stop = Box::pin(stop);
        let mut stopped = false;
        while !stopped {
            let now = self.timer.now();
            let due =
                |record: &SessionRecord| (record.status == Status::Orphaned || record.is_expired(now)) && is_abandoned(record);
            report(self.recover_all(master, rng, operator, due).await);
            let wake = self.timer.now().saturating_add(interval);
            first_of(self.timer.sleep_until(wake), async {
                stop.as_mut().await;
                stopped = true;
            })
            .await;
        }
    }
}

/// Whether a run ended with nothing owed.
pub fn is_settled(result: &Result<Outcome, SessionError>) -> bool {
    match result {
        Ok(outcome) => matches!(outcome.end, End::Completed | End::Failed),
        Err(SessionError::Closed { .. }) => true,
        Err(_) => false,
    }
}
