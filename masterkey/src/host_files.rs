//! The machine's changes, each as one replacement of `toehold-keygen`: locked, swept, read, decided, guarded, staged, journaled,
//! renamed.

use std::future::Future;

use toehold_core::{Account, HostFiles, Source, Timestamp};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::replacement::{FencedEdit, FencedError, KeyFile, Plan, Reading, ReplaceError, replace_fenced};

use crate::change::{Change, Making};
use crate::error::describe;
use crate::guard::{Violation, Write, later_than};
use crate::host::{ARRIVING, HostMachine, Step};
use crate::observe::{Files, Observation};

/// Passed after the new file is staged and before it takes the old one's place (R8).
pub(crate) trait Fence: Send {
    /// Writes to the store that this change is about to be made.
    fn pass(&mut self, change: Change) -> impl Future<Output = Result<(), NoPass>> + Send;
}

/// Why a change may not be made.
#[derive(Debug)]
pub(crate) enum NoPass {
    /// Somebody else has the lead, or the host.
    Fenced,
    /// Nobody knows.
    Store(String),
}

/// The other accounts that have the same file (R9): what this one finds out about a key does not hold for them.
pub(crate) trait Others: Sync {
    /// Takes note that a line in this account's files was written for another account.
    fn found(&self, other: Account);
    /// What speaks against a change in their name, in words.
    fn objection(&self, change: Change) -> Option<String>;
}

/// Where nothing is known of others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoOthers;

impl Others for NoOthers {
    fn found(&self, _: Account) {}

    fn objection(&self, _: Change) -> Option<String> {
        None
    }
}

/// Why the files could not be read or changed. They are as they were, or as the change wanted them.
#[derive(Debug)]
pub(crate) enum WorkError {
    /// Somebody else has the lead.
    Fenced,
    /// Another try may do.
    Passing(String),
    /// Another try will not do.
    Lasting(String),
}

/// What was read and done over a connection.
#[derive(Debug)]
pub(crate) struct Worked {
    pub(crate) before: Observation,
    pub(crate) change: Option<Change>,
    pub(crate) after: Observation,
    /// Whether the arriving key's line, which the host refuses here, stays for another account.
    pub(crate) left_for_others: bool,
    /// Whether the lock or a staged file may have stayed.
    pub(crate) litter: bool,
}

/// Why an edit was not made.
#[derive(Debug, thiserror::Error)]
enum NoEdit {
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("authorized_keys2 was changed by somebody else meanwhile")]
    Overtaken,
    #[error("{0}")]
    Objection(String),
}

struct Editor<'a, F> {
    machine: &'a HostMachine,
    making: &'a Making,
    over: usize,
    fence: &'a mut F,
    others: &'a dyn Others,
    left_for_others: bool,
    read: Option<(Files, Observation)>,
    /// The files as they are once what was edited so far is renamed.
    now: Files,
    change: Option<Change>,
    /// Whether another try would come to the same.
    lasting: bool,
}

