//! The claim on an account: taking it, passing it on the way to the host, giving it back.

use toehold_core::{
    Account, AuditSink, Connector, HostRecord, KeyRole, MasterKeyRecord, RetiredKey, Route, SessionId, Store, StoreError, Stored,
    Timer,
};

use super::{Onboarder, describe_error};
use crate::claim::{AccountClaim, AddedLine, DeadKey, LeftLine};
use crate::error::SessionError;
use crate::machine::Event;
use crate::operator::Sealer;
use crate::record::{Evidence, SessionRecord};
use crate::registry::list;
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
    /// It can be had, with these lines to answer for.
    Free { adding: Vec<AddedLine> },
    /// Its session is under way, or open and leads to another host.
    Taken,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    /// An account is one host: over another route than that of its record, or of a session that is open, it is another
    /// host, and nothing of it begins. Returns that record, where there is one.
    ///
    /// # Errors
    /// [`SessionError::ManagedElsewhere`] and [`SessionError::OpenElsewhere`]; [`SessionError::AlreadyOpen`] where a session
    /// over this route is under way; or what the store says.
    pub(super) async fn check_account(&self, route: &Route) -> Result<Option<HostRecord>, SessionError> {
        let account = &route.account;
        let asked = || route.way();
        let host = self.host(account).await?;
        if let Some(managed) = host.as_ref().map(|host| &host.route).filter(|managed| !managed.same_way(route)) {
            return Err(SessionError::ManagedElsewhere { account: account.clone(), managed: managed.way(), asked: asked() });
        }
        for open in list(&self.store).await?.into_iter().flatten().filter(|session| session.status.is_open()) {
            if open.route.account == *account && !open.route.same_way(route) {
                let (id, other) = (open.id, open.route.way());
                return Err(SessionError::OpenElsewhere { account: account.clone(), id, other, asked: asked() });
            }
        }
        let key = AccountClaim::key(account).map_err(StoreError::from)?;
        let Some(claim) = Stored::<AccountClaim>::read(&self.store, &key).await? else { return Ok(host) };
        match self.standing(&claim.body, route).await? {
            Standing::Taken => Err(SessionError::AlreadyOpen { account: account.clone(), id: claim.body.session }),
            Standing::Free { .. } => Ok(host),
        }
    }

    /// The route over which the account is managed, if that is another one.
    pub(super) async fn managed_elsewhere(&self, route: &Route) -> Result<Option<Route>, StoreError> {
        Ok(self.host(&route.account).await?.map(|host| host.route).filter(|managed| !managed.same_way(route)))
    }

    /// The account's record, where it is managed.
    pub(super) async fn host(&self, account: &Account) -> Result<Option<HostRecord>, StoreError> {
        let host = Stored::<HostRecord>::read(&self.store, &HostRecord::key(account)?).await?;
        Ok(host.map(|host| host.body))
    }

    /// To somebody who comes over `route`.
    async fn standing(&self, claim: &AccountClaim, route: &Route) -> Result<Standing, StoreError> {
        let session = self.find(claim.session).await?.map(|session| session.body);
        Ok(match session.as_ref().map(|session| session.status) {
            Some(Status::Active | Status::Committing) => Standing::Taken,
            // What it has added is on another host.
            Some(Status::Orphaned) if session.is_some_and(|session| !session.route.same_way(route)) => Standing::Taken,
            Some(Status::Orphaned) | None => Standing::Free { adding: claim.adding.clone() },
            // It has taken away what it added, or the host is managed and the lines stay; what it could not take away is `left`.
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
        let mut ours = AccountClaim::new(session, attempt);
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
                    match self.standing(&stored.body, &record.route).await? {
                        Standing::Taken => return Ok(Some(Event::AccountHeld { by: stored.body.session })),
                        Standing::Free { adding } => ours.adding = adding,
                    }
                }
                let (here, elsewhere) = stored.body.left.drain(..).partition(|left| left.jumps == record.route.jumps);
                ours.left = elsewhere;
                ours.adding.splice(0..0, Vec::into_iter(here).map(|left| left.added));
                stored.body = ours.clone();
                stored.save(&self.store).await.map(|()| stored)
            }
        };
        match written {
            Ok(stored) => {
                *held = Some(stored);
                // Whoever managed it over another route recorded that before giving the claim back.
                if let Some(managed) = self.managed_elsewhere(&record.route).await? {
                    return Ok(Some(Event::AccountElsewhere { managed }));
                }
                let adding = ours.keys();
                let dead = ours.dead.into_iter().filter(|dead| dead.jumps == record.route.jumps).collect();
                Ok(Some(Event::AccountTaken { adding, managed: ours.managed, dead }))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes into the claim that the master key has logged in: the lines that the session wants are no longer to be undone.
    pub(super) async fn settle(&self, record: &SessionRecord, held: &mut Option<Stored<AccountClaim>>) -> Event {
        match self.master_key_is_gone(record).await {
            Ok(false) => {}
            Ok(true) => return Event::MasterKeyGone,
            Err(error) => return Event::StoreFailed(describe_error(&error)),
        }
        let settle = |claim: &mut AccountClaim| {
            claim.managed = true;
            claim.adding.retain(|added| !record.keys.iter().any(|line| line.public_key == added.line.public_key));
        };
        match write(&self.store, held.as_mut(), record.id, settle).await {
            Ok(()) => Event::Settled,
            Err(NoPass::Lost { by }) => Event::AccountLost { by },
            Err(NoPass::Store(error)) => Event::StoreFailed(describe_error(&error)),
        }
    }

    /// Whether the session's master key is one that a rotation has replaced and let go of (R7). As long as the session is on record
    /// and open no rotation does so; this is for one that had ended by then, and whose key the session had read before (R11).
    async fn master_key_is_gone(&self, record: &SessionRecord) -> Result<bool, StoreError> {
        let Some(line) = record.keys.iter().find(|line| line.role == KeyRole::Master) else { return Ok(false) };
        let fingerprint = line.public_key.fingerprint();
        let is_held = self.store.get(&MasterKeyRecord::key(&fingerprint)?).await?.is_some();
        Ok(!is_held && self.store.get(&RetiredKey::key(&fingerprint)?).await?.is_some())
    }

    /// Writes into the claim what a session that closes may leave on the host: its own line, where it lets nobody in any more,
    /// and what it had added. Before the session is closed, so that no crash loses it. Nothing to do for a session that is not
    /// closed, or whose lines were seen gone.
    pub(crate) async fn remember(&self, record: &SessionRecord) -> Result<(), StoreError> {
        let shown = match record.closed.map(|closed| closed.evidence) {
            None | Some(Evidence::SeenGone) => return Ok(()),
            Some(evidence) => evidence != Evidence::NeverShown,
        };
        let key = AccountClaim::key(&record.route.account)?;
        let jumps = &record.route.jumps;
        let dead = DeadKey { session: record.id, public_key: record.temporary_key.clone(), jumps: jumps.clone() };
        let mut tries = 0;
        loop {
            let stored = Stored::<AccountClaim>::read(&self.store, &key).await?;
            let mut claim =
                stored.as_ref().map_or_else(|| AccountClaim::new(record.id, record.attempt), |stored| stored.body.clone());
            if shown && !claim.dead.contains(&dead) {
                claim.dead.push(dead.clone());
            }
            if claim.session == record.id {
                let added = std::mem::take(&mut claim.adding);
                claim.left.extend(added.into_iter().map(|added| LeftLine { added, jumps: jumps.clone() }));
            }
            // Whose claim it is does not matter to what is dead: that one's next write reads it again.
            let written = match stored {
                Some(stored) if stored.body == claim => return Ok(()),
                None if claim.is_empty() => return Ok(()),
                None => Stored::create(&self.store, key.clone(), claim).await.map(|_| ()),
                Some(mut stored) => {
                    stored.body = claim;
                    stored.save(&self.store).await
                }
            };
            tries += 1;
            match written {
                Err(StoreError::Conflict { .. }) if tries < TRIES => {}
                other => return other,
            }
        }
    }

    /// Gives the claim of a session that is closed back. One that stays, to remember what may be left, is taken over by the
    /// next session. `cleared` are the dead keys that this session took away.
    pub(crate) async fn release_account(&self, record: &SessionRecord, cleared: &[DeadKey]) {
        let Ok(key) = AccountClaim::key(&record.route.account) else { return };
        let Ok(Some(mut claim)) = Stored::<AccountClaim>::read(&self.store, &key).await else { return };
        if claim.body.session != record.id {
            return;
        }
        if record.closed.is_some_and(|closed| closed.evidence == Evidence::SeenGone) {
            claim.body.dead.retain(|dead| dead.session != record.id && !cleared.contains(dead));
            claim.body.adding.clear();
        }
        if claim.body.is_empty() {
            drop(self.store.delete(&key, claim.revision).await);
        } else {
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

    /// Writes the claim over, with these lines among those that are being added. Only then may the host's file be replaced.
    pub(crate) async fn pass(&mut self, added: &[AddedLine]) -> Result<(), NoPass> {
        let note = |claim: &mut AccountClaim| {
            for line in added {
                if !claim.adding.contains(line) {
                    claim.adding.push(line.clone());
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
