//! `toehold store migrate`, `store import` into a shared store, `store accept-rollback` and `store discard`.

use std::path::Path;

use serde_json::json;
use toehold_core::{
    AuditEvent, Clock as _, CurrentMasterKey, Entry, ExportedValue, Key, MasterKeyRecord, Revision, StoreError, StoreExport,
    Stored,
};

use super::{init_shared, members};
use crate::adapters::file_lock::FileLock;
use crate::adapters::identity::Vault;
use crate::adapters::nats::NatsStore;
use crate::adapters::sqlite::SqliteStore;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, Migrate, StorePlace};
use crate::cli::context::{Asker, Context, locked, state_directory};
use crate::cli::{Exit, Failure, Output, Signals, chain};
use crate::shared::{Marks, Role, SignedError, check_continues, read_chain, sealed};
use crate::state::{Keys, SharedAt, State};
use crate::store_copy::{self, Copied, CopyError};

const AGAIN: &str = "run it again: it goes on where it was";

/// Copies everything from one engine to the other.
///
/// # Errors
/// Where one of the two cannot be used, or they are of the same kind.
pub(super) async fn migrate(global: &Global, options: &Migrate, output: Output, mut signals: Signals) -> Result<Exit, Failure> {
    let work = async {
        match (&options.from, &options.to) {
            (StorePlace::Embedded, StorePlace::Shared(address)) => {
                into_shared(global, &global.shared.to(address.clone()), options.replicas.as_deref(), output).await
            }
            (StorePlace::Shared(_), StorePlace::Embedded) if options.replicas.is_some() => {
                Err(Failure::usage("--replicas is for a bucket of a shared store"))
            }
            (StorePlace::Shared(address), StorePlace::Embedded) => {
                into_embedded(global, &global.shared.to(address.clone())).await
            }
            _ => Err(Failure::usage("one of the two is the embedded store, and the other a shared one")),
        }
    };
    let copied = tokio::select! {
        copied = work => copied?,
        () = signals.wait() => return Err(Failure::new("interrupted: the store that is copied is as it was").hint(AGAIN)),
    };
    output.document(&json!({ "values": copied.values, "written": copied.written, "digest": copied.digest }));
    match copied.written {
        0 => output.text(format_args!("All {} records are there already.", copied.values)),
        written => output.text(format_args!("Copied {} records, {written} of them now.", copied.values)),
    }
    output.text(
        "The store that was copied is as it was. Let nothing work with it any more: what is changed in it does not come along.",
    );
    Ok(Exit::Done)
}

/// Keeps two migrations of one directory apart, and imports.
fn lock(directory: &Path) -> Result<FileLock, Failure> {
    let lock = FileLock::take(directory.join("import.lock"))
        .map_err(|error| Failure::new(format!("no lock file in {}: {error}", directory.display())))?;
    lock.ok_or_else(|| Failure::new(format!("another process copies into or out of {}", directory.display())))
}

async fn into_shared(global: &Global, at: &SharedAt, replicas: Option<&str>, output: Output) -> Result<Copied, Failure> {
    let directory = state_directory(global)?;
    // Says what is missing where nothing was initialised.
    drop(State::open(&directory, Asker::new(global))?);
    let _lock = lock(&directory)?;
    let embedded = SqliteStore::open(&directory)?;
    let store = init_shared::open_or_create(at, replicas, output).await?;
    let state = init_shared::alone_in(&directory, Asker::new(global), store, at, None).await?;
    store_copy::copy(&embedded, state.store()).await.map_err(refused)
}

/// Fills an empty shared store with the file of an export: signed by this machine, its first operator, and sealed to nobody else.
///
/// # Errors
/// Where the file is none, or what is sealed in it does not open here, or the store is somebody's already.
pub(super) async fn import(
    global: &Global,
    (at, replicas): (&SharedAt, Option<&str>),
    file: &Path,
    output: Output,
    mut signals: Signals,
) -> Result<Exit, Failure> {
    let directory = state_directory(global)?;
    let export = super::store::read_export(file)?;
    let work = async {
        // What it writes is signed with the identity, and opened with it: nothing else of the directory is needed.
        crate::private::check_directory(&directory)?;
        let _lock = lock(&directory)?;
        let keys = Keys::new(&directory, Asker::new(global));
        opens_the_master_key(keys.vault().await.map_err(locked)?, &export)?;
        let store = init_shared::open_or_create(at, replicas, output).await?;
        let state = init_shared::alone_in(&directory, Asker::new(global), store, at, None).await?;
        let copied = store_copy::fill_alike(&export, state.store(), sealed::alike).await.map_err(refused)?;
        let shared = state.store().shared().ok_or_else(|| Failure::new("the store is not a shared one"))?;
        // To whom it was sealed before may be members of another store, and are none of this one.
        Ok::<_, Failure>((copied, members::reseal(&state, shared).await?))
    };
    let (copied, sealed) = tokio::select! {
        done = work => done?,
        () = signals.wait() => return Err(Failure::new("interrupted: not everything was imported").hint(AGAIN)),
    };
    if !sealed.failed.is_empty() {
        let found = json!({ "file": file, "values": copied.values, "written": copied.written, "not_sealed": sealed.failed });
        return Err(sealed.failure("everything was imported").partly().with(found));
    }
    super::store::tell_imported(&at.address, file, &export, &copied, output);
    output.text("Its only member is this machine: let the others in anew (toehold operator add).");
    Ok(Exit::Done)
}

