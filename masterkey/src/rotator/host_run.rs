//! One host: connection after connection until its machine has come to an end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{
    Account, AuditSink, ConnectError, Connector, HostKeyPolicy, HostPhase, HostRecord, HostSession as _, KeyRole, KnownHost,
    Login, PublicKey, Settled, Store, StoreError, Stored, Timer, Timestamp,
};
use toehold_keygen::HostExpiry;
use toehold_keygen::replacement::{Plan, sweep};

use super::Rotator;
use super::journal::{MAX_CONFLICTS, Passing};
use super::keys::Keys;
use super::members::{Member, tag};
use super::shared::{OthersOf, SharedFiles};
use crate::change::{Change, Making};
use crate::error::describe;
use crate::host::{ARRIVING, Goal, HostEnd, HostMachine, Next};
use crate::host_files::{NoPass, WorkError, work};
use crate::observer::{Observer, Progress};
use crate::vault::KeyVault;
use crate::wait::within;

/// A generator that hosts side by side draw from.
pub(super) struct SharedRng<'r, R>(pub(super) Mutex<&'r mut R>);

impl<R: CryptoRng> SharedRng<'_, R> {
    fn draw<T>(&self, draw: impl FnOnce(&mut R) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What all hosts of a run have in common.
pub(super) struct Errand<'a, 'r, R, O> {
    pub(super) number: u64,
    pub(super) keys: &'a Keys,
    pub(super) public: Vec<PublicKey>,
    pub(super) goal: Goal,
    pub(super) grace: Duration,
    pub(super) provisional: Duration,
    /// Whether nobody else can have written in this rotation.
    pub(super) fresh: bool,
    /// Whether a host that was settled before and that this rotation has not touched is where it is to be.
    pub(super) touched_only: bool,
    /// Whether hosts may have proven the arriving key before this run: it is the current one, or was.
    pub(super) maybe_proven: bool,
    pub(super) shared: &'a SharedFiles,
    pub(super) rng: &'a SharedRng<'r, R>,
    pub(super) observer: &'a O,
}

/// How a run over a host ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostVerdict {
    Reached,
    Failed(String),
    /// Somebody else has the lead.
    Fenced,
}

/// What came of one connection.
enum Contact {
    Over,
    /// Another try may do.
    Passing(String),
    Lasting(String),
    Fenced,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Leads one host as far as the errand says, and writes down how far it has come.
    pub(super) async fn lead_host<R: CryptoRng + Send, O: Observer>(
        &self,
        errand: &Errand<'_, '_, R, O>,
        member: &mut Member,
    ) -> HostVerdict {
        let account = member.host.route.account.clone();
        errand.observer.progress(Progress::HostBegun(account.clone()));
        let begun = self.timer.now();
        let verdict = self.try_host(errand, &account, member).await;
        let took = self.timer.now().saturating_since(begun);
        member.took += took;
        match &verdict {
            HostVerdict::Reached => {
                member.reached = Some(errand.goal);
                errand.shared.proven(&account);
                errand.observer.progress(Progress::HostDone { account, phase: member.phase(), took });
            }
            HostVerdict::Failed(reason) => {
                member.failed = Some(reason.clone());
                errand.observer.progress(Progress::HostFailed { account, reason: reason.clone(), took });
            }
            HostVerdict::Fenced => {}
        }
        verdict
    }

