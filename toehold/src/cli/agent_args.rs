//! The grammar of `toehold agent …` and `toehold agents …`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "these texts are what --help prints")]

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use toehold_joinproto::Endpoint;
use toehold_joinproto::admission::Role;
use toehold_joinproto::pin::Pin;

use super::secret_argument::SecretArgument;

/// `toehold agent …`.
#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Join this machine to a gateway with the line that `token create` printed there
    Join(Box<AgentJoin>),
    /// Authenticate with the gateway that was joined, both ways, and say how it answers
    Ping(AgentPing),
}

/// Where an agent keeps its files.
#[derive(Clone, Debug, Args)]
pub struct AgentFiles {
    /// Where the identity and the keyring of this machine are [default: agent in the state directory]
    #[arg(long, env = "TOEHOLD_AGENT_DIR", value_name = "DIR")]
    pub agent_dir: Option<PathBuf>,
}

/// `toehold agent join`.
#[derive(Debug, Args)]
pub struct AgentJoin {
    /// The line; `-` reads it from standard input, which keeps it out of the process list
    #[arg(required_unless_present_any = ["file", "endpoint", "local"], conflicts_with_all = ["file", "endpoint", "local"])]
    pub line: Option<SecretArgument>,
    /// A file whose first line is the line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["endpoint", "local"])]
    pub file: Option<PathBuf>,
    /// Where the gateway listens, in place of a line: host:port
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<Endpoint>,
    /// The token that goes with --endpoint; `-` reads it from standard input
    #[arg(long, requires = "endpoint", conflicts_with = "local")]
    pub token: Option<SecretArgument>,
    /// A pin that goes with --endpoint; may be given several times
    #[arg(long = "pin", value_name = "SHA256:…", requires = "endpoint", conflicts_with = "local")]
    pub pins: Vec<Pin>,
    /// The gateway is Opni's, or speaks its protocol: which version of it goes with --endpoint
    #[arg(long, value_name = "VERSION", requires = "endpoint", conflicts_with = "local")]
    pub opni: Option<OpniVersion>,
    /// v1 and v2: the id to join under [default: a random UUID]
    #[arg(long, value_name = "ID", conflicts_with = "local")]
    pub client_id: Option<String>,
    /// v2: a name for people
    #[arg(long, conflicts_with = "local")]
    pub name: Option<String>,
    /// v1: what to join for
    #[arg(long, conflicts_with = "local")]
    pub capability: Option<String>,
    /// v1 and v2: by what the gateway is known [default: pinned]
    #[arg(long, value_name = "HOW", conflicts_with = "local")]
    pub trust: Option<TrustChoice>,
    /// A CA certificate (PEM) for --trust ca; may be given several times
    #[arg(long = "ca-cert", value_name = "FILE", conflicts_with = "local")]
    pub ca_certificates: Vec<PathBuf>,
    /// Join anew although this machine has joined before; what it has is replaced once the gateway has confirmed
    #[arg(long)]
    pub rejoin: bool,
    /// For the operator, on a machine with the gateway's store: make a token of five minutes, join with it, and revoke it
    #[arg(long)]
    pub local: bool,
    /// What to join as with --local
    #[arg(long, requires = "local", default_value = "agent")]
    pub role: Role,
    /// Where the files go
    #[command(flatten)]
    pub files: AgentFiles,
}

/// Opni's versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OpniVersion {
    /// The first
    V1,
    /// The second
    V2,
}

/// By what a gateway is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TrustChoice {
    /// Its own key is pinned; or a root CA's, and its certificate holds in every respect
    Pinned,
    /// As Opni does it: a pin fits anywhere in the chain; dates and names are not looked at
    OpniPinned,
    /// The CA certificates of --ca-cert
    Ca,
    /// Nothing: whoever is in the middle is the gateway
    DangerousInsecure,
}

/// `toehold agent ping`.
#[derive(Debug, Args)]
pub struct AgentPing {
    /// Where the files are
    #[command(flatten)]
    pub files: AgentFiles,
}

/// `toehold agents …`.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// List the agents that have joined
    Ls,
    /// Show what is known of one agent
    Show {
        /// The agent's id
        id: String,
    },
    /// Remove an agent: its keys are gone, and no token that is there now brings it back
    Rm {
        /// The agent's id
        id: String,
    },
}
