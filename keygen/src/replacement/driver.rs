//! The loop that performs a replacement's actions on a host's files.

use std::convert::Infallible;
use std::future::Future;

use toehold_core::{Change, FileError, HostFiles, Look, Seen, Source, Timestamp};

use super::ahead::{Ahead, event};
use super::error::ReplaceError;
use super::machine::{Action, Event, Replacement};
use super::plan::{KeyFile, Plan, Replaced};
use crate::authorized_keys::{AuthorizedKeys, MAX_AUTHORIZED_KEYS};

/// What is to become of the files, and what has to be passed before any of them is replaced.
///
/// A host can be reached over a connection of which its holder no longer has the say. So the new file lies staged beside the
/// old one before [`pass`](Self::pass) is called, and takes its place right after: whoever has taken the work over has swept
/// what is staged, and whoever has not cannot be kept from passing.
pub trait FencedEdit: Send {
    /// Why a file may not be replaced.
    type Stop: Send;

    /// Edits a document, which is what the host has at this moment; an error leaves the file alone. It is called again, with
    /// that, where somebody else writes the file meanwhile.
    ///
    /// # Errors
    /// Whatever the edit says no for.
    fn edit(&mut self, file: KeyFile, document: &mut AuthorizedKeys, reading: &Reading) -> Result<(), Source>;

    /// Whether [`Reading::second`] is to be read before `authorized_keys` is edited.
    fn reads_second_file(&self) -> bool {
        false
    }

    /// Called when the new file is staged and before it takes the old one's place: the store is asked for leave, by a write.
    fn pass(&mut self) -> impl Future<Output = Result<(), Self::Stop>> + Send;
}

/// What is known of the host beside the file that is edited.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// The host's time while the lock was taken; an edit that sets an end to something counts from it.
    pub host_time: Timestamp,
    /// What `authorized_keys2` holds while the lock is ours; `None` where it does not exist, or was not asked for.
    pub second: Option<AuthorizedKeys>,
}

/// Why nothing was replaced, or is not known to have been.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a caller has to tell them apart")]
pub enum FencedError<S> {
    /// The replacement failed.
    Replace(Box<ReplaceError>),
    /// [`FencedEdit::pass`] gave no leave. The file that was to be replaced is as it was; of two files the first may have
    /// been replaced.
    Stopped(S),
}

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
pub fn replace<F, E>(files: &mut F, plan: &Plan, edit: E) -> impl Future<Output = Result<Replaced, ReplaceError>> + Send
where
    F: HostFiles,
    E: FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send,
{
    let plan = plan.clone();
    async move {
        match replace_fenced(files, plan, &mut Unfenced(edit)).await {
            Ok(replaced) => Ok(replaced),
            Err(FencedError::Replace(error)) => Err(*error),
            Err(FencedError::Stopped(never)) => match never {},
        }
    }
}

/// An edit that nothing has to be asked for.
struct Unfenced<E>(E);

impl<E> FencedEdit for Unfenced<E>
where
    E: FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send,
{
    type Stop = Infallible;

    fn edit(&mut self, file: KeyFile, document: &mut AuthorizedKeys, _: &Reading) -> Result<(), Source> {
        (self.0)(file, document)
    }

    async fn pass(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// As [`replace`], where every file that is about to take another's place passes the fence first.
///
/// The order of what is *changed* on the host, and of the fence between staging and renaming, is the machine's. What is only
/// looked at between two changes is asked for together, each look after the change before it and before the one that it
/// decides about; so a replacement takes about a dozen round trips.
///
/// # Errors
/// [`FencedError`].
pub async fn replace_fenced<F, E>(files: &mut F, plan: Plan, edit: &mut E) -> Result<Replaced, FencedError<E::Stop>>
where
    F: HostFiles,
    E: FencedEdit,
{
    let mut replacement = Replacement::new(plan, files.capabilities());
    let mut ahead = Ahead::default();
    let mut stopped = None;
    loop {
        let more = replacement.ahead();
        let host_time = replacement.host_time().unwrap_or(Timestamp::UNIX_EPOCH);
        let second_file = replacement.paths.of(KeyFile::AuthorizedKeys2);
        let event = match replacement.action() {
            Action::RealPath(path) => look(&mut ahead, files, Look::RealPath(path.to_owned()), more).await,
            Action::Stat(path) => look(&mut ahead, files, Look::Stat(path.to_owned()), more).await,
            Action::Read { path, limit } => look(&mut ahead, files, Look::Read { path: path.to_owned(), limit }, more).await,
            Action::List(path) => look(&mut ahead, files, Look::List(path.to_owned()), more).await,
            Action::Sync(path) => look(&mut ahead, files, Look::Sync(path.to_owned()), more).await,
            Action::Stage { path, content, mode } => {
                let (staged, seen) = files.change_and_look(Change::Stage { path, content, mode }, &more).await;
                ahead.after(staged.is_ok(), more, seen);
                Event::Done(staged)
            }
            Action::Rename { from, to } => {
                ahead.forget();
                match edit.pass().await {
                    Ok(()) => {
                        let (renamed, seen) = files.change_and_look(Change::Rename { from, to }, &more).await;
                        ahead.after(renamed.is_ok(), more, seen);
                        Event::Done(renamed)
                    }
                    Err(why) => {
                        stopped = Some(why);
                        Event::Done(Err(FileError::Denied { doing: "replacing", path: to.to_owned() }))
                    }
                }
            }
            Action::Remove(path) => {
                ahead.forget();
                Event::Done(files.remove(path).await)
            }
            Action::Edit { file, document } => {
                let second = if file == KeyFile::AuthorizedKeys && edit.reads_second_file() {
                    second(&mut ahead, files, second_file).await
                } else {
                    Ok(None)
                };
                Event::Edited(match second {
                    Ok(second) => edit.edit(file, document, &Reading { host_time, second }),
                    Err(error) => Err(error.into()),
                })
            }
            Action::Finish => break,
        };
        replacement.handle(event);
    }
    match (replacement.into_result(), stopped) {
        (_, Some(why)) => Err(FencedError::Stopped(why)),
        (Ok(replaced), None) => Ok(replaced),
        (Err(error), None) => Err(FencedError::Replace(Box::new(error))),
    }
}

async fn look<F: HostFiles>(ahead: &mut Ahead, files: &mut F, look: Look, more: Vec<Look>) -> Event {
    event(ahead.look(files, look, more).await)
}

/// What the second file holds; only one that the replacement has found to be in order is read.
async fn second<F: HostFiles>(ahead: &mut Ahead, files: &mut F, path: String) -> Result<Option<AuthorizedKeys>, FileError> {
    match ahead.look(files, Look::Read { path, limit: MAX_AUTHORIZED_KEYS }, Vec::new()).await {
        Seen::Read(Ok(bytes)) => Ok(Some(AuthorizedKeys::parse(bytes))),
        Seen::Read(Err(FileError::NotFound { .. })) => Ok(None),
        Seen::Read(Err(error)) => Err(error),
        _ => Err(FileError::Unsupported { what: "answers to what was asked" }),
    }
}
