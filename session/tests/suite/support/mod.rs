//! What the tests of sessions share: a world with one host, an operator who pastes, and somebody who watches.
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

pub mod hands;
pub mod turns;
pub mod watch;

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{
    Call, CallKind, Crashing, ManualClock, MemoryStore, Moment, SimulatedFleet, TreeEntry, World, block_on, sample_identity,
    sample_public_key,
};
use toehold_core::{
    Account, Clock as _, HostKeyTrust, HostRecord, Identity, KeyRole, KnownHost, ManagedKey, PublicKey, Record, Route,
    SecretBytes, SessionId, StoreAudit, Stored,
};
use toehold_session::{AccountClaim, End, HostKeyCheck, Onboarder, Outcome, Pace, Request, Sealer, SessionError, SessionRecord};

pub use hands::{Hands, Paste};
#[allow(unused_imports, reason = "some tests watch")]
pub use watch::{Watch, watched};

/// Somebody else's lines: CRLF, no text, a key behind options with quotes, commented out, blank, malformed.
pub const FOREIGN: &[u8] = b"# the owner's\r\n\
    ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV owner@laptop\r\n\
    \xff\xfe\x00 not text\n\
    #ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS commented out\n\
    \n\
    command=\"echo \\\"a b\\\", c\",no-pty ssh-rsa AAAAB3NzaC1yc2E= me\n\
    \tssh-ed25519 AAAA broken\n";

/// What the account has before anything of ours comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// No `.ssh` at all.
    Bare,
    /// An empty `.ssh`.
    Directory,
    /// An empty `authorized_keys`.
    Empty,
    /// [`FOREIGN`].
    Foreign,
    /// [`FOREIGN`] without its last line feed.
    Unterminated,
    /// [`FOREIGN`] and the master key.
    Managed,
}

impl Home {
    pub const ALL: [Self; 6] = [Self::Foreign, Self::Bare, Self::Directory, Self::Empty, Self::Unterminated, Self::Managed];
}

/// A world with one host, and what is known of it.
#[derive(Clone, Debug)]
pub struct Lab {
    pub world: World,
    pub home: Home,
    pub account: Account,
    /// The bytes of `authorized_keys` before anything of ours came.
    pub foreign: Vec<u8>,
    /// The whole host before anything of ours came.
    pub before: Vec<TreeEntry>,
    pub pace: Pace,
}

pub type TestOnboarder =
    Onboarder<Crashing<MemoryStore>, SimulatedFleet, Crashing<ManualClock>, StoreAudit<Crashing<MemoryStore>>, XorSealer>;

pub fn account(text: &str) -> Account {
    text.parse().unwrap()
}

/// The way to `deploy@web1` through jump hosts.
pub fn behind(jumps: &[&str]) -> Route {
    Route { account: account("deploy@web1"), jumps: jumps.iter().map(|jump| account(jump)).collect() }
}

pub fn master_key() -> PublicKey {
    sample_public_key("ssh-ed25519", "the master key")
}

pub fn master() -> Identity {
    sample_identity(&master_key())
}

pub fn colleague() -> PublicKey {
    sample_public_key("ecdsa-sha2-nistp256", "a colleague's")
}

pub fn master_line() -> ManagedKey {
    ManagedKey { role: KeyRole::Master, public_key: master_key(), options: String::new(), comment: "toehold-master".to_owned() }
}

pub fn colleague_line() -> ManagedKey {
    let comment = "colleague@example.net".to_owned();
    ManagedKey { role: KeyRole::Selected, public_key: colleague(), options: "no-pty".to_owned(), comment }
}

pub fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

/// Seals in a way that leaves nothing of the secret to be found by its bytes, and that is bound to the session.
#[derive(Clone, Copy, Debug, Default)]
pub struct XorSealer;

impl Sealer for XorSealer {
    fn seal(&self, session: SessionId, secret: &SecretBytes) -> Result<String, String> {
        Ok(format!("{session}:{}", hex(secret.expose().iter().map(|byte| byte ^ 0xa5))))
    }

    fn open(&self, session: SessionId, sealed: &str) -> Result<SecretBytes, String> {
        let hex = sealed.strip_prefix(&format!("{session}:")).ok_or("sealed for another session")?;
        let byte =
            |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).map(|byte| byte ^ 0xa5).map_err(|error| error.to_string());
        Ok(SecretBytes::new((0..hex.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, String>>()?))
    }
}

impl Lab {
    pub fn new(home: Home) -> Self {
        Self::at("deploy@web1.example.net", home)
    }

    pub fn at(name: &str, home: Home) -> Self {
        let world = World::new();
        let account = account(name);
        let fleet = world.fleet();
        fleet.add_host(&account);
        let foreign = match home {
            Home::Bare | Home::Directory | Home::Empty => Vec::new(),
            Home::Foreign => FOREIGN.to_vec(),
            Home::Unterminated => FOREIGN[..FOREIGN.len() - 1].to_vec(),
            Home::Managed => [FOREIGN, format!("{} by hand\n", master_key()).as_bytes()].concat(),
        };
        match home {
            Home::Bare => {}
            Home::Directory => fleet.make_directory(&account, ".ssh", 0o700),
            _ => fleet.set_authorized_keys(&account, foreign.clone()),
        }
        let before = fleet.tree(&account);
        Self { world, home, account, foreign, before, pace: Pace::default() }
    }

    /// The same world as another process sees it.
    pub fn restart(&self) -> Self {
        Self { world: self.world.restart(), ..self.clone() }
    }

    pub fn request(&self) -> Request {
        let mut request = Request::new(self.account.clone(), master_line());
        request.keys.push(colleague_line());
        request
    }

    pub fn checked(&self, check: HostKeyCheck) -> Request {
        let mut request = self.request();
        request.host_key_check = check;
        request
    }

