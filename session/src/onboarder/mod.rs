//! The driver: performs what the machine asks for, over the traits of `toehold-core`.

mod account;
mod drive;
mod records;
mod sealing;

use rand_core::CryptoRng;
use toehold_core::{
    AuditSink, Connector, HostRecord, Identity, KnownHost, ManagedKey, SessionId, Store, StoreError, Stored, Timer,
};
use toehold_keygen::TemporaryKeyPair;
use toehold_keygen::install::ProofSecret;

pub(crate) use self::account::{Fence, NoPass};
use self::drive::Run;
use crate::error::SessionError;
use crate::machine::{End, Onboarding, Pace, managed_elsewhere};
use crate::operator::{Operator, Progress, Sealer};
use crate::record::{HostKeyCheck, SessionRecord};
use crate::request::{Installation, Request};
use crate::status::Status;

/// How a run over a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// In what way.
    pub end: End,
    /// The record as it stands now.
    pub record: SessionRecord,
    /// Why it did not come to a managed host.
    pub reason: Option<String>,
}

/// Runs sessions over a store, a connector, a timer and an audit log.
///
/// All of them may be shared with other users, also on other machines: every write says what it replaces.
#[derive(Debug)]
pub struct Onboarder<S, C, T, A, V> {
    /// Where records are kept.
    pub store: S,
    /// Makes the connections, within its own time limits.
    pub connector: C,
    /// Tells the time and waits.
    pub timer: T,
    /// Takes what an auditor will ask about.
    pub audit: A,
    /// Seals temporary keys for sessions that want it.
    pub sealer: V,
    /// Times of the machine.
    pub pace: Pace,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    /// Brings a host under management: makes the temporary key and the record, has the command installed, and leads the
    /// session to its end. `master` is the fleet's master key, whose line `request` names first.
    ///
    /// # Errors
    /// [`SessionError`] where no session could begin. One that began ends with an [`Outcome`].
    pub async fn onboard<R: CryptoRng + Send, O: Operator>(
        &self,
        request: Request,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
    ) -> Result<Outcome, SessionError> {
        let now = self.timer.now();
        let host = self.check_account(&request.route).await?;
        let check = self.host_key_check(&request).await?;
        let id = SessionId::generate(rng);
        let making = |source| SessionError::Making { what: "the temporary key", source: Box::new(source) };
        let mut pair = TemporaryKeyPair::generate(rng, id, now, request.lifetime).map_err(making)?;
        let secret = ProofSecret::generate(rng);
        let temporary = pair.identity().map_err(making)?;
        pair.wipe();
        let (sealed_temporary_key, sealed_proof_secret) = if request.seal_temporary_key {
            (Some(self.seal_key(id, &temporary)?), Some(self.seal_secret(id, &secret)?))
        } else {
            (None, None)
        };
        let Request { from, expiry, host_key_files, pasted, .. } = request;
        let installation = Installation { from, expiry, host_key_files, pasted };
        let record = SessionRecord {
            id,
            route: request.route,
            home: request.home,
            label: request.label,
            tags: request.tags,
            keys: with_known_options(request.keys, host.as_ref()),
            status: Status::Active,
            created_at: pair.created_at(),
            expires_at: pair.expires_at(),
            temporary_key: pair.public_key().clone(),
            sealed_temporary_key,
            sealed_proof_secret,
            host_key_check: check,
            host_key: None,
            installed: false,
            adding: Vec::new(),
            without_expiry: request.without_expiry,
            attempt: 0,
            run: run_name(rng),
            cancelled: false,
            reason: None,
            closed: None,
        };
        let command = installation.command(&record, &secret);
        let made = if installation.pasted { command.command_line() } else { command.script() };
        made.map(drop).map_err(|source| SessionError::Making { what: "the installation command", source: Box::new(source) })?;
        operator.opening(&record).map_err(SessionError::NotOpened)?;
        let (mut machine, action) = Onboarding::open(record, secret, self.pace);
        let run = Run::new(rng, None, master, Some(temporary), Some(installation));
        self.drive(&mut machine, action, run, operator).await
    }

