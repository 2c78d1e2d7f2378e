//! `toehold init`: the state directory, the identity that seals it, and the master key.

use std::fs;
use std::path::Path;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::{Value, json};
use toehold_core::{Clock as _, Identity, PublicKey, SecretBytes, Source};
use toehold_keygen::{KeyAlgorithm, KeyPair, MAX_PRIVATE_KEY_FILE, PrivateKeyError, read_private_key_file};

use super::host_add::MASTER_COMMENT;
use super::recovery_copy;
use crate::adapters::identity::{IdentityFile, NewIdentity, SshKeyFile, Vault};
use crate::adapters::nats::NatsAddress;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, Init};
use crate::cli::context::{Asker, locked, state_directory};
use crate::cli::{Exit, Failure, Output, Signals};
use crate::recovery::RecoveryCopy;
use crate::state::{PassphraseSource as _, State};

/// Makes what is not there yet; run again, it changes nothing.
///
/// # Errors
/// Where the directory is not private, the passphrase is wrong, the disk is full, or what is there already is not what was asked
/// for.
pub(super) async fn init(global: &Global, options: &Init, output: Output, signals: Signals) -> Result<Exit, Failure> {
    if let Some(at) = global.shared.at() {
        return super::init_shared::init(global, options, &at, output, signals).await;
    }
    if options.replicas.is_some() || options.name.is_some() {
        return Err(Failure::usage("--replicas and --name are for a shared store: name one with --store"));
    }
    let directory = state_directory(global)?;
    let asker = Asker::new(global);
    if let (Some(copy), Some(identity)) = (&options.restore, &options.identity) {
        return restore(global, options, copy, identity, output).await;
    }
    let imported = options.import.as_deref().map(import).transpose()?;
    let exists = IdentityFile::exists(&directory);
    let protect = options.passphrase || global.passphrase_file.is_some();
    let identity = new_identity(options, protect, exists, &asker)?;
    let state = State::create(&directory, asker)?;
    let wanted = imported.as_ref().map(|identity| identity.public_key().clone());
    let present = crate::master_key::current_master_key(state.store()).await?.map(|record| record.public_key);
    if exists {
        check_identity(&IdentityFile::read(&directory)?, options, global, present.is_some())?;
    }
    if let Some(present) = &present {
        check_master_key(&directory, present, options, wanted.as_ref())?;
    }
    let key = match imported {
        None if present.is_none() => Some(generated(options.algorithm.unwrap_or_default(), signals).await?),
        imported => imported,
    };
    let generate = || -> Result<Identity, Source> {
        // Another process has taken the key away that was there a moment ago.
        key.ok_or_else(|| "the master key has gone meanwhile; run it again".into())
    };
    let made = state.init(identity, generate, MASTER_COMMENT, SystemClock.now()).await?;
    let key = &made.master_key.record.public_key;
    if !made.master_key.created {
        // Another process may have been the first.
        check_master_key(&directory, key, options, wanted.as_ref())?;
    }
    let advice = recovery_copy::advice(state.store()).await?;
    output.document(&json!({
        "advice": advice,
        "state_dir": directory,
        "identity_created": made.identity_created,
        "recipient": made.recipient.as_ref().map(ToString::to_string),
        "master_key_created": made.master_key.created,
        "master_key": { "public_key": key, "fingerprint": key.fingerprint(), "created_at": made.master_key.record.created_at },
    }));
    if made.identity_created || made.master_key.created {
        output.text(format_args!("Initialised {}", directory.display()));
    } else {
        output.text(format_args!("{} was initialised before; nothing was changed", directory.display()));
    }
    output.text(format_args!("Master key: {} ({})", key.fingerprint(), key.algorithm()));
    if made.identity_created {
        output.text(format_args!(
            "Whoever has {} and this directory can log in to every host: back both up, keep them private.",
            IdentityFile::read(&directory)?.secret_path().display()
        ));
        output.text("Next: toehold host add user@host");
    }
    if let Some(advice) = advice {
        output.text(advice);
    }
    Ok(Exit::Done)
}