    async fn try_host<R: CryptoRng + Send, O: Observer>(
        &self,
        errand: &Errand<'_, '_, R, O>,
        account: &Account,
        member: &mut Member,
    ) -> HostVerdict {
        // A host that an earlier rotation has left behind is owed until it was seen settled: it is visited, whatever became of it
        // in this one.
        let touched_only = errand.touched_only && member.quiet;
        let quiet = member.quiet;
        let claim = async {
            member.journal.claim(&self.store, &self.timer, !touched_only).await?;
            if quiet { Ok(()) } else { member.journal.take_from_healers(&self.store, &self.timer).await }
        };
        match self.answered(claim).await {
            Ok(Ok(())) => {}
            Ok(Err(NoPass::Fenced)) => return HostVerdict::Fenced,
            Ok(Err(NoPass::Store(why))) | Err(why) => return HostVerdict::Failed(why),
        }
        let Some(arriving) = errand.public.first() else { return HostVerdict::Failed("there is no key".to_owned()) };
        let settled = Settled { generation: errand.number, fingerprint: arriving.fingerprint() };
        if touched_only && member.journal.phase() == HostPhase::Untouched {
            if errand.goal == Goal::Prepare {
                return HostVerdict::Reached;
            }
            return self.write_settled(&member.host, errand, settled, false).await;
        }
        if errand.goal != Goal::Prepare && member.host.settled == Some(settled) {
            return HostVerdict::Reached;
        }
        let policy = match self.answered(self.host_key(member)).await {
            Ok(Ok(policy)) => policy,
            Ok(Err(why)) | Err(why) => return HostVerdict::Failed(why),
        };
        let mut machine = match member.machine.take() {
            Some(machine) => machine.toward(errand.goal),
            None => {
                let fresh = errand.fresh && member.quiet;
                let mut machine = HostMachine::new(errand.goal, errand.keys.len(), !member.host.without_expiry, fresh);
                if errand.maybe_proven {
                    machine = machine.maybe_proven_before();
                }
                if member.journal.may_have_probed() {
                    machine = machine.probed_before();
                }
                errand.keys.closed().fold(machine, |machine, (key, _)| machine.without_login(key))
            }
        };
        let outcome = self.work_on(errand, account, member, &policy, &mut machine).await;
        let refused_an_end = machine.has_refused_an_end();
        if machine.next() == Next::End(HostEnd::Refused) {
            errand.shared.refuses(account);
        }
        member.machine = Some(machine);
        let (phase, verdict) = match outcome {
            HostVerdict::Fenced => return HostVerdict::Fenced,
            HostVerdict::Failed(why) => (HostPhase::Quarantined, HostVerdict::Failed(why)),
            HostVerdict::Reached => match errand.goal {
                Goal::Prepare => (HostPhase::Proven, HostVerdict::Reached),
                Goal::Soften => (HostPhase::Softened, HostVerdict::Reached),
                Goal::Remove => match self.write_settled(&member.host, errand, settled, refused_an_end).await {
                    HostVerdict::Reached => (HostPhase::Settled, HostVerdict::Reached),
                    other => return other,
                },
            },
        };
        // On the way back a host that was begun and not changed is visited for what may lie about there; if it is away, it
        // owes nothing.
        if let HostVerdict::Failed(why) = &verdict
            && touched_only
            && member.journal.phase() == HostPhase::Begun
        {
            if errand.goal == Goal::Prepare {
                return HostVerdict::Reached;
            }
            errand.observer.progress(Progress::Warning(format!("{account} was not looked at again: {why}")));
            return self.write_settled(&member.host, errand, settled, false).await;
        }
        let reason = if let HostVerdict::Failed(why) = &verdict { Some(why.as_str()) } else { None };
        member.journal.same_file_as(errand.shared.same_file_as(account));
        match self.answered(member.journal.note(&self.store, &self.timer, phase, reason)).await {
            Ok(Ok(())) => verdict,
            Ok(Err(NoPass::Fenced)) => HostVerdict::Fenced,
            // It is where it is; a later run finds that out again.
            Ok(Err(NoPass::Store(why))) | Err(why) => {
                errand.observer.progress(Progress::Warning(format!("{account}: its progress is not on record: {why}")));
                verdict
            }
        }
    }

