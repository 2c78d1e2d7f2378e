//! The grammar of `serve`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "these texts are what --help prints")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args::{GatewayOptions, Unreachable};
use super::durations::{parse_grace, parse_interval, parse_limit};
use super::store_args::parse_retention;

/// `toehold serve`.
#[derive(Debug, Args)]
pub struct ServeHost {
    /// Tell health (/healthz, /readyz), metrics (/metrics) and the status page (/) at this loopback address
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// Tell them off loopback, too: there is no login, so that whoever reaches the address reads all of it
    #[arg(long, requires = "http")]
    pub http_anywhere: bool,
    /// A name that it is called by, beside `localhost` and addresses; may be given several times
    #[arg(long = "http-host", value_name = "NAME", requires = "http")]
    pub http_hosts: Vec<String>,
    /// Run no gateway
    #[arg(long)]
    pub no_gateway: bool,
    /// The state directory of the member of --store with the role gateway whom the gateway works as, beside an operator who does the rest
    #[arg(long, value_name = "DIR", conflicts_with = "no_gateway")]
    pub gateway_state_dir: Option<PathBuf>,
    /// A file whose first line is the passphrase of that member's identity
    #[arg(
        long,
        env = "TOEHOLD_GATEWAY_PASSPHRASE_FILE",
        value_name = "FILE",
        requires = "gateway_state_dir",
        conflicts_with = "no_gateway"
    )]
    pub gateway_passphrase_file: Option<PathBuf>,
    /// Log in to no host: leave sessions, grants and owed hosts to others, and the identity locked
    #[arg(long, conflicts_with = "renew_every")]
    pub no_hosts: bool,
    /// Renew the master key so often (1m to 366d) [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    pub renew_every: Option<Duration>,
    /// What becomes of such a renewal where a host cannot be taken along: abort takes all back, defer goes on without it
    #[arg(long, value_name = "WHAT", default_value = "abort", requires = "renew_every")]
    pub renew_on_unreachable: Unreachable,
    /// How long the old key still logs in beside the new one after such a renewal [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_grace, requires = "renew_every")]
    pub renew_grace: Option<Duration>,
    /// How often sessions and grants are looked at whose keys have ended
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_limit)]
    pub sweep_every: Duration,
    /// How often hosts that were away are tried again
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_interval)]
    pub settle_every: Duration,
    /// How often the store is cleared of what is long over
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_interval)]
    pub gc_every: Duration,
    /// Leave the clearing of the store to others
    #[arg(long)]
    pub no_gc: bool,
    /// Remove the records of sessions that were closed so long ago
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = parse_retention)]
    pub sessions_older_than: Duration,
    /// Clear away what gateways of pods have left in a cluster that are gone
    #[arg(long)]
    pub collect_pods: bool,
    /// The kubeconfig that leads to the cluster [default: as kubectl has it, then the cluster that this runs in]
    #[arg(long, value_name = "FILE", requires = "collect_pods")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "collect_pods")]
    pub context: Option<String>,
    /// The configuration of the gateways of pods, as `pods serve --config`
    #[arg(long, value_name = "FILE", requires = "collect_pods")]
    pub pods_config: Option<PathBuf>,
    /// How long another process is waited for that has a job and is not heard of
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_limit)]
    pub lease: Duration,
    /// How the gateway is to be
    #[command(flatten)]
    pub gateway: GatewayOptions,
}