/// Sees that what is worth most in an export is of use to this machine, before anything is written.
fn opens_the_master_key(vault: &Vault, export: &StoreExport) -> Result<(), Failure> {
    let find = |key: Key| {
        let value = export.values().iter().find(|value| value.key == key)?;
        let ExportedValue { key, value, written_at } = value.clone();
        Some(Entry { key, value, revision: Revision(1), written_at })
    };
    let Some(current) = find(CurrentMasterKey::key()?) else { return Ok(()) };
    let fingerprint = Stored::<CurrentMasterKey>::decode(&current)?.body.fingerprint;
    let key = MasterKeyRecord::key(&fingerprint)?;
    let missing = || StoreError::Corrupt { key: key.clone(), reason: "it is not in the export".to_owned() };
    let entry = find(key.clone()).ok_or_else(missing)?;
    sealed::opens(vault, &entry.key, &entry.value).map_err(|error| {
        Failure::new(format!("the master key in the export does not open here: {}; nothing was written", chain(&error))).hint(
            "put the identity that opens it into the state directory, or bring a recovery copy back: toehold init --restore",
        )
    })
}

async fn into_embedded(global: &Global, at: &SharedAt) -> Result<Copied, Failure> {
    let directory = state_directory(global)?;
    let state = State::open_shared(&directory, at, Asker::new(global)).await?;
    let own = members::own_role(state.store());
    if own != Some(Role::Operator) {
        return Err(Failure::new("what is sealed would not open: this machine is no operator of the store"));
    }
    let _lock = lock(&directory)?;
    let export = store_copy::snapshot(state.store(), SystemClock.now()).await?;
    super::store::sweep(&directory)?;
    let is_as_it_was = async || {
        let after = store_copy::snapshot(state.store(), export.made_at()).await?;
        if after.digest() == export.digest() {
            return Ok(());
        }
        Err(Failure::new("the shared store was written to while it was copied")
            .hint("see to it that nothing else uses it, and run it again"))
    };
    super::store::place(&export, &directory, is_as_it_was).await
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn refused(error: CopyError) -> Failure {
    let failure = Failure::new(format!("the store cannot be filled: {}", chain(&error)));
    match error {
        CopyError::Occupied { .. } | CopyError::Differs { .. } => {
            failure.hint("only an empty store is filled, or one in which this was interrupted")
        }
        _ => failure.hint(AGAIN),
    }
}

/// Takes a store as it is that is behind what was seen of it (N3).
///
/// # Errors
/// Where it is not behind, or fails.
pub(super) async fn accept_rollback(context: &Context, of_members: bool) -> Result<Exit, Failure> {
    let shared = members::shared(context)?;
    let mut behind: Vec<String> = context.state.behind().iter().map(ToString::to_string).collect();
    if of_members {
        behind.insert(0, "the lists of members are others than this machine had seen".to_owned());
    }
    if behind.is_empty() {
        return Err(Failure::new("the store is not behind what was seen of it here: there is nothing to accept"));
    }
    // Before anything is forgotten: what is done is signed for.
    context.state.vault().await?;
    shared.accept_as_it_is().await?;
    let event = AuditEvent::new(SystemClock.now(), "store.rollback_accepted", shared.chain().store().to_string());
    context.put_on_record(event.with("behind", behind.join("; "))).await;
    context.output.document(&json!({ "behind": behind, "accepted": true }));
    for reason in &behind {
        context.output.text(crate::cli::printable(reason));
    }
    context.output.text("The store is taken as it is, and written to again. Whoever was removed since the backup is a member again (toehold operator ls), and a master key that was renewed since is current no more (toehold host check). The audit log: toehold audit verify --accept");
    Ok(Exit::Done)
}

/// Takes the lists of members as they are, where others have continued them after a backup was restored: whom this machine has seen since is
/// forgotten then. Whether they are the right ones nobody can tell but the operators, by the fingerprint of the last one.
///
/// # Errors
/// Where they are others than named, of another store, or continue what was seen.
pub(super) async fn accept_members(global: &Global, fingerprint: &str) -> Result<(), Failure> {
    let Some(at) = global.shared.at() else {
        return Err(Failure::usage("the embedded store has no members").hint("name a shared one: --store nats://host/bucket"));
    };
    let directory = state_directory(global)?;
    let marks = Marks::read(&directory, at.address.bucket())?
        .ok_or_else(|| Failure::new(format!("{} has seen no store in {}", directory.display(), at.address)))?;
    let store = NatsStore::open(&at.address, &at.options).await?;
    let chain = read_chain(&store).await?.ok_or_else(|| Failure::new("the store has no members"))?;
    match check_continues(&chain, &marks) {
        Err(SignedError::Forked { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(()) => {
            return Err(Failure::new(
                "the lists of members are those that were seen here, or continue them: there is nothing to accept",
            )
            .hint("leave out --members"));
        }
    }
    if chain.fingerprint() != fingerprint {
        return Err(Failure::new(format!("the fingerprint of the last list of members is {}", chain.fingerprint()))
            .hint("ask the other operators which they see (operator ls); one that nobody knows is somebody else's"));
    }
    // In what else it is behind is told by the rest, which stays.
    marks.reset(marks.seen().with_lists(chain.hashes()))?;
    Ok(())
}

/// Removes a record that nobody takes.
///
/// # Errors
/// Where it is good, or not there.
pub(super) async fn discard(context: &Context, key: &str) -> Result<Exit, Failure> {
    let shared = members::shared(context)?;
    let key = Key::parse(key)?;
    if !shared.discard(&key).await? {
        return Err(Failure::new(format!("{key} is not there, or is as a member has signed it: nothing was removed")));
    }
    context.put_on_record(AuditEvent::new(SystemClock.now(), "store.discarded", key.to_string())).await;
    context.output.document(&json!({ "key": key.to_string(), "removed": true }));
    context.output.text(crate::cli::printable(&format!("{key} was removed.")));
    Ok(Exit::Done)
}
