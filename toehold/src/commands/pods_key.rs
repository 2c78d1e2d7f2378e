//! Who may have a pod: `toehold pods key add`, `pods key ls` and `pods key rm`, and what `pods serve` is told of it.

use std::io::Read as _;
use std::path::Path;

use serde_json::json;
use toehold_core::{
    AuditEvent, AuditSink as _, Clock as _, Entry, Fingerprint, PublicKey, Store as _, StoreAudit, StoreError, Stored,
};

use super::pods::directory;
use super::pods_store::{Kept, Work};
use crate::adapters::local_pods::throw_away;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, PodsAt, PodsBackend, PodsKey, PodsServe};
use crate::cli::{Exit, Failure, Output, chain, table};
use crate::pods::AuthorizedKeysFiles;
use crate::pods::authentication::{KeysCommand, PodKeyRecord, Sources, StoredKeys};
use crate::private;
use crate::shared::AnyStore;

/// The most that is read of keys, in bytes.
const MAX_KEYS: u64 = 1024 * 1024;

/// What stands for the writer of these events in the audit log of a store that is a gateway's own.
const WRITER: &str = "pods-keys";

/// Runs one of them.
///
/// # Errors
/// Why it failed.
pub(super) async fn run(global: &Global, command: PodsKey, output: Output) -> Result<Exit, Failure> {
    match command {
        PodsKey::Add { principal, file, replace, at } => {
            add(&store(global, &at, Work::LetIn).await?, &principal, &file, replace, output).await
        }
        PodsKey::Ls(at) => list(&store(global, &at, Work::Look).await?, output).await,
        PodsKey::Rm { which, at } => remove(&store(global, &at, Work::LetIn).await?, &which, output).await,
    }
}

/// The sources of keys that a gateway was told.
///
/// # Errors
/// Where a file or the command cannot be used.
pub(super) fn sources(options: &PodsServe, store: AnyStore, output: Output) -> Result<Sources<AnyStore>, Failure> {
    let files = AuthorizedKeysFiles::new(options.authorized_keys.clone());
    for (line, reason) in &files.look()?.refused {
        output.aside(&format!("line {line} of the authorized keys lets nobody in: {reason}"));
    }
    let command = options.authorized_keys_command.as_deref();
    let command = command.map(|line| KeysCommand::parse(line, options.authorized_keys_command_timeout)).transpose();
    Ok(Sources {
        files,
        stored: options.keys_in_store.then(|| StoredKeys::in_store(store)),
        command: command.map_err(|error| Failure::usage(format!("--authorized-keys-command: {error}")))?,
    })
}

/// That of the gateway, made where there is none, or the shared one that was named.
async fn store(global: &Global, at: &PodsAt, work: Work) -> Result<Kept, Failure> {
    let directory = directory(global, at.backend)?;
    match at.backend {
        _ if global.shared.store.is_some() => {}
        PodsBackend::Kube => private::create_directory(&directory)?,
        PodsBackend::Local => throw_away::open(&directory)?,
    }
    Kept::open(global, &directory, work).await
}

async fn add(kept: &Kept, principal: &str, file: &Path, replace: bool, output: Output) -> Result<Exit, Failure> {
    let store = &kept.store;
    let text = read(file)?;
    let keys = PodKeyRecord::read(&text, Some(principal), SystemClock.now())
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let mut added = Vec::new();
    for (key, record) in keys {
        let fingerprint = key.fingerprint();
        let place = PodKeyRecord::key(&fingerprint).map_err(StoreError::from)?;
        match Stored::<PodKeyRecord>::read(store, &place).await? {
            None => drop(Stored::create(store, place, record).await?),
            Some(there) if there.body.principal == record.principal && there.body.line == record.line => {}
            Some(mut there) if replace => {
                there.body = record;
                there.save(store).await?;
            }
            Some(there) => {
                let whose = there.body.principal;
                return Err(Failure::new(format!("{fingerprint} is there already, as a key of {whose} or with other options"))
                    .hint("put this one in its place: --replace"));
            }
        }
        note(kept, "pods.key_added", principal, &fingerprint.to_string()).await?;
        added.push((fingerprint, key));
    }
    let fingerprints: Vec<String> = added.iter().map(|(fingerprint, _)| fingerprint.to_string()).collect();
    output.document(&json!({ "principal": principal, "added": fingerprints }));
    for fingerprint in fingerprints {
        output.text(format_args!("{fingerprint} is a key of {principal}."));
    }
    Ok(Exit::Done)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let named = |error: std::io::Error| Failure::new(format!("reading {} failed: {error}", file.display()));
    let source: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file).map_err(named)?)
    };
    let mut text = Vec::new();
    source.take(MAX_KEYS + 1).read_to_end(&mut text).map_err(named)?;
    if text.len() as u64 > MAX_KEYS {
        return Err(Failure::new(format!("{} has over {MAX_KEYS} bytes", file.display())));
    }
    if text.windows(b"PRIVATE KEY".len()).any(|words| words == b"PRIVATE KEY") {
        return Err(Failure::new(format!("{} is a private key", file.display())).hint("name the .pub file beside it"));
    }
    Ok(text)
}

