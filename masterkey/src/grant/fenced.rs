//! A replacement that asks the store for leave between the staging of the new file and its renaming.

use toehold_core::{HostRecord, Source, Store, StoreError, Stored};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::replacement::{self, FencedEdit, KeyFile, Reading};

use super::error::NoPass;
use super::record::GrantRecord;

/// How often a write is tried again of which the store says that it did not take place.
const TRIES: u32 = 3;

/// Why nothing was replaced, or is not known to have been.
pub(super) type FencedError = replacement::FencedError<NoPass>;

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

/// An edit for which the store is asked for leave, if there is any to ask for.
pub(super) struct Fenced<'a, S, E> {
    pub(super) edit: E,
    pub(super) leave: Option<Leave<'a, S>>,
}

impl<S, E> FencedEdit for Fenced<'_, S, E>
where
    S: Store,
    E: FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send,
{
    type Stop = NoPass;

    fn edit(&mut self, file: KeyFile, document: &mut AuthorizedKeys, _: &Reading) -> Result<(), Source> {
        (self.edit)(file, document)
    }

    async fn pass(&mut self) -> Result<(), NoPass> {
        match self.leave.as_mut() {
            Some(leave) => leave.pass().await,
            None => Ok(()),
        }
    }
}
