//! Connections to simulated hosts.

use std::io;

use super::tree::{Caller, Refusal, Tree};
use super::{LateOperation, Machine, Network, SimulatedFleet};
use crate::account::Route;
use crate::connect::{
    Capabilities, ConnectError, Connector, FileError, FileStat, HostFiles, HostKeyPolicy, HostSession, KeyAnswer, Login,
};
use crate::public_key::PublicKey;
use crate::store::Source;
use crate::testing::faults::{CallKind, Fault, Faults, Step};
use crate::testing::lock;
use crate::time::Clock as _;

/// What the simulated connector says to have waited.
const TIME_LIMIT: u64 = 30;

/// A connection to a simulated host, see [`SimulatedFleet`].
#[derive(Debug)]
pub struct SimulatedSession {
    host_key: PublicKey,
    queried: Option<bool>,
    software: Option<String>,
    faults: Faults,
    files: SimulatedFiles,
}

/// The files of a simulated host over one connection, see [`SimulatedFleet`].
///
/// Permissions are those of the owner and of everybody else; groups are not modelled. A refusal is told as OpenSSH's
/// `sftp-server` does: a component that is no directory, or a loop of links, as "not found".
#[derive(Debug)]
pub struct SimulatedFiles {
    fleet: SimulatedFleet,
    /// For the log of calls.
    account: String,
    user: String,
    machine: usize,
    outages: u64,
    lost: bool,
}

fn connection_lost() -> Source {
    Box::new(io::Error::from(io::ErrorKind::ConnectionReset))
}

fn unreachable_host(route: &Route) -> ConnectError {
    let source = Box::new(io::Error::from(io::ErrorKind::ConnectionRefused));
    ConnectError::Unreachable { route: route.to_string(), source }
}

impl Network {
    /// The machine at the end of a route, where all on the way to it are on.
    fn reach(&self, route: &Route) -> Result<usize, ConnectError> {
        let is_on = |index: &usize| self.machines.get(*index).is_some_and(|machine| machine.on);
        for jump in &route.jumps {
            self.endpoints.get(&jump.endpoint()).copied().filter(is_on).ok_or_else(|| unreachable_host(route))?;
        }
        let end = self.routes.get(&route.host_key_path()).or_else(|| self.endpoints.get(&route.account.endpoint()));
        end.copied().filter(is_on).ok_or_else(|| unreachable_host(route))
    }
}

impl Machine {
    /// The key that the host presents to a client with this policy.
    fn present(&self, route: &Route, policy: &HostKeyPolicy) -> Result<PublicKey, ConnectError> {
        let refused = |expected: String, found: Option<&PublicKey>| ConnectError::HostKeyRefused {
            route: route.to_string(),
            expected,
            found: found.map_or_else(|| "none of the expected type".to_owned(), |key| key.fingerprint().to_string()),
        };
        let preferred = self.host_keys.first();
        match policy {
            HostKeyPolicy::Exactly(pin) => {
                let offered = self.host_keys.iter().find(|key| key.algorithm() == pin.algorithm());
                offered.filter(|key| *key == pin).ok_or_else(|| refused(pin.fingerprint().to_string(), offered))
            }
            HostKeyPolicy::Fingerprint(pin) => {
                let offered = self.host_keys.iter().find(|key| key.fingerprint() == *pin);
                offered.ok_or_else(|| refused(pin.to_string(), preferred))
            }
            HostKeyPolicy::CallerDecides => preferred.ok_or_else(|| unreachable_host(route)),
        }
        .cloned()
    }
}

impl SimulatedFleet {
    /// Fails as planned, or has effect and then fails as planned.
    fn connect_fault(fault: Option<Fault>, route: &Route, key: &PublicKey) -> Result<(), ConnectError> {
        let route_name = route.to_string();
        match fault {
            Some(Fault::Unreachable) => Err(unreachable_host(route)),
            Some(Fault::TimedOut) => Err(ConnectError::TimedOut { route: route_name, doing: "connecting", seconds: TIME_LIMIT }),
            Some(Fault::LostBefore | Fault::LostAfter) => {
                Err(ConnectError::Broken { route: route_name, doing: "logging in", source: connection_lost() })
            }
            Some(Fault::KeyRefused) => Err(ConnectError::KeyRefused { route: route_name, fingerprint: key.fingerprint() }),
            _ => Ok(()),
        }
    }

