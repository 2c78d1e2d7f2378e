//! The command line's grammar.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "these texts are what --help prints")]

mod init;
mod spec;
mod spec_apply;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use toehold_core::{Account, Fingerprint, SessionId};
use toehold_keygen::{FromPatterns, FromPatternsError, KeyAlgorithm};
use toehold_masterkey::grant::GrantId;

use super::agent_args::{Agent, Agents};
use super::durations::{parse_duration, parse_grace, parse_interval, parse_lifetime, parse_limit, parse_provisional, parse_ttl};
pub use super::gateway_args::{Create, Gateway, GatewayOptions, Serve, Token};
pub use super::operator_args::{OperatorAdd, OperatorCommand, OperatorRemove, OperatorRoles};
pub use super::pods_args::{Pods, PodsAt, PodsBackend, PodsKey, PodsRole, PodsServe};
pub use super::serve_args::ServeHost;
pub use super::store_args::{Audit, AuditList, AuditVerify, Gc, Migrate, Moment, SharedArgs, StoreCommand, StorePlace, copies};
pub use init::Init;
pub use spec::{EnvelopeOptions, KeyRequest, KeyText, MatchSpec, PackSpec, PlanSpec, PutSpec, Signing, Spec, VerifySpec, When};
pub(in crate::cli) use spec_apply::parse_governor;
pub use spec_apply::{ApplySpec, RootTakes};

/// Take machines from first contact to managed.
///
/// Exit codes: 0 done; 1 failed, nothing half done; 2 wrong usage; 3 done in part, or found otherwise than it should be.
#[derive(Debug, Parser)]
#[command(name = "toehold", version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Where state is kept [default: the user's data directory]
    #[arg(long, global = true, env = "TOEHOLD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// A store that several machines share, and how to come to it
    #[command(flatten)]
    pub shared: SharedArgs,
    /// A file whose first line is the identity's passphrase
    #[arg(long, global = true, env = "TOEHOLD_PASSPHRASE_FILE", value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Log in with the master key through the ssh-agent at `SSH_AUTH_SOCK`, which holds it since `key load`
    #[arg(long, global = true, env = "TOEHOLD_USE_AGENT", value_parser = clap::builder::FalseyValueParser::new())]
    pub use_agent: bool,
    /// How long a host may take to accept a TCP connection [default: 10s]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_limit)]
    pub connect_timeout: Option<Duration>,
    /// How long a host may take from its greeting to the login, SFTP included [default: 20s]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_limit)]
    pub login_timeout: Option<Duration>,
    /// How long a host may take to answer one request about its files [default: 20s]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_limit)]
    pub request_timeout: Option<Duration>,
    /// Print one JSON document (or one a line for long work) instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on standard error (twice: still more); the variable `RUST_LOG` is honoured too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the state directory: an identity that seals it, and the fleet's master key
    Init(Init),
    /// Hosts: bring them in, look at them, let them go
    #[command(subcommand)]
    Host(Host),
    /// Sessions: onboardings that are under way or were interrupted
    #[command(subcommand)]
    Session(Session),
    /// The master key
    #[command(subcommand)]
    Key(Key),
    /// The gateway, where machines join from one pasted line
    #[command(subcommand)]
    Gateway(Gateway),
    /// Tokens: what lets a new machine join
    #[command(subcommand)]
    Token(Token),
    /// Let somebody's key in for a limited time, which the host's own sshd ends
    Grant(Grant),
    /// This machine as an agent of a gateway: join it, see whether it answers
    #[command(subcommand)]
    Agent(Agent),
    /// The agents that have joined the gateway
    #[command(subcommand)]
    Agents(Agents),
    /// Signed specifications of what machines should run: pack, verify, match, plan, apply
    #[command(subcommand)]
    Spec(Spec),
    /// The audit log: who did what to which host
    #[command(subcommand)]
    Audit(Audit),
    /// Who the members of a shared store are, and what each of them may do
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// The store by itself: check it, move it, remove what is long over
    #[command(subcommand)]
    Store(StoreCommand),
    /// Pods on demand: an SSH connection becomes a pod, which goes when the connection goes
    #[command(subcommand)]
    Pods(Pods),
    /// Do what an operations host does, in one process: gateway, sessions, grants, owed hosts, renewal, pods; with a status page
    Serve(Box<ServeHost>),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages of all commands into a directory
    Manual {
        /// The directory, which has to be there
        directory: PathBuf,
    },
    /// Show the main jobs on hosts of its own, on loopback, with nothing to install or configure
    Demo(Demo),
}

