//! The claim on an account: taking it, passing it on the way to the host, giving it back.

use toehold_core::{Account, AuditSink, Connector, PublicKey, SessionId, Store, StoreError, Stored, Timer};

use super::{Onboarder, describe_error};
use crate::claim::{AccountClaim, DeadKey};
use crate::machine::Event;
use crate::operator::Sealer;
use crate::record::{Evidence, SessionRecord};
use crate::status::Status;

/// How often a write is tried again after conflicts that nobody seems to have caused.
const TRIES: u32 = 16;

/// Why a write that the claim guards may not be made.
#[derive(Debug)]
pub(crate) enum NoPass {
    /// Somebody else has the claim: another session, or this one in another attempt.
    Lost { by: SessionId },
    /// Nobody knows.
    Store(StoreError),
}

/// What the claim on an account means to somebody who would like to have it.
enum Standing {
    /// It can be had, with these keys to answer for.
    Free { adding: Vec<PublicKey> },
    /// Its session is under way.
    UnderWay,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    /// The session that has the claim on the account and is under way.
    pub(super) async fn session_under_way(&self, account: &Account) -> Result<Option<SessionId>, StoreError> {
        let Some(claim) = Stored::<AccountClaim>::read(&self.store, &AccountClaim::key(account)?).await? else {
            return Ok(None);
        };
        Ok(matches!(self.standing(&claim.body).await?, Standing::UnderWay).then_some(claim.body.session))
    }

    async fn standing(&self, claim: &AccountClaim) -> Result<Standing, StoreError> {
        let status = self.find(claim.session).await?.map(|session| session.body.status);
        Ok(match status {
            Some(Status::Active | Status::Committing) => Standing::UnderWay,
            Some(Status::Orphaned) | None => Standing::Free { adding: claim.adding.clone() },
            // It has taken away what it added, or the host is managed and the lines stay.
            Some(Status::Completed | Status::Failed) => Standing::Free { adding: Vec::new() },
        })
    }

    /// Makes the claim this run's. An orphaned session loses it, and with it the say over what it has added.
    pub(super) async fn take_account(&self, record: &SessionRecord, held: &mut Option<Stored<AccountClaim>>) -> Event {
        for _ in 0..TRIES {
            match self.try_to_take(record, held).await {
                Ok(Some(event)) => return event,
                Ok(None) => {}
                Err(error) => return Event::StoreFailed(describe_error(&error)),
            }
        }
        Event::StoreFailed(format!("the claim on {} keeps changing", record.route.account))
    }