    pub fn onboarder(&self) -> TestOnboarder {
        Onboarder {
            store: self.world.store(),
            connector: self.world.fleet().clone(),
            timer: self.world.timer(),
            audit: StoreAudit::new(self.world.store(), "tests"),
            sealer: XorSealer,
            pace: self.pace,
        }
    }

    pub fn hands(&self, paste: Paste) -> Hands {
        Hands::new(self, paste)
    }

    /// Onboards in this process, to the end or to where it stalls.
    pub fn onboard(&self, request: Request, hands: &mut Hands) -> Option<Result<Outcome, SessionError>> {
        let onboarder = self.onboarder();
        self.world.run(onboarder.onboard(request, &master(), &mut rng(1), hands))
    }

    /// The good way, which has to end well.
    pub fn onboard_well(&self) -> SessionRecord {
        let lab = self.restart();
        let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap();
        assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
        outcome.record
    }

    /// Onboards in a process that dies after this call, counted from 0.
    pub fn crash(&self, request: Request, hands: &mut Hands, call: usize) -> SessionRecord {
        let lab = self.restart();
        lab.world.faults().crash_at(call, Moment::After);
        assert!(lab.onboard(request, hands).is_none(), "the process did not come to call {call}");
        self.sessions().into_iter().rfind(|session| session.status.is_open()).unwrap()
    }

    /// The number of the first call for which this holds in a run of the good way, with these hands.
    pub fn call(&self, paste: Paste, wanted: impl Fn(&Call) -> bool) -> usize {
        self.call_of(self.request(), paste, wanted)
    }

    /// The same for a run with this request.
    pub fn call_of(&self, request: Request, paste: Paste, wanted: impl Fn(&Call) -> bool) -> usize {
        let lab = Self::at(&self.account.to_string(), self.home);
        drop(lab.onboard(request, &mut lab.hands(paste)).unwrap().unwrap());
        lab.world.faults().log().iter().find(|call| wanted(call)).unwrap().number
    }

    /// The call that puts the session's record into the store.
    pub fn call_that_opens(&self) -> usize {
        self.call(Paste::AtOnce, |call| call.kind == CallKind::StorePut)
    }

    /// The call that puts managed lines on the host.
    pub fn call_that_adds(&self) -> usize {
        self.call(Paste::AtOnce, |call| call.kind == CallKind::Rename)
    }

    /// The call by which the master key logs in.
    pub fn call_that_proves(&self) -> usize {
        let master = master_key().fingerprint().to_string();
        self.call(Paste::AtOnce, |call| call.kind == CallKind::LogIn && call.subject.ends_with(&master))
    }

    /// The call after which the session is no longer undone.
    pub fn call_that_settles(&self) -> usize {
        let proves = self.call_that_proves();
        self.call(Paste::AtOnce, |call| call.number > proves && call.kind == CallKind::StorePut)
    }

    /// Recovers in a new process in which nothing goes wrong, which has to end in this way.
    pub fn recover_to(&self, id: SessionId, end: End) -> Outcome {
        let outcome = self.restart().recover(id).unwrap().unwrap();
        assert_eq!(outcome.end, end, "{:?}", outcome.reason);
        outcome
    }

    /// Past the end of a temporary key, whatever the host's clock says.
    pub fn pass_the_end(&self, record: &SessionRecord) {
        let end = record.expires_at.saturating_add(self.pace.clock_error);
        let now = self.world.clock().now();
        self.world.clock().advance(end.saturating_since(now));
    }

    /// Recovers in this process.
    pub fn recover(&self, id: SessionId) -> Option<Result<Outcome, SessionError>> {
        let onboarder = self.onboarder();
        self.world.run(onboarder.recover(id, &master(), &mut rng(2), &mut self.hands(Paste::Never)))
    }

    pub fn advance(&self, seconds: u64) {
        self.world.clock().advance(Duration::from_secs(seconds));
    }

    pub fn file(&self) -> Vec<u8> {
        self.world.fleet().authorized_keys(&self.account)
    }

    pub fn tree(&self) -> Vec<TreeEntry> {
        self.world.fleet().tree(&self.account)
    }

    pub fn holds(&self, key: &PublicKey) -> bool {
        holds(&self.file(), key)
    }

    pub fn lets_in(&self, key: &PublicKey) -> bool {
        self.world.fleet().would_log_in(&self.account, key, self.world.clock().now())
    }

    /// Names in `.ssh`.
    pub fn names(&self) -> Vec<String> {
        let start = format!("/home/{}/.ssh/", self.account.user());
        self.tree().iter().filter_map(|entry| entry.path.strip_prefix(&start).map(str::to_owned)).collect()
    }

    pub fn host_key(&self) -> PublicKey {
        self.world.fleet().host_keys(&self.account)[0].clone()
    }

    pub fn sessions(&self) -> Vec<SessionRecord> {
        records(&self.world, "session/")
    }

    pub fn stored(&self, id: SessionId) -> SessionRecord {
        self.sessions().into_iter().find(|session| session.id == id).unwrap()
    }

    pub fn host(&self) -> Option<HostRecord> {
        records(&self.world, "host/").pop()
    }

    pub fn knows_host_key(&self, host_key: PublicKey) {
        let known = KnownHost { host_key, trust: HostKeyTrust::Asked, since: self.world.clock().now() };
        let key = KnownHost::key(&self.account.clone().into()).unwrap();
        block_on(Stored::create(self.world.memory(), key, known)).unwrap();
    }

    pub fn session(&self) -> SessionRecord {
        let mut sessions = self.sessions();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        sessions.remove(0)
    }

    pub fn claim(&self) -> Option<AccountClaim> {
        records(&self.world, "claim/").pop()
    }
}

pub fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap();
    bytes.into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
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
