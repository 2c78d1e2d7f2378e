//! A rotation over simulated hosts, 50 ms away, with its journal in the real SQLite store: 100, 1,000 and 10,000 of them.
//!
//! Prints `measured NAME VALUE BAR DETAIL` a line, which `cargo xtask bench key-rotate-simulated` holds to the bars. Without `--bench`, as
//! `cargo test` runs it, a few hosts once.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench")]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use toehold::adapters::identity::{IdentityFile, NewIdentity};
use toehold::adapters::sqlite::SqliteStore;
use toehold::adapters::system_clock::SystemClock;
use toehold::adapters::vault_sealer::VaultSealer;
use toehold::master_key::create_master_key;
use toehold_core::testing::{Faults, ManualClock, SimulatedFleet, SimulatedSession};
use toehold_core::{
    Account, Capabilities, Change, Clock as _, ConnectError, Connector, FileError, FileStat, HostFiles, HostKeyPolicy,
    HostRecord, HostSession, KeyAnswer, KnownHost, Login, Look, PublicKey, Route, Seen, StoreAudit, Stored,
};
use toehold_keygen::{KeyAlgorithm, KeyPair};
use toehold_masterkey::{End, NoObserver, Pace, RotationRequest, Rotator};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Round trips of a login: TCP, greetings, key exchange, service, the key asked about and then signed with, the channel, its
/// subsystem, SFTP's version.
const LOGIN: usize = 9;
const CONCURRENCY: usize = 256;
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// What passes over the wire.
#[derive(Debug, Default)]
struct Wire {
    rounds: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// The simulated fleet, far away.
#[derive(Clone, Debug)]
struct Far {
    fleet: SimulatedFleet,
    round_trip: Duration,
    wire: Arc<Wire>,
}

impl Far {
    async fn travel(&self, rounds: usize) {
        self.wire.rounds.fetch_add(rounds, Ordering::Relaxed);
        tokio::time::sleep(self.round_trip * u32::try_from(rounds).unwrap()).await;
    }

    /// The fleet without the record of the calls that were made through this handle.
    fn fleet(&self) -> SimulatedFleet {
        self.fleet.with_faults(Faults::new())
    }
}

/// Counted as open until it is dropped.
#[derive(Debug)]
struct Open(Arc<Wire>);

impl Open {
    fn new(wire: &Arc<Wire>) -> Self {
        let open = wire.open.fetch_add(1, Ordering::Relaxed) + 1;
        wire.most_open.fetch_max(open, Ordering::Relaxed);
        Self(Arc::clone(wire))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct FarSession {
    files: FarFiles,
    host_key: PublicKey,
    queried: Option<bool>,
    _open: Open,
}

#[derive(Debug)]
struct FarFiles {
    far: Far,
    session: SimulatedSession,
}

impl Connector for Far {
    type Session = FarSession;

    async fn log_in(&self, login: &Login<'_>) -> Result<FarSession, ConnectError> {
        let open = Open::new(&self.wire);
        self.travel(LOGIN + usize::from(login.query.is_some())).await;
        let session = self.fleet().log_in(login).await?;
        let (host_key, queried) = (session.host_key().clone(), session.queried());
        Ok(FarSession { files: FarFiles { far: self.clone(), session }, host_key, queried, _open: open })
    }

    async fn would_accept(&self, route: &Route, key: &PublicKey, policy: &HostKeyPolicy) -> Result<KeyAnswer, ConnectError> {
        let _open = Open::new(&self.wire);
        self.travel(LOGIN).await;
        self.fleet().would_accept(route, key, policy).await
    }
}

impl HostSession for FarSession {
    type Files = FarFiles;

    fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    fn software(&self) -> Option<&str> {
        self.files.session.software()
    }

    fn queried(&self) -> Option<bool> {
        self.queried
    }

    fn files(&mut self) -> &mut FarFiles {
        &mut self.files
    }

    /// Nobody waits for an answer to a farewell.
    async fn close(self) {}
}

/// Round trips of several looks at once: what has to be opened takes two, and what follows a directory waits for its second.
fn rounds(looks: &[Look]) -> usize {
    let opens = |look: &Look| matches!(look, Look::Read { .. } | Look::List(_) | Look::Sync(_));
    let own = usize::from(!looks.is_empty()) + usize::from(looks.iter().any(opens));
    let behind = looks.iter().position(|look| matches!(look, Look::List(_))).map_or(0, |at| 1 + rounds(&looks[at + 1..]));
    own.max(behind)
}

/// As many round trips as `RusshFiles` makes.
impl HostFiles for FarFiles {
    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_rename: true, sync: true }
    }

