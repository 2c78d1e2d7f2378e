//! Giving a grant, and the change to the host's file that both giving and ending it are.

use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{
    Account, AuditEvent, AuditSink, ConnectError, Connector, HostKeyPolicy, HostRecord, HostSession as _, Identity, KeyRole,
    KnownHost, Login, MasterKeyRecord, PublicKey, RetiredKey, Route, Store, StoreError, Stored, Timer, Timestamp,
};
use toehold_keygen::replacement::{Plan, replace_fenced};
use toehold_keygen::{HostExpiry, Line, Options};

use super::edit::{self, Own};
use super::error::{GrantError, is_busy, is_lost};
use super::fenced::{Fenced, FencedError, Leave, write};
use super::id::GrantId;
use super::record::{GrantRecord, GrantStatus};
use super::request::GrantRequest;

/// How often a change is tried on a host that is busy or whose connection is lost.
const TRIES: u32 = 6;
/// How long somebody else's work on the account is waited for before the next try.
const PAUSE: Duration = Duration::from_secs(2);
/// How often somebody else's faster write is followed before that counts as a failure of the store.
pub(super) const MAX_CONFLICTS: u32 = 16;

/// Gives grants and ends them, over a store, a connector, a timer and an audit log.
///
/// All of them may be shared with other users, also on other machines: every write says what it replaces. `masters` are the
/// keys that may open the host, the current master key first; while a rotation is open that of its other end comes second.
/// Futures can be dropped at any time: what was begun is on the list.
#[derive(Debug)]
pub struct Grants<S, C, T, A> {
    /// Where records are kept.
    pub store: S,
    /// Makes the connections, within its own time limits.
    pub connector: C,
    /// Tells the time and waits.
    pub timer: T,
    /// Takes what an auditor will ask about.
    pub audit: A,
}

/// A grant that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Granted {
    /// The record as it stands now.
    pub record: GrantRecord,
    /// How many other lines of the file hold the key. sshd takes the first that admits a login, with the options that stand
    /// there, and those lines stay when the grant has ended.
    pub other_lines: usize,
    /// Whether the host says that it takes the key now, asked from here (RFC 4252 §7); `None` where it could not be asked.
    pub accepted: Option<bool>,
    /// Whether it could be put on the audit record.
    pub audited: bool,
}

/// What is done to the host's file.
pub(super) enum Change<'a> {
    Put(&'a Line),
    Take,
}

/// A change that was made and read back.
pub(super) struct Changed {
    pub(super) other_lines: usize,
    pub(super) clock_error: i64,
}

