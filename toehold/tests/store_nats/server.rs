//! `nats-server` on loopback: one, or a cluster of three.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use toehold::adapters::nats::{NatsAddress, NatsOptions, NatsStore};

use crate::support::server::{Server, directory, free_port};

/// A server that can be stopped, killed and started again with what it has on disk.
#[derive(Debug)]
pub struct Nats {
    directory: TempDir,
    config: PathBuf,
    pub port: u16,
    pub server: Option<Server>,
}

impl Nats {
    /// One server by itself; `more` goes into its configuration.
    pub fn start(more: &str) -> Self {
        let mut nats = Self::prepare("one", free_port(), more);
        nats.up();
        nats
    }

    fn prepare(name: &str, port: u16, more: &str) -> Self {
        let directory = directory("nats");
        let config = directory.path().join("nats.conf");
        let store = directory.path().join("jetstream");
        let text = format!(
            "server_name: {name}\nlisten: 127.0.0.1:{port}\njetstream {{ store_dir: \"{}\", max_file_store: 1G, max_memory_store: 64M }}\n{more}\n",
            store.display()
        );
        std::fs::write(&config, text).unwrap();
        Self { directory, config, port, server: None }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nats-server");
        command.arg("-c").arg(&self.config);
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

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn address(&self, bucket: &str) -> NatsAddress {
        format!("nats://127.0.0.1:{}/{bucket}", self.port).parse().unwrap()
    }

    pub async fn store(&self) -> NatsStore {
        NatsStore::create(&self.address("toehold"), &NatsOptions::default(), 1).await.unwrap()
    }
}

/// Three servers that keep everything three times.
#[derive(Debug)]
pub struct Cluster {
    pub servers: [Nats; 3],
}

impl Cluster {
    pub fn start() -> Self {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<String> = ports.iter().map(|(_, route)| format!("nats-route://127.0.0.1:{route}")).collect();
        let servers = [0, 1, 2].map(|number: usize| {
            let (client, route) = ports[number];
            let cluster = format!("cluster {{ name: three, listen: 127.0.0.1:{route}, routes: [{}] }}", routes.join(", "));
            Nats::prepare(&format!("n{number}"), client, &cluster)
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
        let servers: Vec<String> = self.servers.iter().map(|nats| format!("127.0.0.1:{}", nats.port)).collect();
        format!("nats://{}/{bucket}", servers.join(",")).parse().unwrap()
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
}
