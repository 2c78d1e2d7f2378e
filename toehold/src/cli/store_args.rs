//! The grammar of `audit …` and `store …`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "these texts are what --help prints")]

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use toehold_core::Timestamp;

use super::durations::parse_duration;
use crate::adapters::nats::{NatsAddress, NatsOptions};
use crate::state::SharedAt;

/// A store that several machines share.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct SharedArgs {
    /// Work with a store that several machines share, such as `nats://a.example.net,b.example.net/fleet`
    #[arg(long, global = true, env = "TOEHOLD_STORE", value_name = "URL")]
    pub store: Option<NatsAddress>,
    /// What lets this machine into --store: a credentials file of NATS (0600)
    #[arg(long, global = true, env = "TOEHOLD_STORE_CREDENTIALS", value_name = "FILE")]
    pub store_credentials: Option<PathBuf>,
    /// The same: a file with the seed of an NKEY (0600)
    #[arg(long, global = true, env = "TOEHOLD_STORE_NKEY", value_name = "FILE", conflicts_with = "store_credentials")]
    pub store_nkey: Option<PathBuf>,
    /// The certificates (PEM) that vouch for the servers of --store, instead of the system's
    #[arg(long, global = true, env = "TOEHOLD_STORE_CA", value_name = "FILE")]
    pub store_ca: Option<PathBuf>,
}

impl SharedArgs {
    /// Where the shared store is; `None` for the embedded one.
    pub fn at(&self) -> Option<SharedAt> {
        self.store.clone().map(|address| self.to(address))
    }

    /// How to come to this one.
    pub fn to(&self, address: NatsAddress) -> SharedAt {
        let (credentials, nkey, ca) = (self.store_credentials.clone(), self.store_nkey.clone(), self.store_ca.clone());
        SharedAt { address, options: NatsOptions { credentials, nkey, ca, ..NatsOptions::default() } }
    }
}

/// `toehold store migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The store to copy: the word embedded, or a shared one such as `nats://host/bucket`
    #[arg(long, value_name = "STORE")]
    pub from: StorePlace,
    /// Where to: an empty store of the other kind, or one that this was interrupted in
    #[arg(long, value_name = "STORE")]
    pub to: StorePlace,
    /// How many servers of --to keep a copy of everything, where the bucket is made now: 1, 3 or 5 [default: 1]
    #[arg(long, value_name = "N", value_parser = replicas())]
    pub replicas: Option<String>,
}

/// How many servers may keep a copy of a bucket.
pub(super) fn replicas() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(["1", "3", "5"])
}

/// How many servers are to keep a copy of a bucket that is made now.
pub fn copies(asked: Option<&str>) -> usize {
    asked.and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// One of the two ends of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// The store in the state directory.
    Embedded,
    /// A shared one.
    Shared(NatsAddress),
}

impl FromStr for StorePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "embedded" => Ok(Self::Embedded),
            text => text.parse().map(Self::Shared).map_err(|error| format!("neither \"embedded\" nor a shared store: {error}")),
        }
    }
}

/// `toehold audit …`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List what is in the log, of all writers, the newest last
    Ls(AuditList),
    /// See whether the log is as its writers wrote it; exit code 3 where it is not
    Verify(AuditVerify),
    /// Write the log as JSON lines, with its hashes
    Export {
        /// Write it to this new file (0600) instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// `toehold audit ls`.
#[derive(Debug, Args)]
pub struct AuditList {
    /// Only from then on: a time such as 2027-01-01T00:00:00Z, or so long ago, such as 7d
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Only up to then
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,
    /// Only what begins with this, such as session or session.completed
    #[arg(long, value_name = "PREFIX")]
    pub what: Option<String>,
    /// Only what is about this account, session, key or rotation
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// Only what this writer wrote
    #[arg(long, value_name = "WRITER")]
    pub writer: Option<String>,
}

/// `toehold audit verify`.
#[derive(Debug, Args)]
pub struct AuditVerify {
    /// Verify this file of `audit export` instead of the store's log
    #[arg(long, value_name = "FILE", conflicts_with = "accept")]
    pub file: Option<PathBuf>,
    /// From now on take the log as it is for what was seen here, such as after a backup was restored
    #[arg(long)]
    pub accept: bool,
}

/// `toehold store …`.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read every record, and tell which cannot be read and which names another that is not there; exit code 3 for any
    Check,
    /// Write everything in the store to a new file (0600); what is sealed stays sealed
    Export {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Fill an empty store with the file of an export
    Import {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// How many servers of --store keep a copy of everything, where the bucket is made now: 1, 3 or 5 [default: 1]
        #[arg(long, value_name = "N", value_parser = replicas())]
        replicas: Option<String>,
    },
    /// Remove what is long over; never what is owed or open
    Gc(Gc),
    /// Copy everything from the embedded store to a shared one, or back; safe to interrupt and to run again
    Migrate(Migrate),
    /// Take a shared store as it is, which is behind what was seen of it here, such as after a backup was restored
    AcceptRollback {
        /// Also where its lists of members were continued otherwise than this machine has seen: the last one's fingerprint, as the other
        /// operators have it (`operator ls`)
        #[arg(long, value_name = "FINGERPRINT")]
        members: Option<String>,
    },
    /// Remove a record from a shared store that is not taken, since no member who may write it has signed it
    Discard {
        /// Its key, as it was told
        key: String,
    },
}

/// `toehold store gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Remove the records of sessions that were closed so long ago
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = parse_retention)]
    pub sessions_older_than: Duration,
    /// Remove the beginning of the audit log, up to the first entry that is younger [default: keep all of it]
    #[arg(long, value_name = "TIME", value_parser = parse_retention)]
    pub audit_older_than: Option<Duration>,
}

/// An instant: itself, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Then.
    At(Timestamp),
    /// So long ago.
    Ago(Duration),
}

impl Moment {
    /// The instant, counted from `now`.
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.saturating_sub(span),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(at) => Ok(Self::At(at)),
            Err(_) => parse_duration(text)
                .map(Self::Ago)
                .map_err(|_| format!("\"{text}\" is neither a time such as 2027-01-01T00:00:00Z nor a span such as 7d")),
        }
    }
}

/// How long something is kept. Not less than a day: whoever is at it must not lose it meanwhile.
pub(super) fn parse_retention(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration >= Duration::from_hours(24) { Ok(duration) } else { Err(format!("{text} is less than 1d")) }
}