/// A change that was not made, as far as is known.
pub(super) struct NotChanged {
    pub(super) error: GrantError,
    /// Whether it may have been made all the same.
    pub(super) in_doubt: bool,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink> Grants<S, C, T, A> {
    /// Lets a key into an account until now plus the request's lifetime, which is fixed here as an absolute instant.
    ///
    /// # Errors
    /// [`GrantError`]. After [`GrantError::InDoubt`] the grant is on the list and may be live; else nothing of it is on the
    /// host.
    pub async fn grant<R: CryptoRng + Send>(
        &self,
        request: &GrantRequest,
        masters: &[&Identity],
        rng: &mut R,
    ) -> Result<Granted, GrantError> {
        request.check()?;
        let account = &request.account;
        let host = self.host(account).await?;
        self.refuse_master_keys(&request.public_key, &host, masters).await?;

        let mut session = self.log_in(&host.route, masters).await?;
        let software = session.software().map(str::to_owned);
        let expiry = if host.without_expiry {
            Err("it was brought in as a host without expiry".to_owned())
        } else {
            match HostExpiry::find(software.as_deref(), session.files()).await {
                Ok(expiry) => expiry.why_not().map(str::to_owned).map_or(Ok(expiry), Err),
                Err(source) => return Err(GrantError::Zone { account: account.clone(), source: Box::new(source) }),
            }
        };
        let now = self.timer.now();
        let expires_at = now.saturating_add(request.lifetime);
        let end = expiry.and_then(|expiry| expiry.at(expires_at).ok_or_else(|| "its time zone is unclear".to_owned()));
        let mut options = request.options.clone();
        match &end {
            Ok(end) => options.set_expiry_time(Some(end)),
            Err(_) if request.even_without_expiry => {}
            Err(why) => {
                session.close().await;
                return Err(GrantError::NoExpiry { account: account.clone(), why: why.clone() });
            }
        }

        let record = GrantRecord {
            id: GrantId::generate(rng),
            route: host.route.clone(),
            home: host.home.clone(),
            public_key: request.public_key.clone(),
            options: request.options.to_string(),
            comment: request.comment.clone(),
            created_at: now,
            expires_at,
            without_expiry: end.is_err(),
            status: GrantStatus::Granting,
            attempt: 1,
            run: run(rng),
            clock_error: None,
            reason: None,
        };
        let line = line_of(&record, options);
        let mut stored = self.create(record).await?;
        let mut session = Some(session);
        let result = self.change(&mut stored, &mut session, &Change::Put(&line), masters, rng).await;
        if let Some(session) = session {
            session.close().await;
        }
        match result {
            Ok(changed) => self.given(stored, &changed).await,
            Err(NotChanged { error: error @ GrantError::TakenUp { .. }, .. }) => Err(error),
            Err(NotChanged { error, in_doubt: true }) => {
                let GrantRecord { id, expires_at, .. } = stored.body;
                Err(GrantError::InDoubt { id, account: account.clone(), expires_at, source: Box::new(error) })
            }
            Err(NotChanged { error, in_doubt: false }) => {
                // Nothing is on the host. A record that cannot be deleted now goes when the grant is swept.
                drop(self.store.delete(&stored.key, stored.revision).await);
                Err(error)
            }
        }
    }

    /// All grants on the list, each with its own success, in no order that means anything.
    ///
    /// # Errors
    /// What the store says to listing them.
    pub async fn list(&self) -> Result<Vec<Result<GrantRecord, StoreError>>, StoreError> {
        let listed = Stored::<GrantRecord>::list(&self.store, &GrantRecord::prefix()?).await?;
        Ok(listed.into_iter().map(|stored| stored.map(|stored| stored.body)).collect())
    }

    async fn host(&self, account: &Account) -> Result<HostRecord, GrantError> {
        let stored = Stored::<HostRecord>::read(&self.store, &HostRecord::key(account)?).await?;
        let managed = stored.map(|stored| stored.body).filter(|host| !host.removing);
        managed.ok_or_else(|| GrantError::NotManaged { account: account.clone() })
    }

    async fn refuse_master_keys(&self, key: &PublicKey, host: &HostRecord, masters: &[&Identity]) -> Result<(), GrantError> {
        let fingerprint = key.fingerprint();
        let on_the_host = host.keys.iter().any(|line| line.role == KeyRole::Master && line.public_key == *key);
        let mut is_master = on_the_host || masters.iter().any(|identity| identity.public_key() == key);
        for key in [MasterKeyRecord::key(&fingerprint)?, RetiredKey::key(&fingerprint)?] {
            is_master |= self.store.get(&key).await?.is_some();
        }
        if is_master { Err(GrantError::MasterKey { fingerprint }) } else { Ok(()) }
    }

    async fn create(&self, record: GrantRecord) -> Result<Stored<GrantRecord>, GrantError> {
        let key = GrantRecord::key(record.id)?;
        match Stored::create(&self.store, key.clone(), record.clone()).await {
            Ok(stored) => Ok(stored),
            // It may have been written all the same.
            Err(error) => match Stored::<GrantRecord>::read(&self.store, &key).await {
                Ok(Some(stored)) if stored.body == record => Ok(stored),
                _ => Err(error.into()),
            },
        }
    }

    async fn given(&self, mut stored: Stored<GrantRecord>, changed: &Changed) -> Result<Granted, GrantError> {
        let confirmed = write(&self.store, &mut stored, |record| {
            record.status = GrantStatus::Live;
            record.clock_error = Some(changed.clock_error);
        });
        // A store that fails here has the record all the same, which only does not say that the line was read back.
        if let Err(super::error::NoPass::TakenUp) = confirmed.await {
            return Err(GrantError::TakenUp { id: stored.body.id });
        }
        let record = stored.body;
        let event = AuditEvent::new(self.timer.now(), "grant.given", record.id.to_string())
            .with("account", record.account().to_string())
            .with("key", record.public_key.fingerprint().to_string())
            .with("expires_at", record.expires_at.to_string());
        let audited = self.audit.record(event).await.is_ok();
        let accepted = match self.host_key(&record.route).await {
            Ok(policy) => self.connector.would_accept(&record.route, &record.public_key, &policy).await.ok(),
            Err(_) => None,
        };
        let accepted = accepted.map(|answer| answer.accepted);
        Ok(Granted { record, other_lines: changed.other_lines, accepted, audited })
    }

    async fn host_key(&self, route: &Route) -> Result<HostKeyPolicy, GrantError> {
        let known = Stored::<KnownHost>::read(&self.store, &KnownHost::key(route)?).await?;
        let known = known.ok_or_else(|| GrantError::NoHostKey { account: route.account.clone() })?;
        Ok(HostKeyPolicy::Exactly(known.body.host_key))
    }

    /// Logs in with the first of our keys that the host takes.
    pub(super) async fn log_in(&self, route: &Route, masters: &[&Identity]) -> Result<C::Session, GrantError> {
        let account = &route.account;
        let failed = |error| GrantError::Connect { account: account.clone(), source: Box::new(error) };
        let host_key = &self.host_key(route).await?;
        let mut refused = None;
        for identity in masters {
            match self.connector.log_in(&Login { route, identity, host_key, query: None }).await {
                Ok(session) => return Ok(session),
                Err(error @ ConnectError::KeyRefused { .. }) => refused = refused.or(Some(error)),
                Err(error) => return Err(failed(error)),
            }
        }
        Err(refused.map_or_else(|| GrantError::NotManaged { account: account.clone() }, failed))
    }

    /// Puts the grant's line into the host's file, or takes it out, over as many connections as that takes.
    pub(super) async fn change<R: CryptoRng + Send>(
        &self,
        stored: &mut Stored<GrantRecord>,
        session: &mut Option<C::Session>,
        change: &Change<'_>,
        masters: &[&Identity],
        rng: &mut R,
    ) -> Result<Changed, NotChanged> {
        let mut in_doubt = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let connected = match session.as_mut() {
                Some(session) => session,
                None => match self.log_in(&stored.body.route, masters).await {
                    Ok(new) => session.insert(new),
                    Err(error) => return Err(NotChanged { error, in_doubt }),
                },
            };
            let failed = match self.try_to_change(stored, connected, change, rng).await {
                Ok(changed) => return Ok(changed),
                Err(failed) => failed,
            };
            let (busy, again) = match &failed {
                FencedError::Replace(error) => {
                    let (doubtful, lost) = (error.may_have_replaced(), is_lost(error));
                    in_doubt |= doubtful;
                    if lost {
                        *session = None;
                    }
                    (is_busy(error), lost || doubtful)
                }
                FencedError::Stopped(_) => (false, false),
            };
            if tries == TRIES || !(busy || again) {
                let error = GrantError::of_files(stored.body.account(), stored.body.id, failed);
                return Err(NotChanged { error, in_doubt });
            }
            if busy {
                self.timer.sleep_until(self.timer.now().saturating_add(PAUSE)).await;
            }
        }
    }