impl<F> Editor<'_, F> {
    fn first(&mut self, document: &mut AuthorizedKeys, second: Option<AuthorizedKeys>, now: Timestamp) -> Result<(), NoEdit> {
        let files = Files { first: document.clone(), second };
        // At the first look already: what the store does not know of is found out before anything of it is touched (N3).
        if let Some(violation) = self.making.generation.and_then(|known| later_than(&files, &self.making.keys, known)) {
            self.lasting = true;
            return Err(violation.into());
        }
        if let Some(other) = self.making.other_account(&files) {
            self.others.found(other);
        }
        let seen = Observation::of(&files, &self.making.keys, now);
        let wanted = match self.machine.step(&seen) {
            Step::Write(change) => Some(change),
            Step::Leave => None,
        };
        self.change = match wanted.map(|change| (change, self.others.objection(change))) {
            Some((Change::Delete(ARRIVING), Some(_))) => {
                self.left_for_others = true;
                None
            }
            Some((_, Some(why))) => {
                self.lasting = true;
                return Err(NoEdit::Objection(why));
            }
            _ => wanted,
        };
        self.read = Some((files.clone(), seen));
        self.now = files;
        self.edit(KeyFile::AuthorizedKeys, document, now)
    }

    fn second(&mut self, document: &mut AuthorizedKeys, now: Timestamp) -> Result<(), NoEdit> {
        if self.now.second.as_ref() != Some(document) {
            return Err(NoEdit::Overtaken);
        }
        self.edit(KeyFile::AuthorizedKeys2, document, now)
    }

    fn edit(&mut self, file: KeyFile, document: &mut AuthorizedKeys, now: Timestamp) -> Result<(), NoEdit> {
        let (Some(change), Some((read, seen))) = (self.change, self.read.as_ref()) else { return Ok(()) };
        let mut edited = document.clone();
        self.making.apply(change, self.over, now, read, file, &mut edited);
        if edited == *document {
            return Ok(());
        }
        let mut after = self.now.clone();
        match file {
            KeyFile::AuthorizedKeys => after.first = edited.clone(),
            KeyFile::AuthorizedKeys2 => after.second = Some(edited.clone()),
        }
        let keys = &self.making.keys;
        if let Some(over) = keys.get(self.over) {
            let proven = self.machine.proven(seen);
            let generation = self.making.generation;
            let write = Write { keys, over, proven: &proven, generation, before: &self.now, after: &after };
            write.check().inspect_err(|_| self.lasting = true)?;
        }
        self.now = after;
        *document = edited;
        Ok(())
    }
}

impl<F: Fence> FencedEdit for Editor<'_, F> {
    type Stop = NoPass;

    fn edit(&mut self, file: KeyFile, document: &mut AuthorizedKeys, reading: &Reading) -> Result<(), Source> {
        match file {
            KeyFile::AuthorizedKeys => self.first(document, reading.second.clone(), reading.host_time)?,
            KeyFile::AuthorizedKeys2 => self.second(document, reading.host_time)?,
        }
        Ok(())
    }

    fn reads_second_file(&self) -> bool {
        true
    }

    async fn pass(&mut self) -> Result<(), NoPass> {
        match self.change {
            Some(change) => self.fence.pass(change).await,
            None => Err(NoPass::Store("nothing was to be changed".to_owned())),
        }
    }
}

/// Does over this connection what the machine says to what its files hold. The lock is taken, and what others have staged is
/// swept away, before anything is read: what is seen here stays true whatever a late writer does.
pub(crate) async fn work<F: HostFiles>(
    files: &mut F,
    plan: Plan,
    machine: &HostMachine,
    making: &Making,
    over: usize,
    fence: &mut impl Fence,
    others: &dyn Others,
) -> Result<Worked, WorkError> {
    let mut editor = Editor {
        machine,
        making,
        over,
        fence,
        others,
        left_for_others: false,
        read: None,
        now: Files::default(),
        change: None,
        lasting: false,
    };
    match replace_fenced(files, plan.also_second_file(), &mut editor).await {
        Err(FencedError::Stopped(NoPass::Fenced)) => Err(WorkError::Fenced),
        Err(FencedError::Stopped(NoPass::Store(why))) => Err(WorkError::Passing(why)),
        Err(FencedError::Replace(error)) if editor.lasting || is_lasting(&error) => Err(WorkError::Lasting(describe(&error))),
        Err(FencedError::Replace(error)) => Err(WorkError::Passing(describe(&error))),
        Ok(replaced) => match editor.read {
            Some((_, before)) => Ok(Worked {
                before,
                change: editor.change,
                after: Observation::of(&editor.now, &making.keys, replaced.host_time),
                left_for_others: editor.left_for_others,
                litter: !replaced.leftovers.is_empty(),
            }),
            None => Err(WorkError::Passing("the host's files were not read".to_owned())),
        },
    }
}

fn is_lasting(error: &ReplaceError) -> bool {
    matches!(
        error,
        ReplaceError::NoAtomicRename { .. }
            | ReplaceError::Missing { .. }
            | ReplaceError::WrongKind { .. }
            | ReplaceError::WrongOwner { .. }
            | ReplaceError::LooseMode { .. }
    )
}
