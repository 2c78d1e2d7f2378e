//! What a session does to a host's files, each step as one replacement of `toehold-keygen`.

use rand_core::CryptoRng;
use toehold_core::{FileError, HostFiles, ManagedKey, PublicKey, SessionId, Source, Store, Timestamp};
use toehold_keygen::authorized_keys::KeyLine;
use toehold_keygen::install::{MAX_PROOF_FILE, ProofFile, proof_file_name};
use toehold_keygen::replacement::{
    FencedEdit, FencedError, KeyFile, Plan, Reading, ReplaceError, Replaced, inspect as inspect_files, replace_fenced, sweep,
};
use toehold_keygen::{AuthorizedKeys, Line, Options};

use crate::claim::{AddedLine, DeadKey};
use crate::lines::{BadLine, ForeignLine, Found, is_line, line_of, look, stands};
use crate::machine::Event;
use crate::onboarder::{Fence, NoPass, describe_error};
use crate::record::SessionRecord;

/// Why the host's files could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Replace(Box<ReplaceError>),
    #[error("{0}")]
    Plan(String),
    /// Somebody else's line is in the way of one that is to be managed; the host is as it was.
    #[error(transparent)]
    Foreign(#[from] ForeignLine),
    #[error("a managed line cannot be written")]
    Line(#[from] BadLine),
    /// Where the command has run, the directory is there.
    #[error(
        "the host's SFTP server shows no {0}: it may be confined to another directory (chroot), be another machine, or somebody \
         in the middle"
    )]
    Elsewhere(String),
    /// The claim on the account does not allow it; the host is as it was.
    #[error("the claim on the account is with session {by}")]
    AccountLost { by: SessionId },
    /// Nobody knows who has the claim on the account; the host is as it was.
    #[error("the claim on the account could not be written")]
    Claim(#[source] toehold_core::StoreError),
    /// The host has the old file or the new one.
    #[error("{source}")]
    InDoubt { added: Vec<PublicKey>, source: Box<ReplaceError> },
}

impl From<ReplaceError> for FilesError {
    fn from(error: ReplaceError) -> Self {
        Self::Replace(Box::new(error))
    }
}

impl FilesError {
    fn replacement(&self) -> Option<&ReplaceError> {
        match self {
            Self::Replace(error) | Self::InDoubt { source: error, .. } => Some(error),
            _ => None,
        }
    }

    fn is_lost(&self) -> bool {
        match (self, self.replacement()) {
            (Self::File(error), _) => error.is_lost(),
            (
                _,
                Some(
                    ReplaceError::File { source, .. }
                    | ReplaceError::OutcomeUnknown { source, .. }
                    | ReplaceError::Unverified { source, .. },
                ),
            ) => source.is_lost(),
            _ => false,
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Claim(_))
            || matches!(
                self.replacement(),
                Some(ReplaceError::Locked { .. } | ReplaceError::LockLost { .. } | ReplaceError::KeepsChanging { .. })
            )
    }

    /// Who holds the lock that was in the way.
    pub(crate) fn lock_holder(&self) -> Option<&str> {
        match self.replacement() {
            Some(ReplaceError::Locked { holder, .. }) => Some(holder),
            _ => None,
        }
    }

    pub(crate) fn into_event(self) -> Event {
        let (reason, lost, busy) = (describe_error(&self), self.is_lost(), self.is_busy());
        match self {
            Self::AccountLost { by } => Event::AccountLost { by },
            Self::InDoubt { added, .. } => Event::LinesInDoubt { added, reason, lost },
            Self::Foreign(_) => Event::LinesRefused { reason },
            _ => Event::FilesFailed { reason, lost, busy },
        }
    }
}

fn home(record: &SessionRecord) -> &str {
    record.home.as_deref().unwrap_or(".")
}

fn in_ssh(record: &SessionRecord, name: &str) -> String {
    format!("{}/.ssh/{name}", home(record))
}

fn proof_path(record: &SessionRecord) -> String {
    in_ssh(record, &proof_file_name(record.id))
}

/// A replacement by this session, in this attempt.
pub(crate) fn plan<R: CryptoRng + ?Sized>(rng: &mut R, record: &SessionRecord) -> Result<Plan, FilesError> {
    let plan = Plan::new(rng, home(record), &record.holder()).map_err(|error| FilesError::Plan(error.to_string()))?;
    Ok(plan.also_second_file().fence(record.attempt.into()))
}

