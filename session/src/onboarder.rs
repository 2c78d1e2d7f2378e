//! The driver: performs what the machine asks for, over the traits of `toehold-core`.

use rand_core::CryptoRng;
use toehold_core::{
    AuditEvent, AuditSink, ConnectError, Connector, HostRecord, HostSession as _, Identity, KnownHost, Login, Route, SecretBytes,
    SessionId, Store, StoreError, Stored, Timer, Timestamp,
};
use toehold_keygen::TemporaryKeyPair;
use toehold_keygen::install::ProofSecret;

use crate::error::SessionError;
use crate::host_files;
use crate::machine::{Action, Credential, End, Event, LoginFailure, Onboarding, Pace};
use crate::operator::{Installed, Operator, Progress, Sealer};
use crate::record::{HostKeyCheck, SessionRecord};
use crate::request::{Installation, Request};
use crate::status::Status;
use crate::wait::first_of;

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

/// What one run holds.
struct Run<'r, S, R> {
    rng: &'r mut R,
    stored: Option<Stored<SessionRecord>>,
    master: &'r Identity,
    temporary: Option<Identity>,
    installation: Option<Installation>,
    over_temporary: Option<S>,
    over_master: Option<S>,
}

impl<S, R> Run<'_, S, R> {
    fn connection(&mut self, over: Credential) -> Option<(&mut S, &mut R)> {
        let session = match over {
            Credential::Temporary => self.over_temporary.as_mut(),
            Credential::Master => self.over_master.as_mut(),
        };
        session.map(|session| (session, &mut *self.rng))
    }
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
        let check = self.host_key_check(&request).await?;
        self.refuse_second_session(&request.route).await?;
        let id = SessionId::generate(rng);
        let pair = TemporaryKeyPair::generate(rng, id, now, request.lifetime)
            .map_err(|source| SessionError::Making { what: "the temporary key", source: Box::new(source) })?;
        let secret = ProofSecret::generate(rng);
        let temporary =
            pair.identity().map_err(|source| SessionError::Making { what: "the temporary key", source: Box::new(source) })?;
        let installation = Installation { from: request.from, expiry: request.expiry, host_key_files: request.host_key_files };
        let sealed_temporary_key = if request.seal_temporary_key { Some(self.seal(id, &temporary, &secret)?) } else { None };
        let record = SessionRecord {
            id,
            route: request.route,
            home: request.home,
            label: request.label,
            tags: request.tags,
            keys: request.keys,
            status: Status::Active,
            created_at: pair.created_at(),
            expires_at: pair.expires_at(),
            temporary_key: pair.public_key().clone(),
            sealed_temporary_key,
            host_key_check: check,
            host_key: None,
            adding: Vec::new(),
            without_expiry: request.without_expiry,
            attempt: 0,
            cancelled: false,
            reason: None,
            closed: None,
        };
        installation
            .command(&record, &secret)
            .command_line()
            .map_err(|source| SessionError::Making { what: "the installation command", source: Box::new(source) })?;
        operator.opening(&record).map_err(SessionError::NotOpened)?;
        let (mut machine, action) = Onboarding::open(record, secret, self.pace);
        let run = Run {
            rng,
            stored: None,
            master,
            temporary: Some(temporary),
            installation: Some(installation),
            over_temporary: None,
            over_master: None,
        };
        self.drive(&mut machine, action, run, operator).await
    }

    /// Takes up an open session that nobody is working on, and leads it to an end if there is one to be had now.
    ///
    /// The caller vouches that no other process is at it; should one be all the same, its next write to the store fails
    /// and it lets go.
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
        if record.host_key.is_none() {
            // A later session may have established what this one could not.
            let known = KnownHost::key(&record.route).map_err(StoreError::from)?;
            if let Some(known) = Stored::<KnownHost>::read(&self.store, &known).await? {
                record.host_key_check = HostKeyCheck::Known(known.body.host_key);
            }
        }
        let sealed = match &record.sealed_temporary_key {
            Some(sealed) => match self.open_sealed(&record, sealed) {
                Ok(opened) => Some(opened),
                Err(why) => {
                    operator.progress(Progress::Warning(format!("the sealed temporary key cannot be opened: {why}")));
                    None
                }
            },
            None => None,
        };
        let (temporary, secret) = sealed.map_or((None, None), |(identity, secret)| (Some(identity), Some(secret)));
        let (mut machine, action) = Onboarding::recover(record, secret, temporary.is_some(), self.pace);
        let run =
            Run { rng, stored: Some(stored), master, temporary, installation: None, over_temporary: None, over_master: None };
        self.drive(&mut machine, action, run, operator).await
    }

    pub(crate) async fn read(&self, id: SessionId) -> Result<Stored<SessionRecord>, SessionError> {
        Stored::read(&self.store, &SessionRecord::key(id).map_err(StoreError::from)?).await?.ok_or(SessionError::NotFound(id))
    }

    /// A host that is known is held to its key, whatever the operator chose for one that is not.
    async fn host_key_check(&self, request: &Request) -> Result<HostKeyCheck, SessionError> {
        let key = KnownHost::key(&request.route).map_err(StoreError::from)?;
        let Some(known) = Stored::<KnownHost>::read(&self.store, &key).await? else {
            return Ok(request.host_key_check.clone());
        };
        if let HostKeyCheck::Fingerprint(named) = &request.host_key_check {
            if *named != known.body.host_key.fingerprint() {
                return Err(SessionError::KnownOtherwise {
                    route: request.route.to_string(),
                    known: known.body.host_key.fingerprint().to_string(),
                    named: named.to_string(),
                });
            }
        }
        Ok(HostKeyCheck::Known(known.body.host_key))
    }

    async fn refuse_second_session(&self, route: &Route) -> Result<(), SessionError> {
        for stored in Stored::<SessionRecord>::list(&self.store, &SessionRecord::prefix().map_err(StoreError::from)?).await? {
            // A record that cannot be read may be one of this account: its own command says so, not this one.
            let Ok(stored) = stored else { continue };
            let record = stored.body;
            let under_way = matches!(record.status, Status::Active | Status::Committing);
            if under_way && record.route.account == route.account {
                return Err(SessionError::AlreadyOpen { account: record.route.account, id: record.id });
            }
        }
        Ok(())
    }

    fn seal(&self, id: SessionId, temporary: &Identity, secret: &ProofSecret) -> Result<String, SessionError> {
        let Identity::PrivateKey { openssh, .. } = temporary else {
            return Err(SessionError::Sealing("its private half is not in memory".to_owned()));
        };
        let secret = secret.expose().as_bytes();
        let mut both = Vec::with_capacity(secret.len() + 1 + openssh.len());
        both.extend_from_slice(secret);
        both.push(b'\n');
        both.extend_from_slice(openssh.expose());
        self.sealer.seal(id, &SecretBytes::new(both)).map_err(SessionError::Sealing)
    }

    fn open_sealed(&self, record: &SessionRecord, sealed: &str) -> Result<(Identity, ProofSecret), String> {
        let both = self.sealer.open(record.id, sealed)?;
        let mut parts = both.expose().splitn(2, |byte| *byte == b'\n');
        let (Some(secret), Some(openssh)) = (parts.next(), parts.next()) else {
            return Err("it does not hold a key and a secret".to_owned());
        };
        let secret = std::str::from_utf8(secret)
            .ok()
            .and_then(|text| ProofSecret::from_hex(text).ok())
            .ok_or("it does not hold a secret")?;
        let identity =
            Identity::PrivateKey { public_key: record.temporary_key.clone(), openssh: SecretBytes::new(openssh.to_vec()) };
        Ok((identity, secret))
    }

    async fn drive<R: CryptoRng + Send, O: Operator>(
        &self,
        machine: &mut Onboarding,
        mut action: Action,
        mut run: Run<'_, C::Session, R>,
        operator: &mut O,
    ) -> Result<Outcome, SessionError> {
        loop {
            operator.progress(Progress::Step(machine.step()));
            if let Action::Finish(end) = action {
                if let Some(session) = run.over_temporary.take() {
                    session.close().await;
                }
                if let Some(session) = run.over_master.take() {
                    session.close().await;
                }
                let reason = machine.reason().map(str::to_owned);
                return Ok(Outcome { end, record: machine.record().clone(), reason });
            }
            let event = self.perform(machine, action, &mut run, operator).await?;
            if operator.is_leaving() {
                machine.interrupt();
            }
            action = machine.handle(self.timer.now(), event)?;
        }
    }

    async fn perform<R: CryptoRng + Send, O: Operator>(
        &self,
        machine: &Onboarding,
        action: Action,
        run: &mut Run<'_, C::Session, R>,
        operator: &mut O,
    ) -> Result<Event, SessionError> {
        let record = machine.record();
        Ok(match action {
            Action::Save(record) => self.save(&record, &mut run.stored, operator).await?,
            Action::ShowCommand => match (&run.installation, machine.secret()) {
                (Some(installation), Some(secret)) => match operator.install(record, &installation.command(record, secret)).await
                {
                    Ok(installed) => Event::CommandShown { ran: installed == Installed::Ran },
                    Err(why) => Event::CommandFailed(why),
                },
                _ => Event::CommandFailed("there is no command to show".to_owned()),
            },
            Action::Refresh => self.refresh(&mut run.stored).await?,
            Action::LogIn { with, host_key } => {
                let (identity, slot) = match with {
                    Credential::Temporary => (run.temporary.as_ref(), &mut run.over_temporary),
                    Credential::Master => (Some(run.master), &mut run.over_master),
                };
                if let Some(old) = slot.take() {
                    old.close().await;
                }
                let Some(identity) = identity else {
                    return Ok(Event::LoginFailed(LoginFailure::Unreachable("the temporary key is gone".to_owned())));
                };
                match self.connector.log_in(&Login { route: &record.route, identity, host_key: &host_key, query: None }).await {
                    Ok(session) => {
                        let host_key = session.host_key().clone();
                        *slot = Some(session);
                        Event::LoggedIn { host_key }
                    }
                    Err(error) => Event::LoginFailed(login_failure(&error)),
                }
            }
            Action::AskOperator(fingerprint) => Event::Answered(operator.is_right_host_key(&record.route, fingerprint).await),
            Action::ReadProof => match run.connection(Credential::Temporary) {
                Some((session, _)) => match host_files::read_proof(session.files(), record).await {
                    Ok(content) => Event::ProofRead(content),
                    Err(error) => error.into_event(),
                },
                None => no_connection(),
            },
            Action::Inspect { over } => match run.connection(over) {
                Some((session, _)) => match host_files::inspect(session.files(), record).await {
                    Ok(present) => Event::Inspected { present },
                    Err(error) => error.into_event(),
                },
                None => no_connection(),
            },
            Action::AddLines { over, lines } => match run.connection(over) {
                Some((session, rng)) => match host_files::add(session.files(), rng, record, &lines).await {
                    Ok(host_time) => {
                        self.tell_clock_error(host_time, operator);
                        Event::LinesAdded
                    }
                    Err(error) => error.into_event(),
                },
                None => no_connection(),
            },
            Action::Clear { over, keys, restore } => match run.connection(over) {
                Some((session, rng)) => match host_files::clear(session.files(), rng, record, &keys, restore).await {
                    Ok(still_present) => Event::Cleared { still_present },
                    Err(error) => error.into_event(),
                },
                None => no_connection(),
            },
            Action::Query { keys, host_key } => {
                let mut accepted = Vec::new();
                for key in keys {
                    match self.connector.would_accept(&record.route, &key, &host_key).await {
                        Ok(answer) if answer.accepted => accepted.push(key),
                        Ok(_) => {}
                        Err(error) => return Ok(Event::LoginFailed(login_failure(&error))),
                    }
                }
                Event::Queried { accepted }
            }
            Action::RecordHost => match self.record_host(record, operator).await {
                Ok(()) => Event::HostRecorded,
                Err(error) => Event::StoreFailed(describe_error(&error)),
            },
            Action::WaitUntil(deadline) => {
                first_of(self.timer.sleep_until(deadline), operator.wants_out()).await;
                Event::Woke
            }
            // The loop in `drive` ends there.
            Action::Finish(_) => Event::Woke,
        })
    }

    fn tell_clock_error<O: Operator>(&self, host_time: Timestamp, operator: &mut O) {
        operator.progress(Progress::ClockError(host_time.unix_seconds() - self.timer.now().unix_seconds()));
    }

    async fn refresh(&self, stored: &mut Option<Stored<SessionRecord>>) -> Result<Event, SessionError> {
        let Some(known) = stored.as_mut() else { return Ok(Event::Unchanged) };
        match Stored::<SessionRecord>::read(&self.store, &known.key).await {
            Ok(Some(latest)) if latest.revision == known.revision => Ok(Event::Unchanged),
            Ok(Some(latest)) => {
                let record = Box::new(latest.body.clone());
                *known = latest;
                Ok(Event::Superseded(record))
            }
            Ok(None) => Ok(Event::StoreFailed("the session's record is gone".to_owned())),
            Err(error) => Ok(Event::StoreFailed(describe_error(&error))),
        }
    }

    async fn save<O: Operator>(
        &self,
        record: &SessionRecord,
        stored: &mut Option<Stored<SessionRecord>>,
        operator: &mut O,
    ) -> Result<Event, SessionError> {
        let key = SessionRecord::key(record.id).map_err(StoreError::from)?;
        let before = stored.as_ref().map(|stored| stored.body.status);
        if let Some(from) = before.filter(|from| !from.may_become(record.status)) {
            return Err(SessionError::IllegalTransition { id: record.id, from, to: record.status });
        }
        let result = match stored.as_mut() {
            None => Stored::create(&self.store, key.clone(), record.clone()).await.map(|new| *stored = Some(new)),
            Some(known) => {
                let previous = std::mem::replace(&mut known.body, record.clone());
                let result = known.save(&self.store).await;
                if result.is_err() {
                    known.body = previous;
                }
                result
            }
        };
        if let Err(error) = result {
            // The write may have taken place all the same: what the store holds now decides.
            return match Stored::<SessionRecord>::read(&self.store, &key).await {
                Ok(Some(latest)) if latest.body == *record => {
                    *stored = Some(latest);
                    self.audit_status(record, before, operator).await;
                    Ok(Event::Saved)
                }
                Ok(Some(latest)) if matches!(error, StoreError::Conflict { .. }) => {
                    let record = Box::new(latest.body.clone());
                    *stored = Some(latest);
                    Ok(Event::Superseded(record))
                }
                _ => Ok(Event::StoreFailed(describe_error(&error))),
            };
        }
        self.audit_status(record, before, operator).await;
        Ok(Event::Saved)
    }

    async fn audit_status<O: Operator>(&self, record: &SessionRecord, before: Option<Status>, operator: &mut O) {
        if before == Some(record.status) {
            return;
        }
        let mut event = AuditEvent::new(self.timer.now(), &format!("session.{}", record.status), record.id.to_string())
            .with("account", record.route.account.to_string())
            .with("temporary_key", record.temporary_key.fingerprint().to_string());
        if let Some(trusted) = &record.host_key {
            event = event.with("host_key", trusted.public_key.fingerprint().to_string());
        }
        if let Some(reason) = &record.reason {
            event = event.with("reason", reason.clone());
        }
        if let Err(error) = self.audit.record(event).await {
            operator.progress(Progress::Warning(format!("not on the audit record: {}", describe_error(&error))));
        }
    }

    /// Writes `knownhost/…` and `host/…`; doing it again changes nothing.
    async fn record_host<O: Operator>(&self, record: &SessionRecord, operator: &mut O) -> Result<(), StoreError> {
        let now = self.timer.now();
        if let Some(trusted) = &record.host_key {
            let key = KnownHost::key(&record.route)?;
            match Stored::<KnownHost>::read(&self.store, &key).await? {
                Some(known) if known.body.host_key == trusted.public_key => {}
                Some(known) => {
                    operator.progress(Progress::Warning(format!(
                        "{} was recorded meanwhile with another host key, {}; that record stays",
                        record.route,
                        known.body.host_key.fingerprint()
                    )));
                }
                None => {
                    let trust = trusted.trust.unwrap_or(toehold_core::HostKeyTrust::Proof);
                    let known = KnownHost { host_key: trusted.public_key.clone(), trust, since: now };
                    created(Stored::create(&self.store, key, known).await)?;
                }
            }
        }
        let key = HostRecord::key(&record.route.account)?;
        let wanted = HostRecord {
            route: record.route.clone(),
            label: record.label.clone(),
            tags: record.tags.clone(),
            home: record.home.clone(),
            keys: record.keys.clone(),
            session: record.id,
            managed_since: now,
            without_expiry: record.without_expiry,
        };
        loop {
            match Stored::<HostRecord>::read(&self.store, &key).await? {
                None => match Stored::create(&self.store, key.clone(), wanted.clone()).await {
                    Err(StoreError::Conflict { .. }) => {}
                    other => return other.map(|_| ()),
                },
                Some(known) if known.body.session == record.id => return Ok(()),
                Some(mut known) => {
                    known.body = merged(&known.body, &wanted);
                    match known.save(&self.store).await {
                        Err(StoreError::Conflict { .. }) => {}
                        other => return other,
                    }
                }
            }
        }
    }
}