    /// `None` where somebody else was faster.
    async fn try_to_take(
        &self,
        record: &SessionRecord,
        held: &mut Option<Stored<AccountClaim>>,
    ) -> Result<Option<Event>, StoreError> {
        let key = AccountClaim::key(&record.route.account)?;
        let (session, attempt) = (record.id, record.attempt);
        let mut ours = AccountClaim { session, attempt, adding: Vec::new(), managed: false, dead: Vec::new() };
        let written = match Stored::<AccountClaim>::read(&self.store, &key).await? {
            None => Stored::create(&self.store, key, ours.clone()).await,
            Some(mut stored) => {
                ours.dead.clone_from(&stored.body.dead);
                if stored.body.session == record.id {
                    if stored.body.attempt > record.attempt {
                        return Ok(Some(Event::AccountHeld { by: record.id }));
                    }
                    ours.adding.clone_from(&stored.body.adding);
                    ours.managed = stored.body.managed;
                } else {
                    match self.standing(&stored.body).await? {
                        Standing::UnderWay => return Ok(Some(Event::AccountHeld { by: stored.body.session })),
                        Standing::Free { adding } => ours.adding = adding,
                    }
                }
                stored.body = ours.clone();
                stored.save(&self.store).await.map(|()| stored)
            }
        };
        match written {
            Ok(stored) => {
                *held = Some(stored);
                Ok(Some(Event::AccountTaken { adding: ours.adding, managed: ours.managed, dead: ours.dead }))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes into the claim that the master key has logged in: the lines that the session wants are no longer to be undone.
    pub(super) async fn settle(&self, record: &SessionRecord, held: &mut Option<Stored<AccountClaim>>) -> Event {
        let settle = |claim: &mut AccountClaim| {
            claim.managed = true;
            claim.adding.retain(|key| !record.keys.iter().any(|line| line.public_key == *key));
        };
        match write(&self.store, held.as_mut(), record.id, settle).await {
            Ok(()) => Event::Settled,
            Err(NoPass::Lost { by }) => Event::AccountLost { by },
            Err(NoPass::Store(error)) => Event::StoreFailed(describe_error(&error)),
        }
    }

    /// Gives the claim of a session that is closed back. One that stays is taken over by the next session.
    pub(crate) async fn release_account(&self, record: &SessionRecord) {
        let Ok(key) = AccountClaim::key(&record.route.account) else { return };
        let Ok(Some(mut claim)) = Stored::<AccountClaim>::read(&self.store, &key).await else { return };
        if claim.body.session != record.id {
            return;
        }
        match record.closed.map(|closed| closed.evidence) {
            Some(Evidence::SeenGone) => claim.body.dead.clear(),
            Some(Evidence::NeverShown) => {}
            _ => claim.body.dead.push(DeadKey { session: record.id, public_key: record.temporary_key.clone() }),
        }
        if claim.body.dead.is_empty() {
            drop(self.store.delete(&key, claim.revision).await);
        } else {
            claim.body.adding.clear();
            drop(claim.save(&self.store).await);
        }
    }
}

/// What stands between the staging of a file on the host and its renaming.
pub(crate) struct Fence<'a, S> {
    store: &'a S,
    claim: Option<&'a mut Stored<AccountClaim>>,
    session: SessionId,
}

impl<'a, S: Store> Fence<'a, S> {
    pub(super) fn new(store: &'a S, claim: Option<&'a mut Stored<AccountClaim>>, session: SessionId) -> Self {
        Self { store, claim, session }
    }

    /// Writes the claim over, with these keys among those that are being added. Only then may the host's file be replaced.
    pub(crate) async fn pass(&mut self, added: &[PublicKey]) -> Result<(), NoPass> {
        let note = |claim: &mut AccountClaim| {
            for key in added {
                if !claim.adding.contains(key) {
                    claim.adding.push(key.clone());
                }
            }
        };
        write(self.store, self.claim.as_deref_mut(), self.session, note).await
    }
}

/// Writes the claim over, if it is still as this run last wrote it.
async fn write<S: Store>(
    store: &S,
    held: Option<&mut Stored<AccountClaim>>,
    session: SessionId,
    change: impl Fn(&mut AccountClaim) + Send,
) -> Result<(), NoPass> {
    let Some(claim) = held else { return Err(NoPass::Lost { by: session }) };
    let mut tries = 0;
    loop {
        let before = (claim.body.clone(), claim.revision);
        change(&mut claim.body);
        let Err(error) = claim.save(store).await else { return Ok(()) };
        let wanted = std::mem::replace(&mut claim.body, before.0);
        // The write may have taken place all the same: what the store holds now decides.
        match Stored::<AccountClaim>::read(store, &claim.key).await {
            Ok(Some(latest)) if latest.body.session == session && latest.body.attempt == wanted.attempt => {
                let landed = latest.revision != before.1 && latest.body == wanted;
                *claim = latest;
                tries += 1;
                if landed {
                    return Ok(());
                }
                if !matches!(error, StoreError::Conflict { .. }) || tries >= TRIES {
                    return Err(NoPass::Store(error));
                }
            }
            Ok(latest) => return Err(NoPass::Lost { by: latest.map_or(session, |latest| latest.body.session) }),
            Err(_) => return Err(NoPass::Store(error)),
        }
    }
}
