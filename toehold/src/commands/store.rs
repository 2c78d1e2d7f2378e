//! `toehold store check`, `store export` and `store import`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use toehold_core::{Clock as _, StoreExport};

use crate::adapters::file_lock::FileLock;
use crate::adapters::nats::Difference;
use crate::adapters::sqlite::{self, SqliteStore};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, StoreCommand};
use crate::cli::context::{Context, state_directory};
use crate::cli::{Exit, Failure, Output, Signals, chain, printable};
use crate::store_check::Finding;
use crate::store_copy::{Copied, CopyError};
use crate::{private, store_check, store_copy};

/// The most bytes that an export may have.
const MAX_EXPORT: u64 = 4 * 1024 * 1024 * 1024;

/// What the directory begins with in which a store is filled before it gets its place.
const STAGED: &str = "import.new-";

/// Does what was asked for.
///
/// # Errors
/// Where the store or the file cannot be used; exit code 3 where something is wrong in the store.
pub(super) async fn run(global: &Global, command: StoreCommand, output: Output, signals: Signals) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Check => check(&Context::open(global, output, signals).await?).await,
        StoreCommand::Export { file } => export(&Context::open(global, output, signals).await?, &file).await,
        StoreCommand::Migrate(options) => super::store_migrate::migrate(global, &options, output, signals).await,
        StoreCommand::AcceptRollback { members } => {
            if let Some(fingerprint) = &members {
                super::store_migrate::accept_members(global, fingerprint).await?;
            }
            super::store_migrate::accept_rollback(&Context::open(global, output, signals).await?, members.is_some()).await
        }
        StoreCommand::Discard { key } => {
            super::store_migrate::discard(&Context::open(global, output, signals).await?, &key).await
        }
        StoreCommand::Import { file, replicas } => match global.shared.at() {
            None if replicas.is_some() => {
                Err(Failure::usage("--replicas is for a bucket of a shared store").hint("name one: --store nats://host/bucket"))
            }
            None => import(&state_directory(global)?, &file, output, signals).await,
            Some(at) => {
                let to = (&at, replicas.as_deref());
                super::store_migrate::import(global, to, &file, output, signals).await
            }
        },
        StoreCommand::Gc(options) => super::store_gc::collect(&Context::open(global, output, signals).await?, &options).await,
    }
}

/// Reads a file of the operator's.
///
/// # Errors
/// Where it cannot be read, or is larger than any that we write.
pub(super) fn read_file(file: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let named = |error: io::Error| Failure::new(format!("{} cannot be read: {error}", file.display()));
    let size = fs::metadata(file).map_err(named)?.len();
    if size > limit {
        return Err(Failure::new(format!("{} has {size} bytes, which are too many for an export", file.display())));
    }
    fs::read(file).map_err(named)
}

async fn check(context: &Context) -> Result<Exit, Failure> {
    let mut report = store_check::check(context.store()).await?;
    if let Some(shared) = context.store().shared() {
        let compared = shared.below().compare_copies().await?;
        report.findings.extend(compared.differences.iter().map(differs));
        if !compared.unread.is_empty() {
            let servers: Vec<&str> = compared.unread.iter().map(String::as_str).collect();
            context.output.aside(&format!("what these servers of the store have could not be compared: {}", servers.join(", ")));
        }
    }
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| json!({ "key": finding.key, "what": finding.what, "newer": finding.newer }))
        .collect();
    let found = json!({ "records": report.records, "findings": findings });
    let total: usize = report.records.values().sum();
    for finding in &report.findings {
        context.output.text(printable(&format!("{}: {}", finding.key, finding.what)));
    }
    if report.findings.is_empty() {
        context.output.document(&found);
        context.output.text(format_args!("All {total} records can be read, and whatever they name is there."));
        return Ok(Exit::Done);
    }
    let (count, first) = (report.findings.len(), report.findings.first());
    let first = first.map(|finding| format!("{}: {}", finding.key, finding.what)).unwrap_or_default();
    Err(Failure::new(format!("{count} of {total} records are not as they should be; the first is {first}")).partly().with(found))
}

/// A record of which the servers of a shared store have different copies.
fn differs(difference: &Difference) -> Finding {
    let revision = |revision: &Option<u64>| revision.map_or_else(|| "none".to_owned(), |revision| format!("revision {revision}"));
    let copies: Vec<String> =
        difference.revisions.iter().map(|(server, there)| format!("{server} has {}", revision(there))).collect();
    let what = format!(
        "the servers have different copies of it ({}): see \"When servers differ\" in docs/shared-store.md",
        copies.join(", ")
    );
    Finding { key: difference.key.clone(), what, newer: false }
}

