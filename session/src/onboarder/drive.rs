//! The loop around the machine, and the performing of its actions.

use rand_core::CryptoRng;
use toehold_core::{
    AuditSink, ConnectError, Connector, HostFiles, HostKeyPolicy, HostSession as _, Identity, Login, ManagedKey, PublicKey,
    Store, Stored, Timer, Timestamp,
};

use super::{Fence, Onboarder, Outcome, describe_error};
use crate::claim::{AccountClaim, AddedLine};
use crate::error::SessionError;
use crate::host_files::{self, FilesError, Known, Made};
use crate::machine::{Action, Credential, Event, LoginFailure, Onboarding};
use crate::operator::{Installed, Operator, Progress, Sealer};
use crate::record::SessionRecord;
use crate::request::Installation;
use crate::status::Status;
use crate::wait::first_of;

/// What one run holds.
pub(super) struct Run<'r, H, R> {
    rng: &'r mut R,
    stored: Option<Stored<SessionRecord>>,
    claim: Option<Stored<AccountClaim>>,
    master: &'r Identity,
    temporary: Option<Identity>,
    installation: Option<Installation>,
    over_temporary: Option<H>,
    over_master: Option<H>,
    /// What the installation command had to make, as far as it was read.
    made: Made,
    clock_error: Option<i64>,
}

impl<'r, H, R> Run<'r, H, R> {
    pub(super) fn new(
        rng: &'r mut R,
        stored: Option<Stored<SessionRecord>>,
        master: &'r Identity,
        temporary: Option<Identity>,
        installation: Option<Installation>,
    ) -> Self {
        Self {
            rng,
            stored,
            claim: None,
            master,
            temporary,
            installation,
            over_temporary: None,
            over_master: None,
            made: Made::default(),
            clock_error: None,
        }
    }

