//! Hosts with files, and an sshd that reads them.

mod address;
mod authorized_keys;
mod connection;
mod inspect;
mod keys;
mod settings;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

pub use authorized_keys::Grant;
pub use connection::{SimulatedFiles, SimulatedSession};
pub use inspect::{SimulatedFile, TreeEntry};
pub use keys::{sample_identity, sample_public_key};
pub use settings::{ExpiryTime, HostSettings};

use self::tree::{Caller, Tree};
use super::{Faults, ManualClock, lock};
use crate::account::{Account, Route};
use crate::public_key::PublicKey;
use crate::time::{Clock as _, Timestamp};

/// Hosts that can be connected to: a [`Connector`](crate::Connector) without a network.
///
/// Every host has a tree of files and an sshd that decides logins by the bytes of the account's `authorized_keys` at that
/// moment. Possession of an [`Identity::PrivateKey`](crate::Identity::PrivateKey) is taken on trust: its public half is
/// believed, the private half is not looked at.
///
/// Clones share the hosts; [`SimulatedFleet::with_faults`] is the same fleet as another process sees it. Methods that look
/// at a host or change it are the test's own hands: they work whether it is on or off, are no calls of a process, never
/// fail, and panic for an account that was not added.
#[derive(Clone)]
pub struct SimulatedFleet {
    network: Arc<Mutex<Network>>,
    clock: ManualClock,
    faults: Faults,
}

#[derive(Default)]
struct Network {
    machines: Vec<Machine>,
    /// By `host:port`.
    endpoints: BTreeMap<String, usize>,
    /// Where a whole route leads, where that is not where its account's endpoint does.
    routes: BTreeMap<String, usize>,
    late: Vec<LateOperation>,
}

struct LateOperation {
    machine: usize,
    caller: Caller,
    effect: LateEffect,
}

type LateEffect = Box<dyn FnOnce(&mut Machine, &Caller) + Send>;

struct Machine {
    settings: HostSettings,
    host_keys: Vec<PublicKey>,
    tree: Tree,
    users: BTreeMap<String, User>,
    on: bool,
    /// How often it was switched off: connections do not survive that.
    outages: u64,
    logins: Vec<(String, PublicKey, Timestamp)>,
}

#[derive(Clone)]
struct User {
    uid: u32,
    home: String,
}

impl Machine {
    fn new(endpoint: &str, now: Timestamp) -> Self {
        Self {
            settings: HostSettings::default(),
            host_keys: vec![sample_public_key("ssh-ed25519", &format!("host key of {endpoint}"))],
            tree: Tree::new(now.unix_seconds()),
            users: BTreeMap::new(),
            on: true,
            outages: 0,
            logins: Vec::new(),
        }
    }

    fn time(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_unix_seconds(now.unix_seconds().saturating_add(self.settings.clock_skew))
    }

    /// The user, who is made with a home directory on first mention.
    fn user(&mut self, name: &str, now: Timestamp) -> User {
        let known = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        let user = self.users.entry(name.to_owned()).or_insert_with(|| User {
            uid: if name == "root" { 0 } else { 1000_u32.saturating_add(known) },
            home: format!("/home/{name}"),
        });
        self.tree.make_directories("/home", 0, 0o755, now.unix_seconds());
        self.tree.make_directories(&user.home, user.uid, 0o755, now.unix_seconds());
        user.clone()
    }

    /// Who `user` is to the SFTP server.
    fn caller(&self, user: &User, now: Timestamp) -> Caller {
        let root = self.settings.chroot.clone().unwrap_or_default();
        let start = if root.is_empty() { user.home.clone() } else { "/".to_owned() };
        Caller { uid: user.uid, root: root.trim_end_matches('/').to_owned(), start, now: self.time(now).unix_seconds() }
    }

    /// What sshd grants to a login of `name` by `key` at `now` (by the world's clock).
    fn grant(&self, name: &str, key: &PublicKey, now: Timestamp) -> Option<Grant> {
        if self.settings.accept_any_key {
            return Some(Grant::default());
        }
        let user = self.users.get(name)?;
        self.settings.authorized_keys_files.iter().find_map(|file| {
            let path = file.replace("%h", &user.home).replace("%u", name).replace("%%", "%");
            let path = if path.starts_with('/') { path } else { format!("{}/{path}", user.home) };
            let (path, bytes) = self.tree.open(&path)?;
            if self.settings.strict_modes && !self.tree.is_strict(&path, &user.home, user.uid) {
                return None;
            }
            self.settings.grants(bytes, key, self.time(now))
        })
    }
}