async fn note(kept: &Kept, what: &str, principal: &str, key: &str) -> Result<(), Failure> {
    let event = AuditEvent::new(SystemClock.now(), what, principal.to_owned()).with("key", key);
    let writer = kept.writer().await?.unwrap_or_else(|| WRITER.to_owned());
    StoreAudit::new(kept.store.clone(), writer).record(event).await?;
    Ok(())
}

async fn list(kept: &Kept, output: Output) -> Result<Exit, Failure> {
    kept.tell(output);
    let store = &kept.store;
    let (mut keys, mut unreadable) = (Vec::new(), Vec::new());
    for entry in Stored::<PodKeyRecord>::list(store, &PodKeyRecord::prefix().map_err(StoreError::from)?).await? {
        match entry {
            Ok(stored) => keys.push(stored.body),
            Err(error) => unreadable.push(chain(&error)),
        }
    }
    keys.sort_by(|one, other| (&one.principal, one.added_at).cmp(&(&other.principal, other.added_at)));
    let fingerprint = |record: &PodKeyRecord| key_of(record).map_or_else(|| "?".to_owned(), |key| key.fingerprint().to_string());
    let documents = keys.iter().map(
        |key| json!({ "principal": key.principal, "fingerprint": fingerprint(key), "line": key.line, "added_at": key.added_at }),
    );
    let found = json!({ "keys": documents.collect::<Vec<_>>(), "unreadable": unreadable });
    if keys.is_empty() {
        output.text("There are no keys. Let somebody in: toehold pods key add");
    } else {
        let mut rows = vec![["PRINCIPAL", "KEY", "OPTIONS", "SINCE"].map(str::to_owned).to_vec()];
        for key in &keys {
            let options =
                key_of(key).and_then(|public| key.line.strip_suffix(&public.to_string()).map(str::trim).map(str::to_owned));
            rows.push(vec![key.principal.clone(), fingerprint(key), options.unwrap_or_default(), key.added_at.to_string()]);
        }
        output.text(table(&rows).trim_end());
    }
    if unreadable.is_empty() {
        output.document(&found);
        return Ok(Exit::Done);
    }
    Err(Failure::new(unreadable.join("; ")).partly().with(found))
}

fn key_of(record: &PodKeyRecord) -> Option<PublicKey> {
    let (key, _) = PodKeyRecord::read(record.line.as_bytes(), Some(&record.principal), record.added_at).ok()?.pop()?;
    Some(key)
}

async fn remove(kept: &Kept, which: &str, output: Output) -> Result<Exit, Failure> {
    let store = &kept.store;
    let entries = match which.parse::<Fingerprint>() {
        // Also one that cannot be read.
        Ok(fingerprint) => store.get(&PodKeyRecord::key(&fingerprint).map_err(StoreError::from)?).await?.into_iter().collect(),
        Err(_) => {
            let mut entries = store.list(&PodKeyRecord::prefix().map_err(StoreError::from)?).await?;
            let is_of = |entry: &Entry| Stored::<PodKeyRecord>::decode(entry).is_ok_and(|stored| stored.body.principal == which);
            entries.retain(is_of);
            entries
        }
    };
    if entries.is_empty() {
        return Err(Failure::new(format!("there is no key {which}, and none of a principal of that name"))
            .hint("see which there are: toehold pods key ls"));
    }
    let mut removed = Vec::new();
    for entry in entries {
        store.delete(&entry.key, entry.revision).await?;
        let record = Stored::<PodKeyRecord>::decode(&entry).map(|stored| stored.body).ok();
        let key = record.as_ref().and_then(key_of).map(|key| key.fingerprint().to_string());
        let key = key.unwrap_or_else(|| which.to_owned());
        note(kept, "pods.key_removed", record.as_ref().map_or("", |record| &record.principal), &key).await?;
        removed.push(key);
    }
    output.document(&json!({ "removed": removed }));
    output.text(format_args!(
        "{} of the keys can no longer log in. Who is logged in stays; end that with: toehold pods rm",
        removed.len()
    ));
    Ok(Exit::Done)
}
