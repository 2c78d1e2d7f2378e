//! The grammar of `operator …`.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "these texts are what --help prints")]

use std::time::Duration;

use clap::{Args, Subcommand};

use super::durations::parse_grace;
use crate::shared::{NewMember, Role};

/// `toehold operator …`.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Let somebody in: seal every private half to them too, and take what they sign
    Add(OperatorAdd),
    /// List the members
    Ls,
    /// Let somebody go: seal everything anew to those who remain
    Rm(OperatorRemove),
    /// Print what a NATS server has to let each role do
    Roles(OperatorRoles),
}

/// `toehold operator add`.
#[derive(Debug, Args)]
pub struct OperatorAdd {
    /// The word that the newcomer's `toehold init` prints
    pub recipient: NewMember,
    /// What to call them [default: their id]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
    /// What they are there for
    #[arg(long, value_name = "ROLE", default_value = "operator")]
    pub role: Role,
}

/// `toehold operator rm`.
#[derive(Debug, Args)]
pub struct OperatorRemove {
    /// The member's id or name
    pub member: String,
    /// Renew the master key at once, which they may have kept (`key rotate` with its defaults)
    #[arg(long)]
    pub rotate: bool,
    /// How long the old key, which they may have kept, still logs in beside the new one [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_grace, requires = "rotate")]
    pub grace: Option<Duration>,
}

/// `toehold operator roles`.
#[derive(Debug, Args)]
pub struct OperatorRoles {
    /// Only of this role
    #[arg(long, value_name = "ROLE")]
    pub role: Option<Role>,
    /// Only for the member with that role whose `toehold init` prints this word: it publishes to its own part of the audit log alone
    #[arg(long, value_name = "RECIPIENT", requires = "role")]
    pub recipient: Option<NewMember>,
}

/// A name fits into one line of a table.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let is_fine = !text.is_empty() && text.chars().count() <= 64 && !text.chars().any(char::is_control);
    if is_fine { Ok(text.to_owned()) } else { Err("a name has 1 to 64 characters and no control characters".to_owned()) }
}