    async fn try_to_change<R: CryptoRng + Send>(
        &self,
        stored: &mut Stored<GrantRecord>,
        session: &mut C::Session,
        change: &Change<'_>,
        rng: &mut R,
    ) -> Result<Changed, FencedError> {
        let record = &stored.body;
        let own = Own { public_key: record.public_key.clone(), marker: record.marker() };
        let plan = Plan::new(rng, record.home.as_deref().unwrap_or("."), &record.holder());
        let plan = plan.map_err(|error| FencedError::Stopped(super::error::NoPass::Store(unusable(error))))?;
        let plan = plan.fence(record.attempt.into());
        let mut other_lines = 0;
        let before = self.timer.now();
        let files = session.files();
        let replaced = match change {
            Change::Put(line) => {
                let put = |file, document: &mut _| edit::put(file, document, &own, line).map(|others| other_lines = others);
                let leave = Some(Leave { store: &self.store, stored });
                replace_fenced(files, plan, &mut Fenced { edit: put, leave }).await?
            }
            // Whoever takes a line away late takes away what should be gone.
            Change::Take => {
                let take = |_, document: &mut _| edit::take(document, &own);
                replace_fenced(files, plan.also_second_file(), &mut Fenced::<S, _> { edit: take, leave: None }).await?
            }
        };
        let clock_error = clock_error(before, replaced.host_time, self.timer.now());
        Ok(Changed { other_lines, clock_error })
    }
}

/// A name for this run alone.
pub(super) fn run<R: CryptoRng + ?Sized>(rng: &mut R) -> String {
    format!("{:016x}", rng.next_u64())
}

/// The grant's line. Whatever cannot stand in a comment is left out of it.
fn line_of(record: &GrantRecord, options: Options) -> Line {
    let told: String = record.comment.chars().filter(|c| !c.is_control()).take(100).collect();
    let comment = format!("{} {told}", record.marker());
    Line::new(options.clone(), record.public_key.clone(), &comment)
        .or_else(|_| Line::new(options, record.public_key.clone(), &record.marker()))
        .unwrap_or_else(|_| unreachable!("a grant's name has no control characters"))
}

fn unusable(error: toehold_keygen::replacement::HolderError) -> StoreError {
    StoreError::Unavailable { doing: "naming a grant".to_owned(), source: Box::new(error) }
}

/// How far the host's clock is ahead, where it shows a time outside of the two between which it was read.
fn clock_error(before: Timestamp, host: Timestamp, after: Timestamp) -> i64 {
    let (host, before, after) = (host.unix_seconds(), before.unix_seconds(), after.unix_seconds());
    if host < before { host - before } else { (host - after).max(0) }
}
