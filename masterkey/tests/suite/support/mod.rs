//! What the tests of rotations share: a world with a fleet, and somebody who watches it.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unused_self,
    missing_docs,
    reason = "helpers of tests, of which each test uses some"
)]

pub mod crash;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{Crashing, ManualClock, MemoryStore, SimulatedFleet, World, block_on};
use toehold_core::{
    Account, Clock as _, CurrentMasterKey, Expect, Fingerprint, HostKeyTrust, HostProgress, HostRecord, Key, KeyRole, KnownHost,
    ManagedKey, MasterKeyRecord, OnUnreachable, PublicKey, Record, RetiredKey, RotationRecord, SecretBytes, Store as _,
    StoreAudit, Stored,
};
use toehold_keygen::{KeyAlgorithm, KeyPair};
use toehold_masterkey::{
    KeyVault, NoObserver, Observer, Outcome, Pace, Progress, RotationError, RotationRequest, Rotator, SettleOutcome, TakeUp,
};

pub use watch::{Standing, Watch, stepped, watched};

/// Somebody else's lines: CRLF, no text, a key behind options with quotes, commented out, blank, malformed.
pub const FOREIGN: &[u8] = b"# the owner's\r\n\
    ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV owner@laptop\r\n\
    \xff\xfe\x00 not text\n\
    #ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS commented out\n\
    \n\
    command=\"echo \\\"a b\\\", c\",no-pty ssh-rsa AAAAB3NzaC1yc2E= me\n\
    \tssh-ed25519 AAAA broken\n";

pub type TestRotator =
    Rotator<Crashing<MemoryStore>, SimulatedFleet, Crashing<ManualClock>, StoreAudit<Crashing<MemoryStore>>, XorVault>;

pub fn account(text: &str) -> Account {
    text.parse().unwrap()
}

pub fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

/// Seals in a way that leaves nothing of the secret to be found by its bytes, and that is bound to the key.
#[derive(Clone, Copy, Debug, Default)]
pub struct XorVault;

impl KeyVault for XorVault {
    fn seal(&self, fingerprint: Fingerprint, secret: &SecretBytes) -> Result<String, String> {
        let hex: String = secret.expose().iter().map(|byte| format!("{:02x}", byte ^ 0xa5)).collect();
        Ok(format!("{fingerprint} {hex}"))
    }

    fn open(&self, fingerprint: Fingerprint, sealed: &str) -> Result<SecretBytes, String> {
        let hex = sealed.strip_prefix(&format!("{fingerprint} ")).ok_or("sealed for another key")?;
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).map(|byte| byte ^ 0xa5).map_err(|e| e.to_string());
        Ok(SecretBytes::new((0..hex.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, String>>()?))
    }
}

/// A world with a fleet that has a master key.
#[derive(Clone, Debug)]
pub struct Lab {
    pub world: World,
    pub accounts: Vec<Account>,
    pub pace: Pace,
    pub first: PublicKey,
}

/// What a run tells.
#[derive(Debug, Default)]
pub struct Notes(pub Mutex<Vec<Progress>>);

impl Observer for Notes {
    fn progress(&self, progress: Progress) {
        self.0.lock().unwrap().push(progress);
    }
}

impl Lab {
    /// So many hosts, each with somebody else's lines and the master key's.
    pub fn new(hosts: usize) -> Self {
        let lab = Self::empty();
        (1..=hosts).fold(lab, |lab, number| lab.with_host(&format!("deploy@web{number}.example.net")))
    }

    pub fn empty() -> Self {
        let world = World::new();
        let pair = KeyPair::generate(&mut rng(200), KeyAlgorithm::Ed25519).unwrap();
        let first = pair.public_key().clone();
        let fingerprint = first.fingerprint();
        let sealed = XorVault.seal(fingerprint, &pair.to_openssh("toehold-master").unwrap()).unwrap();
        let record = MasterKeyRecord {
            public_key: first.clone(),
            comment: "toehold-master".to_owned(),
            created_at: world.clock().now(),
            sealed,
            generation: 0,
        };
        block_on(Stored::create(world.memory(), MasterKeyRecord::key(&fingerprint).unwrap(), record)).unwrap();
        let current = CurrentMasterKey { fingerprint, generation: 0 };
        block_on(Stored::create(world.memory(), CurrentMasterKey::key().unwrap(), current)).unwrap();
        Self { world, accounts: Vec::new(), pace: Pace { concurrency: 2, ..Pace::default() }, first }
    }

