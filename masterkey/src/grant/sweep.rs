//! Ending grants: the line goes, is seen gone, and then the record goes.

use rand_core::CryptoRng;
use toehold_core::{Account, AuditEvent, AuditSink, Connector, HostSession as _, Identity, Store, StoreError, Stored, Timer};

use super::error::{GrantError, NoPass};
use super::fenced::write;
use super::grants::{Change, Grants, MAX_CONFLICTS, NotChanged, run};
use super::id::GrantId;
use super::record::{GrantRecord, GrantStatus};
use crate::error::describe;

/// A grant whose line was seen gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The record as it stood last.
    pub record: GrantRecord,
    /// Whether it could be put on the audit record.
    pub audited: bool,
}

/// What became of a grant that was to be ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Swept {
    /// Which.
    pub id: GrantId,
    /// The account.
    pub account: Account,
    /// That it was seen gone, or why not.
    pub result: Result<Ended, GrantError>,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink> Grants<S, C, T, A> {
    /// Ends a grant now: its line is taken away and seen gone. Logins that are open stay open; sshd ends none.
    ///
    /// # Errors
    /// [`GrantError`]; the grant then stays on the list, as one that should be gone.
    pub async fn revoke<R: CryptoRng + Send>(
        &self,
        id: GrantId,
        masters: &[&Identity],
        rng: &mut R,
    ) -> Result<Ended, GrantError> {
        let stored = self.find(id).await?.ok_or(GrantError::NotFound(id))?;
        self.end(stored, masters, rng).await
    }

    /// Takes away the lines of grants that have ended or were revoked, of those that are `meant`.
    ///
    /// # Errors
    /// What the store says to listing them; what becomes of each grant is its own result.
    pub async fn sweep<R: CryptoRng + Send>(
        &self,
        masters: &[&Identity],
        rng: &mut R,
        mut meant: impl FnMut(&GrantRecord) -> bool + Send,
    ) -> Result<Vec<Swept>, StoreError> {
        let now = self.timer.now();
        self.end_all(masters, rng, |record| record.is_owed(now) && meant(record)).await
    }

    /// Ends all grants that are `meant`, whether their time has come or not: those of a host that is being given up, say.
    ///
    /// # Errors
    /// As [`Grants::sweep`].
    pub async fn end_all<R: CryptoRng + Send>(
        &self,
        masters: &[&Identity],
        rng: &mut R,
        mut meant: impl FnMut(&GrantRecord) -> bool + Send,
    ) -> Result<Vec<Swept>, StoreError> {
        let mut swept = Vec::new();
        for entry in self.store.list(&GrantRecord::prefix()?).await? {
            let Ok(stored) = Stored::<GrantRecord>::decode(&entry) else { continue };
            if meant(&stored.body) {
                let (id, account) = (stored.body.id, stored.body.account().clone());
                swept.push(Swept { id, account, result: self.end(stored, masters, rng).await });
            }
        }
        Ok(swept)
    }

    /// Takes a grant off the list on the operator's word that its host is gone for good: after its end, and without having
    /// seen anything.
    ///
    /// # Errors
    /// [`GrantError::NotFound`], [`GrantError::TooEarly`] and what the store says.
    pub async fn forget(&self, id: GrantId) -> Result<Ended, GrantError> {
        let stored = self.find(id).await?.ok_or(GrantError::NotFound(id))?;
        let GrantRecord { expires_at, .. } = stored.body;
        if !stored.body.has_ended(self.timer.now()) {
            return Err(GrantError::TooEarly { id, expires_at });
        }
        self.store.delete(&stored.key, stored.revision).await?;
        Ok(self.audit_end(stored.body, "grant.forgotten").await)
    }

    async fn find(&self, id: GrantId) -> Result<Option<Stored<GrantRecord>>, GrantError> {
        Ok(Stored::read(&self.store, &GrantRecord::key(id)?).await?)
    }

    async fn end<R: CryptoRng + Send>(
        &self,
        stored: Stored<GrantRecord>,
        masters: &[&Identity],
        rng: &mut R,
    ) -> Result<Ended, GrantError> {
        let mut stored = self.take_up(stored, rng).await?;
        let mut session = None;
        let result = self.change(&mut stored, &mut session, &Change::Take, masters, rng).await;
        if let Some(session) = session {
            session.close().await;
        }
        match result {
            Ok(_) => {
                self.close(&stored).await?;
                let what = if stored.body.has_ended(self.timer.now()) { "grant.ended" } else { "grant.revoked" };
                Ok(self.audit_end(stored.body, what).await)
            }
            Err(NotChanged { error, .. }) => {
                let reason = describe(&error);
                drop(write(&self.store, &mut stored, |record| record.reason = Some(reason)).await);
                Err(error)
            }
        }
    }

    /// Makes the grant this run's to end. From here on nobody puts its line on the host any more.
    async fn take_up<R: CryptoRng + Send>(
        &self,
        mut stored: Stored<GrantRecord>,
        rng: &mut R,
    ) -> Result<Stored<GrantRecord>, GrantError> {
        let id = stored.body.id;
        for _ in 0..MAX_CONFLICTS {
            let run = run(rng);
            let taken = write(&self.store, &mut stored, |record| {
                record.status = GrantStatus::Ending;
                record.attempt += 1;
                record.run = run;
                record.reason = None;
            });
            match taken.await {
                Ok(()) => return Ok(stored),
                Err(NoPass::Store(error)) => return Err(error.into()),
                Err(_) => stored = self.find(id).await?.ok_or(GrantError::NotFound(id))?,
            }
        }
        Err(GrantError::TakenUp { id })
    }

    /// Takes the record of a grant whose line was seen gone off the list.
    async fn close(&self, stored: &Stored<GrantRecord>) -> Result<(), StoreError> {
        let Err(error) = self.store.delete(&stored.key, stored.revision).await else { return Ok(()) };
        match Stored::<GrantRecord>::read(&self.store, &stored.key).await? {
            Some(latest) if latest.revision == stored.revision => {
                // Nothing was written, for whatever reason.
                self.store.delete(&stored.key, stored.revision).await.map_err(|_| error)
            }
            // Gone, or somebody else is at it, who will see the same.
            _ => Ok(()),
        }
    }

    async fn audit_end(&self, record: GrantRecord, what: &str) -> Ended {
        let event = AuditEvent::new(self.timer.now(), what, record.id.to_string())
            .with("account", record.account().to_string())
            .with("key", record.public_key.fingerprint().to_string());
        let audited = self.audit.record(event).await.is_ok();
        Ended { record, audited }
    }
}