/// The identity that is made where there is none: an SSH key that was named, or a new one.
///
/// # Errors
/// Where the key cannot be used, or there is no passphrase.
pub(super) fn new_identity(options: &Init, protect: bool, exists: bool, asker: &Asker) -> Result<NewIdentity, Failure> {
    match &options.ssh_key {
        _ if exists => Ok(NewIdentity::unprotected()),
        Some(path) => {
            let key = SshKeyFile::read(path)?;
            let passphrase = if key.needs_passphrase() { asker.passphrase(path)? } else { None };
            NewIdentity::ssh_key(&key, passphrase.as_ref()).map_err(|error| locked(error.into()))
        }
        None if protect => Ok(NewIdentity::under(asker.new_passphrase()?)),
        None => Ok(NewIdentity::unprotected()),
    }
}

/// An SSH key that was named is the identity that is there already, or has no effect.
pub(super) fn check_ssh_key(identity: &IdentityFile, options: &Init) -> Result<(), Failure> {
    let Some(named) = &options.ssh_key else { return Ok(()) };
    let is_same = fs::canonicalize(named).ok().is_some_and(|named| fs::canonicalize(identity.secret_path()).ok() == Some(named));
    if is_same {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the identity {} was made before and stays as it is: --ssh-key has no effect on it",
        identity.path().display()
    )))
}

/// A new master key. A large RSA key takes its time, and nothing has begun while it is made.
pub(super) async fn generated(algorithm: KeyAlgorithm, mut signals: Signals) -> Result<Identity, Failure> {
    let making = tokio::task::spawn_blocking(move || -> Result<Identity, Source> {
        Ok(KeyPair::generate(&mut UnwrapErr(SysRng), algorithm)?.identity()?)
    });
    tokio::select! {
        made = making => {
            let made = made.map_err(|error| Failure::new(format!("making the master key was lost: {error}")))?;
            made.map_err(|error| Failure::new(format!("making the master key failed: {}", crate::cli::chain(error.as_ref()))))
        }
        () = signals.wait() => Err(Failure::new("interrupted; no key was made")),
    }
}

/// An identity that is there stays as it is, so that options for a new one must not seem to have done something. Where the master
/// key is still missing, an earlier run was interrupted, and its own options come again.
pub(super) fn check_identity(identity: &IdentityFile, options: &Init, global: &Global, complete: bool) -> Result<(), Failure> {
    check_ssh_key(identity, options)?;
    let path = identity.path().display();
    if !identity.needs_passphrase() && (options.passphrase || global.passphrase_file.is_some()) {
        let option = if options.passphrase { "--passphrase" } else { "--passphrase-file" };
        return Err(Failure::new(format!(
            "the identity {path} was made before, without a passphrase, and stays as it is: {option} has no effect on it"
        )));
    }
    if identity.needs_passphrase() && options.passphrase && complete {
        return Err(Failure::new(format!(
            "the identity {path} was made before and stays under the passphrase that it has: --passphrase has no effect on it"
        )));
    }
    Ok(())
}

/// The same for a master key that is there.
pub(super) fn check_master_key(
    directory: &Path,
    present: &PublicKey,
    options: &Init,
    wanted: Option<&PublicKey>,
) -> Result<(), Failure> {
    let unlike = |what: &str| {
        Err(Failure::new(format!(
            "{} has a master key already, {} ({}), which stays as it is: {what}",
            directory.display(),
            present.fingerprint(),
            present.algorithm()
        )))
    };
    if wanted.is_some_and(|wanted| wanted != present) {
        return unlike("the one to import was not taken");
    }
    match options.algorithm {
        Some(algorithm) if !is_of(present, algorithm) => unlike(&format!("--algorithm {algorithm} has no effect on it")),
        _ => Ok(()),
    }
}

