//! `toehold spec …`.

mod apply;
mod keys;
mod matching;
mod pack;
mod plan;
mod signing;
mod statement;
mod store;
mod verify;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toehold_core::PublicKey;
use toehold_specsign::{Document, KeyError, MAX_DOCUMENT, SourcePolicy, VerifyingKey};

use crate::cli::args::{Global, Spec};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, Output, Signals};

/// What a node can be told to take; who packs or looks judges by that.
const ANY_SOURCE: SourcePolicy = SourcePolicy { allow_http: true, allow_file: true };

/// Runs the command that was asked for.
///
/// # Errors
/// Why it failed, with what to do next.
pub(super) async fn run(global: &Global, command: Spec, output: Output, signals: Signals) -> Result<Exit, Failure> {
    match command {
        Spec::Keys(options) => keys::keys(global, &options, output),
        Spec::Pack(options) => pack::pack(global, &options, output).await,
        Spec::Verify(options) => verify::verify(&options, output),
        Spec::Match(options) => matching::answer(&options, output),
        Spec::Plan(options) => plan::plan(global, &options, output, signals),
        Spec::Put(options) => store::put(&Context::open(global, output, signals).await?, &options).await,
        Spec::Get { name } => store::get(&Context::open(global, output, signals).await?, &name).await,
        Spec::Apply(options) => apply::apply(global, &options, output, signals).await,
    }
}

/// Reads a file, or standard input where it is `-`, up to a limit in bytes.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let shown = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error: io::Error| Failure::new(format!("reading {shown} failed: {error}"));
    let mut bytes = Vec::new();
    let most = limit as u64 + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > limit {
        return Err(Failure::new(format!("{shown} is over the limit of {limit} bytes")));
    }
    Ok(bytes)
}

/// Reads a document; its bytes as well.
fn read_document(path: &Path) -> Result<(Vec<u8>, Document), Failure> {
    let bytes = read(path, MAX_DOCUMENT)?;
    let document = Document::parse(&bytes).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok((bytes, document))
}

/// A public key: 64 hex digits, an OpenSSH line, or a file with either.
fn public_key(text: &str) -> Result<VerifyingKey, Failure> {
    let named =
        |error: &KeyError| Failure::new(format!("\"{}\" is no public key: {error}", text.chars().take(80).collect::<String>()));
    match text.parse() {
        Err(KeyError::NotPublic) if Path::new(text).is_file() => {
            let bytes = read(Path::new(text), 16 * 1024)?;
            let content = String::from_utf8_lossy(&bytes);
            content.trim_end().parse().map_err(|error: KeyError| Failure::new(format!("{text}: {error}")))
        }
        other => other.map_err(|error| named(&error)),
    }
}

/// A key as people compare it with what `ssh-keygen -l` prints.
fn fingerprint(key: &VerifyingKey) -> Result<String, Failure> {
    Ok(key.to_ssh()?.fingerprint().to_string())
}

/// The key as OpenSSH writes it.
fn ssh_line(key: &VerifyingKey) -> Result<PublicKey, Failure> {
    Ok(key.to_ssh()?)
}
