//! `toehold spec apply`.

use std::path::PathBuf;

use clap::Args;
use toehold_specsign::{SpecName, VerifyingKey};

/// `toehold spec apply`.
#[derive(Debug, Args)]
pub struct ApplySpec {
    /// The document
    #[arg(required_unless_present = "name", conflicts_with = "name")]
    pub file: Option<PathBuf>,
    /// Take the document of this name out of the store
    #[arg(long, value_name = "NAME")]
    pub name: Option<SpecName>,
    /// The directory that the machines are put into
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Whose signature counts at first contact; may be given several times
    #[arg(long = "public-key", value_name = "HEX")]
    pub public_keys: Vec<VerifyingKey>,
}
