//! One server on its way, without a journal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{Account, ConnectError, Connector, HostKeyPolicy, HostSession as _, Identity, Login, PublicKey, Route, Timer};
use toehold_keygen::HostExpiry;
use toehold_keygen::replacement::Plan;

use crate::change::{Change, Making};
use crate::error::describe;
use crate::host::{ARRIVING, Goal, HostEnd, HostMachine, LEAVING, Next};
use crate::host_files::{Fence, NoOthers, NoPass, WorkError, work};
use crate::request::Pace;
use crate::wait::within;

/// A server whose master key is to be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by callers")]
pub struct Server {
    /// The account and the way to it.
    pub route: Route,
    /// Which host key will do.
    pub host_key: HostKeyPolicy,
    /// The account's home directory where it is not what the SFTP server starts in.
    pub home: Option<String>,
    /// Whether its SSH server knows no `expiry-time`: then the new line goes in for good at once.
    pub without_expiry: bool,
}

/// What a server did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "two facts")]
pub struct ServerFailure {
    /// Which.
    pub account: Account,
    /// Why, in words.
    pub reason: String,
}

/// A server under way.
#[derive(Debug)]
pub(super) struct Host {
    server: Server,
    machine: HostMachine,
    /// Whether something of ours may have been written there.
    pub(super) touched: bool,
}

/// What all servers have in common.
#[derive(Debug)]
pub(super) struct Errand<'a, C, T> {
    pub(super) connector: &'a C,
    pub(super) timer: &'a T,
    pub(super) pace: Pace,
    pub(super) provisional: Duration,
    /// The arriving key, then the leaving one.
    pub(super) identities: [&'a Identity; 2],
}

/// There is no journal to pass; a write is only noted.
struct Noted<'a>(&'a mut bool);

impl Fence for Noted<'_> {
    async fn pass(&mut self, _: Change) -> Result<(), NoPass> {
        *self.0 = true;
        Ok(())
    }
}

impl Host {
    pub(super) fn new(server: Server, resumed: bool) -> Self {
        let machine = HostMachine::new(Goal::Prepare, 2, !server.without_expiry, !resumed);
        Self { server, machine, touched: resumed }
    }

    pub(super) fn account(&self) -> &Account {
        &self.server.route.account
    }

    /// The keys change places.
    pub(super) fn turn_back(&mut self) {
        self.machine = self.machine.clone().turned_back(Goal::Remove);
    }

    /// Leads it on, over as many connections as that takes.
    pub(super) async fn lead<C: Connector, T: Timer, R: CryptoRng + Send>(
        &mut self,
        errand: &Errand<'_, C, T>,
        goal: Goal,
        rng: &Mutex<&mut R>,
    ) -> Result<(), ServerFailure> {
        self.machine = self.machine.clone().toward(goal);
        let mut tries = 1;
        let end_of_a_try = || errand.timer.now().saturating_add(errand.pace.timeout);
        let mut end = end_of_a_try();
        loop {
            let reason = match self.machine.next() {
                Next::End(HostEnd::Reached) => return Ok(()),
                Next::End(how) => return Err(self.failure(in_words(how))),
                Next::LogIn { with, query } => {
                    if self.machine.is_in_doubt(with) {
                        errand.timer.sleep_until(errand.timer.now().saturating_add(errand.pace.backoff)).await;
                        end = end.saturating_add(errand.pace.backoff);
                    }
                    let limit = errand.timer.sleep_until(end);
                    match within(self.contact(errand, with, query, rng), limit).await {
                        Some(Ok(())) => continue,
                        Some(Err(WorkError::Fenced)) => return Err(self.failure("another renewal is at it".to_owned())),
                        Some(Err(WorkError::Lasting(why))) => return Err(self.failure(why)),
                        Some(Err(WorkError::Passing(why))) => why,
                        None => format!("it did not come to an end within {} s", errand.pace.timeout.as_secs()),
                    }
                }
            };
            if tries >= errand.pace.attempts {
                return Err(self.failure(reason));
            }
            let wait = errand.pace.backoff.saturating_mul(1 << (tries - 1).min(10));
            errand.timer.sleep_until(errand.timer.now().saturating_add(wait)).await;
            tries += 1;
            end = end_of_a_try();
        }
    }