    /// What a host was led to goes on record. So it does, unvisited, for a host that was settled before and to which nothing was
    /// written since: whoever writes to one has its journal first, and nobody can any more.
    async fn write_settled<R, O>(
        &self,
        host: &HostRecord,
        errand: &Errand<'_, '_, R, O>,
        settled: Settled,
        refused_an_end: bool,
    ) -> HostVerdict {
        match self.answered(self.record_settled(host, &errand.public, settled, refused_an_end)).await {
            Ok(Ok(())) => HostVerdict::Reached,
            Ok(Err(error)) => HostVerdict::Failed(describe(&error)),
            Err(why) => HostVerdict::Failed(why),
        }
    }

    /// What the store answers, if it does in the time that a connection has. The lead beats while a host is led: without a limit a
    /// single call that gets no answer would hold the rotation for ever, and everybody else off with it.
    pub(super) async fn answered<W>(&self, call: impl Future<Output = W>) -> Result<W, String> {
        let limit = self.timer.sleep_until(self.timer.now().saturating_add(self.pace.timeout));
        let silent = || format!("the store did not answer within {} s", self.pace.timeout.as_secs());
        within(call, limit).await.ok_or_else(silent)
    }

    /// Lets the machine have its way.
    async fn work_on<R: CryptoRng + Send, O: Observer>(
        &self,
        errand: &Errand<'_, '_, R, O>,
        account: &Account,
        member: &mut Member,
        policy: &HostKeyPolicy,
        machine: &mut HostMachine,
    ) -> HostVerdict {
        let mut tries = 1;
        let mut end = self.end_of_a_try();
        loop {
            let reason = match machine.next() {
                Next::End(HostEnd::Reached) => return HostVerdict::Reached,
                // A host that turns every key away may do so for a moment.
                Next::End(HostEnd::LockedOut) if tries < self.pace.attempts => {
                    *machine = machine.clone().toward(errand.goal);
                    describe_end(HostEnd::LockedOut, errand)
                }
                Next::End(end) => return HostVerdict::Failed(describe_end(end, errand)),
                Next::LogIn { with, query } => {
                    if machine.is_in_doubt(with) {
                        let reason = "the host refused a key that may be good; it is asked once more".to_owned();
                        errand.observer.progress(Progress::HostRetrying { account: account.clone(), reason });
                        let begun = self.timer.now();
                        self.back_off(errand, 1).await;
                        end = end.saturating_add(self.timer.now().saturating_since(begun));
                    }
                    let limit = self.timer.sleep_until(end);
                    let contact = self.contact(errand, account, member, policy, machine, with, query);
                    match within(contact, limit).await {
                        Some(Contact::Over) => continue,
                        Some(Contact::Fenced) => return HostVerdict::Fenced,
                        Some(Contact::Lasting(why)) => return HostVerdict::Failed(why),
                        Some(Contact::Passing(why)) => why,
                        None => format!("{account} did not come to an end within {} s", self.pace.timeout.as_secs()),
                    }
                }
            };
            if tries >= self.pace.attempts {
                return HostVerdict::Failed(reason);
            }
            errand.observer.progress(Progress::HostRetrying { account: account.clone(), reason });
            self.back_off(errand, tries).await;
            tries += 1;
            end = self.end_of_a_try();
        }
    }

    /// When a try of a host that begins now has to be over, all of its connections together: one that answers each of them late
    /// holds a place for no longer than one that hangs.
    fn end_of_a_try(&self) -> Timestamp {
        self.timer.now().saturating_add(self.pace.timeout)
    }

    /// Waits before a host is tried again, twice as long each time and up to as much again at random.
    async fn back_off<R: CryptoRng + Send, O>(&self, errand: &Errand<'_, '_, R, O>, tries: u32) {
        let wait = self.pace.backoff.saturating_mul(1 << (tries - 1).min(10));
        let more = errand.rng.draw(|rng| u64::from(rng.next_u32()) % (wait.as_secs() + 1));
        self.timer.sleep_until(self.timer.now().saturating_add(wait).saturating_add(Duration::from_secs(more))).await;
    }