    fn enter(&self, login: &Login<'_>, fault: Option<Fault>) -> Result<SimulatedSession, ConnectError> {
        let (route, key) = (login.route, login.identity.public_key());
        let user = route.account.user();
        if matches!(fault, Some(Fault::Unreachable | Fault::TimedOut | Fault::LostBefore)) {
            Self::connect_fault(fault, route, key)?;
        }
        let now = self.clock.now();
        let network = &mut *lock(&self.network);
        let index = network.reach(route)?;
        let machine = network.machines.get_mut(index).ok_or_else(|| unreachable_host(route))?;
        let host_key = machine.present(route, login.host_key)?;
        let queried = login.query.map(|key| machine.grant(user, key, now).is_some());
        if fault == Some(Fault::KeyRefused) {
            Self::connect_fault(fault, route, key)?;
        }
        let grant = machine
            .grant(user, key, now)
            .ok_or_else(|| ConnectError::KeyRefused { route: route.to_string(), fingerprint: key.fingerprint() })?;
        machine.user(user, machine.time(now));
        machine.logins.push((user.to_owned(), key.clone(), now));
        Self::connect_fault(fault, route, key)?;
        let software = machine.settings.says_to_be();
        let no_sftp = |reason: &str| ConnectError::NoSftp { route: route.to_string(), reason: reason.to_owned() };
        if !grant.forced_command.is_none_or(|command| serves_sftp(&command)) {
            return Err(no_sftp("the key's line in authorized_keys forces another command"));
        }
        if !machine.settings.sftp {
            return Err(no_sftp("the subsystem was refused"));
        }
        let files = SimulatedFiles {
            fleet: self.clone(),
            account: route.account.to_string(),
            user: user.to_owned(),
            machine: index,
            outages: machine.outages,
            lost: false,
        };
        Ok(SimulatedSession { host_key, queried, software, faults: self.faults.clone(), files })
    }
}

/// Whether a forced command is an SFTP server.
fn serves_sftp(command: &[u8]) -> bool {
    let first = String::from_utf8_lossy(command).split_ascii_whitespace().next().map(str::to_owned).unwrap_or_default();
    first == "internal-sftp" || first.rsplit('/').next() == Some("sftp-server")
}

impl Connector for SimulatedFleet {
    type Session = SimulatedSession;

    async fn log_in(&self, login: &Login<'_>) -> Result<SimulatedSession, ConnectError> {
        let subject = || format!("{} with {}", login.route, login.identity.public_key().fingerprint());
        let step = self.faults.begin(CallKind::LogIn, subject).await;
        let result = if step.late { Err(unreachable_host(login.route)) } else { self.enter(login, step.fault) };
        self.faults.end(step).await;
        result
    }

    async fn would_accept(
        &self,
        route: &Route,
        public_key: &PublicKey,
        host_key: &HostKeyPolicy,
    ) -> Result<KeyAnswer, ConnectError> {
        let step = self.faults.begin(CallKind::WouldAccept, || format!("{route} about {}", public_key.fingerprint())).await;
        let answer = || {
            Self::connect_fault(step.fault, route, public_key)?;
            let network = lock(&self.network);
            let machine = network.machines.get(network.reach(route)?).ok_or_else(|| unreachable_host(route))?;
            let host_key = machine.present(route, host_key)?;
            let accepted = machine.grant(route.account.user(), public_key, self.clock.now()).is_some();
            Ok(KeyAnswer { accepted, host_key })
        };
        let result = answer();
        self.faults.end(step).await;
        result
    }
}

