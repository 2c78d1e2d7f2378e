//! `toehold init`: the state directory, the identity that seals it, and the master key.

use std::fs;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_core::{Clock as _, Identity, SecretBytes, Source};
use toehold_keygen::{KeyPair, MAX_PRIVATE_KEY_FILE, read_private_key_file};

use super::host_add::MASTER_COMMENT;
use crate::adapters::identity::NewIdentity;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, Init};
use crate::cli::context::{Asker, state_directory};
use crate::cli::{Exit, Failure, Output};
use crate::state::State;

/// Makes what is not there yet; run again, it changes nothing.
///
/// # Errors
/// Where the directory is not private, the passphrase is wrong, or the disk is full.
pub(super) async fn init(global: &Global, options: &Init, output: Output) -> Result<Exit, Failure> {
    let directory = state_directory(global)?;
    let asker = Asker::new(global);
    let imported = options.import.as_deref().map(import).transpose()?;
    let exists = crate::adapters::identity::IdentityFile::exists(&directory);
    let protect = options.passphrase || global.passphrase_file.is_some();
    let identity = if protect && !exists { NewIdentity::under(asker.new_passphrase()?) } else { NewIdentity::unprotected() };
    let state = State::create(&directory, asker)?;
    let algorithm = options.algorithm;
    let wanted = imported.as_ref().map(|identity| identity.public_key().clone());
    let generate = || -> Result<Identity, Source> {
        match imported {
            Some(identity) => Ok(identity),
            None => Ok(KeyPair::generate(&mut UnwrapErr(SysRng), algorithm)?.identity()?),
        }
    };
    let made = state.init(&identity, generate, MASTER_COMMENT, SystemClock.now()).await?;
    let key = &made.master_key.record.public_key;
    if wanted.is_some_and(|wanted| wanted != *key) {
        return Err(Failure::new(format!(
            "{} has a master key already, {}; the one to import was not taken",
            directory.display(),
            key.fingerprint()
        )));
    }
    output.document(&json!({
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
            directory.join(crate::adapters::identity::FILE_NAME).display()
        ));
        output.text("Next: toehold host add user@host");
    }
    Ok(Exit::Done)
}

fn import(path: &std::path::Path) -> Result<Identity, Failure> {
    let named = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let size = fs::metadata(path).map_err(|error| named(error.to_string()))?.len();
    if size > MAX_PRIVATE_KEY_FILE as u64 {
        return Err(named(format!("{size} bytes are too many for a private key")));
    }
    let bytes = SecretBytes::new(fs::read(path).map_err(|error| named(error.to_string()))?);
    let pair = read_private_key_file(bytes.expose(), None).map_err(|error| named(crate::cli::chain(&error)))?;
    pair.identity().map_err(|error| named(crate::cli::chain(&error)))
}
