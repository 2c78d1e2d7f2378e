//! The grammar of `init`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "these texts are what --help prints")]

use std::path::PathBuf;

use clap::Args;
use toehold_keygen::KeyAlgorithm;

/// `toehold init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The master key's algorithm: ed25519, ecdsa-p256, ecdsa-p384, ecdsa-p521, rsa-2048 to rsa-8192 [default: ed25519]
    #[arg(long)]
    pub algorithm: Option<KeyAlgorithm>,
    /// Use this private key as the master key instead of a new one
    #[arg(long, value_name = "FILE", conflicts_with = "algorithm")]
    pub import: Option<PathBuf>,
    /// Have a lost fleet back out of this recovery copy (`key export`): its master keys, hosts and host keys
    #[arg(long, value_name = "COPY", conflicts_with_all = ["algorithm", "import"], requires = "identity")]
    pub restore: Option<PathBuf>,
    /// What opens the recovery copy: an age identity file or an SSH private key
    #[arg(long, value_name = "FILE", requires = "restore")]
    pub identity: Option<PathBuf>,
    /// Use this SSH private key (ssh-ed25519 or ssh-rsa), where it lies, as the identity in place of a new one
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    pub ssh_key: Option<PathBuf>,
    /// How many servers of --store keep a copy of everything, where the bucket is made now: 1, 3 or 5 [default: 1]
    #[arg(long, value_name = "N", value_parser = super::super::store_args::replicas())]
    pub replicas: Option<String>,
    /// What others call this machine or person in --store [default: the user's and the host's name]
    #[arg(long, value_name = "NAME", value_parser = super::super::operator_args::parse_name)]
    pub name: Option<String>,
    /// Protect the identity with a passphrase: from --passphrase-file, or asked for on the terminal
    #[arg(long)]
    pub passphrase: bool,
}
