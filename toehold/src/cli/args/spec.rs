//! `toehold spec …`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use toehold_core::Timestamp;
use toehold_specsign::{Format, SpecName};
use zeroize::Zeroizing;

use super::{ApplySpec, RootTakes};
use crate::cli::durations::parse_duration;

/// `toehold spec …`.
#[derive(Debug, Subcommand)]
pub enum Spec {
    /// Make a key pair for signing specifications, or show the public half of one
    Keys(KeyRequest),
    /// Pack a list of machines into a document, signed and with an envelope as the options say; it goes to standard output
    Pack(Box<PackSpec>),
    /// Check a document's signatures; exit code 3 where they are good and it does not hold now, or no node could use it: its list is
    /// none, or it hands over to keys that have not signed it
    Verify(VerifySpec),
    /// Say whether a matcher holds on this node: yes, no, unknown or invalid, and why
    Match(MatchSpec),
    /// Say what a document would change here, or on every node of a directory of facts; changes nothing
    Plan(PlanSpec),
    /// Put a document into the store, for `spec apply --name`, in place of the version before
    Put(PutSpec),
    /// Print a document out of the store
    Get {
        /// Of which specification
        name: SpecName,
    },
    /// Bring a directory of machines to what a document says, once or again and again
    Apply(ApplySpec),
}

/// `toehold spec keys`.
#[derive(Debug, Args)]
pub struct KeyRequest {
    /// Show the public half of this private key file instead: hex, or OpenSSH's format
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub show: Option<PathBuf>,
    /// Write the private key to this new file (0600) instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// A private key, or the name of a file with one, as it stands on the command line.
#[derive(Clone)]
pub struct KeyText(pub Zeroizing<String>);

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText([redacted])")
    }
}

