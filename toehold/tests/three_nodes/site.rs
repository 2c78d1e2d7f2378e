//! The servers, the operators with their state directories, the gateways and the hosts.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use toehold::adapters::nats::{NatsAddress, NatsOptions};
use toehold::master_key::{held_master_keys, open_master_key};
use toehold::state::{NoPassphrase, SharedAt, State};
use toehold_core::{Identity, PublicKey};

use crate::faults::{Ground, until};
use crate::join_support::gateway::Gateway;
use crate::join_support::machine::agents;
use crate::network::{Halves, Network};
use crate::server::{Cluster, Seat, address_of};
use crate::size::Size;
use crate::support::fleet::{lets_in, lines_of, wait};
use crate::support::server::free_port;
use crate::support::{Done, FOREIGN, RealSshd, Toehold, names_in};

pub const BUCKET: &str = "fleet";

/// A single source stands for many.
const LIMITS: [&str; 6] = ["--handshakes-per-minute", "10000000", "--calls-per-minute", "10000000", "--stranger-lifetime", "10m"];
/// How many hosts are started at a time.
const AT_A_TIME: usize = 8;

/// Somebody with a state directory, and the network that he is in.
#[derive(Debug)]
pub struct Person {
    pub toehold: Toehold,
    pub network: Network,
    store: NatsAddress,
}

impl Person {
    fn new(network: Network, store: NatsAddress) -> Self {
        Self { toehold: Toehold::bare().with_env("TOEHOLD_STORE", store.to_string()), network, store }
    }

    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str> + Send) -> Done {
        self.network.enter(|| self.toehold.run(arguments))
    }

    /// What `init` does not do at the first try while the servers find together, or while he is not in, it does later.
    fn comes_in(&self, how: &[&str]) {
        until("init", || self.run(how.iter().copied()).code == 0);
    }

    /// Every master key whose private half the store holds, as this one opens them.
    pub fn held(&self) -> Vec<Identity> {
        let at = SharedAt { address: self.store.clone(), options: NatsOptions::default() };
        let held = async {
            let state = State::open_shared(&self.toehold.state(), &at, NoPassphrase).await.unwrap();
            let vault = state.vault().await.unwrap();
            let records = held_master_keys(state.store()).await.unwrap();
            let held: Vec<Identity> = records.iter().map(|record| open_master_key(vault, record).unwrap()).collect();
            held
        };
        self.network.enter(|| wait(held))
    }

    pub fn current(&self) -> Identity {
        let shown = self.run(["--json", "key", "show"]).ends(0).json();
        let current = shown["public_key"].as_str().unwrap();
        self.held().into_iter().find(|held| held.public_key().to_string() == current).expect("the store holds its current key")
    }

    /// One member of what a command lists.
    pub fn lists(&self, arguments: &[&str], member: &str) -> Value {
        self.run(arguments.iter().copied()).ends(0).json()[member].clone()
    }
}

/// All of it.
#[derive(Debug)]
pub struct Site {
    pub size: Size,
    pub ground: Ground,
    pub right: Network,
    /// Anna on the left, Ben on the right; without halves both are on this machine.
    pub operators: [Person; 2],
    /// In the same order.
    pub gateways: [(Gateway, Person); 2],
    pub hosts: Vec<RealSshd>,
}

impl Site {
    pub fn start(size: Size, is_parted: bool) -> Self {
        let halves = is_parted.then(Halves::new);
        let (left, right) = match &halves {
            Some(halves) => (halves.left.clone(), halves.right.clone()),
            None => (Network::machine(), Network::machine()),
        };
        let cluster = servers(&left, &right);
        let (of_left, of_right) = if is_parted {
            (address_of(&cluster.servers[..1], BUCKET), address_of(&cluster.servers[1..], BUCKET))
        } else {
            (cluster.address(BUCKET), cluster.address(BUCKET))
        };
        let operators = [Person::new(left.clone(), of_left.clone()), Person::new(right.clone(), of_right.clone())];
        let [anna, ben] = &operators;
        anna.comes_in(&["init", "--name", "anna", "--replicas", "3"]);
        joins(anna, ben, "ben", "operator");
        let gateways = [("left", left, of_left), ("right", right.clone(), of_right)].map(|(name, network, store)| {
            let service = Person::new(network, store);
            joins(anna, &service, name, "gateway");
            let listen = format!("{}:0", service.network.here);
            let gateway = service.network.enter(|| Gateway::start_at(&service.toehold, &listen, &LIMITS));
            (gateway, service)
        });
        let hosts = right.enter(|| hosts(size.hosts, right.here));
        Self { size, ground: Ground::new(cluster, halves), right, operators, gateways, hosts }
    }

