//! A fleet of real `sshd`, each with other people's lines around the master key's, put under management without onboarding.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use toehold::adapters::russh_connector::{Limits, RusshConnector};
use toehold::adapters::sqlite::SqliteStore;
use toehold::master_key::{held_master_keys, open_master_key};
use toehold::state::{NoPassphrase, State};
use toehold_core::{
    Account, ConnectError, Connector as _, HostRecord, HostSession as _, Identity, KnownHost, Login, PublicKey, Stored,
};

use super::cli::{Done, Toehold};
use super::inside::FOREIGN;
use super::keys::{Key, key};
use super::sshd::{Builder, RealSshd};

/// How many servers are started, and logged in to, at a time.
const AT_A_TIME: usize = 8;

/// Servers that are up, and the program whose hosts they are.
#[derive(Debug)]
pub struct Fleet {
    pub toehold: Toehold,
    pub hosts: Vec<RealSshd>,
    /// Somebody else whose key is on every host.
    pub alice: Key,
    /// A program's key, on every host as `restrict,command="internal-sftp"`.
    pub robot: Key,
}

/// Runs this to its end.
pub fn wait<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

impl Fleet {
    /// So many managed hosts.
    pub fn new(count: usize) -> Self {
        Self::with(count, |_, host| host)
    }

    /// So many managed hosts, each as it is asked for.
    pub fn with(count: usize, how: impl Fn(usize, Builder) -> Builder + Sync) -> Self {
        Self::of(Toehold::new(), count, how)
    }

    /// Hosts of this program.
    pub fn of(toehold: Toehold, count: usize, how: impl Fn(usize, Builder) -> Builder + Sync) -> Self {
        let next = AtomicUsize::new(0);
        let start = || {
            let mut started = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return started;
                }
                started.push((number, how(number, RealSshd::builder()).start()));
            }
        };
        let mut hosts: Vec<(usize, RealSshd)> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..AT_A_TIME.min(count)).map(|_| scope.spawn(start)).collect();
            starting.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        hosts.sort_by_key(|(number, _)| *number);
        let hosts = hosts.into_iter().map(|(_, host)| host).collect();
        let fleet = Self { toehold, hosts, alice: key("ed25519"), robot: key("ecdsa-p256") };
        let master = fleet.toehold.master_key();
        for host in &fleet.hosts {
            host.authorize(fleet.file(&format!("{master} toehold-master\n")));
        }
        fleet.record(&fleet.hosts.iter().collect::<Vec<_>>(), "");
        fleet
    }

    /// A file with these lines of ours among other people's; its last line has no end.
    pub fn file(&self, ours: &str) -> Vec<u8> {
        let mut file = FOREIGN.to_vec();
        file.push(b'\n');
        file.extend_from_slice(ours.as_bytes());
        file.extend_from_slice(&self.after());
        file
    }

    fn after(&self) -> Vec<u8> {
        let robot = self.robot.line_with("restrict,command=\"internal-sftp\"");
        format!("{} alice@example.net\n# the robot\n{}", self.alice.public_key, robot.trim_end()).into_bytes()
    }

    /// Writes the records of these hosts, as an onboarding leaves them, with these options on the master key's line.
    pub fn record(&self, hosts: &[&RealSshd], options: &str) {
        let master = self.toehold.master_key();
        wait(async {
            let store = SqliteStore::open(&self.toehold.state()).unwrap();
            let mut writes = tokio::task::JoinSet::new();
            for (number, host) in hosts.iter().enumerate() {
                let account = host.account();
                let mut line = json!({ "role": "master", "public_key": master, "comment": "toehold-master" });
                if !options.is_empty() {
                    line["options"] = options.into();
                }
                let record = json!({
                    "account": account, "label": format!("host-{number}"), "home": host.home(), "keys": [line],
                    "session": format!("{number:032x}"), "managed_since": "2026-01-01T00:00:00Z",
                });
                let known = json!({ "host_key": host.host_key(), "trust": "fingerprint", "since": "2026-01-01T00:00:00Z" });
                let (store, route) = (store.clone(), host.route());
                writes.spawn(async move {
                    let record: HostRecord = serde_json::from_value(record).unwrap();
                    let known: KnownHost = serde_json::from_value(known).unwrap();
                    Stored::create(&store, KnownHost::key(&route).unwrap(), known).await.unwrap();
                    Stored::create(&store, HostRecord::key(&route.account).unwrap(), record).await.unwrap();
                });
            }
            while let Some(written) = writes.join_next().await {
                written.unwrap();
            }
        });
    }

    /// Every master key whose private half the store holds, ready to log in with.
    pub fn held(&self) -> Vec<Identity> {
        wait(async {
            let state = State::open(&self.toehold.state(), NoPassphrase).unwrap();
            let vault = state.vault().await.unwrap();
            let records = held_master_keys(state.store()).await.unwrap();
            let held: Vec<Identity> = records.iter().map(|record| open_master_key(vault, record).unwrap()).collect();
            held
        })
    }

    /// The current master key, ready to log in with.
    pub fn current(&self) -> Identity {
        let current = self.toehold.master_key();
        self.held().into_iter().find(|held| held.public_key().to_string() == current).expect("the store holds its current key")
    }

    /// Whether each host lets this key in, by real logins.
    pub fn lets_in(&self, identity: &Identity) -> Vec<bool> {
        let hosts: Vec<&RealSshd> = self.hosts.iter().collect();
        lets_in(&hosts, identity)
    }

    /// `foreign_bytes`: without our lines every host's file is what it was; and alice and the robot log in.
    #[track_caller]
    pub fn foreign_lines_are_kept(&self, ours: &[PublicKey]) {
        let expected = self.file("");
        for host in &self.hosts {
            let file = std::fs::read(host.authorized_keys()).unwrap();
            let left = without(&file, ours);
            let left = left.strip_suffix(b"\n").unwrap_or(&left);
            assert_eq!(String::from_utf8_lossy(left), String::from_utf8_lossy(&expected), "foreign_bytes on {}", host.account());
        }
        for somebody in [&self.alice, &self.robot] {
            assert_eq!(self.lets_in(&somebody.identity), vec![true; self.hosts.len()], "somebody else is locked out");
        }
    }

    /// R1: every one of these hosts lets in, through a line that has no end, a key that the store holds.
    #[track_caller]
    pub fn is_anchored(&self, which: &[usize], when: &str) {
        let held = self.held();
        let publics: Vec<PublicKey> = held.iter().map(|held| held.public_key().clone()).collect();
        let hosts: Vec<&RealSshd> = which.iter().map(|number| &self.hosts[*number]).collect();
        let mut anchored = vec![false; hosts.len()];
        for (identity, public) in held.iter().zip(&publics) {
            let let_in = lets_in(&hosts, identity);
            for (index, host) in hosts.iter().enumerate() {
                anchored[index] |= let_in[index] && lines_of(host, &publics).contains(&(public.clone(), false));
            }
        }
        for (host, anchored) in hosts.iter().zip(anchored) {
            let file = std::fs::read(host.authorized_keys()).unwrap_or_default();
            assert!(anchored, "{when}: no key of ours is for good on {}:\n{}", host.account(), String::from_utf8_lossy(&file));
        }
    }

    /// A fleet at rest: these hosts have the current key in one line without an end, by which it logs in, nothing of the
    /// `gone` keys, which they refuse, and nothing of ours beside the file.
    #[track_caller]
    pub fn is_settled(&self, which: &[usize], gone: &[&Identity], when: &str) {
        let current = self.current();
        let hosts: Vec<&RealSshd> = which.iter().map(|number| &self.hosts[*number]).collect();
        let mut keys = vec![current.public_key().clone()];
        keys.extend(gone.iter().map(|gone| gone.public_key().clone()));
        for host in &hosts {
            let found = lines_of(host, &keys);
            assert_eq!(found, [(current.public_key().clone(), false)], "{when}: the lines on {}", host.account());
            let names = super::inside::names_in(&host.home().join(".ssh"));
            assert_eq!(names, ["authorized_keys"], "{when}: left behind on {}", host.account());
        }
        assert_eq!(lets_in(&hosts, &current), vec![true; hosts.len()], "{when}: the current key");
        for gone in gone {
            assert_eq!(lets_in(&hosts, gone), vec![false; hosts.len()], "{when}: {}", gone.public_key().fingerprint());
        }
    }

    /// `key rotate` with these options and JSON.
    pub fn rotate(&self, more: &[&str]) -> Done {
        let mut arguments = vec!["--json", "key", "rotate"];
        arguments.extend(more);
        self.toehold.run(arguments)
    }

    /// Whether the store holds the current key alone, and says that nothing is owed.
    #[track_caller]
    pub fn owes_nothing(&self, when: &str) {
        let status = self.toehold.run(["--json", "key", "status"]);
        assert_eq!(status.code, 0, "{when}: {} {}", status.stdout, status.stderr);
        assert_eq!(self.held().len(), 1, "{when}: {}", status.stdout);
        self.toehold.run(["host", "check"]).ends(0);
    }

    /// The numbers of all hosts.
    pub fn all(&self) -> Vec<usize> {
        (0..self.hosts.len()).collect()
    }

    /// The accounts, in the hosts' order.
    pub fn accounts(&self) -> Vec<Account> {
        self.hosts.iter().map(RealSshd::account).collect()
    }
}

