//! `nats-server` on loopback: one, or a cluster of three.
#![allow(dead_code, reason = "no test program uses all of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::jetstream;
use tempfile::TempDir;
use toehold::adapters::nats::{NatsAddress, NatsOptions, NatsStore};

use crate::support::server::{Server, directory, free_port};

/// A server that can be stopped, killed and started again with what it has on disk.
#[derive(Debug)]
pub struct Nats {
    directory: TempDir,
    config: PathBuf,
    /// What its command begins with.
    runs_in: Vec<String>,
    pub port: u16,
    pub server: Option<Server>,
}

impl Nats {
    /// One server by itself; `more` goes into its configuration.
    pub fn start(more: &str) -> Self {
        let mut nats = Self::prepare("one", free_port(), more, Vec::new());
        nats.up();
        nats
    }

    fn prepare(name: &str, port: u16, more: &str, runs_in: Vec<String>) -> Self {
        let directory = directory("nats");
        let config = directory.path().join("nats.conf");
        let store = directory.path().join("jetstream");
        let text = format!(
            "server_name: {name}\nlisten: 127.0.0.1:{port}\njetstream {{ store_dir: \"{}\", max_file_store: 1G, max_memory_store: 64M }}\n{more}\n",
            store.display()
        );
        std::fs::write(&config, text).unwrap();
        Self { directory, config, runs_in, port, server: None }
    }