    /// What must be so in the end, whatever has happened: read off the hosts' files, by real logins, and as each operator sees it.
    pub fn is_whole(&self) {
        self.is_managed(&[]);
        for operator in &self.operators {
            for command in [&["host", "check"][..], &["store", "check"], &["audit", "verify"], &["key", "status"]] {
                operator.run(command.iter().copied()).ends(0);
            }
        }
        for (command, member) in [
            (&["--json", "host", "ls"][..], "hosts"),
            (&["--json", "session", "ls", "--all"], "sessions"),
            (&["--json", "agents", "ls"], "agents"),
        ] {
            let [anna, ben] = &self.operators;
            assert_eq!(anna.lists(command, member), ben.lists(command, member), "{member}");
        }
        let [anna, _] = &self.operators;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let listed = anna.lists(&["--json", "host", "ls"], "hosts");
        let mut listed: Vec<String> = listed.as_array().unwrap().iter().map(|host| text(&host["account"])).collect();
        let mut accounts: Vec<String> = self.hosts.iter().map(|host| host.account().to_string()).collect();
        listed.sort();
        accounts.sort();
        assert_eq!(listed, accounts, "each host is on record once");
        assert_eq!(anna.lists(&["--json", "session", "ls"], "sessions"), Value::Array(Vec::new()), "owed");
    }

    /// Every host has one line of ours, of the current key and without an end; nothing else is left; the key logs in, and none of those
    /// that are gone.
    pub fn is_managed(&self, gone: &[Identity]) {
        let current = self.operators[1].current();
        let mut keys: Vec<PublicKey> = vec![current.public_key().clone()];
        keys.extend(gone.iter().map(|gone| gone.public_key().clone()));
        for host in &self.hosts {
            let file = std::fs::read(host.authorized_keys()).unwrap();
            let text = String::from_utf8_lossy(&file).into_owned();
            assert!(file.starts_with(FOREIGN), "foreign_bytes: {text}");
            let ours = String::from_utf8_lossy(&file[FOREIGN.len()..]).into_owned();
            let ours: Vec<&str> = ours.lines().filter(|line| !line.is_empty()).collect();
            let is_ours = |line: &str| line.starts_with(&current.public_key().to_string()) && line.contains("toehold-master");
            assert!(ours.len() == 1 && is_ours(ours[0]), "lines of ours on {}: {ours:?}", host.account());
            assert_eq!(lines_of(host, &keys), [(current.public_key().clone(), false)], "{text}");
            assert_eq!(names_in(&host.home().join(".ssh")), ["authorized_keys"], "left behind on {}", host.account());
        }
        let hosts: Vec<&RealSshd> = self.hosts.iter().collect();
        assert_eq!(lets_in(&hosts, &current), vec![true; hosts.len()], "the current key");
        for gone in gone {
            assert_eq!(lets_in(&hosts, gone), vec![false; hosts.len()], "a key that is gone");
        }
    }

    /// The agents, as both operators see them.
    pub fn agents(&self) -> Vec<Value> {
        let [anna, ben] = self.operators.each_ref().map(|operator| operator.network.enter(|| agents(&operator.toehold)));
        assert_eq!(anna, ben);
        anna
    }
}

/// One server on the left, two on the right.
pub fn servers(left: &Network, right: &Network) -> Cluster {
    let seat = |network: &Network, number: u16| Seat {
        port: network.port(4222 + number),
        route: (network.store.to_owned(), network.port(6222 + number)),
        runs_in: network.command(),
        // What is silent for so long is not there any more.
        more: "ping_interval: \"2s\"\nping_max: 2".to_owned(),
    };
    Cluster::of([seat(left, 0), seat(right, 1), seat(right, 2)])
}

/// Lets somebody in.
fn joins(inside: &Person, newcomer: &Person, name: &str, role: &str) {
    let mut word = None;
    until("the newcomer asks", || {
        let asked = newcomer.run(["--json", "init"]);
        if asked.code == 3 {
            word = Some(asked.json()["recipient"].as_str().unwrap().to_owned());
        }
        word.is_some()
    });
    let word = word.unwrap_or_default();
    inside.run(["operator", "add", &word, "--name", name, "--role", role]).ends(0);
    newcomer.comes_in(&["init"]);
}

/// So many hosts, each with somebody else's lines.
fn hosts(count: usize, address: &'static str) -> Vec<RealSshd> {
    let next = AtomicUsize::new(0);
    let start = || {
        let mut started = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            let host = RealSshd::builder().address(address).start();
            host.authorize(FOREIGN);
            started.push(host);
        }
        started
    };
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..AT_A_TIME.min(count)).map(|_| scope.spawn(start)).collect();
        starting.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

impl Network {
    /// A port that is free in a network of one's own, and any other on this machine.
    fn port(&self, own: u16) -> u16 {
        if self.is_machine() { free_port() } else { own }
    }
}