/// Whether each of these hosts lets this key in, by real logins.
pub fn lets_in(hosts: &[&RealSshd], identity: &Identity) -> Vec<bool> {
    let patient = Duration::from_secs(60);
    let connector = RusshConnector::new(Limits { connect: patient, login: patient, request: patient, ..Limits::default() });
    let next = AtomicUsize::new(0);
    let log_in = || {
        wait(async {
            let mut answers = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(host) = hosts.get(number) else { return answers };
                let (route, pin) = (host.route(), host.pin());
                match connector.log_in(&Login { route: &route, identity, host_key: &pin, query: None }).await {
                    Ok(session) => {
                        session.close().await;
                        answers.push((number, true));
                    }
                    Err(ConnectError::KeyRefused { .. }) => answers.push((number, false)),
                    Err(error) => panic!("{}: {error:?}", host.account()),
                }
            }
        })
    };
    let mut answers: Vec<(usize, bool)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_A_TIME.min(hosts.len())).map(|_| scope.spawn(log_in)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    answers.sort_unstable();
    answers.into_iter().map(|(_, let_in)| let_in).collect()
}

/// Which of these keys are on a host, in both files and in order, and whether the line has an end.
pub fn lines_of(host: &RealSshd, keys: &[PublicKey]) -> Vec<(PublicKey, bool)> {
    let mut found = Vec::new();
    for file in [host.authorized_keys(), host.home().join(".ssh/authorized_keys2")] {
        let Ok(bytes) = std::fs::read(file) else { continue };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for line in text.lines() {
            for key in keys.iter().filter(|key| line.contains(&key.base64())) {
                found.push((key.clone(), line.contains("expiry-time=")));
            }
        }
    }
    found
}

/// The file without the lines of these keys.
fn without(file: &[u8], keys: &[PublicKey]) -> Vec<u8> {
    let ours: Vec<Vec<u8>> = keys.iter().map(|key| key.base64().into_bytes()).collect();
    let is_ours = |line: &[u8]| ours.iter().any(|key| line.windows(key.len()).any(|window| window == key));
    file.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_ours(line)).flatten().copied().collect()
}