impl From<&str> for KeyText {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

/// Who signs.
#[derive(Debug, Args)]
pub struct Signing {
    /// Sign with this private key: 128 hex digits (which `ps` shows to everybody), or a file with one
    #[arg(value_name = "KEY", env = "KEY", hide_env_values = true, value_parser = clap::value_parser!(KeyText))]
    pub key: Option<KeyText>,
    /// Sign with the private key in this file, hex or OpenSSH's format, as an SSH signature; may be given several times
    #[arg(long = "ssh-key", value_name = "FILE")]
    pub ssh_keys: Vec<PathBuf>,
    /// Have the ssh-agent at `SSH_AUTH_SOCK` sign, with this key of its own (hex, `ssh-ed25519 …` or a .pub file) or with its only
    /// Ed25519 key
    #[arg(long, value_name = "PUBLIC KEY", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub agent: Option<String>,
    /// Add this signature, which `ssh-keygen -Y sign -n spec@toehold` made over the file of --statement; may be given several times
    #[arg(long = "signature", value_name = "FILE", requires = "add_signature")]
    pub signatures: Vec<PathBuf>,
}

/// `toehold spec pack`.
#[derive(Debug, Args)]
pub struct PackSpec {
    /// The list of machines, `-` for standard input; with --add-signature the document
    pub file: PathBuf,
    /// Who signs
    #[command(flatten)]
    pub signing: Signing,
    /// Do not warn where nobody signs
    #[arg(long)]
    pub force: bool,
    /// Write the document to this file instead of standard output; it appears whole, in place of one that is there
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What it is a list of: machines or plugins
    #[arg(long, value_name = "WHAT", default_value = "machines")]
    pub format: Format,
    /// Pack also what no node could use
    #[arg(long)]
    pub unchecked: bool,
    /// Leave out the signature for Choria's own readers
    #[arg(long)]
    pub envelope_only: bool,
    /// What the envelope says
    #[command(flatten)]
    pub envelope: EnvelopeOptions,
    /// Do not pack: add these signatures to the envelope of a document
    #[arg(long, conflicts_with_all = ["name", "after", "serial", "expires", "not_before", "next_keys", "removals_meant"])]
    pub add_signature: bool,
    /// Write the envelope's statement to this new file, and its SSH signatures beside it (.sig, .2.sig …)
    #[arg(long, value_name = "FILE")]
    pub statement: Option<PathBuf>,
}

/// What an envelope says.
#[derive(Debug, Args)]
#[command(next_help_heading = "With an envelope")]
pub struct EnvelopeOptions {
    /// The specification's name; roots bind themselves to it
    #[arg(long)]
    pub name: Option<SpecName>,
    /// The version's number, above that of the version before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub serial: Option<u64>,
    /// This follows on the version in DOCUMENT: name, serial and keys come from there, with the changes of keys up to it
    #[arg(long, value_name = "DOCUMENT", conflicts_with = "name")]
    pub after: Option<PathBuf>,
    /// Until when it holds: 7d, or 2027-01-01T00:00:00Z. Nodes then hold what they have and change nothing
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<When>,
    /// From when on it holds [default: now]
    #[arg(long, value_name = "WHEN")]
    pub not_before: Option<When>,
    /// Who may sign the next version; may be given several times [default: as before, or who signs this one]
    #[arg(long = "next-key", value_name = "PUBLIC KEY")]
    pub next_keys: Vec<String>,
    /// How many of them have to [default: 1 of one]
    #[arg(long, value_name = "N", requires = "next_keys")]
    pub next_threshold: Option<usize>,
    /// Removing more machines than a node's guard allows is meant, with this version alone
    #[arg(long)]
    pub removals_meant: bool,
}

/// `toehold spec verify`.
#[derive(Debug, Args)]
pub struct VerifySpec {
    /// The document, `-` for standard input
    pub file: PathBuf,
    /// Public keys: 64 hex digits, a line `ssh-ed25519 …`, or a file with one
    #[arg(value_name = "KEY", required = true)]
    pub keys: Vec<String>,
    /// How many distinct ones of them have to have signed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threshold: usize,
    /// Write the envelope's statement to this new file, and its SSH signatures beside it (.sig, .2.sig …), for `ssh-keygen -Y verify`
    #[arg(long, value_name = "FILE")]
    pub statement: Option<PathBuf>,
}

/// `toehold spec match`.
#[derive(Debug, Args)]
pub struct MatchSpec {
    /// The expression; `-` reads one a line from standard input
    #[arg(allow_hyphen_values = true)]
    pub expression: String,
    /// Answer for the node that this JSON file describes: `identity`, `files`, `directories`, `commands`
    #[arg(long, value_name = "FILE")]
    pub facts: Option<PathBuf>,
    /// This node's name [default: the host's]
    #[arg(long, value_name = "NAME", conflicts_with = "facts")]
    pub identity: Option<String>,
}

/// `toehold spec plan`.
#[derive(Debug, Args)]
pub struct PlanSpec {
    /// The document, `-` for standard input; it is looked at whoever signed it
    pub file: PathBuf,
    /// For all nodes that the JSON files (*.json) in this directory describe, or the one of this file
    #[arg(long, value_name = "PATH")]
    pub facts: Option<PathBuf>,
    /// What they have now: the document before this one [default: nothing]
    #[arg(long, value_name = "DOCUMENT", conflicts_with = "root")]
    pub before: Option<PathBuf>,
    /// What the next pass over this root would do, with what lies there and what is remembered of it; the document is judged as by a
    /// pass with the same options
    #[arg(long, value_name = "DIR", conflicts_with = "facts")]
    pub root: Option<PathBuf>,
    /// What the root takes
    #[command(flatten)]
    pub takes: RootTakes,
    /// Which specification the root is bound to, where it has taken none yet
    #[arg(long, value_name = "NAME", requires = "root")]
    pub name: Option<SpecName>,
    /// Also plan removals of what does not belong there any more
    #[arg(long, requires = "root")]
    pub purge_unknown: bool,
    /// The largest share of the machines in place that may be removed within a day
    #[arg(long, value_name = "SHARE", default_value = "30%", requires = "root", value_parser = super::spec_apply::parse_percent)]
    pub guard: u8,
    /// This node's name [default: the host's]
    #[arg(long, value_name = "NAME", conflicts_with = "facts")]
    pub identity: Option<String>,
}

/// `toehold spec put`.
#[derive(Debug, Args)]
pub struct PutSpec {
    /// Of which specification
    pub name: SpecName,
    /// The document, `-` for standard input
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// Put it there only if this key has signed it: 64 hex digits, a line `ssh-ed25519 …`, or a file with one; may be given several
    /// times. Machines that join the gateway of this store begin with these keys, and with the serial that is there then
    #[arg(long = "public-key", value_name = "KEY")]
    pub public_keys: Vec<String>,
    /// How many distinct ones of them have to have signed
    #[arg(long, value_name = "N", default_value_t = 1, requires = "public_keys")]
    pub threshold: usize,
    /// Put it there whoever signed it, and if nobody did
    #[arg(long, conflicts_with = "public_keys")]
    pub unverified: bool,
}

/// An instant: itself, or so long from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Then.
    At(Timestamp),
    /// So long from now.
    In(Duration),
}

impl When {
    /// The instant, counted from `now`.
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::In(span) => now.saturating_add(span),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(at) => Ok(Self::At(at)),
            Err(_) => parse_duration(text)
                .map(Self::In)
                .map_err(|_| format!("\"{text}\" is neither a time such as 2027-01-01T00:00:00Z nor a span such as 7d")),
        }
    }
}
