//! A replacement that asks the store for leave between the staging of the new file and its renaming.

use toehold_core::{FileError, HostFiles, HostRecord, Source, Store, StoreError, Stored};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::replacement::{Action, Event, KeyFile, Plan, ReplaceError, Replaced, Replacement};

use super::error::NoPass;
use super::record::GrantRecord;

/// How often a write is tried again of which the store says that it did not take place.
const TRIES: u32 = 3;

/// Why nothing was replaced, or is not known to have been.
#[derive(Debug)]
pub(super) enum FencedError {
    Replace(Box<ReplaceError>),
    /// The store gave no leave; the host is as it was.
    Stopped(NoPass),
}

/// What stands between the staging of a file on the host and its renaming.
pub(super) struct Leave<'a, S> {
    pub(super) store: &'a S,
    pub(super) stored: &'a mut Stored<GrantRecord>,
}

impl<S: Store> Leave<'_, S> {
    /// Writes the record over. A host that is being given up gets no more lines: whoever gives it up says so first and then
    /// ends the grants that are on the list, and this one is on it.
    async fn pass(&mut self) -> Result<(), NoPass> {
        write(self.store, self.stored, |_| {}).await?;
        let key = HostRecord::key(self.stored.body.account()).map_err(StoreError::from).map_err(NoPass::Store)?;
        match Stored::<HostRecord>::read(self.store, &key).await {
            Ok(Some(host)) if !host.body.removing => Ok(()),
            Ok(_) => Err(NoPass::NotManaged),
            Err(error) => Err(NoPass::Store(error)),
        }
    }
}

/// Writes the record, if it is still as this run last wrote it.
pub(super) async fn write<S: Store>(
    store: &S,
    stored: &mut Stored<GrantRecord>,
    change: impl FnOnce(&mut GrantRecord),
) -> Result<(), NoPass> {
    let before = stored.body.clone();
    change(&mut stored.body);
    let mut tries = 0;
    let failed = loop {
        let Err(error) = stored.save(store).await else { return Ok(()) };
        tries += 1;
        // The write may have taken place all the same: what the store holds now decides.
        match Stored::<GrantRecord>::read(store, &stored.key).await {
            Ok(Some(latest)) if latest.revision == stored.revision && tries < TRIES => {}
            Ok(Some(latest)) if latest.revision == stored.revision => break NoPass::Store(error),
            Ok(Some(latest)) if latest.body == stored.body => {
                *stored = latest;
                return Ok(());
            }
            Ok(_) => break NoPass::TakenUp,
            Err(error) => break NoPass::Store(error),
        }
    };
    stored.body = before;
    Err(failed)
}

/// As [`toehold_keygen::replacement::replace`], where every rename waits for leave, if there is any to ask for.
pub(super) async fn replace_fenced<F, E, S>(
    files: &mut F,
    plan: Plan,
    mut edit: E,
    mut leave: Option<Leave<'_, S>>,
) -> Result<Replaced, FencedError>
where
    F: HostFiles,
    E: FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send,
    S: Store,
{
    let mut replacement = Replacement::new(plan, files.capabilities());
    let mut stopped = None;
    loop {
        let event = match replacement.action() {
            Action::RealPath(path) => Event::RealPath(files.real_path(path).await),
            Action::Stat(path) => Event::Stat(files.stat(path).await),
            Action::Read { path, limit } => Event::Read(files.read(path, limit).await),
            Action::Stage { path, content, mode } => Event::Done(files.stage(path, content, mode).await),
            Action::Sync(path) => Event::Done(files.sync(path).await),
            Action::Remove(path) => Event::Done(files.remove(path).await),
            Action::List(path) => Event::Listed(files.list(path).await),
            Action::Edit { file, document } => Event::Edited(edit(file, document)),
            Action::Rename { from, to } => {
                let passed = match leave.as_mut() {
                    Some(leave) => leave.pass().await,
                    None => Ok(()),
                };
                match passed {
                    Ok(()) => Event::Done(files.rename(from, to).await),
                    Err(why) => {
                        stopped = Some(why);
                        Event::Done(Err(FileError::Denied { doing: "replacing", path: to.to_owned() }))
                    }
                }
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