async fn export(context: &Context, file: &Path) -> Result<Exit, Failure> {
    if file.symlink_metadata().is_ok() {
        return Err(occupied(file));
    }
    let export = store_copy::snapshot(context.store(), SystemClock.now()).await?;
    let bytes = export.to_bytes()?;
    if !private::write_new(file, &bytes)? {
        return Err(occupied(file));
    }
    let values = export.values().len();
    context.output.document(&json!({ "file": file, "values": values, "bytes": bytes.len(), "digest": export.digest() }));
    context.output.text(format_args!("Wrote {}: all {values} records, digest {}.", file.display(), export.digest()));
    context.output.text(
        "What is sealed is sealed in it, too: the identity that opens it (`identity` in the state directory) is not in it. Keep a copy of that elsewhere.",
    );
    Ok(Exit::Done)
}

fn occupied(file: &Path) -> Failure {
    Failure::new(format!("{} exists already", file.display())).hint("name a new file")
}

/// Reads the file of an export.
///
/// # Errors
/// Where it is none, or not whole.
pub(super) fn read_export(file: &Path) -> Result<StoreExport, Failure> {
    StoreExport::parse(&read_file(file, MAX_EXPORT)?)
        .map_err(|error| Failure::new(format!("{}: {}; nothing was written", file.display(), chain(&error))))
}

async fn import(directory: &Path, file: &Path, output: Output, mut signals: Signals) -> Result<Exit, Failure> {
    const AGAIN: &str = "run it again: it goes on where it was";
    let export = read_export(file)?;
    private::create_directory(directory)?;
    let lock = FileLock::take(directory.join("import.lock"))
        .map_err(|error| Failure::new(format!("no lock file in {}: {error}", directory.display())))?;
    let Some(_lock) = lock else {
        return Err(Failure::new(format!("another process imports into {}", directory.display())));
    };
    sweep(directory)?;
    let copied = tokio::select! {
        copied = place(&export, directory, async || Ok(())) => copied?,
        () = signals.wait() => return Err(Failure::new("interrupted: the store is as it was").hint(AGAIN)),
    };
    tell_imported(&directory.display(), file, &export, &copied, output);
    if !directory.join(crate::adapters::identity::FILE_NAME).exists() {
        output.aside(&format!(
            "the identity that opens what is sealed is not in an export: put {} back into {}",
            crate::adapters::identity::FILE_NAME,
            directory.display()
        ));
    }
    Ok(Exit::Done)
}

/// Says what an import has done.
pub(super) fn tell_imported(into: &impl std::fmt::Display, file: &Path, export: &StoreExport, copied: &Copied, output: Output) {
    output.document(&json!({
        "file": file, "values": copied.values, "written": copied.written, "digest": copied.digest, "made_at": export.made_at(),
    }));
    match copied.written {
        0 => output.text(format_args!("{into} holds all {} records already.", copied.values)),
        _ => output.text(format_args!(
            "Filled {into} with {} records of {}, digest {}.",
            copied.values,
            export.made_at(),
            copied.digest
        )),
    }
}

/// Puts the store where it belongs: a new one appears there whole or not at all. It is asked for before whether the export is `still_good`.
///
/// # Errors
/// Where the store or the directory cannot be used, or holds something else; what `still_good` says.
pub(super) async fn place(
    export: &StoreExport,
    directory: &Path,
    still_good: impl AsyncFn() -> Result<(), Failure>,
) -> Result<Copied, Failure> {
    let database = directory.join(sqlite::FILE_NAME);
    if database.symlink_metadata().is_ok() {
        still_good().await?;
        let store = SqliteStore::open(directory)?;
        let copied = store_copy::fill(export, &store).await.map_err(refused)?;
        if copied.written > 0 {
            still_good().await?;
        }
        return Ok(copied);
    }
    let staged = staging(directory)?;
    let filled = {
        let store = SqliteStore::create(&staged)?;
        store_copy::fill(export, &store).await
    };
    let copied = filled.map_err(refused)?;
    // While nobody sees the new one yet.
    if let Err(failure) = still_good().await {
        sweep(directory)?;
        return Err(failure);
    }
    if !SqliteStore::move_between(&staged, directory)? {
        return Err(Failure::new(format!("{} was made meanwhile by somebody else; nothing was imported", database.display())));
    }
    sweep(directory)?;
    Ok(copied)
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn refused(error: CopyError) -> Failure {
    let failure = Failure::new(format!("the store cannot be filled: {}", chain(&error)));
    match error {
        CopyError::Occupied { .. } | CopyError::Differs { .. } => failure
            .hint("only an empty store is filled, or one that the same file was being imported into: name another --state-dir"),
        _ => failure,
    }
}

fn staging(directory: &Path) -> Result<PathBuf, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| Failure::new(format!("there is no randomness: {error}")))?;
    let staged = directory.join(format!("{STAGED}{:016x}", u64::from_le_bytes(random)));
    private::create_directory(&staged)?;
    Ok(staged)
}

/// Removes what imports that were killed have left; to be called by whoever holds the lock.
///
/// # Errors
/// Where the directory cannot be used.
pub(super) fn sweep(directory: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("{} cannot be tidied up: {error}", directory.display()));
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().starts_with(STAGED.as_bytes()) {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}