impl Cli {
    /// Whether it has many at once to talk to, so that more than one thread of theirs is of use.
    pub fn works_on_many(&self) -> bool {
        !matches!(self.command, Command::Agent(_) | Command::Spec(_))
    }
}

/// `toehold host …`.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// Bring a host under management with a temporary key that ends by itself
    Add(Add),
    /// The same for a host that does not exist yet: prints cloud-init user data, then waits for the host
    Invite(Invite),
    /// List the hosts
    Ls,
    /// Show what is known of one host
    Show {
        /// user@host[:port]
        account: Account,
    },
    /// Compare hosts with what should be there; exit code 3 where they differ
    Check {
        /// user@host[:port]; all hosts where none is named
        accounts: Vec<Account>,
        /// How many at a time
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
        concurrency: u16,
    },
    /// Take our keys away from a host and forget it; says what is left there
    Rm(Remove),
}

/// `toehold host rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// user@host[:port]
    pub account: Account,
    /// Forget the host without reaching it: our keys stay where they are
    #[arg(long)]
    pub unreachable: bool,
    /// Even where the same user and host key are managed under another name too, which may be the same machine
    #[arg(long, conflicts_with = "unreachable")]
    pub same_host_key: bool,
}

/// `toehold host add`.
#[derive(Debug, Args)]
pub struct Add {
    /// user@host[:port], an IPv6 address in brackets
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub account: Option<Account>,
    /// A list of accounts, one a line (# begins a comment), each brought in through --via
    #[arg(long, value_name = "ACCOUNTS", requires = "via", conflicts_with = "ask")]
    pub file: Option<PathBuf>,
    /// How many accounts of --file at a time
    #[arg(long, default_value_t = 8, requires = "file", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Feed the script to this command's standard input instead of printing it, such as 'ssh admin@host sh'; {account},
    /// {user}, {host} and {port} are filled in
    #[arg(long, value_name = "COMMAND")]
    pub via: Option<String>,
    /// How the host is brought in
    #[command(flatten)]
    pub how: Onboarding,
}

/// `toehold host invite`.
#[derive(Debug, Args)]
pub struct Invite {
    /// user@host[:port], an IPv6 address in brackets
    pub account: Account,
    /// Write the user data to this new file (0600) instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How the host is brought in
    #[command(flatten)]
    pub how: Onboarding,
}

/// How a host is brought in.
#[derive(Clone, Debug, Args)]
pub struct Onboarding {
    /// Take only this host key; no proof is needed then
    #[arg(long, value_name = "SHA256:…", group = "host-key-policy")]
    pub host_key: Option<Fingerprint>,
    /// Take the first host key seen (whoever is in the middle can be it)
    #[arg(long, group = "host-key-policy")]
    pub accept_new: bool,
    /// Show the host key's fingerprint and ask
    #[arg(long, group = "host-key-policy")]
    pub ask: bool,
    /// Also install this public key (a .pub file); may be given several times
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Your own name for the host
    #[arg(long)]
    pub label: Option<String>,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "K=V", value_parser = parse_tag)]
    pub tags: Vec<(String, String)>,
    /// How long the temporary key lives, such as 30m or 2h (1m to 24h)
    #[arg(long, default_value = "30m", value_parser = parse_ttl)]
    pub ttl: Duration,
    /// Only from these addresses may the temporary key be used: addresses and blocks, `!` before one that is left out, such as
    /// `10.0.0.0/8,!10.9.0.0/16,2001:db8::/32`
    #[arg(long, value_name = "CIDR", value_parser = parse_from)]
    pub from: Option<FromPatterns>,
    /// The account's home directory, where it is not the one in passwd
    #[arg(long, value_name = "DIR")]
    pub home: Option<String>,
    /// Install the master key as restrict,command="internal-sftp"
    #[arg(long)]
    pub harden: bool,
    /// For servers that know no expiry-time (OpenSSH before 7.7, dropbear): the temporary line has no end of its own
    #[arg(long)]
    pub no_expiry: bool,
    /// Reach the host through this managed host; may be given several times, outermost first
    #[arg(long = "jump", value_name = "HOST")]
    pub jumps: Vec<Account>,
    /// A public host key on the host, where sshd keeps its keys in an unusual place
    #[arg(long = "host-key-file", value_name = "PATH")]
    pub host_key_files: Vec<String>,
    /// Keep the temporary private key, sealed, so that `session recover` can log in with it
    #[arg(long)]
    pub seal_temporary_key: bool,
}