    async fn real_path(&mut self, path: &str) -> Result<String, FileError> {
        self.far.travel(1).await;
        self.session.files().real_path(path).await
    }

    async fn stat(&mut self, path: &str) -> Result<Option<FileStat>, FileError> {
        self.far.travel(1).await;
        self.session.files().stat(path).await
    }

    async fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        self.far.travel(2).await;
        self.session.files().read(path, limit).await
    }

    async fn stage(&mut self, path: &str, content: &[u8], mode: u32) -> Result<(), FileError> {
        self.far.travel(2).await;
        self.session.files().stage(path, content, mode).await
    }

    async fn sync(&mut self, path: &str) -> Result<(), FileError> {
        self.far.travel(2).await;
        self.session.files().sync(path).await
    }

    async fn rename(&mut self, from: &str, to: &str) -> Result<(), FileError> {
        self.far.travel(1).await;
        self.session.files().rename(from, to).await
    }

    async fn remove(&mut self, path: &str) -> Result<(), FileError> {
        self.far.travel(1).await;
        self.session.files().remove(path).await
    }

    async fn remove_directory(&mut self, path: &str) -> Result<(), FileError> {
        self.far.travel(1).await;
        self.session.files().remove_directory(path).await
    }

    async fn list(&mut self, path: &str) -> Result<Vec<String>, FileError> {
        self.far.travel(2).await;
        self.session.files().list(path).await
    }

    async fn look(&mut self, looks: &[Look]) -> Vec<Seen> {
        self.far.travel(rounds(looks)).await;
        self.session.files().look(looks).await
    }

    async fn change_and_look(&mut self, change: Change<'_>, looks: &[Look]) -> (Result<(), FileError>, Vec<Seen>) {
        // A file is opened first; the rest of it travels with the looks.
        let opening = usize::from(matches!(change, Change::Stage { .. }));
        self.far.travel(opening + rounds(looks).max(1)).await;
        self.session.files().change_and_look(change, looks).await
    }
}

/// What a rotation over so many hosts took.
#[derive(Debug)]
struct Run {
    hosts: usize,
    wall: f64,
    /// Of this process, in seconds.
    cpu: f64,
    /// Wall over what the round trips alone take at this concurrency.
    over_ideal: f64,
    rounds: f64,
    most_open: usize,
    /// The most memory in use above that of before, in KiB a host.
    memory: f64,
}

async fn run(hosts: usize, round_trip: Duration) -> Run {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let vault = IdentityFile::create(directory.path(), NewIdentity::unprotected(), SystemClock.now()).unwrap().unwrap();
    let store = SqliteStore::create(directory.path()).unwrap();
    let key = KeyPair::generate(&mut UnwrapErr(SysRng), KeyAlgorithm::Ed25519).unwrap().identity().unwrap();
    create_master_key(&store, &vault, &key, "toehold-master", SystemClock.now()).await.unwrap();
    let fleet = SimulatedFleet::new(ManualClock::new(SystemClock.now()));
    fill(&store, &fleet, hosts, key.public_key()).await;

    let far = Far { fleet, round_trip, wire: Arc::default() };
    let rotator = Rotator {
        store: &store,
        connector: &far,
        timer: SystemClock,
        audit: StoreAudit::new(store.clone(), "bench"),
        vault: VaultSealer(&vault),
        pace: Pace { concurrency: CONCURRENCY, ..Pace::default() },
    };
    let mut request = RotationRequest::new("bench");
    request.policy.grace = 0;
    let before = in_use();
    let ended = Arc::new(AtomicBool::new(false));
    let watching = std::thread::spawn({
        let ended = Arc::clone(&ended);
        move || {
            let mut most = 0;
            while !ended.load(Ordering::Relaxed) {
                most = most.max(in_use());
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        }
    });
    let (begun, cpu) = (Instant::now(), own_cpu());
    let outcome = rotator.rotate(request, &mut UnwrapErr(SysRng), &NoObserver).await.unwrap();
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), own_cpu() - cpu);
    ended.store(true, Ordering::Relaxed);
    let most = watching.join().unwrap();
    assert_eq!((outcome.end, outcome.owed().count(), outcome.hosts.len()), (End::Done, 0, hosts), "{:?}", outcome.reason);
    let rounds = far.wire.rounds.load(Ordering::Relaxed);
    let ideal = number(rounds) * round_trip.as_secs_f64() / number(CONCURRENCY.min(hosts));
    Run {
        hosts,
        wall,
        cpu,
        over_ideal: wall / ideal,
        rounds: number(rounds) / number(hosts),
        most_open: far.wire.most_open.load(Ordering::Relaxed),
        memory: number(most.saturating_sub(before)) / number(hosts) / 1024.0,
    }
}

