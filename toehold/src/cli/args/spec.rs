//! `toehold spec …`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use toehold_core::Timestamp;
use toehold_specsign::{Format, SpecName};

use super::{ApplySpec, parse_duration};

/// `toehold spec …`.
#[derive(Debug, Subcommand)]
pub enum Spec {
    /// Make a key pair for signing specifications, or show the public half of one
    Keys(KeyRequest),
    /// Pack a list of machines into a signed document
    Pack(PackSpec),
    /// Check a document's signatures; exit code 3 where it is signed and does not hold now
    Verify(VerifySpec),
    /// Say whether a matcher holds on this node: yes, no, unknown or invalid, and why
    Match(MatchSpec),
    /// Say what a document would change here, or on every node of a directory of facts; exit code 3 where something would change
    Plan(PlanSpec),
    /// Put a document into the store, for `spec apply --name`
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
    /// Show the public key of this private key file instead: hex, or OpenSSH's format
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub show: Option<PathBuf>,
    /// Write the private key to this new file (0600) instead of showing it
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Who signs.
#[derive(Debug, Args)]
pub struct SigningOptions {
    /// Sign with this private key: 128 hex digits, or a file with them. In an argument `ps` shows it to everybody
    #[arg(value_name = "KEY", env = "KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Sign with this private key file, hex or OpenSSH's format; may be given several times
    #[arg(long = "ssh-key", value_name = "FILE")]
    pub key_files: Vec<PathBuf>,
    /// Sign with the ssh-agent at `SSH_AUTH_SOCK`: with this key of its own, or with its only Ed25519 key
    #[arg(long, value_name = "PUBLIC KEY", num_args = 0..=1, default_missing_value = "")]
    pub agent: Option<String>,
}

/// `toehold spec pack`.
#[derive(Debug, Args)]
pub struct PackSpec {
    /// The list of machines, `-` for standard input; with --add-signature the document
    pub file: PathBuf,
    /// Who signs
    #[command(flatten)]
    pub signing: SigningOptions,
    /// Do not warn where nobody signs
    #[arg(long)]
    pub force: bool,
    /// What it is a list of: machines or plugins
    #[arg(long, value_name = "WHAT", default_value = "machines")]
    pub format: Format,
    /// With an envelope: the name of the specification, which roots bind themselves to
    #[arg(long, requires = "serial", requires = "expires")]
    pub name: Option<SpecName>,
    /// With an envelope: the version's number, above that of the version before
    #[arg(long, value_name = "N", requires = "name", value_parser = clap::value_parser!(u64).range(1..))]
    pub serial: Option<u64>,
    /// With an envelope: until when it holds, such as 7d or 2027-01-01T00:00:00Z
    #[arg(long, value_name = "WHEN", requires = "name")]
    pub expires: Option<Expiry>,
    /// With an envelope: from when on it holds [default: now]
    #[arg(long, value_name = "WHEN", requires = "name")]
    pub not_before: Option<Timestamp>,
}

/// `toehold spec verify`.
#[derive(Debug, Args)]
pub struct VerifySpec {
    /// The document, `-` for standard input
    pub file: PathBuf,
    /// Public keys, as hex, as a line `ssh-ed25519 …`, or a file with one
    #[arg(value_name = "KEY", required = true)]
    pub keys: Vec<String>,
    /// How many distinct keys have to have signed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threshold: usize,
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
    /// The document, `-` for standard input
    pub file: PathBuf,
}

/// `toehold spec put`.
#[derive(Debug, Args)]
pub struct PutSpec {
    /// Of which specification
    pub name: SpecName,
    /// The document, `-` for standard input
    #[arg(default_value = "-")]
    pub file: PathBuf,
}

/// When something ends: an instant, or a time from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Then.
    At(Timestamp),
    /// So long from now.
    In(Duration),
}

impl FromStr for Expiry {
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