impl HostSession for SimulatedSession {
    type Files = SimulatedFiles;

    fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    fn queried(&self) -> Option<bool> {
        self.queried
    }

    fn software(&self) -> Option<&str> {
        self.software.as_deref()
    }

    fn files(&mut self) -> &mut SimulatedFiles {
        &mut self.files
    }

    async fn close(self) {
        let step = self.faults.begin(CallKind::Close, || self.files.account.clone()).await;
        self.faults.end(step).await;
    }
}

/// An operation in words, for errors and for the log of calls.
#[derive(Clone, Copy)]
struct Operation<'a> {
    kind: CallKind,
    doing: &'static str,
    path: &'a str,
}

impl Operation<'_> {
    fn lost(self) -> FileError {
        FileError::Lost { doing: self.doing, path: self.path.to_owned(), source: connection_lost() }
    }

    fn denied(self) -> FileError {
        FileError::Denied { doing: self.doing, path: self.path.to_owned() }
    }

    fn failed(self, message: &str) -> FileError {
        FileError::Failed { doing: self.doing, path: self.path.to_owned(), message: message.to_owned() }
    }

    fn refused(self, refusal: Refusal) -> FileError {
        let path = self.path.to_owned();
        match refusal {
            Refusal::Exists => FileError::AlreadyExists { path },
            Refusal::Missing => FileError::NotFound { path },
            Refusal::NotPermitted => self.denied(),
            Refusal::Other(message) => self.failed(message),
        }
    }
}

impl SimulatedFiles {
    /// Makes a call that is done by `effect`, which has to own what it needs, since it may be done after this process has
    /// died. `partial` is what a server does that fails on the way.
    async fn call<T>(
        &mut self,
        operation: Operation<'_>,
        subject: String,
        effect: impl FnOnce(&mut Tree, &Caller) -> Result<T, Refusal> + Send + 'static,
        partial: impl FnOnce(&mut Tree, &Caller) + Send,
    ) -> Result<T, FileError>
    where
        T: Send,
    {
        let faults = self.fleet.faults.clone();
        let step = faults.begin(operation.kind, || format!("{} {subject}", self.account)).await;
        let result = self.perform(operation, step, effect, partial);
        faults.end(step).await;
        result
    }

    fn perform<T>(
        &mut self,
        operation: Operation<'_>,
        step: Step,
        effect: impl FnOnce(&mut Tree, &Caller) -> Result<T, Refusal> + Send + 'static,
        partial: impl FnOnce(&mut Tree, &Caller),
    ) -> Result<T, FileError> {
        let now = self.fleet.clock.now();
        let network = &mut *lock(&self.fleet.network);
        let Some(machine) = network.machines.get_mut(self.machine) else { return Err(operation.lost()) };
        if self.lost || !machine.on || machine.outages != self.outages {
            self.lost = true;
            return Err(operation.lost());
        }
        let user = machine.user(&self.user, machine.time(now));
        let caller = machine.caller(&user, now);
        if step.late {
            let effect = Box::new(move |machine: &mut Machine, caller: &Caller| {
                // Nobody is there to be told.
                let _ = effect(&mut machine.tree, caller);
            });
            network.late.push(LateOperation { machine: self.machine, caller, effect });
            return Err(operation.lost());
        }
        match step.fault {
            None => effect(&mut machine.tree, &caller).map_err(|refusal| operation.refused(refusal)),
            Some(Fault::Denied) => Err(operation.denied()),
            Some(Fault::ServerError) => {
                partial(&mut machine.tree, &caller);
                Err(operation.failed("Failure"))
            }
            Some(Fault::LostAfter) => {
                self.lost = true;
                // Nobody hears how it went.
                let _ = effect(&mut machine.tree, &caller);
                Err(operation.lost())
            }
            Some(_) => {
                self.lost = true;
                Err(operation.lost())
            }
        }
    }

