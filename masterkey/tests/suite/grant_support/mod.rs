//! What the tests of grants share: a world with one managed host, and somebody who watches it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "helpers of tests, of which each test uses some"
)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{
    Crashing, ManualClock, MemoryStore, SimulatedFleet, World, block_on, sample_identity, sample_public_key,
};
use toehold_core::{
    Account, Clock as _, HostKeyTrust, HostRecord, Identity, KeyRole, KnownHost, ManagedKey, PublicKey, Route, SessionId,
    StoreAudit, Stored, Timestamp,
};
use toehold_keygen::GRANT_COMMENT_PREFIX;
use toehold_masterkey::grant::{Ended, GrantError, GrantId, GrantRecord, GrantRequest, Granted, Grants, Swept};

pub const HOUR: Duration = Duration::from_hours(1);

/// Somebody else's lines around the master key's, without a line feed at the end.
pub fn foreign() -> Vec<u8> {
    let mut bytes = b"# the owner's\r\nfrom=\"*.example.net\" ssh-rsa AAAAB3NzaC1yc2E= me\xff\n\n".to_vec();
    bytes.extend_from_slice(format!("restrict {} toehold-master\n", master_key()).as_bytes());
    bytes.extend_from_slice(format!("no-pty {} carol@laptop", carol()).as_bytes());
    bytes
}

pub fn master_key() -> PublicKey {
    sample_public_key("ssh-ed25519", "the master key")
}

pub fn master() -> Identity {
    sample_identity(&master_key())
}

pub fn bob() -> PublicKey {
    sample_public_key("ssh-ed25519", "bob's")
}

/// Whose key is on the host for good.
pub fn carol() -> PublicKey {
    sample_public_key("ecdsa-sha2-nistp256", "carol's")
}

pub fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

pub type TestGrants = Grants<Crashing<MemoryStore>, SimulatedFleet, Crashing<ManualClock>, StoreAudit<Crashing<MemoryStore>>>;

#[derive(Clone, Debug)]
pub struct Lab {
    pub world: World,
    pub account: Account,
}

impl Lab {
    pub fn new() -> Self {
        let world = World::new();
        let account: Account = "deploy@web1.example.net".parse().unwrap();
        world.fleet().add_host(&account);
        world.fleet().set_authorized_keys(&account, foreign());
        let lab = Self { world, account };
        lab.manage(&lab.account, |_| {});
        lab
    }

    /// Puts a host on record.
    pub fn manage(&self, account: &Account, change: impl FnOnce(&mut HostRecord)) {
        let store = self.world.memory();
        let now = self.now();
        let host_key = self.world.fleet().host_keys(account)[0].clone();
        let route = Route::direct(account.clone());
        let known = KnownHost { host_key, trust: HostKeyTrust::Proof, since: now };
        block_on(Stored::create(store, KnownHost::key(&route).unwrap(), known)).unwrap();
        let master = ManagedKey {
            role: KeyRole::Master,
            public_key: master_key(),
            options: "restrict".to_owned(),
            comment: "toehold-master".to_owned(),
        };
        let json = serde_json::json!({
            "account": account, "keys": [master], "session": SessionId::generate(&mut rng(9)), "managed_since": now,
        });
        let mut record: HostRecord = serde_json::from_value(json).unwrap();
        change(&mut record);
        block_on(Stored::create(store, HostRecord::key(account).unwrap(), record)).unwrap();
    }

    pub fn change_host(&self, change: impl FnOnce(&mut HostRecord)) {
        let store = self.world.memory();
        let mut stored = block_on(Stored::<HostRecord>::read(store, &HostRecord::key(&self.account).unwrap())).unwrap().unwrap();
        change(&mut stored.body);
        block_on(stored.save(store)).unwrap();
    }

    /// The same world as another process sees it.
    pub fn restart(&self) -> Self {
        Self { world: self.world.restart(), ..self.clone() }
    }

    pub fn grants(&self) -> TestGrants {
        Grants {
            store: self.world.store(),
            connector: self.world.fleet().clone(),
            timer: self.world.timer(),
            audit: StoreAudit::new(self.world.store(), "tests"),
        }
    }

    pub fn request(&self, key: PublicKey) -> GrantRequest {
        GrantRequest::new(self.account.clone(), key, HOUR)
    }

    pub fn try_grant(&self, request: &GrantRequest, seed: u8) -> Option<Result<Granted, GrantError>> {
        let grants = self.grants();
        self.world.run(async move { grants.grant(request, &[&master()], &mut rng(seed)).await })
    }

    /// Grants in a process of its own in which nothing goes wrong.
    pub fn grant(&self, request: &GrantRequest, seed: u8) -> Granted {
        self.restart().try_grant(request, seed).unwrap().unwrap()
    }

    pub fn revoke(&self, id: GrantId) -> Result<Ended, GrantError> {
        let grants = self.grants();
        self.world.run(async move { grants.revoke(id, &[&master()], &mut rng(77)).await }).unwrap()
    }

    pub fn try_sweep(&self) -> Option<Vec<Swept>> {
        let grants = self.grants();
        self.world.run(async move { grants.sweep(&[&master()], &mut rng(78), |_| true).await.unwrap() })
    }