impl SimulatedFleet {
    /// No hosts yet; times are those of `clock`.
    pub fn new(clock: ManualClock) -> Self {
        Self { network: Arc::default(), clock, faults: Faults::new() }
    }

    /// The same fleet as a process with other faults sees it.
    #[must_use]
    pub fn with_faults(&self, faults: Faults) -> Self {
        Self { faults, ..self.clone() }
    }

    /// What goes wrong for connections made through this handle.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Adds the account, and its host where `host:port` is not there yet: an empty home directory `/home/<user>`, an
    /// Ed25519 host key made out of `host:port`, and default [`HostSettings`].
    pub fn add_host(&self, account: &Account) {
        let now = self.clock.now();
        let network = &mut *lock(&self.network);
        let index = *network.endpoints.entry(account.endpoint()).or_insert_with(|| {
            network.machines.push(Machine::new(&account.endpoint(), now));
            network.machines.len() - 1
        });
        if let Some(machine) = network.machines.get_mut(index) {
            let host_now = machine.time(now);
            machine.user(account.user(), host_now);
        }
    }

    /// From now on connections along `route` end at the host of `account`: a second name of a host, a host behind a jump
    /// host, or (see [`SimulatedFleet::impersonate`]) somebody in the middle.
    pub fn lead(&self, route: &Route, account: &Account) {
        let mut network = lock(&self.network);
        let index = network.index(account);
        network.routes.insert(route.host_key_path(), index);
    }

    /// From now on direct connections to `victim` end at the host of `attacker`, which takes any key: another host key,
    /// other files, the same user name. What it serves and what it is sent is to be found at the account of the victim's
    /// user on the attacker's host.
    pub fn impersonate(&self, victim: &Account, attacker: &Account) {
        self.lead(&Route::direct(victim.clone()), attacker);
        self.configure(attacker, |settings| settings.accept_any_key = true);
    }

    /// Connections to `victim` end where they should again.
    pub fn stop_impersonating(&self, victim: &Account) {
        lock(&self.network).routes.remove(&Route::direct(victim.clone()).host_key_path());
    }

    /// Changes how the account's host is set up.
    pub fn configure(&self, account: &Account, change: impl FnOnce(&mut HostSettings)) {
        self.with_machine(account, |machine| change(&mut machine.settings));
    }

    /// The host's keys, the one that it prefers first.
    pub fn host_keys(&self, account: &Account) -> Vec<PublicKey> {
        self.with_machine(account, |machine| machine.host_keys.clone())
    }

    /// Gives the host other keys, the one that it prefers first.
    pub fn set_host_keys(&self, account: &Account, host_keys: Vec<PublicKey>) {
        self.with_machine(account, |machine| machine.host_keys = host_keys);
    }

    /// Switches the host off: it cannot be reached, and its connections are lost.
    pub fn switch_off(&self, account: &Account) {
        self.with_machine(account, |machine| {
            machine.on = false;
            machine.outages += 1;
        });
    }

    /// Switches the host on again, with its files as they were.
    pub fn switch_on(&self, account: &Account) {
        self.with_machine(account, |machine| machine.on = true);
    }

    /// Lets operations take effect whose process died while they were on their way
    /// ([`Moment::Late`](super::Moment::Late)); how many there were.
    pub fn deliver_late(&self) -> usize {
        let network = &mut *lock(&self.network);
        let late = std::mem::take(&mut network.late);
        let count = late.len();
        for operation in late {
            if let Some(machine) = network.machines.get_mut(operation.machine) {
                (operation.effect)(machine, &operation.caller);
            }
        }
        count
    }

    fn with_machine<T>(&self, account: &Account, act: impl FnOnce(&mut Machine) -> T) -> T {
        let mut network = lock(&self.network);
        let index = network.index(account);
        match network.machines.get_mut(index) {
            Some(machine) => act(machine),
            None => unreachable!("endpoints lead to machines"),
        }
    }
}

impl Network {
    fn index(&self, account: &Account) -> usize {
        match self.endpoints.get(&account.endpoint()) {
            Some(index) => *index,
            None => unreachable!("{account} was not added to the simulated fleet"),
        }
    }
}

impl fmt::Debug for SimulatedFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<String> = lock(&self.network).endpoints.keys().cloned().collect();
        f.debug_struct("SimulatedFleet").field("hosts", &endpoints).finish_non_exhaustive()
    }
}
