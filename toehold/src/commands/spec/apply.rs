//! `toehold spec apply`: brings a directory of machines to what a document says.

use crate::cli::args::{ApplySpec, Global};
use crate::cli::{Exit, Failure, Output, Signals};

/// Applies a document, once or again and again.
///
/// # Errors
/// Why nothing could be done.
#[expect(clippy::unused_async, reason = "it will fetch")]
pub(super) async fn apply(_: &Global, _: &ApplySpec, _: Output, _: Signals) -> Result<Exit, Failure> {
    Err(Failure::new("not in this build"))
}
