//! The grammar of `gateway …` and `token …`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "these texts are what --help prints")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use toehold_joinproto::Endpoint;
use toehold_joinproto::admission::Role;
use toehold_joinproto::pin::Pin;
use toehold_joinproto::token::TokenId;

use super::args::{parse_governor, parse_tag};
use super::durations::{parse_lifetime, parse_limit};

/// `toehold gateway …`.
#[derive(Debug, Subcommand)]
pub enum Gateway {
    /// Run a gateway: machines join here, and agents come back to it
    Serve(Box<Serve>),
    /// Print the pins of the gateway's key and of its next key
    Pin,
    /// Switch to the next key, once every agent has said that it knows it; exit code 3 where some have not
    RenewKey {
        /// Switch although some agents do not know the next key: they will not come back by themselves
        #[arg(long)]
        force: bool,
    },
}

/// `toehold gateway serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// How it is to be
    #[command(flatten)]
    pub how: GatewayOptions,
    /// Tell metrics (Prometheus) and health at this loopback address: /metrics, /healthz, /readyz
    #[arg(long, value_name = "ADDRESS", value_parser = parse_loopback)]
    pub metrics: Option<SocketAddr>,
}

/// How a gateway is to be.
#[derive(Clone, Debug, Args)]
pub struct GatewayOptions {
    /// Where to listen
    #[arg(long, default_value = "[::]:7443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where machines reach it; the first one is remembered, for the lines that `token create` prints. A line with another endpoint lets
    /// nobody in then; without this option the endpoint is not looked at. May be given several times
    #[arg(long = "endpoint", value_name = "HOST:PORT")]
    pub endpoints: Vec<Endpoint>,
    /// Present this certificate chain (PEM, leaf first) instead of a key of the gateway's own making
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM, PKCS #8, mode 0600); Opni's agents need an Ed25519 key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The pin of the key that will follow --key, for new lines and for the agents; may be given several times
    #[arg(long = "next-pin", value_name = "PIN", requires = "cert")]
    pub next_pins: Vec<Pin>,
    /// Present another key than so far although some agents do not know it: they will not come back by themselves
    #[arg(long)]
    pub force: bool,
    /// What agents of Opni's first version may join for [default: anything]; may be given several times
    #[arg(long = "capability", value_name = "NAME")]
    pub capabilities: Vec<String>,
    /// A load balancer that says with the PROXY protocol (v1 or v2) who is behind it; may be given several times
    #[arg(long = "proxy-from", value_name = "CIDR", value_parser = parse_network)]
    pub proxy_from: Vec<IpNet>,
    /// How many agents may be in an update of machines with this governor at once [default: 1]; may be given several times
    #[arg(long = "governor", value_name = "NAME=N", value_parser = parse_governor)]
    pub governors: Vec<(String, u32)>,
    /// How many agents may be connected
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_agents: u32,
    /// How many connections one agent may have, and how many sessions on all of them
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_sessions_per_agent: u32,
    /// How many connections may be open on which no agent has authenticated
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_strangers: u32,
    /// As --max-strangers, of one source: an IPv4 address, or the /64 of an IPv6 address
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_strangers_per_source: u32,
    /// TLS handshakes of one source in a minute
    #[arg(long, value_name = "N", default_value_t = 1_200, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub handshakes_per_minute: u32,
    /// Calls of one source in a minute, and messages of one agent: one that writes into the store stands for ten
    #[arg(long, value_name = "N", default_value_t = 2_400, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub calls_per_minute: u32,
    /// How long a connection may last on which no agent authenticates, or has a session any more, and a join or an authentication on any
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_limit)]
    pub stranger_lifetime: Duration,
    /// How long a TLS handshake may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_limit)]
    pub handshake_timeout: Duration,
    /// How long open calls may take to end when the gateway is told to stop
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_limit)]
    pub drain: Duration,
}

/// `toehold token …`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; prints the one line that a new machine needs
    Create(Create),
    /// List the tokens
    Ls,
    /// Let nobody join with a token any more; agents that have joined stay
    Revoke {
        /// The token's id
        id: TokenId,
    },
}

/// `toehold token create`.
#[derive(Debug, Args)]
pub struct Create {
    /// How long it can be used (up to 366d)
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_lifetime)]
    pub ttl: Duration,
    /// How many machines can join with it
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub uses: u32,
    /// What machines join as
    #[arg(long, default_value = "agent")]
    pub role: Role,
    /// A label of the agents that join with it; may be given several times
    #[arg(long = "label", value_name = "K=V", value_parser = parse_tag)]
    pub labels: Vec<(String, String)>,
    /// The only client that may join with it: an agent's id, or with --opni the id that it will choose
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// From which networks it may be used; may be given several times [default: from everywhere]
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    pub from: Vec<IpNet>,
    /// For Opni's own agents, versions 1 and 2 of the protocol: the token's secret then stays with the gateway
    #[arg(long)]
    pub opni: bool,
    /// With --opni: an agent of the first version that has joined with it may join again for another capability
    #[arg(long, requires = "opni")]
    pub may_extend: bool,
    /// Where the machine reaches the gateway [default: as `gateway serve --endpoint` said]; one that the gateway was told
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<Endpoint>,
}

/// An address or a block of them.
fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| format!("\"{text}\" is neither an address nor a block such as 10.0.0.0/8"))
}

pub(super) fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("\"{text}\" is not an address and a port"))?;
    if address.ip().is_loopback() { Ok(address) } else { Err("metrics are told on a loopback address alone".to_owned()) }
}