/// A host that is added again keeps the keys that it had and the names it was not given anew.
fn merged(known: &HostRecord, wanted: &HostRecord) -> HostRecord {
    let mut merged = wanted.clone();
    merged.managed_since = known.managed_since;
    merged.label = wanted.label.clone().or_else(|| known.label.clone());
    for (name, value) in &known.tags {
        merged.tags.entry(name.clone()).or_insert_with(|| value.clone());
    }
    for key in &known.keys {
        if !merged.keys.iter().any(|have| have.public_key == key.public_key) {
            merged.keys.push(key.clone());
        }
    }
    merged
}

/// Somebody else's creation of the same record is as good as ours.
fn created<B>(result: Result<Stored<B>, StoreError>) -> Result<(), StoreError> {
    match result {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn no_connection() -> Event {
    Event::FilesFailed { reason: "the connection is gone".to_owned(), lost: true }
}

fn login_failure(error: &ConnectError) -> LoginFailure {
    match error {
        ConnectError::KeyRefused { .. } => LoginFailure::KeyRefused,
        ConnectError::HostKeyRefused { .. } => LoginFailure::HostKeyRefused(describe_error(error)),
        ConnectError::NoSftp { .. } => LoginFailure::NoSftp(describe_error(error)),
        _ => LoginFailure::Unreachable(describe_error(error)),
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