    fn failure(&self, reason: String) -> ServerFailure {
        ServerFailure { account: self.account().clone(), reason }
    }

    async fn contact<C: Connector, T: Timer, R: CryptoRng + Send>(
        &mut self,
        errand: &Errand<'_, C, T>,
        with: usize,
        query: Option<usize>,
        rng: &Mutex<&mut R>,
    ) -> Result<(), WorkError> {
        let identity = |key: usize| errand.identities.get(key).copied();
        let server = &self.server;
        let Some(by) = identity(with) else { return Err(WorkError::Lasting("a key is missing".to_owned())) };
        let asked = query.and_then(identity).map(Identity::public_key);
        let login = Login { route: &server.route, identity: by, host_key: &server.host_key, query: asked };
        let mut session = match errand.connector.log_in(&login).await {
            Ok(session) => session,
            Err(ConnectError::KeyRefused { .. }) => {
                self.machine.refused(with);
                return Ok(());
            }
            Err(error @ (ConnectError::HostKeyRefused { .. } | ConnectError::NoSftp { .. })) => {
                return Err(WorkError::Lasting(describe(&error)));
            }
            Err(error) => return Err(WorkError::Passing(describe(&error))),
        };
        let answer = query.and_then(|key| session.queried().map(|accepted| (key, accepted)));
        if let (Some(key), Some(asked), None) = (query, asked, answer) {
            // It was not asked on the way in, or not answered: then on a connection of its own.
            session.close().await;
            return match errand.connector.would_accept(&server.route, asked, &server.host_key).await {
                Ok(said) => {
                    self.machine.logged_in(with, Some((key, said.accepted)));
                    Ok(())
                }
                Err(error @ ConnectError::HostKeyRefused { .. }) => Err(WorkError::Lasting(describe(&error))),
                Err(error) => Err(WorkError::Passing(describe(&error))),
            };
        }
        self.machine.logged_in(with, answer);
        if answer.is_some() {
            session.close().await;
            return Ok(());
        }
        let keys: Vec<PublicKey> = errand.identities.iter().map(|identity| identity.public_key().clone()).collect();
        let plan = {
            let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
            Plan::new(&mut **rng, server.home.as_deref().unwrap_or("."), "renewal")
        };
        let plan = plan.map_err(|error| WorkError::Lasting(describe(&error)))?;
        let software = session.software().map(str::to_owned);
        let expiry = HostExpiry::find(software.as_deref(), session.files()).await;
        let expiry = expiry.map_err(|error| WorkError::Passing(describe(&error)))?;
        self.machine.reads_expiry(expiry.at(errand.timer.now()).is_some());
        let making = Making {
            keys,
            generation: None,
            account: server.route.account.clone(),
            expiry,
            provisional: errand.provisional,
            grace: Duration::ZERO,
        };
        let worked = work(session.files(), plan, &self.machine, &making, with, &mut Noted(&mut self.touched), &NoOthers).await;
        session.close().await;
        let worked = worked?;
        self.machine.did(&worked.before, worked.change, &worked.after);
        Ok(())
    }
}

fn in_words(end: HostEnd) -> String {
    let name = |key| if key == ARRIVING { "the key that it is to have" } else { "the key that is to go" };
    match end {
        HostEnd::Reached => "it is where it was to be".to_owned(),
        HostEnd::Refused => format!("it has the line of {} and refuses the key", name(ARRIVING)),
        HostEnd::StillAccepted(key) => format!("it still takes {}, which is in none of its files that can be seen", name(key)),
        HostEnd::LockedOut => "it takes neither key".to_owned(),
        HostEnd::ReadsOtherFiles(key) => format!("it takes {}, which is not in its authorized_keys", name(key)),
        HostEnd::NoAnchor => format!("neither {} nor {} stands there without an end and logs in", name(ARRIVING), name(LEAVING)),
        HostEnd::NeverRests => "its files keep changing".to_owned(),
    }
}