/// `toehold session …`.
#[derive(Debug, Subcommand)]
pub enum Session {
    /// List the sessions that are not settled
    Ls {
        /// The settled ones too, of the last 90 days: after that the next `host add` removes their records
        #[arg(long)]
        all: bool,
    },
    /// Show all that is known of one session, and the line that takes its key away by hand
    Show {
        /// The session's id
        id: SessionId,
    },
    /// Undo a session
    Cancel {
        /// The session's id
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<SessionId>,
        /// Every open session
        #[arg(long)]
        all: bool,
        /// The host is gone for good: close the session without having seen its key gone (only after the key's end)
        #[arg(long, conflicts_with = "all")]
        forget: bool,
    },
    /// Lead interrupted sessions to their end; exit code 3 where some are still owed
    Recover {
        /// Only this one
        id: Option<SessionId>,
    },
}

/// `toehold key …`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Show the master key's public half and fingerprint
    Show,
    /// Renew the master key on every host in two phases, so that nobody is ever locked out; or go on with an interrupted one
    Rotate(Rotate),
    /// Renew the master key again and again, until it is stopped; for a service manager to run
    Renew(Renew),
    /// Show the current master key, the rotation that is open, and every host's key; exit code 3 where hosts are owed
    Status,
    /// Lead the hosts that were away to the current key, and drop private keys that no host needs any more
    Settle {
        /// How many hosts at a time
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
        concurrency: u16,
        /// How long one try of a host may take, over all its connections and without the waits in between
        #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_limit)]
        timeout: Duration,
    },
    /// Hand the master key to the ssh-agent at `SSH_AUTH_SOCK`, for `--use-agent`; the sealed one stays in the store
    Load {
        /// The agent forgets it after this time
        #[arg(long, value_name = "TIME", value_parser = parse_lifetime)]
        lifetime: Option<Duration>,
        /// The agent asks before each use
        #[arg(long)]
        confirm: bool,
    },
    /// Let the ssh-agent forget every master key that the store holds
    Unload,
    /// Make a recovery copy of the master keys and the list of hosts, sealed to somebody else
    Export(Export),
    /// Open a recovery copy, compare it with the store, and log in with the key in it; exit code 3 where it falls short
    VerifyCopy {
        /// The copy
        #[arg(value_name = "COPY")]
        copy: PathBuf,
        /// What opens it: an age identity file or an SSH private key
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
}

/// `toehold key rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// Go on with the rotation that was interrupted, in the direction that it had
    #[arg(long, conflicts_with_all = ["rollback", "dry_run"])]
    pub resume: bool,
    /// Take the open rotation back: every host ends with the old key alone
    #[arg(long, conflicts_with = "dry_run")]
    pub rollback: bool,
    /// Do so although its leader wrote less than a minute ago, and may still be at it
    #[arg(long)]
    pub take_over: bool,
    /// The new key's algorithm: ed25519, ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048 to rsa-8192 [default: ed25519]
    #[arg(long, conflicts_with_all = ["resume", "rollback"])]
    pub algorithm: Option<KeyAlgorithm>,
    /// What becomes of it where a host cannot be taken along: abort takes all back, defer goes on without it [default: abort]
    #[arg(long, value_name = "WHAT")]
    pub on_unreachable: Option<Unreachable>,
    /// How long the old key still logs in beside the new one; sshd ends it, 0s removes it at once (up to 366d) [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_grace, conflicts_with_all = ["resume", "rollback"])]
    pub grace: Option<Duration>,
    /// The hosts with this label or tag (NAME or NAME=VALUE) go first and alone
    #[arg(long, value_name = "LABEL", conflicts_with_all = ["resume", "rollback"])]
    pub canary: Option<String>,
    /// How many hosts get the new key before the next ones begin
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["resume", "rollback"])]
    pub wave: Option<u32>,
    /// How many hosts may fail before it stops, where it goes on without them
    #[arg(long, value_name = "N", conflicts_with_all = ["resume", "rollback"])]
    pub max_failures: Option<u32>,
    /// How long the new key's line is good on a host before a login has proven it [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_provisional, conflicts_with_all = ["resume", "rollback"])]
    pub provisional_for: Option<Duration>,
    /// How many hosts at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// How long one try of a host may take, over all its connections and without the waits in between
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_limit)]
    pub timeout: Duration,
    /// End when the old key has its end on every host, instead of waiting for that; a later run removes it
    #[arg(long)]
    pub no_wait: bool,
    /// Say which hosts would be taken in which order, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `toehold key renew`.
