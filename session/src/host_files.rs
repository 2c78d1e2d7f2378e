//! What a session does to a host's files, each step as one call of `toehold-keygen`'s replacement.

use rand_core::CryptoRng;
use toehold_core::{FileError, HostFiles, ManagedKey, PublicKey, Source, Timestamp};
use toehold_keygen::install::{MAX_PROOF_FILE, ProofFile, proof_file_name};
use toehold_keygen::replacement::{IfEmpty, KeyFile, Plan, ReplaceError, inspect as inspect_files, replace, sweep};
use toehold_keygen::{AuthorizedKeys, Line, Options};

use crate::machine::Event;
use crate::onboarder::describe_error;
use crate::record::SessionRecord;

/// Why the host's files could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    #[error("{0}")]
    Plan(String),
}

impl FilesError {
    pub(crate) fn into_event(self) -> Event {
        let lost = match &self {
            Self::File(error) => error.is_lost(),
            Self::Replace(
                ReplaceError::File { source, .. }
                | ReplaceError::OutcomeUnknown { source, .. }
                | ReplaceError::Unverified { source, .. },
            ) => source.is_lost(),
            Self::Replace(_) | Self::Plan(_) => false,
        };
        Event::FilesFailed { reason: describe_error(&self), lost }
    }
}

fn home(record: &SessionRecord) -> &str {
    record.home.as_deref().unwrap_or(".")
}

fn proof_path(record: &SessionRecord) -> String {
    format!("{}/.ssh/{}", home(record), proof_file_name(record.id))
}

fn plan<R: CryptoRng + ?Sized>(rng: &mut R, record: &SessionRecord) -> Result<Plan, FilesError> {
    let plan = Plan::new(rng, home(record), &record.holder()).map_err(|error| FilesError::Plan(error.to_string()))?;
    Ok(plan.also_second_file().fence(record.attempt.into()))
}

/// The proof file's content; `None` where there is none.
pub(crate) async fn read_proof<F: HostFiles>(files: &mut F, record: &SessionRecord) -> Result<Option<Vec<u8>>, FilesError> {
    match files.read(&proof_path(record), MAX_PROOF_FILE as u64).await {
        Ok(content) => Ok(Some(content)),
        Err(FileError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Of this session's keys, those that sshd would find in the account's files.
pub(crate) async fn inspect<F: HostFiles>(files: &mut F, record: &SessionRecord) -> Result<Vec<PublicKey>, FilesError> {
    let mut found = inspect_files(files, home(record)).await?;
    if !found.objections.is_empty() {
        return Err(found.objections.remove(0).into());
    }
    if !files.capabilities().atomic_rename {
        return Err(ReplaceError::NoAtomicRename { path: ".ssh/authorized_keys".to_owned() }.into());
    }
    let ours = record.keys.iter().map(|key| &key.public_key).chain([&record.temporary_key]).chain(&record.adding);
    let mut present: Vec<PublicKey> = Vec::new();
    for key in ours {
        let document = found.document(KeyFile::AuthorizedKeys);
        let second = found.document(KeyFile::AuthorizedKeys2);
        let is_there = |document: Option<&AuthorizedKeys>| document.is_some_and(|document| document.contains(key));
        if !present.contains(key) && (is_there(document) || is_there(second)) {
            present.push(key.clone());
        }
    }
    Ok(present)
}

/// Adds lines; returns the host's time.
pub(crate) async fn add<F: HostFiles, R: CryptoRng + ?Sized>(
    files: &mut F,
    rng: &mut R,
    record: &SessionRecord,
    lines: &[ManagedKey],
) -> Result<Timestamp, FilesError> {
    let mut made = Vec::with_capacity(lines.len());
    for key in lines {
        let options = Options::parse(key.options.as_bytes()).map_err(|error| FilesError::Plan(describe_error(&error)))?;
        let line =
            Line::new(options, key.public_key.clone(), &key.comment).map_err(|error| FilesError::Plan(describe_error(&error)))?;
        made.push(line);
    }
    let edit = |file: KeyFile, document: &mut AuthorizedKeys| -> Result<(), Source> {
        if file == KeyFile::AuthorizedKeys {
            for line in &made {
                // A key that somebody else has added meanwhile is as good; the login that follows proves it.
                let _ = document.add(line);
            }
        }
        Ok(())
    };
    Ok(replace(files, &plan(rng, record)?, edit).await?.host_time)
}

/// Takes lines, the proof and leftovers away; returns those keys that are still there.
pub(crate) async fn clear<F: HostFiles, R: CryptoRng + ?Sized>(
    files: &mut F,
    rng: &mut R,
    record: &SessionRecord,
    keys: &[PublicKey],
    restore: bool,
) -> Result<Vec<PublicKey>, FilesError> {
    let proof = match read_proof(files, record).await? {
        Some(content) if restore => ProofFile::parse(&content).ok(),
        _ => None,
    };
    let made_file = proof.as_ref().is_some_and(ProofFile::created_file);
    let made_directory = proof.as_ref().is_some_and(ProofFile::created_directory);
    let made_newline = proof.as_ref().is_some_and(ProofFile::added_newline);

    let mut plan = plan(rng, record)?;
    if made_file {
        plan = plan.if_empty(IfEmpty::Remove);
    }
    let edit = |file: KeyFile, document: &mut AuthorizedKeys| -> Result<(), Source> {
        let removed: usize = keys.iter().map(|key| document.remove(key)).sum();
        if file == KeyFile::AuthorizedKeys && made_newline && removed > 0 {
            let mut bytes = std::mem::take(document).into_bytes();
            // The one that the installation command put behind the last line.
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            *document = AuthorizedKeys::parse(bytes);
        }
        Ok(())
    };
    replace(files, &plan, edit).await?;
    match files.remove(&proof_path(record)).await {
        Ok(()) | Err(FileError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    sweep(files, home(record), &record.holder()).await?;

    let found = inspect_files(files, home(record)).await?;
    let still_present = keys.iter().filter(|key| !found.copies(key).is_empty()).cloned().collect();
    if made_directory {
        // Fails where somebody else has put something into it, which is then theirs to keep.
        match files.remove_directory(&format!("{}/.ssh", home(record))).await {
            Err(error) if error.is_lost() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(still_present)
}
