//! `toehold spec apply`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use toehold_specsign::SpecName;

use crate::cli::agent_args::AgentFiles;
use crate::cli::durations::parse_limit;

/// Which documents and sources a root takes.
#[derive(Debug, Args)]
pub struct RootTakes {
    /// Whose signature counts at first contact: 64 hex digits, a line `ssh-ed25519 …`, or a file with one; may be given several times
    /// [default: the key compiled in, if any]
    #[arg(long = "public-key", value_name = "KEY", requires = "root")]
    pub public_keys: Vec<String>,
    /// How many distinct keys have to have signed at first contact
    #[arg(long, value_name = "N", default_value_t = 1, requires = "root")]
    pub threshold: usize,
    /// The lowest serial that is taken, as it came with the keys
    #[arg(long, value_name = "N", default_value_t = 0, requires = "root")]
    pub min_serial: u64,
    /// Machines lie in a root that remembers nothing of them, and that is meant: take over those that are whole. A floor that the
    /// state directory has of this root counts all the same
    #[arg(long, requires = "root")]
    pub begin_anew: bool,
    /// Take signed documents without an envelope, as Choria packs them, until the first envelope comes
    #[arg(long, requires = "root")]
    pub accept_plain: bool,
    /// Take documents whoever wrote them, until the first envelope comes
    #[arg(long, requires = "root", conflicts_with = "accept_plain")]
    pub accept_unsigned: bool,
    /// Also fetch over plain http, where everybody on the way reads user and password
    #[arg(long, requires = "root")]
    pub allow_http: bool,
    /// Also take archives from files of this host
    #[arg(long, requires = "root")]
    pub allow_file: bool,
}

/// `toehold spec apply`.
#[derive(Debug, Args)]
pub struct ApplySpec {
    /// The document
    #[arg(required_unless_present = "name", conflicts_with = "name")]
    pub file: Option<PathBuf>,
    /// Take the document of this name out of the store, and bind the root to that name
    #[arg(long, value_name = "NAME")]
    pub name: Option<SpecName>,
    /// Take the document of --name from the gateway that this machine has joined; its address may be named to be sure that it is that
    /// one. Keys and the lowest serial of a first contact come with the join
    #[arg(long, value_name = "HOST:PORT", requires = "name", num_args = 0..=1, default_missing_value = "")]
    pub gateway: Option<String>,
    /// Where the files of the join are
    #[command(flatten)]
    pub files: AgentFiles,
    /// The directory that the machines are put into
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// What it takes
    #[command(flatten)]
    pub takes: RootTakes,
    /// The clock is right now and was wrong when a later time was seen here: forget that one
    #[arg(long, conflicts_with = "interval")]
    pub trust_clock: bool,
    /// Make a pass again and again, so far apart
    #[arg(long, value_name = "TIME", conflicts_with = "once", value_parser = parse_limit)]
    pub interval: Option<Duration>,
    /// Make one pass, which is the default
    #[arg(long)]
    pub once: bool,
    /// Remove machines that were placed here and do not belong here any more
    #[arg(long)]
    pub purge_unknown: bool,
    /// The largest share of the machines in place that may be removed within a day
    #[arg(long, value_name = "SHARE", default_value = "30%", value_parser = parse_percent)]
    pub guard: u8,
    /// Ask this command whether a new version works; where it fails, the version before goes back. {name} is filled in,
    /// `TOEHOLD_MACHINE_DIRECTORY` is set
    #[arg(long, value_name = "COMMAND")]
    pub health_command: Option<String>,
    /// How long the health command may take
    #[arg(long, value_name = "TIME", default_value = "60s", requires = "health_command", value_parser = parse_limit)]
    pub health_timeout: Duration,
    /// How long an archive may take to come
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_limit)]
    pub fetch_timeout: Duration,
    /// How many roots that share this store may be in an update of this governor at once [default: 1]; may be given several times. With
    /// --gateway the gateway says how many (`gateway serve --governor`)
    #[arg(long = "governor", value_name = "NAME=N", value_parser = parse_governor, conflicts_with = "gateway")]
    pub governors: Vec<(String, u32)>,
    /// This node's name [default: the host's]
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// Append a `CloudEvents` notification of each pass that matters to this file, or print it (`-`)
    #[arg(long, value_name = "FILE")]
    pub notify: Option<PathBuf>,
}

/// `30%` or `30`.
pub(super) fn parse_percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok().filter(|percent| *percent <= 100);
    number.ok_or_else(|| format!("\"{text}\" is not a share such as 30%"))
}

pub(in crate::cli) fn parse_governor(text: &str) -> Result<(String, u32), String> {
    let parts = text.rsplit_once('=').filter(|(name, _)| !name.is_empty());
    let number = parts.and_then(|(name, number)| Some((name.to_owned(), number.parse::<u32>().ok()?)));
    number.filter(|(_, number)| (1..=10_000).contains(number)).ok_or_else(|| format!("\"{text}\" is not such as web=3"))
}
