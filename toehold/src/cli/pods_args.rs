//! The grammar of `pods …`.
#![allow(
    clippy::doc_markdown,
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_html_tags,
    reason = "these texts are what --help prints"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::durations::{parse_duration, parse_limit};
use super::gateway_args::parse_loopback;

/// `toehold pods …`.
#[derive(Debug, Subcommand)]
pub enum Pods {
    /// Run a gateway: whoever logs in by SSH gets a fresh pod, which goes with the connection
    Serve(Box<PodsServe>),
    /// List the pods
    Ls(PodsAt),
    /// End a pod, and with it the connection that it is for
    Rm {
        /// The pod's name
        name: String,
        /// Where it is
        #[command(flatten)]
        at: PodsAt,
    },
    /// Clear away what gateways have left that are gone: pods, their owners, their records
    Gc(PodsAt),
    /// Keys that may log in where `pods serve` runs with --keys-in-store
    #[command(subcommand)]
    Key(PodsKey),
    /// Print the role that the gateway needs in a Kubernetes cluster, and nothing beyond it
    Role(PodsRole),
}

/// `toehold pods key …`.
#[derive(Debug, Subcommand)]
pub enum PodsKey {
    /// Let keys log in, from the next login on
    Add {
        /// Whose they are; a key is one principal's and no other's
        principal: String,
        /// The public keys, as in `authorized_keys`: options that are enforced, key, comment; `-` is standard input
        file: PathBuf,
        /// Put them in place of what is there of the same keys
        #[arg(long)]
        replace: bool,
        /// Where the pods are
        #[command(flatten)]
        at: PodsAt,
    },
    /// List the keys
    Ls(PodsAt),
    /// Take keys away, from the next login on; who is logged in stays until then
    Rm {
        /// A key's fingerprint, or a principal, of whom all keys go
        which: String,
        /// Where the pods are
        #[command(flatten)]
        at: PodsAt,
    },
}

/// What runs the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PodsBackend {
    /// A Kubernetes cluster: the one of the configuration's `connection`, of a kubeconfig, or the one that this runs in
    Kube,
    /// Processes of this machine under the gateway's own user, for trying it out: isolates nothing
    Local,
}

/// Where pods are.
#[derive(Clone, Debug, Args)]
pub struct PodsAt {
    /// What runs the pods
    #[arg(long, value_name = "WHAT", default_value = "kube")]
    pub backend: PodsBackend,
    /// The kubeconfig that leads to the cluster [default: as kubectl has it, then the cluster that this runs in]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The gateway's configuration, YAML or JSON with the field names of `ContainerSSH`'s `kuberun`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `toehold pods serve`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).multiple(true))]
pub struct PodsServe {
    /// Where the pods are, and how they are to be
    #[command(flatten)]
    pub at: PodsAt,
    /// Where to listen; local pods listen on loopback alone
    #[arg(long, default_value = "127.0.0.1:2222", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Who may log in, under any user name: a file as sshd has it, `%u` in its path for the user name; may be given several times.
    /// A key's comment is its principal. Options that are not enforced here refuse the line
    #[arg(long = "authorized-keys", value_name = "FILE", group = "who")]
    pub authorized_keys: Vec<String>,
    /// Who may log in as well: the keys of `pods key add`; asked after the files
    #[arg(long, group = "who")]
    pub keys_in_store: bool,
    /// Who may log in as well: whoever this command prints, as sshd's `AuthorizedKeysCommand`; asked last. An absolute path and arguments,
    /// run without a shell: `%u` is the user name, `%t` the key's type, `%k` the key, `%f` its fingerprint. It prints
    /// `authorized_keys` lines, or a JSON document that also says which variables and files the login brings along
    #[arg(long, value_name = "COMMAND", group = "who")]
    pub authorized_keys_command: Option<String>,
    /// How long that command may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_limit, requires = "authorized_keys_command")]
    pub authorized_keys_command_timeout: Duration,
    /// Tell metrics (Prometheus) and health at this loopback address: /metrics, /healthz, /readyz
    #[arg(long, value_name = "ADDRESS", value_parser = parse_loopback)]
    pub metrics: Option<SocketAddr>,
    /// How many connections may be open on which somebody has logged in
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// As --max-connections, of one principal: whoever has a key of theirs takes the places of nobody else
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections_per_principal: u32,
    /// How many connections may be open on which nobody has logged in
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_strangers: u32,
    /// As --max-strangers, of one source: an IPv4 address, or the /64 of an IPv6 address
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_strangers_per_source: u32,
    /// Channels of one connection at once (sshd's `MaxSessions`)
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_channels: u32,
    /// Connections of one source in a minute
    #[arg(long, value_name = "N", default_value_t = 1_200, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub connections_per_minute: u32,
    /// Channels, and what is asked of them, of one source in a minute
    #[arg(long, value_name = "N", default_value_t = 12_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub requests_per_minute: u32,
    /// How long a client may take to say that it speaks SSH
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_limit)]
    pub handshake_timeout: Duration,
    /// How long a connection may last on which nobody logs in
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_limit)]
    pub login_timeout: Duration,
    /// How long a client may be silent until it is asked whether it is still there; after four times as long it is given up
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_limit)]
    pub keep_alive: Duration,
    /// How long sessions may go on when the gateway is told to stop
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub drain: Duration,
}

/// `toehold pods role`.
#[derive(Debug, Args)]
pub struct PodsRole {
    /// The namespace of the pods, which has to be one of its own
    #[arg(long, value_name = "NAME", default_value = "toehold-pods")]
    pub namespace: String,
    /// The service account that the gateway runs as
    #[arg(long, value_name = "NAME", default_value = "toehold-pods")]
    pub service_account: String,
    /// The namespace of the service account [default: the same]
    #[arg(long, value_name = "NAME")]
    pub service_account_namespace: Option<String>,
}