    fn command(&self) -> Command {
        let mut words = self.runs_in.iter().map(String::as_str).chain(["nats-server", "-c"]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(&self.config);
        command
    }

    /// Starts it, with what it has on disk.
    pub fn up(&mut self) {
        self.server = Some(Server::start(&mut self.command(), "Server is ready").expect("nats-server starts"));
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Keeps a copy of what it has on disk; it does not run meanwhile.
    pub fn back_up(&mut self) {
        self.kill();
        copy(&self.path().join("jetstream"), &self.path().join("backup"));
    }

    /// Puts that copy in the place of what it has on disk, and starts it.
    pub fn restored(&mut self) {
        self.kill();
        copy(&self.path().join("backup"), &self.path().join("jetstream"));
        self.up();
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn address(&self, bucket: &str) -> NatsAddress {
        format!("nats://127.0.0.1:{}/{bucket}", self.port).parse().unwrap()
    }

    pub async fn store(&self) -> NatsStore {
        NatsStore::create(&self.address("toehold"), &NatsOptions::default(), 1).await.unwrap()
    }

    /// A bare client.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(format!("{LOOPBACK}:{}", self.port)).await.unwrap()
    }
}

fn copy(from: &Path, to: &Path) {
    drop(std::fs::remove_dir_all(to));
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Which release it is that `PATH` leads to.
pub fn version() -> [u32; 3] {
    let output = Command::new("nats-server").arg("-v").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.trim().rsplit('v').next().unwrap().split(['.', '-']).map(|number| number.parse().unwrap());
    [(); 3].map(|()| numbers.next().unwrap())
}

const LOOPBACK: &str = "127.0.0.1";

/// Where a server of a cluster is.
#[derive(Debug)]
pub struct Seat {
    /// For clients, on loopback.
    pub port: u16,
    /// For the other servers.
    pub route: (String, u16),
    /// What its command begins with: it may lead to another network than the test's.
    pub runs_in: Vec<String>,
    /// More for its configuration.
    pub more: String,
}

/// Three servers that keep everything three times.
#[derive(Debug)]
pub struct Cluster {
    pub servers: [Nats; 3],
}

impl Cluster {
    pub fn start() -> Self {
        Self::of([(); 3].map(|()| Seat {
            port: free_port(),
            route: (LOOPBACK.to_owned(), free_port()),
            runs_in: Vec::new(),
            more: String::new(),
        }))
    }

    /// Each with its seat.
    pub fn of(seats: [Seat; 3]) -> Self {
        let routes: Vec<String> = seats.iter().map(|seat| format!("nats-route://{}:{}", seat.route.0, seat.route.1)).collect();
        let routes = routes.join(", ");
        let mut numbers = 0..;
        let servers = seats.map(|Seat { port, route: (address, route), runs_in, more }| {
            let cluster = format!("cluster {{ name: three, listen: \"{address}:{route}\", routes: [{routes}] }}\n{more}");
            Nats::prepare(&format!("n{}", numbers.next().unwrap_or(0)), port, &cluster, runs_in)
        });
        let mut cluster = Self { servers };
        // Each is ready only once it knows of the others.
        let commands: Vec<Command> = cluster.servers.iter().map(Nats::command).collect();
        let started: Vec<_> = commands
            .into_iter()
            .map(|mut command| {
                std::thread::spawn(move || Server::start(&mut command, "Server is ready").expect("nats-server starts"))
            })
            .collect();
        for (nats, started) in cluster.servers.iter_mut().zip(started) {
            nats.server = Some(started.join().unwrap());
        }
        cluster
    }

    pub fn address(&self, bucket: &str) -> NatsAddress {
        address_of(&self.servers, bucket)
    }

    /// Makes the store: a cluster has to agree on its leader first.
    pub async fn store(&self) -> NatsStore {
        let deadline = tokio::time::Instant::now() + crate::support::server::PATIENCE;
        loop {
            match NatsStore::create(&self.address("toehold"), &NatsOptions::default(), 3).await {
                Ok(store) => return store,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
            }
        }
    }

    /// How many servers keep a copy of this bucket, as the one with this number says.
    pub async fn replicas(&self, bucket: &str, asked: usize) -> Option<usize> {
        Some(self.stream(bucket, asked).await?.cached_info().config.num_replicas)
    }

    /// Which server leads the stream of this bucket, as the one with this number says; `None` while it knows of none.
    pub async fn leader(&self, bucket: &str, asked: usize) -> Option<usize> {
        let stream = self.stream(bucket, asked).await?;
        let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
        leader.strip_prefix('n')?.parse().ok()
    }

    /// The same, once there is one.
    pub async fn await_leader(&self, bucket: &str, asked: usize) -> usize {
        let deadline = tokio::time::Instant::now() + crate::support::server::PATIENCE * 2;
        loop {
            if let Some(leader) = self.leader(bucket, asked).await {
                return leader;
            }
            assert!(tokio::time::Instant::now() < deadline, "nobody leads");
        }
    }

    /// Waits until all three have everything, as the one with this number says: only then may another one die.
    pub async fn await_current(&self, bucket: &str, asked: usize) {
        let deadline = tokio::time::Instant::now() + crate::support::server::PATIENCE * 2;
        loop {
            if let Some(stream) = self.stream(bucket, asked).await
                && let Some(peers) = &stream.cached_info().cluster
                && peers.leader.is_some()
                && peers.replicas.len() == 2
                && peers.replicas.iter().all(|replica| replica.current && !replica.offline)
            {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "the servers do not catch up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets the leader of this bucket's stream step down until the wanted one leads it; another one is asked.
    pub async fn lead_by(&self, bucket: &str, wanted: usize, asked: usize) {
        let deadline = tokio::time::Instant::now() + crate::support::server::PATIENCE * 6;
        loop {
            let leader = self.leader(bucket, asked).await;
            if leader == Some(wanted) {
                return;
            }
            if leader.is_some() {
                let client = self.servers[asked].client().await;
                let step = client.request(format!("$JS.API.STREAM.LEADER.STEPDOWN.KV_{bucket}"), "".into());
                // Whether it did, the next look tells.
                let _ = tokio::time::timeout(Duration::from_secs(2), step).await;
            }
            assert!(tokio::time::Instant::now() < deadline, "server {wanted} is never chosen");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stream(&self, bucket: &str, asked: usize) -> Option<jetstream::stream::Stream> {
        let client = self.servers[asked].client().await;
        let mut context = jetstream::new(client);
        context.set_timeout(Duration::from_secs(2));
        context.get_stream(format!("KV_{bucket}")).await.ok()
    }
}

/// A store, as it is reached through these servers.
pub fn address_of<'s>(servers: impl IntoIterator<Item = &'s Nats>, bucket: &str) -> NatsAddress {
    let servers: Vec<String> = servers.into_iter().map(|nats| format!("{LOOPBACK}:{}", nats.port)).collect();
    format!("nats://{}/{bucket}", servers.join(",")).parse().unwrap()
}
