//! The loop that performs a replacement's actions on a host's files.

use toehold_core::{HostFiles, Source};

use super::error::ReplaceError;
use super::machine::{Action, Event, Replacement};
use super::plan::{KeyFile, Plan, Replaced};
use crate::authorized_keys::AuthorizedKeys;

/// Replaces `authorized_keys` on a host (and `authorized_keys2`, where the plan says so) by what `edit` makes of it, in one
/// step, so that at every moment the host has the old file or the new one; see the [module](super).
///
/// `edit` is called with what the host has at that moment. If somebody else writes the file meanwhile it is called again,
/// with that. An edit that changes nothing writes nothing. With an error from it the file is left alone.
///
/// The future can be dropped at any time; the next replacement by the same holder cleans up.
///
/// # Errors
/// [`ReplaceError`]; [`ReplaceError::may_have_replaced`] tells those after which the file may be the new one. Of two files
/// the first may have been replaced when the second fails; doing it all again is always safe.
pub async fn replace<F, E>(files: &mut F, plan: &Plan, mut edit: E) -> Result<Replaced, ReplaceError>
where
    F: HostFiles,
    E: FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send,
{
    let mut replacement = Replacement::new(plan.clone(), files.capabilities());
    loop {
        let event = match replacement.action() {
            Action::RealPath(path) => Event::RealPath(files.real_path(path).await),
            Action::Stat(path) => Event::Stat(files.stat(path).await),
            Action::Read { path, limit } => Event::Read(files.read(path, limit).await),
            Action::Stage { path, content, mode } => Event::Done(files.stage(path, content, mode).await),
            Action::Sync(path) => Event::Done(files.sync(path).await),
            Action::Rename { from, to } => Event::Done(files.rename(from, to).await),
            Action::Remove(path) => Event::Done(files.remove(path).await),
            Action::List(path) => Event::Listed(files.list(path).await),
            Action::Edit { file, document } => Event::Edited(edit(file, document)),
            Action::Finish => return replacement.into_result(),
        };
        replacement.handle(event);
    }
}
