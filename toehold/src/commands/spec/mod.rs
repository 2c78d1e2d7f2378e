//! `toehold spec …`.

mod apply;

use crate::cli::args::{Global, Spec};
use crate::cli::{Exit, Failure, Output, Signals};

/// Runs the command that was asked for.
///
/// # Errors
/// Why it failed, with what to do next.
pub(super) async fn run(global: &Global, command: Spec, output: Output, signals: Signals) -> Result<Exit, Failure> {
    match command {
        Spec::Apply(options) => apply::apply(global, &options, output, signals).await,
        _ => Err(Failure::new("not in this build")),
    }
}