fn is_of(key: &PublicKey, algorithm: KeyAlgorithm) -> bool {
    let bits = || ssh_key::PublicKey::from_bytes(key.blob()).ok()?.key_data().rsa().map(|key| key.key_size() as usize);
    match algorithm {
        KeyAlgorithm::Ed25519 => key.algorithm() == "ssh-ed25519",
        KeyAlgorithm::EcdsaP256 => key.algorithm() == "ecdsa-sha2-nistp256",
        KeyAlgorithm::EcdsaP384 => key.algorithm() == "ecdsa-sha2-nistp384",
        KeyAlgorithm::EcdsaP521 => key.algorithm() == "ecdsa-sha2-nistp521",
        KeyAlgorithm::Rsa { bits: wanted } => key.algorithm() == "ssh-rsa" && bits() == Some(wanted),
        _ => false,
    }
}

/// Fills an empty state directory with what a recovery copy holds.
async fn restore(global: &Global, options: &Init, copy: &Path, identity: &Path, output: Output) -> Result<Exit, Failure> {
    let directory = state_directory(global)?;
    let asker = Asker::new(global);
    let copy = recovery_copy::open(global, copy, identity).await?;
    let exists = IdentityFile::exists(&directory);
    let new_identity = new_identity(options, options.passphrase, exists, &asker)?;
    let state = State::create(&directory, asker)?;
    IdentityFile::create(&directory, new_identity, SystemClock.now())?;
    if exists {
        check_ssh_key(&IdentityFile::read(&directory)?, options)?;
    }
    let vault = state.vault().await?;
    let written = copy.restore(state.store(), vault).await?;
    copy.tested(state.store(), SystemClock.now()).await?;
    let found = restored(&directory, &copy, (!exists, written), vault, None);
    tell_restored(&directory.display(), &copy, &found, output);
    Ok(Exit::Done)
}

/// What a recovery copy has brought back.
pub(super) fn restored(
    directory: &Path,
    copy: &RecoveryCopy,
    (identity_created, written): (bool, usize),
    vault: &Vault,
    store: Option<&NatsAddress>,
) -> Value {
    let mut found = json!({
        "state_dir": directory,
        "identity_created": identity_created,
        "recipient": vault.recipient().to_string(),
        "made_at": copy.made_at,
        "master_key": { "fingerprint": copy.current().map(|(key, _)| key.fingerprint) },
        "master_keys": copy.keys.len(),
        "hosts": copy.hosts().len(),
        "written": written,
    });
    if let (Some(store), Some(found)) = (store, found.as_object_mut()) {
        found.insert("store".to_owned(), json!(store.to_string()));
    }
    found
}

/// Says it.
pub(super) fn tell_restored(into: &impl std::fmt::Display, copy: &RecoveryCopy, found: &Value, output: Output) {
    output.document(found);
    let (keys, hosts) = (copy.keys.len(), copy.hosts().len());
    if found["written"] == 0 {
        output.text(format_args!(
            "{into} has all of this copy of {} already ({keys} master key{}, {hosts} hosts); nothing was changed.",
            copy.made_at,
            if keys == 1 { "" } else { "s" }
        ));
        return;
    }
    output.text(format_args!("Restored {into} from a copy of {}:", copy.made_at));
    output.text(format_args!("{keys} master key{}, {hosts} hosts.", if keys == 1 { "" } else { "s" }));
    output.text("Next: toehold host check; a host that came later is brought in again with toehold host add");
}

pub(super) fn import(path: &Path) -> Result<Identity, Failure> {
    let named = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let size = fs::metadata(path).map_err(|error| named(error.to_string()))?.len();
    if size > MAX_PRIVATE_KEY_FILE as u64 {
        return Err(named(format!("{size} bytes are too many for a private key")));
    }
    let bytes = SecretBytes::new(fs::read(path).map_err(|error| named(error.to_string()))?);
    let pair = read_private_key_file(bytes.expose(), None).map_err(|error| {
        let failure = named(crate::cli::chain(&error));
        match error {
            PrivateKeyError::PassphraseNeeded => {
                failure.hint("import a private copy without it, and delete that: ssh-keygen -p -N '' -f COPY")
            }
            _ => failure,
        }
    })?;
    pair.identity().map_err(|error| named(crate::cli::chain(&error)))
}