    /// A host with somebody else's lines and the current master key's.
    #[must_use]
    pub fn with_host(self, name: &str) -> Self {
        let line = format!("{} toehold-master\n", self.current());
        self.with_file(name, &[FOREIGN, line.as_bytes()].concat())
    }

    /// A managed host with this file.
    #[must_use]
    pub fn with_file(mut self, name: &str, file: &[u8]) -> Self {
        let account = account(name);
        self.world.fleet().add_host(&account);
        self.world.fleet().set_authorized_keys(&account, file);
        self.record(&account);
        self.accounts.push(account);
        self
    }

    /// Puts the host on record as managed with the current key.
    pub fn record(&self, account: &Account) {
        let host_key = self.world.fleet().host_keys(account)[0].clone();
        let known = KnownHost { host_key, trust: HostKeyTrust::Asked, since: self.world.clock().now() };
        block_on(Stored::create(self.world.memory(), KnownHost::key(&account.clone().into()).unwrap(), known)).unwrap();
        let line = ManagedKey {
            role: KeyRole::Master,
            public_key: self.current(),
            options: String::new(),
            comment: "toehold-master".to_owned(),
        };
        let host = HostRecord {
            route: account.clone().into(),
            label: Some(account.host().split('.').next().unwrap().to_owned()),
            tags: BTreeMap::new(),
            home: None,
            keys: vec![line],
            session: "000102030405060708090a0b0c0d0eff".parse().unwrap(),
            managed_since: self.world.clock().now(),
            removing: false,
            without_expiry: false,
            settled: None,
        };
        block_on(Stored::create(self.world.memory(), HostRecord::key(account).unwrap(), host)).unwrap();
    }

    /// The same world as another process sees it.
    #[must_use]
    pub fn restart(&self) -> Self {
        Self { world: self.world.restart(), ..self.clone() }
    }

    pub fn rotator(&self) -> TestRotator {
        Rotator {
            store: self.world.store(),
            connector: self.world.fleet().clone(),
            timer: self.world.timer(),
            audit: StoreAudit::new(self.world.store(), "tests"),
            vault: XorVault,
            pace: self.pace,
        }
    }

    /// Without a grace, unless a test wants one.
    pub fn request(&self) -> RotationRequest {
        let mut request = RotationRequest::new("alice@laptop");
        request.policy.grace = 0;
        request
    }

    pub fn rotate(&self, request: RotationRequest) -> Result<Outcome, RotationError> {
        self.world.run(self.rotator().rotate(request, &mut rng(1), &NoObserver)).expect("the rotation stalls")
    }

    pub fn rotate_well(&self) -> Outcome {
        let outcome = self.rotate(self.request()).unwrap();
        assert_eq!(outcome.end, toehold_masterkey::End::Done, "{:?}", outcome.reason);
        outcome
    }

    pub fn resume(&self) -> Result<Outcome, RotationError> {
        let by = taking_over();
        self.world.run(self.rotator().resume(by, &mut rng(2), &NoObserver)).expect("the resumption stalls")
    }

    pub fn roll_back(&self) -> Result<Outcome, RotationError> {
        let by = taking_over();
        self.world.run(self.rotator().roll_back(by, &mut rng(3), &NoObserver)).expect("the way back stalls")
    }

    pub fn settle(&self) -> SettleOutcome {
        self.world.run(self.rotator().settle(&mut rng(4), &NoObserver)).expect("the healing stalls").unwrap()
    }

    pub fn current(&self) -> PublicKey {
        let current = records::<CurrentMasterKey>(&self.world, "masterkey/current").pop().unwrap();
        self.keys().into_iter().find(|key| key.public_key.fingerprint() == current.fingerprint).unwrap().public_key
    }

    pub fn generation(&self) -> u64 {
        records::<CurrentMasterKey>(&self.world, "masterkey/current").pop().unwrap().generation
    }

    /// The master keys that the store holds.
    pub fn keys(&self) -> Vec<MasterKeyRecord> {
        let entries = self.world.memory().entries();
        let wanted = entries.iter().filter(|entry| entry.key.as_str().starts_with("masterkey/") && entry.key.name() != "current");
        wanted.map(|entry| Stored::<MasterKeyRecord>::decode(entry).unwrap().body).collect()
    }