    fn has(&self, what: impl FnOnce(&Machine) -> bool) -> bool {
        lock(&self.fleet.network).machines.get(self.machine).is_some_and(what)
    }
}

fn nothing(_: &mut Tree, _: &Caller) {}

impl HostFiles for SimulatedFiles {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_rename: self.has(|machine| machine.settings.atomic_rename),
            sync: self.has(|machine| machine.settings.sync),
        }
    }

    async fn real_path(&mut self, path: &str) -> Result<String, FileError> {
        let operation = Operation { kind: CallKind::RealPath, doing: "resolving", path };
        let owned = path.to_owned();
        self.call(operation, owned.clone(), move |tree, caller| tree.real_path(caller, &owned), nothing).await
    }

    async fn stat(&mut self, path: &str) -> Result<Option<FileStat>, FileError> {
        let operation = Operation { kind: CallKind::Stat, doing: "looking at", path };
        let owned = path.to_owned();
        self.call(operation, owned.clone(), move |tree, caller| tree.stat(caller, &owned), nothing).await
    }

    async fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        let operation = Operation { kind: CallKind::Read, doing: "reading", path };
        let owned = path.to_owned();
        let content = self
            .call(operation, owned.clone(), move |tree, caller| tree.read(caller, &owned).map(<[u8]>::to_vec), nothing)
            .await?;
        if u64::try_from(content.len()).is_ok_and(|length| length <= limit) {
            Ok(content)
        } else {
            Err(FileError::TooLarge { path: path.to_owned(), limit })
        }
    }

    async fn stage(&mut self, path: &str, content: &[u8], mode: u32) -> Result<(), FileError> {
        let operation = Operation { kind: CallKind::Stage, doing: "writing", path };
        let (owned, whole) = (path.to_owned(), content.to_vec());
        let half = content.get(..content.len() / 2).unwrap_or_default().to_vec();
        let partial = move |tree: &mut Tree, caller: &Caller| {
            // A disk that is full after the first half.
            let _ = tree.create(caller, path, half, mode);
        };
        self.call(operation, owned.clone(), move |tree, caller| tree.create(caller, &owned, whole, mode), partial).await
    }

    async fn sync(&mut self, path: &str) -> Result<(), FileError> {
        if !self.capabilities().sync {
            return Err(FileError::Unsupported { what: "fsync@openssh.com" });
        }
        let operation = Operation { kind: CallKind::Sync, doing: "syncing", path };
        let owned = path.to_owned();
        self.call(operation, owned.clone(), move |tree, caller| tree.read(caller, &owned).map(|_| ()), nothing).await
    }

    async fn rename(&mut self, from: &str, to: &str) -> Result<(), FileError> {
        if !self.capabilities().atomic_rename {
            return Err(FileError::Unsupported { what: "posix-rename@openssh.com" });
        }
        let operation = Operation { kind: CallKind::Rename, doing: "renaming", path: from };
        let (owned, target) = (from.to_owned(), to.to_owned());
        self.call(operation, format!("{from} to {to}"), move |tree, caller| tree.rename(caller, &owned, &target), nothing).await
    }

    async fn remove(&mut self, path: &str) -> Result<(), FileError> {
        let operation = Operation { kind: CallKind::Remove, doing: "removing", path };
        let owned = path.to_owned();
        self.call(operation, owned.clone(), move |tree, caller| tree.remove(caller, &owned), nothing).await
    }

    async fn remove_directory(&mut self, path: &str) -> Result<(), FileError> {
        let operation = Operation { kind: CallKind::RemoveDirectory, doing: "removing", path };
        let owned = path.to_owned();
        self.call(operation, owned.clone(), move |tree, caller| tree.remove_directory(caller, &owned), nothing).await
    }

    async fn list(&mut self, path: &str) -> Result<Vec<String>, FileError> {
        let operation = Operation { kind: CallKind::List, doing: "listing", path };
        let owned = path.to_owned();
        self.call(operation, owned.clone(), move |tree, caller| tree.names(caller, &owned), nothing).await
    }
}