#[derive(Clone, Debug, Args)]
pub struct Renew {
    /// Time between two renewals, such as 30d (1m to 366d)
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    pub every: Duration,
    /// By how much each one comes earlier at random, at the most half of --every
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
    pub jitter: Duration,
    /// The new keys' algorithm: ed25519, ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048 to rsa-8192 [default: ed25519]
    #[arg(long)]
    pub algorithm: Option<KeyAlgorithm>,
    /// What becomes of a rotation where a host cannot be taken along: abort takes all back, defer goes on without it
    #[arg(long, value_name = "WHAT", default_value = "abort")]
    pub on_unreachable: Unreachable,
    /// How long the old key still logs in beside the new one [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_grace)]
    pub grace: Option<Duration>,
    /// The hosts with this label or tag (NAME or NAME=VALUE) go first and alone
    #[arg(long, value_name = "LABEL")]
    pub canary: Option<String>,
    /// How many hosts get the new key before the next ones begin
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub wave: Option<u32>,
    /// How many hosts may fail before a rotation stops (with --on-unreachable defer)
    #[arg(long, value_name = "N")]
    pub max_failures: Option<u32>,
    /// How many hosts at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// How long one try of a host may take, over all its connections and without the waits in between
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_limit)]
    pub timeout: Duration,
}

/// What becomes of a rotation where a host cannot be taken along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unreachable {
    /// Take all of it back
    Abort,
    /// Go on without the host, and heal it later
    Defer,
}

/// `toehold key export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Whom to seal it to: an age recipient (age1…), an ssh-ed25519 or ssh-rsa public key, or a file that holds one; may be
    /// given several times
    #[arg(long = "to", value_name = "RECIPIENT", required = true)]
    pub recipients: Vec<String>,
    /// Write it to this new file (0600) instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `toehold grant …`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Grant {
    /// What to do about grants
    #[command(subcommand)]
    pub command: Option<GrantCommand>,
    /// What to grant
    #[command(flatten)]
    pub granting: Option<Granting>,
}

/// `toehold grant ACCOUNT`.
#[derive(Debug, Args)]
pub struct Granting {
    /// user@host[:port], a managed host
    pub account: Account,
    /// The public key (a .pub file)
    #[arg(long, value_name = "FILE", required = true)]
    pub key: PathBuf,
    /// For how long, such as 30m, 2h or 7d (up to 366d)
    #[arg(long = "for", value_name = "TIME", required = true, value_parser = parse_duration)]
    pub lifetime: Duration,
    /// Only from these addresses: addresses and blocks, `!` before one that is left out, such as `10.0.0.0/8,2001:db8::/32`
    #[arg(long, value_name = "CIDR", value_parser = parse_from)]
    pub from: Option<FromPatterns>,
    /// An option of sshd(8) for the line, such as `restrict` or `command="uptime"`; may be given several times
    #[arg(long = "option", value_name = "OPTION")]
    pub options: Vec<String>,
    /// Also on a host whose server knows no expiry-time: the key then logs in until `grant sweep` is run after the end
    #[arg(long)]
    pub no_expiry: bool,
}

/// `toehold grant ls` and the others.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// List the grants, also those that should be gone and are not known to be
    Ls,
    /// End a grant now, and see its line gone
    Revoke {
        /// The grant's id
        id: GrantId,
        /// The host is gone for good: take the grant off the list without having seen anything (only after its end)
        #[arg(long)]
        forget: bool,
    },
    /// Take away the lines of grants that have ended or were revoked; exit code 3 where some are still owed
    Sweep,
}

/// `toehold demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How many hosts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub hosts: u16,
    /// Real sshd processes instead of hosts inside this process
    #[arg(long)]
    pub sshd: bool,
}

pub(super) fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write name=value".to_owned()),
    }
}

/// Addresses and blocks alone: sshd would compare a name with what its `UseDNS` and the reverse DNS say of the client.
fn parse_from(text: &str) -> Result<FromPatterns, String> {
    let patterns: FromPatterns = text.parse().map_err(|error: FromPatternsError| error.to_string())?;
    if let Some(name) = patterns.names().next() {
        return Err(format!(
            "\"{name}\" is neither an address nor a block, and whether a name lets somebody in depends on the host's UseDNS and on reverse DNS"
        ));
    }
    Ok(patterns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}