    /// Sweeps in a process of its own in which nothing goes wrong; every grant has to be seen gone.
    pub fn sweep(&self) -> Vec<GrantId> {
        let swept = self.restart().try_sweep().unwrap();
        for one in &swept {
            assert!(one.result.is_ok(), "{one:?}");
        }
        swept.into_iter().map(|one| one.id).collect()
    }

    pub fn records(&self) -> Vec<GrantRecord> {
        let entries = self.world.memory().entries();
        let grants = entries.iter().filter(|entry| entry.key.as_str().starts_with("grant/"));
        grants.map(|entry| Stored::<GrantRecord>::decode(entry).unwrap().body).collect()
    }

    pub fn now(&self) -> Timestamp {
        self.world.clock().now()
    }

    pub fn advance(&self, by: Duration) {
        self.world.clock().advance(by);
    }

    pub fn lets_in(&self, key: &PublicKey) -> bool {
        self.world.fleet().would_log_in(&self.account, key, self.now())
    }

    pub fn file(&self) -> Vec<u8> {
        self.world.fleet().authorized_keys(&self.account)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.file()).into_owned()
    }

    /// The ids of the grants that have a line in the file.
    pub fn granted_in_file(&self) -> Vec<GrantId> {
        let text = self.text();
        let comments = text.lines().filter_map(|line| line.split_once(GRANT_COMMENT_PREFIX));
        comments.map(|(_, rest)| rest.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    /// The names in `.ssh` that are ours.
    pub fn leftovers(&self) -> Vec<String> {
        let tree = self.world.fleet().tree(&self.account);
        tree.into_iter().map(|entry| entry.path).filter(|path| path.contains(".toehold-")).collect()
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Lab {
    /// Runs a process call by call until it ends or stalls, with a look at the world after each.
    pub fn watched<T>(&self, process: impl Future<Output = T>) -> Option<T> {
        self.world.faults().take_turns(true);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        let mut process = pin!(process);
        while flag.0.swap(false, Ordering::AcqRel) {
            let polled = process.as_mut().poll(&mut context);
            self.check(&|| format!("after {}", self.world.faults().describe(self.world.faults().calls().saturating_sub(1))));
            if let Poll::Ready(output) = polled {
                return Some(output);
            }
        }
        None
    }

    /// Runs a process call by call; before its call `number` another one runs to its end.
    pub fn interrupted<T>(&self, number: usize, process: impl Future<Output = T>, mut other: impl FnMut()) -> Option<T> {
        self.world.faults().take_turns(true);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        let mut process = pin!(process);
        let mut waits = true;
        while flag.0.swap(false, Ordering::AcqRel) {
            if let Poll::Ready(output) = process.as_mut().poll(&mut context) {
                return Some(output);
            }
            if waits && self.world.faults().calls() == number {
                waits = false;
                other();
            }
            self.check(&|| format!("another before call {number}, after {}", self.world.faults().calls()));
        }
        None
    }

    /// What is true at every moment.
    pub fn check(&self, when: &dyn Fn() -> String) {
        let records = self.records();
        let text = self.text();
        // Nothing of a grant is on the host that is not on the list.
        for id in self.granted_in_file() {
            let record = records.iter().find(|record| record.id == id);
            let record = record.unwrap_or_else(|| panic!("{}: grant {id} is on the host and not on the list", when()));
            // And sshd ends it when the record says, but for one that the host could not read an end of.
            let line = text.lines().find(|line| line.contains(&record.marker())).unwrap();
            let end = format!("expiry-time=\"{}\"", record.expires_at.strftime("%Y%m%d%H%M%SZ"));
            assert!(record.without_expiry || line.contains(&end), "{}: {line}", when());
        }
        assert_eq!(without_grants(&self.file()), without_grants(&foreign()), "{}", when());
        assert!(self.lets_in(&master_key()), "{}: the master key is locked out", when());
        assert!(self.lets_in(&carol()), "{}: carol is locked out", when());
    }
}

/// The lines that are no grant's.
fn without_grants(file: &[u8]) -> Vec<&[u8]> {
    let lines = file.split(|byte| *byte == b'\n');
    let has = |line: &[u8]| line.windows(GRANT_COMMENT_PREFIX.len()).any(|window| window == GRANT_COMMENT_PREFIX.as_bytes());
    let mut lines: Vec<_> = lines.filter(|line| !has(line)).collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

/// A process that is run call by call.
pub struct Stepped<'a, T> {
    lab: &'a Lab,
    process: Pin<Box<dyn Future<Output = T> + 'a>>,
}

impl<'a, T> Stepped<'a, T> {
    pub fn new(lab: &'a Lab, process: impl Future<Output = T> + 'a) -> Self {
        lab.world.faults().take_turns(true);
        Self { lab, process: Box::pin(process) }
    }

    /// Runs until this many calls were made, or to its end, which it has to come to.
    pub fn run_to(&mut self, calls: usize) -> Option<T> {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        while self.lab.world.faults().calls() < calls {
            if let Poll::Ready(output) = self.process.as_mut().poll(&mut context) {
                return Some(output);
            }
            assert!(flag.0.swap(false, Ordering::AcqRel), "it stalls");
            self.lab.check(&|| format!("two at once, after {}", self.lab.world.faults().calls()));
        }
        None
    }
}