/// So many managed hosts, on record and there.
async fn fill(store: &SqliteStore, fleet: &SimulatedFleet, hosts: usize, master: &PublicKey) {
    let mut writes = tokio::task::JoinSet::new();
    for index in 0..hosts {
        let account = Account::new("deploy", &format!("host{index}"), 22).unwrap();
        fleet.add_host(&account);
        fleet.set_authorized_keys(&account, format!("# somebody's own\n{master} toehold-master\n"));
        let record = json!({
            "account": account,
            "keys": [{ "role": "master", "public_key": master, "comment": "toehold-master" }],
            "session": format!("{index:032x}"),
            "managed_since": "2026-01-01T00:00:00Z",
        });
        let known = json!({
            "host_key": fleet.host_keys(&account)[0], "trust": "fingerprint", "since": "2026-01-01T00:00:00Z",
        });
        let store = store.clone();
        writes.spawn(async move {
            let record: HostRecord = serde_json::from_value(record).unwrap();
            let known: KnownHost = serde_json::from_value(known).unwrap();
            Stored::create(&store, KnownHost::key(&record.route).unwrap(), known).await.unwrap();
            Stored::create(&store, HostRecord::key(&account).unwrap(), record).await.unwrap();
        });
    }
    while let Some(written) = writes.join_next().await {
        written.unwrap();
    }
}

/// Bytes in use now.
fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Seconds of CPU that this process has used: `utime` and `stime` of proc(5), in steps of 10 ms.
fn own_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if !std::env::args().any(|argument| argument == "--bench") {
        let run = runtime.block_on(run(20, Duration::from_millis(1)));
        assert!(run.most_open <= CONCURRENCY, "{run:?}");
        return;
    }
    let mut runs = Vec::new();
    for hosts in [100, 1_000, 10_000] {
        let run = runtime.block_on(run(hosts, ROUND_TRIP));
        println!(
            "{:>6} hosts: {:.1} s, {:.2} x the ideal of {:.1} rounds a host, CPU {:.2} ms and memory {:.1} KiB a host, {} open at most",
            run.hosts,
            run.wall,
            run.over_ideal,
            run.rounds,
            run.cpu * 1e3 / number(run.hosts),
            run.memory,
            run.most_open
        );
        runs.push(run);
    }
    let [_, middle, largest] = runs.as_slice() else { unreachable!("three sizes") };
    println!(
        "measured key-rotate-10000 {:.3} 1.15 {} simulated hosts against {:.0} round trips of {} ms a host at concurrency {CONCURRENCY}; {:.0} s",
        largest.over_ideal,
        largest.hosts,
        largest.rounds,
        ROUND_TRIP.as_millis(),
        largest.wall
    );
    println!("measured key-rotate-memory {:.3} 8.0 the most in use at {} hosts, a host", largest.memory, largest.hosts);
    let of_one = |run: &Run| run.cpu / number(run.hosts);
    println!(
        "measured key-rotate-linear {:.3} 1.5 CPU a host at {} hosts against {}",
        of_one(largest) / of_one(middle),
        largest.hosts,
        middle.hosts
    );
    println!(
        "measured key-rotate-open {:.3} 1.0 {} connections open at most, at concurrency {CONCURRENCY}",
        number(largest.most_open) / number(CONCURRENCY),
        largest.most_open
    );
}
