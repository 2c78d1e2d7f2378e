//! `toehold host invite`: user data for a host that is yet to be made.

use super::host_add::{add_one, read_selected_keys};
use super::operator::Delivery;
use crate::cli::args::Invite;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure};

/// Prints the user data, then waits for the host as `host add` does.
///
/// # Errors
/// Where it could not begin.
pub(super) async fn invite(context: &Context, options: Invite) -> Result<Exit, Failure> {
    let keys = read_selected_keys(&options.how)?;
    add_one(context, options.account, &options.how, keys, Delivery::CloudInit(options.output)).await
}