/// The proof file's content; `None` where the directory is there and no such file in it. One that is too large is taken for
/// empty: it proves nothing.
pub(crate) async fn read_proof<F: HostFiles>(
    files: &mut F,
    record: &SessionRecord,
    made: &mut Made,
) -> Result<Option<Vec<u8>>, FilesError> {
    let content = match files.read(&proof_path(record), MAX_PROOF_FILE as u64).await {
        Ok(content) => content,
        Err(FileError::TooLarge { .. }) => Vec::new(),
        Err(FileError::NotFound { .. }) => {
            let directory = format!("{}/.ssh", home(record));
            return if files.stat(&directory).await?.is_some() { Ok(None) } else { Err(FilesError::Elsewhere(directory)) };
        }
        Err(error) => return Err(error.into()),
    };
    made.learn(&content);
    Ok(Some(content))
}

/// Learns from the proof file what the installation command had to make. One that cannot be read, also when it is tried
/// again, must not keep the key on the host.
async fn learn_what_was_made<F: HostFiles>(files: &mut F, record: &SessionRecord, made: &mut Made) -> Result<(), FilesError> {
    for _ in 0..2 {
        match read_proof(files, record, made).await {
            Err(error) if !error.is_lost() => {}
            other => return other.map(|_| ()),
        }
    }
    Ok(())
}

/// Lines that are known to be ours on an account, and whether somebody else's beside them are looked over.
pub(crate) struct Known {
    /// What earlier sessions, or this one, have written there.
    pub(crate) ours: Vec<ManagedKey>,
    /// The lines have let the master key in already: they are not judged any more, and what remains to be done gets done.
    pub(crate) settled: bool,
    /// Our time.
    pub(crate) now: Timestamp,
}

/// Of this session's keys, those that sshd lets in as it was asked for; and the temporary one, if it is there.
///
/// # Errors
/// [`FilesError::Foreign`] where a key is there by somebody else's line, with other options.
pub(crate) async fn inspect<F: HostFiles>(
    files: &mut F,
    record: &SessionRecord,
    known: &Known,
) -> Result<Vec<PublicKey>, FilesError> {
    let mut found = inspect_files(files, home(record)).await?;
    if !found.objections.is_empty() {
        return Err(found.objections.remove(0).into());
    }
    if !files.capabilities().atomic_rename {
        return Err(ReplaceError::NoAtomicRename { path: ".ssh/authorized_keys".to_owned() }.into());
    }
    let documents = || found.files.iter().map(|file| (file.file, &file.document));
    let mut present = Vec::new();
    for key in &record.keys {
        match look(documents(), key, &known.ours, known.now)? {
            Found::AsAsked => present.push(key.public_key.clone()),
            Found::Missing | Found::Ours(_) => {}
            Found::Foreign(_) if known.settled => present.push(key.public_key.clone()),
            Found::Foreign(line) => return Err(line.into()),
        }
    }
    // Its options and its end are not asked: it has just logged in, or is to be taken away.
    let reads = |(_, document): (KeyFile, &AuthorizedKeys)| {
        document.find(&record.temporary_key).filter_map(|entry| entry.key()).any(|line| line.openssh_reads_key())
    };
    if documents().any(reads) {
        present.push(record.temporary_key.clone());
    }
    Ok(present)
}

/// What becomes of a file in a replacement.
trait Edit {
    fn apply(&mut self, file: KeyFile, document: &mut AuthorizedKeys) -> Result<(), FilesError>;

    /// The lines that the last application has added.
    fn added(&self) -> &[AddedLine];
}

struct Addition<'a> {
    lines: &'a [ManagedKey],
    known: &'a Known,
    added: Vec<AddedLine>,
}

impl Edit for Addition<'_> {
    fn apply(&mut self, file: KeyFile, document: &mut AuthorizedKeys) -> Result<(), FilesError> {
        if file != KeyFile::AuthorizedKeys {
            return Ok(());
        }
        self.added.clear();
        for key in self.lines {
            let line = line_of(key)?;
            match look([(file, &*document)], key, &self.known.ours, self.known.now)? {
                // One that somebody else has added meanwhile is as good, and not ours to take away; the login that follows
                // proves it.
                Found::AsAsked => {}
                Found::Missing => {
                    document.push(&line);
                    self.added.push(AddedLine { line: key.clone(), options_before: None });
                }
                Found::Ours(before) => {
                    change_options(document, &line_of(&before)?, line.options());
                    let line = ManagedKey { options: key.options.clone(), ..before.clone() };
                    self.added.push(AddedLine { line, options_before: Some(before.options) });
                }
                Found::Foreign(line) => return Err(line.into()),
            }
        }
        Ok(())
    }

    fn added(&self) -> &[AddedLine] {
        &self.added
    }
}

/// Gives this line, and no other with its key, other options.
fn change_options(document: &mut AuthorizedKeys, line: &Line, options: &Options) {
    document.edit_options(line.public_key(), |found| (found == line.options()).then(|| options.clone()));
}