    /// One connection: the login, what is to be done to the files, the end of it.
    #[expect(clippy::too_many_arguments, reason = "what a connection needs, each from another place")]
    async fn contact<R: CryptoRng + Send, O: Observer>(
        &self,
        errand: &Errand<'_, '_, R, O>,
        account: &Account,
        member: &mut Member,
        policy: &HostKeyPolicy,
        machine: &mut HostMachine,
        with: usize,
        query: Option<usize>,
    ) -> Contact {
        let Some(identity) = errand.keys.identity(with) else { return Contact::Lasting("a key is missing".to_owned()) };
        let asked = query.and_then(|key| errand.public.get(key));
        let login = Login { route: &member.host.route, identity, host_key: policy, query: asked };
        let mut session = match self.connector.log_in(&login).await {
            Ok(session) => session,
            Err(ConnectError::KeyRefused { .. }) => {
                machine.refused(with);
                return Contact::Over;
            }
            Err(error @ (ConnectError::HostKeyRefused { .. } | ConnectError::NoSftp { .. })) => {
                return Contact::Lasting(describe(&error));
            }
            Err(error) => return Contact::Passing(describe(&error)),
        };
        let answer = match (query, asked) {
            // Where one key is all that is held there is no other that a host could still take.
            (Some(key), None) => Some((key, false)),
            _ => query.and_then(|key| session.queried().map(|accepted| (key, accepted))),
        };
        if let (Some(key), Some(asked), None) = (query, asked, answer) {
            // It was not asked on the way in, or not answered: then on a connection of its own.
            session.close().await;
            return match self.connector.would_accept(&member.host.route, asked, policy).await {
                Ok(said) => {
                    machine.logged_in(with, Some((key, said.accepted)));
                    Contact::Over
                }
                Err(error @ ConnectError::HostKeyRefused { .. }) => Contact::Lasting(describe(&error)),
                Err(error) => Contact::Passing(describe(&error)),
            };
        }
        machine.logged_in(with, answer);
        let holder_in = |number: u64| format!("rotation-{number}-{}", tag(account));
        let holder = holder_in(errand.number);
        let home = member.host.home.as_deref().unwrap_or(".");
        if answer.is_some() {
            if member.litter {
                // What cannot be taken away now is in nobody's way for long.
                member.litter = sweep(session.files(), home, &holder).await.is_err();
            }
            session.close().await;
            return Contact::Over;
        }
        // Whoever heals the host under the rotation before is fenced off: its lock, if it died with it, is in nobody's way.
        let fenced_off = errand.number.checked_sub(1).filter(|_| member.quiet || member.journal.is_taken_from_healers());
        let plan = errand.rng.draw(|rng| Plan::new(rng, home, &holder)).and_then(|plan| match fenced_off {
            Some(before) => plan.succeeds(&holder_in(before)),
            None => Ok(plan),
        });
        let plan = match plan {
            Ok(plan) => plan.fence(member.journal.fence()),
            Err(error) => return Contact::Lasting(describe(&error)),
        };
        let software = session.software().map(str::to_owned);
        let expiry = match HostExpiry::find(software.as_deref(), session.files()).await {
            Ok(expiry) => expiry,
            Err(error) => return Contact::Passing(describe(&error)),
        };
        machine.reads_expiry(expiry.at(self.timer.now()).is_some());
        let making = Making {
            expiry,
            keys: errand.public.clone(),
            generation: Some(errand.number),
            account: account.clone(),
            provisional: errand.provisional,
            grace: errand.grace,
        };
        let told =
            |change: Change| errand.observer.progress(Progress::HostStep { account: account.clone(), step: change.name() });
        let mut fence = Passing { journal: &mut member.journal, store: &self.store, clock: &self.timer, told: &told };
        let others = OthersOf { account, shared: errand.shared };
        let worked = work(session.files(), plan, machine, &making, with, &mut fence, &others).await;
        session.close().await;
        match worked {
            Ok(worked) => {
                member.litter = worked.litter;
                machine.did(&worked.before, worked.change, &worked.after);
                if worked.left_for_others {
                    machine.left_to_others();
                }
                if matches!(worked.change, Some(Change::Add { .. })) {
                    errand.shared.has_added(account);
                }
                Contact::Over
            }
            Err(WorkError::Fenced) => Contact::Fenced,
            Err(WorkError::Passing(why)) => Contact::Passing(why),
            Err(WorkError::Lasting(why)) => Contact::Lasting(why),
        }
    }