    fn connection(&mut self, over: Credential) -> Option<&mut H> {
        match over {
            Credential::Temporary => self.over_temporary.as_mut(),
            Credential::Master => self.over_master.as_mut(),
        }
    }
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: Sealer> Onboarder<S, C, T, A, V> {
    pub(super) async fn drive<R: CryptoRng + Send, O: Operator>(
        &self,
        machine: &mut Onboarding,
        mut action: Action,
        mut run: Run<'_, C::Session, R>,
        operator: &mut O,
    ) -> Result<Outcome, SessionError> {
        loop {
            operator.progress(Progress::Step(machine.step()));
            if let Action::Finish(end) = action {
                for session in [run.over_temporary.take(), run.over_master.take()].into_iter().flatten() {
                    session.close().await;
                }
                let reason = machine.reason().map(str::to_owned);
                return Ok(Outcome { end, record: machine.record().clone(), reason });
            }
            let event = self.perform(machine, action, &mut run, operator).await?;
            if operator.is_leaving() {
                machine.interrupt();
            }
            if let Some(seconds) = run.clock_error {
                machine.clock_error(seconds);
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
            Action::Save(record) => self.save(&record, machine.dead(), &mut run.stored, operator).await?,
            Action::TakeAccount => self.take_account(record, &mut run.claim).await,
            Action::ShowCommand => match (&run.installation, machine.secret()) {
                (Some(installation), Some(secret)) => {
                    let shown = operator.install(record, &installation.command(record, secret)).await;
                    shown.map_or_else(Event::CommandFailed, |installed| Event::CommandShown { ran: installed == Installed::Ran })
                }
                _ => Event::CommandFailed("there is no command to show".to_owned()),
            },
            Action::Refresh => self.refresh(&mut run.stored).await,
            Action::LogIn { with, host_key } => {
                let event = self.log_in(record, run, with, &host_key).await;
                if let Event::LoginFailed(LoginFailure::Unreachable(why)) = &event {
                    operator.progress(Progress::Retrying(why.clone()));
                }
                event
            }
            Action::AskOperator(fingerprint) => Event::Answered(operator.is_right_host_key(&record.route, fingerprint).await),
            Action::ReadProof => match run.over_temporary.as_mut() {
                Some(session) => match host_files::read_proof(session.files(), record, &mut run.made).await {
                    Ok(content) => Event::ProofRead(content),
                    Err(error) => error.into_event(),
                },
                None => no_connection(),
            },
            Action::Inspect { over } => self.inspect(record, run, over).await,
            Action::AddLines { over, lines } => self.add_lines(record, run, over, &lines, operator).await,
            Action::Settle => self.settle(record, &mut run.claim).await,
            Action::Clear { over, keys, dead, restore } => {
                let (keys, added) = of_the_claim(keys, record, run.claim.as_ref());
                let removal = host_files::Removal { record, keys: &keys, added: &added, dead: &dead, restore };
                self.clear(run, over, removal, operator).await
            }
            Action::Query { keys, host_key } => self.query(record, keys, &host_key).await,
            Action::RecordHost => match self.record_host(record, operator).await {
                Ok(()) => Event::HostRecorded,
                Err(error) => Event::StoreFailed(describe_error(&error)),
            },
            Action::WaitUntil(deadline) => {
                first_of(self.timer.sleep_until(deadline), operator.wants_out()).await;
                Event::Woke
            }
            Action::RestUntil(deadline) => {
                self.timer.sleep_until(deadline).await;
                Event::Woke
            }
            // The loop in `drive` ends there.
            Action::Finish(_) => Event::Woke,
        })
    }

    async fn log_in<R>(
        &self,
        record: &SessionRecord,
        run: &mut Run<'_, C::Session, R>,
        with: Credential,
        host_key: &HostKeyPolicy,
    ) -> Event {
        let (identity, slot) = match with {
            Credential::Temporary => (run.temporary.as_ref(), &mut run.over_temporary),
            Credential::Master => (Some(run.master), &mut run.over_master),
        };
        if let Some(old) = slot.take() {
            old.close().await;
        }
        let Some(identity) = identity else {
            return Event::LoginFailed(LoginFailure::Unreachable("the temporary key is gone".to_owned()));
        };
        match self.connector.log_in(&Login { route: &record.route, identity, host_key, query: None }).await {
            Ok(session) => {
                let host_key = session.host_key().clone();
                *slot = Some(session);
                Event::LoggedIn { host_key }
            }
            Err(error) => Event::LoginFailed(login_failure(&error)),
        }
    }

    async fn inspect<R>(&self, record: &SessionRecord, run: &mut Run<'_, C::Session, R>, over: Credential) -> Event {
        let known = match self.known_lines(record, run.claim.as_ref()).await {
            Ok(known) => known,
            Err(event) => return event,
        };
        let Some(session) = run.connection(over) else { return no_connection() };
        match host_files::inspect(session.files(), record, &known).await {
            Ok(present) => Event::Inspected { present },
            Err(error) => error.into_event(),
        }
    }

    /// What is known to be ours in the account's file. That the store is away for a moment is waited for.
    async fn known_lines(&self, record: &SessionRecord, claim: Option<&Stored<AccountClaim>>) -> Result<Known, Event> {
        let (mut ours, mut settled) = (Vec::new(), false);
        if let Some(claim) = claim {
            settled = claim.body.managed;
            for added in &claim.body.adding {
                ours.push(added.line.clone());
                let before = added.options_before.clone();
                ours.extend(before.map(|options| ManagedKey { options, ..added.line.clone() }));
            }
        }
        match self.host(&record.route.account).await {
            Ok(host) => {
                ours.extend(host.into_iter().flat_map(|host| host.keys));
                Ok(Known { ours, settled, now: self.timer.now() })
            }
            Err(error) => Err(Event::FilesFailed { reason: describe_error(&error), lost: false, busy: true }),
        }
    }

    async fn add_lines<R: CryptoRng + Send, O: Operator>(
        &self,
        record: &SessionRecord,
        run: &mut Run<'_, C::Session, R>,
        over: Credential,
        lines: &[ManagedKey],
        operator: &mut O,
    ) -> Event {
        let plan = match host_files::plan(run.rng, record) {
            Ok(plan) => plan,
            Err(error) => return error.into_event(),
        };
        let known = match self.known_lines(record, run.claim.as_ref()).await {
            Ok(known) => known,
            Err(event) => return event,
        };
        let session = match over {
            Credential::Temporary => run.over_temporary.as_mut(),
            Credential::Master => run.over_master.as_mut(),
        };
        let Some(session) = session else { return no_connection() };
        let fence = Fence::new(&self.store, run.claim.as_mut(), record.id);
        match host_files::add(session.files(), plan, lines, &known, fence).await {
            Ok((added, host_time)) => {
                self.tell_clock_error(host_time, &mut run.clock_error, operator);
                Event::LinesAdded { added }
            }
            Err(error) => self.not_done(session.files(), record, error).await,
        }
    }

    async fn clear<R: CryptoRng + Send, O: Operator>(
        &self,
        run: &mut Run<'_, C::Session, R>,
        over: Credential,
        removal: host_files::Removal<'_>,
        operator: &mut O,
    ) -> Event {
        let record = removal.record;
        let plan = match host_files::plan(run.rng, record) {
            Ok(plan) => plan,
            Err(error) => return error.into_event(),
        };
        let session = match over {
            Credential::Temporary => run.over_temporary.as_mut(),
            Credential::Master => run.over_master.as_mut(),
        };
        let Some(session) = session else { return no_connection() };
        // Taking a temporary key away harms nobody, whoever holds the claim; that must work without the store.
        let guarded = !removal.added.is_empty();
        let fence = guarded.then(|| Fence::new(&self.store, run.claim.as_mut(), record.id));
        match host_files::clear(session.files(), plan, removal, &mut run.made, fence).await {
            Ok(cleared) => {
                self.tell_clock_error(cleared.host_time, &mut run.clock_error, operator);
                Event::Cleared { still_present: cleared.still_present, found: cleared.found }
            }
            Err(error) => self.not_done(session.files(), record, error).await,
        }
    }

    /// What could not be done on the host. Where the lock of a session of ours is in the way that nobody leads any more, it
    /// goes, so that the next try finds none.
    async fn not_done<F: HostFiles>(&self, files: &mut F, record: &SessionRecord, error: FilesError) -> Event {
        if let Some((holder, Ok(id))) = error.lock_holder().map(|holder| (holder, holder.parse()))
            && let Ok(Some(session)) = self.find(id).await
            && !matches!(session.body.status, Status::Active | Status::Committing)
            && let Err(error) = host_files::sweep_after(files, record, holder).await
        {
            return error.into_event();
        }
        error.into_event()
    }

    async fn query(&self, record: &SessionRecord, keys: Vec<PublicKey>, host_key: &HostKeyPolicy) -> Event {
        let mut accepted = Vec::new();
        for key in keys {
            match self.connector.would_accept(&record.route, &key, host_key).await {
                Ok(answer) if answer.accepted => accepted.push(key),
                Ok(_) => {}
                Err(error) => return Event::LoginFailed(login_failure(&error)),
            }
        }
        Event::Queried { accepted }
    }

    /// Once a run is enough, unless it changes.
    fn tell_clock_error<O: Operator>(&self, host_time: Timestamp, told: &mut Option<i64>, operator: &mut O) {
        let error = host_time.unix_seconds() - self.timer.now().unix_seconds();
        if told.is_none_or(|told| told.abs_diff(error) > 1) {
            *told = Some(error);
            operator.progress(Progress::ClockError(error));
        }
    }
}

/// Of the keys that are to go: the temporary one, of which every line goes, and the lines by which the others were added.
fn of_the_claim(
    mut keys: Vec<PublicKey>,
    record: &SessionRecord,
    claim: Option<&Stored<AccountClaim>>,
) -> (Vec<PublicKey>, Vec<AddedLine>) {
    let adding = claim.map(|claim| claim.body.adding.as_slice()).unwrap_or_default();
    let added = adding.iter().filter(|added| keys.contains(&added.line.public_key)).cloned().collect();
    keys.retain(|key| *key == record.temporary_key);
    (keys, added)
}

fn no_connection() -> Event {
    Event::FilesFailed { reason: "the connection is gone".to_owned(), lost: true, busy: false }
}

fn login_failure(error: &ConnectError) -> LoginFailure {
    match error {
        ConnectError::KeyRefused { .. } => LoginFailure::KeyRefused,
        ConnectError::HostKeyRefused { .. } => LoginFailure::HostKeyRefused(describe_error(error)),
        ConnectError::NoSftp { .. } => LoginFailure::NoSftp(describe_error(error)),
        _ => LoginFailure::Unreachable(describe_error(error)),
    }
}