    /// Takes up an open session that nobody is working on, and leads it to an end if there is one to be had now.
    ///
    /// The caller vouches that no other process is at it; should one be all the same, its next write to the store, and its
    /// next write of managed lines to the host, fails, and it lets go.
    ///
    /// # Errors
    /// [`SessionError`] where the session is not there, closed, or cannot be read.
    pub async fn recover<R: CryptoRng + Send, O: Operator>(
        &self,
        id: SessionId,
        master: &Identity,
        rng: &mut R,
        operator: &mut O,
    ) -> Result<Outcome, SessionError> {
        let stored = self.read(id).await?;
        let mut record = stored.body.clone();
        if !record.status.is_open() {
            return Err(SessionError::Closed { id, status: record.status });
        }
        record.run = run_name(rng);
        self.learn_from_later_sessions(&mut record).await?;
        let mut opened = |what: &str, why: String| {
            operator.progress(Progress::Warning(format!("the sealed {what} cannot be opened: {why}")));
        };
        let temporary = record
            .sealed_temporary_key
            .as_deref()
            .and_then(|sealed| self.open_key(&record, sealed).map_err(|why| opened("temporary key", why)).ok());
        let secret = record
            .sealed_proof_secret
            .as_deref()
            .and_then(|sealed| self.open_secret(record.id, sealed).map_err(|why| opened("secret of the proof", why)).ok());
        let (mut machine, action) = Onboarding::recover(record, secret, temporary.is_some(), self.pace);
        let run = Run::new(rng, Some(stored), master, temporary, None);
        self.drive(&mut machine, action, run, operator).await
    }

    pub(crate) async fn read(&self, id: SessionId) -> Result<Stored<SessionRecord>, SessionError> {
        self.find(id).await?.ok_or(SessionError::NotFound(id))
    }

    pub(crate) async fn find(&self, id: SessionId) -> Result<Option<Stored<SessionRecord>>, StoreError> {
        Stored::read(&self.store, &SessionRecord::key(id)?).await
    }

    /// A host that is known is held to its key, whatever the operator chose for one that is not.
    async fn host_key_check(&self, request: &Request) -> Result<HostKeyCheck, SessionError> {
        let key = KnownHost::key(&request.route).map_err(StoreError::from)?;
        let Some(known) = Stored::<KnownHost>::read(&self.store, &key).await? else {
            return Ok(request.host_key_check.clone());
        };
        let fingerprint = known.body.host_key.fingerprint();
        match &request.host_key_check {
            HostKeyCheck::Fingerprint(named) if *named != fingerprint => Err(SessionError::KnownOtherwise {
                route: request.route.to_string(),
                known: fingerprint.to_string(),
                named: named.to_string(),
            }),
            _ => Ok(HostKeyCheck::Known(known.body.host_key)),
        }
    }

    /// A later session may have established the host key that this one could not, or have brought the host in already: then
    /// this one is merely tidied up after.
    async fn learn_from_later_sessions(&self, record: &mut SessionRecord) -> Result<(), StoreError> {
        if record.host_key.is_none()
            && let Some(known) = Stored::<KnownHost>::read(&self.store, &KnownHost::key(&record.route)?).await?
        {
            record.host_key_check = HostKeyCheck::Known(known.body.host_key);
        }
        let Some(host) = self.host(&record.route.account).await? else { return Ok(()) };
        if !host.route.same_way(&record.route) {
            record.cancelled = true;
            record.reason = Some(managed_elsewhere(&host.route, &record.route));
            return Ok(());
        }
        let by = host.session;
        if by != record.id && self.find(by).await?.is_some_and(|later| later.body.created_at >= record.created_at) {
            record.cancelled = true;
            record.reason = Some(format!("session {by} has brought the host in since"));
        }
        Ok(())
    }
}

/// An error and its sources in one line.
pub(crate) fn describe_error(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// A key for which no options are asked keeps those that it is managed with: a host that is hardened stays so.
fn with_known_options(mut keys: Vec<ManagedKey>, host: Option<&HostRecord>) -> Vec<ManagedKey> {
    for key in keys.iter_mut().filter(|key| key.options.is_empty()) {
        let known = host.and_then(|host| host.keys.iter().find(|known| known.public_key == key.public_key));
        if let Some(known) = known {
            key.options.clone_from(&known.options);
        }
    }
    keys
}

/// 64 random bits in hex.
fn run_name<R: CryptoRng + ?Sized>(rng: &mut R) -> String {
    format!("{:016x}", rng.next_u64())
}