    /// The only host key that will do. A host without one on record is nobody's.
    pub(super) async fn host_key(&self, member: &Member) -> Result<HostKeyPolicy, String> {
        let key = KnownHost::key(&member.host.route).map_err(|error| error.to_string())?;
        match Stored::<KnownHost>::read(&self.store, &key).await {
            Ok(Some(known)) => Ok(HostKeyPolicy::Exactly(known.body.host_key)),
            Ok(None) => Err(format!("no host key of {} is on record", member.host.route)),
            Err(error) => Err(describe(&error)),
        }
    }

    /// Writes into the host's own record which master key it holds, alone, and whether it has refused a line for its end; what its
    /// greeting or its time zone says is asked for at every visit and not kept. Nothing is written where a session has brought the
    /// host in once more since it was `seen`: what that has put there is seen next.
    async fn record_settled(
        &self,
        seen: &HostRecord,
        keys: &[PublicKey],
        settled: Settled,
        refused_an_end: bool,
    ) -> Result<(), StoreError> {
        let key = HostRecord::key(&seen.route.account)?;
        let Some(arriving) = keys.get(ARRIVING) else { return Ok(()) };
        let mut conflicts = 0;
        loop {
            // A host that was taken off the list meanwhile has nothing to be written.
            let Some(mut host) = Stored::<HostRecord>::read(&self.store, &key).await? else { return Ok(()) };
            // Nor is it written over what a later rotation says of it.
            if host.body.session != seen.session || host.body.settled.is_some_and(|later| later.generation > settled.generation) {
                return Ok(());
            }
            for line in &mut host.body.keys {
                if line.role == KeyRole::Master && keys.contains(&line.public_key) {
                    line.public_key = arriving.clone();
                }
            }
            host.body.settled = Some(settled);
            host.body.without_expiry |= refused_an_end;
            match host.save(&self.store).await {
                Err(StoreError::Conflict { .. }) if conflicts < MAX_CONFLICTS => conflicts += 1,
                other => return other,
            }
        }
    }
}

fn describe_end<R, O>(end: HostEnd, errand: &Errand<'_, '_, R, O>) -> String {
    let name = |key: usize| errand.public.get(key).map_or_else(String::new, |key| key.fingerprint().to_string());
    match end {
        HostEnd::Reached => "it is where it was to be".to_owned(),
        HostEnd::Refused => format!("the host has the line of {} and refuses the key", name(ARRIVING)),
        HostEnd::StillAccepted(key) => {
            format!("the host still takes the key {}, which is in none of its files that can be seen", name(key))
        }
        HostEnd::LockedOut => {
            let closed: Vec<String> =
                errand.keys.closed().map(|(key, why)| format!("{} was not tried: {why}", name(key))).collect();
            let besides = if closed.is_empty() { String::new() } else { format!(" ({})", closed.join("; ")) };
            format!("the host takes none of the master keys that the store holds{besides}")
        }
        HostEnd::ReadsOtherFiles(key) => {
            format!("the host takes the key {}, which is not in its authorized_keys: its sshd reads another file", name(key))
        }
        HostEnd::NoAnchor => "no master key stands on the host without an end and logs in".to_owned(),
        HostEnd::NeverRests => "the host's files keep changing".to_owned(),
    }
}
