//! Placeholder, being written.
use crate::cli::args::Demo;
use crate::cli::{Exit, Failure, Output, Signals};

pub(super) async fn demo(_: &Demo, _: Output, _: Signals) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