    pub fn retired(&self) -> Vec<RetiredKey> {
        records(&self.world, "retired/")
    }

    pub fn rotation(&self) -> Option<RotationRecord> {
        let entries = self.world.memory().entries();
        let mut rotations: Vec<RotationRecord> = entries
            .iter()
            .filter(|entry| entry.key.as_str().starts_with("rotation/") && entry.key.segments().count() == 2)
            .map(|entry| Stored::<RotationRecord>::decode(entry).unwrap().body)
            .collect();
        rotations.sort_by_key(|rotation| rotation.number);
        rotations.pop()
    }

    pub fn progress(&self, number: u64, account: &Account) -> Option<HostProgress> {
        let key = HostProgress::key(number, account).unwrap();
        block_on(Stored::<HostProgress>::read(self.world.memory(), &key)).unwrap().map(|stored| stored.body)
    }

    pub fn host(&self, account: &Account) -> HostRecord {
        block_on(Stored::<HostRecord>::read(self.world.memory(), &HostRecord::key(account).unwrap())).unwrap().unwrap().body
    }

    pub fn change_host(&self, account: &Account, change: impl FnOnce(&mut HostRecord)) {
        let key = HostRecord::key(account).unwrap();
        let mut stored = block_on(Stored::<HostRecord>::read(self.world.memory(), &key)).unwrap().unwrap();
        change(&mut stored.body);
        block_on(stored.save(self.world.memory())).unwrap();
    }

    pub fn file(&self, account: &Account) -> Vec<u8> {
        self.world.fleet().authorized_keys(account)
    }

    pub fn lets_in(&self, account: &Account, key: &PublicKey) -> bool {
        self.world.fleet().would_log_in(account, key, self.world.clock().now())
    }

    pub fn holds(&self, account: &Account, key: &PublicKey) -> bool {
        holds(&self.file(account), key)
    }

    pub fn names(&self, account: &Account) -> Vec<String> {
        let start = format!("/home/{}/.ssh/", account.user());
        let tree = self.world.fleet().tree(account);
        tree.iter().filter_map(|entry| entry.path.strip_prefix(&start).map(str::to_owned)).collect()
    }

    pub fn advance(&self, seconds: u64) {
        self.world.clock().advance(Duration::from_secs(seconds));
    }

    /// Every host holds `key` alone among the master keys, as is said of it, and nothing of ours beside it.
    pub fn assert_settled_on(&self, key: &PublicKey, when: &str) {
        assert_eq!(self.current(), *key, "{when}: the current key");
        for account in &self.accounts {
            assert!(self.lets_in(account, key), "{when}: {account} refuses the key");
            let others: Vec<PublicKey> = self.keys().into_iter().map(|held| held.public_key).collect();
            let others = others.into_iter().chain(self.retired().into_iter().map(|retired| retired.public_key));
            for other in others.chain([self.first.clone()]).filter(|other| other != key) {
                assert!(!self.holds(account, &other), "{when}: {account} holds {}", other.fingerprint());
            }
        }
    }

    /// Nothing of ours lies beside the files.
    pub fn assert_tidy(&self, when: &str) {
        for account in &self.accounts {
            let ours: Vec<String> = self.names(account).into_iter().filter(|name| name.contains("toehold")).collect();
            assert!(ours.is_empty(), "{when}: {account}: {ours:?} stayed");
        }
    }
}

pub fn taking_over() -> TakeUp {
    let mut by = TakeUp::new("bob@desk");
    by.take_over = true;
    by
}

/// All records of a kind that are in the store.
pub fn records<T: Record>(world: &World, prefix: &str) -> Vec<T> {
    let entries = world.memory().entries();
    let wanted = entries.iter().filter(|entry| entry.key.as_str().starts_with(prefix));
    wanted.map(|entry| Stored::<T>::decode(entry).unwrap().body).collect()
}

/// Whether a line of the file has the key, by its base64.
pub fn holds(file: &[u8], key: &PublicKey) -> bool {
    let base64 = key.base64();
    file.windows(base64.len()).any(|window| window == base64.as_bytes())
}