struct Subtraction<'a> {
    /// Of these every copy goes.
    keys: &'a [PublicKey],
    /// Of these nothing goes but the line itself, the last one first; or the options that it had before come back.
    added: &'a [AddedLine],
    dead: &'a [DeadKey],
    /// Whether the line feed before the temporary key is the installation command's.
    made_newline: bool,
    found: bool,
}

impl Edit for Subtraction<'_> {
    fn apply(&mut self, file: KeyFile, document: &mut AuthorizedKeys) -> Result<(), FilesError> {
        for dead in self.dead {
            document.remove(&dead.public_key);
        }
        let mut first = None;
        for key in self.keys {
            first = document.find(key).next().map(|entry| entry.start()).into_iter().chain(first).min();
        }
        for added in self.added.iter().rev() {
            let line = line_of(&added.line)?;
            let Some(before) = &added.options_before else {
                let meant = |found: &KeyLine<'_>| is_line(found, &line);
                let start = document.find(line.public_key()).find(|entry| entry.key().is_some_and(|found| meant(&found)));
                first = start.map(|entry| entry.start()).into_iter().chain(first).min();
                document.remove_where(line.public_key(), meant);
                continue;
            };
            if stands(document, &line) {
                let length = document.as_bytes().len();
                let options = line_of(&ManagedKey { options: before.clone(), ..added.line.clone() })?.options().clone();
                change_options(document, &line, &options);
                // Ours stand behind it.
                first = first.map(|first| (first + document.as_bytes().len()).saturating_sub(length));
            }
        }
        let Some(first) = first else { return Ok(()) };
        self.found = true;
        for key in self.keys {
            document.remove(key);
        }
        let was_the_end = document.as_bytes().len() == first;
        if file == KeyFile::AuthorizedKeys && self.made_newline && was_the_end && document.as_bytes().ends_with(b"\n") {
            let mut bytes = std::mem::take(document).into_bytes();
            bytes.pop();
            *document = AuthorizedKeys::parse(bytes);
        }
        Ok(())
    }

    fn added(&self) -> &[AddedLine] {
        &[]
    }
}

/// An edit whose writes pass the fence, if there is one.
struct Fenced<'a, 'f, E, S> {
    edit: &'a mut E,
    fence: Option<Fence<'f, S>>,
    /// Whether the fence was passed, so that what was to be written may be there.
    passed: bool,
    refused: Option<FilesError>,
}

impl<E: Edit + Send, S: Store> FencedEdit for Fenced<'_, '_, E, S> {
    type Stop = NoPass;

    fn edit(&mut self, file: KeyFile, document: &mut AuthorizedKeys, _: &Reading) -> Result<(), Source> {
        let edited = self.edit.apply(file, document);
        let answer = edited.as_ref().map_or_else(|error| Err(describe_error(error).into()), |()| Ok(()));
        self.refused = edited.err();
        answer
    }

    async fn pass(&mut self) -> Result<(), NoPass> {
        if let Some(fence) = self.fence.as_mut() {
            fence.pass(self.edit.added()).await?;
        }
        self.passed = true;
        Ok(())
    }
}

/// A replacement whose writes pass the fence, if there is one, after the new file is staged and before it takes the old one's
/// place.
async fn replace<F: HostFiles, S: Store>(
    files: &mut F,
    plan: Plan,
    edit: &mut (impl Edit + Send),
    fence: Option<Fence<'_, S>>,
) -> Result<Replaced, FilesError> {
    let mut fenced = Fenced { edit, fence, passed: false, refused: None };
    let result = replace_fenced(files, plan, &mut fenced).await;
    if let Some(error) = fenced.refused {
        return Err(error);
    }
    match result {
        Ok(replaced) => Ok(replaced),
        Err(FencedError::Stopped(NoPass::Lost { by })) => Err(FilesError::AccountLost { by }),
        Err(FencedError::Stopped(NoPass::Store(error))) => Err(FilesError::Claim(error)),
        Err(FencedError::Replace(source)) if fenced.passed && !fenced.edit.added().is_empty() => {
            Err(FilesError::InDoubt { added: keys_of(fenced.edit.added()), source })
        }
        Err(FencedError::Replace(error)) => Err(FilesError::Replace(error)),
    }
}

/// Takes the lock and the staged files of a session that is dead off the host.
pub(crate) async fn sweep_after<F: HostFiles>(files: &mut F, record: &SessionRecord, dead: &str) -> Result<(), FilesError> {
    sweep(files, home(record), dead).await?;
    Ok(())
}

fn keys_of(added: &[AddedLine]) -> Vec<PublicKey> {
    added.iter().map(|added| added.line.public_key.clone()).collect()
}

/// Adds lines, or gives lines of ours their options; returns the keys of those that were not there before, and the host's time.
pub(crate) async fn add<F: HostFiles, S: Store>(
    files: &mut F,
    plan: Plan,
    lines: &[ManagedKey],
    known: &Known,
    fence: Fence<'_, S>,
) -> Result<(Vec<PublicKey>, Timestamp), FilesError> {
    let mut edit = Addition { lines, known, added: Vec::new() };
    let replaced = replace(files, plan, &mut edit, Some(fence)).await?;
    Ok((keys_of(&edit.added), replaced.host_time))
}

/// What the installation command had to make on the host, by its own account. Kept once it was read: the file that says it
/// goes before the last of what was made.
#[derive(Debug, Default)]
pub(crate) struct Made(Option<ProofFile>);

impl Made {
    fn learn(&mut self, content: &[u8]) {
        if let Ok(proof) = ProofFile::parse(content) {
            self.0 = Some(proof);
        }
    }

    fn has(&self, made: impl FnOnce(&ProofFile) -> bool) -> bool {
        self.0.as_ref().is_some_and(made)
    }
}

/// What is to be taken away.
pub(crate) struct Removal<'a> {
    pub(crate) record: &'a SessionRecord,
    /// Keys of which every line goes.
    pub(crate) keys: &'a [PublicKey],
    /// Lines that were added.
    pub(crate) added: &'a [AddedLine],
    pub(crate) dead: &'a [DeadKey],
    pub(crate) restore: bool,
}

/// What was taken away.
pub(crate) struct Removed {
    /// Keys that are still there.
    pub(crate) still_present: Vec<PublicKey>,
    /// Whether anything of the installation command was there.
    pub(crate) found: bool,
    pub(crate) host_time: Timestamp,
}

/// Takes lines, the proof and leftovers away.
///
/// The keys go first, in one step. The proof, which says what else is to go, goes last but for the directory it lies in. A
/// file that the installation command made is emptied by the replacement like any other and removed when it was read back as
/// empty: a removal alone could come late, and hit what somebody has written since.
pub(crate) async fn clear<F: HostFiles, S: Store>(
    files: &mut F,
    plan: Plan,
    removal: Removal<'_>,
    made: &mut Made,
    fence: Option<Fence<'_, S>>,
) -> Result<Removed, FilesError> {
    let Removal { record, keys, added, dead, restore } = removal;
    learn_what_was_made(files, record, made).await?;
    let mut edit = Subtraction { keys, added, dead, made_newline: restore && made.has(ProofFile::added_newline), found: false };
    let replaced = replace(files, plan, &mut edit, fence).await?;
    let found = edit.found || made.0.is_some();

    let inspection = inspect_files(files, home(record)).await?;
    let ours = record.holder();
    if inspection.lock.as_ref().is_some_and(|lock| lock.holder.as_ref() == Some(&ours)) || !inspection.staged.is_empty() {
        sweep(files, home(record), &ours).await?;
    }
    let mut still_present: Vec<PublicKey> = keys.iter().filter(|key| !inspection.copies(key).is_empty()).cloned().collect();
    for added in added {
        let line = line_of(&added.line)?;
        if inspection.files.iter().any(|file| stands(&file.document, &line)) {
            still_present.push(added.line.public_key.clone());
        }
    }
    let removed = Removed { still_present, found, host_time: replaced.host_time };
    if !removed.still_present.is_empty() {
        return Ok(removed);
    }
    let is_empty = inspection.document(KeyFile::AuthorizedKeys).is_some_and(AuthorizedKeys::is_empty);
    if restore && is_empty && made.has(ProofFile::created_file) {
        gone(files.remove(&in_ssh(record, KeyFile::AuthorizedKeys.name())).await)?;
    }
    for session in dead.iter().map(|dead| dead.session).chain([record.id]) {
        gone(files.remove(&in_ssh(record, &proof_file_name(session))).await)?;
    }
    if restore && made.has(ProofFile::created_directory) {
        remove_if_empty(files, &format!("{}/.ssh", home(record))).await?;
    }
    Ok(removed)
}

/// Removes a directory, unless something has moved in: that is somebody else's.
async fn remove_if_empty<F: HostFiles>(files: &mut F, path: &str) -> Result<(), FilesError> {
    match files.remove_directory(path).await {
        Ok(()) | Err(FileError::NotFound { .. }) => Ok(()),
        Err(error) if error.is_lost() => Err(error.into()),
        Err(error) => match files.list(path).await {
            Ok(names) if names.is_empty() => Err(error.into()),
            Ok(_) | Err(FileError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        },
    }
}

/// A removal of something that is not there has done its work.
fn gone(result: Result<(), FileError>) -> Result<(), FilesError> {
    match result {
        Ok(()) | Err(FileError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
