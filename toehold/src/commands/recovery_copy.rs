//! `toehold key export` and `toehold key verify-copy`: the recovery copy, made and tested.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;
use toehold_core::{
    Account, Clock as _, Connector as _, HostRecord, HostSession as _, Identity, Login, Store, StoreError, Stored,
};

use super::host_list::hosts;
use crate::adapters::identity::{OtherIdentity, Recipient};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Export, Global};
use crate::cli::context::{Asker, Context};
use crate::cli::{Exit, Failure, chain};
use crate::master_key;
use crate::recovery::{CopyRecord, MAX_COPY, RecoveryCopy};
use crate::state::PassphraseSource as _;

/// Makes a copy.
///
/// # Errors
/// Where a recipient is none, a key does not open, or the file is there already.
pub(super) async fn export(context: &Context, options: &Export) -> Result<Exit, Failure> {
    let recipients = options.recipients.iter().map(|text| recipient(text)).collect::<Result<Vec<_>, _>>()?;
    if let Some(file) = &options.output
        && file.exists()
    {
        return Err(Failure::new(format!("{} exists already", file.display())).hint("name a new file: --output FILE"));
    }
    let vault = context.state.vault().await?;
    if recipients.iter().all(|recipient| *recipient == vault.recipient()) {
        return Err(Failure::new("that is this machine's own identity: a copy that is lost together with the store is none")
            .hint("seal it to a key that lies elsewhere"));
    }
    let copy = RecoveryCopy::of(context.store(), vault, SystemClock.now()).await?;
    let sealed = copy.seal(context.store(), &recipients).await?;
    let text = String::from_utf8_lossy(&sealed);
    if let Some(file) = &options.output {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .and_then(|mut written| written.write_all(&sealed).and_then(|()| written.sync_all()))
            .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display())))?;
    }
    context.output.document(&json!({
        "made_at": copy.made_at,
        "keys": copy.keys.iter().map(|(key, _)| key.fingerprint).collect::<Vec<_>>(),
        "sealed_elsewhere": copy.closed,
        "hosts": copy.hosts().len(),
        "recipients": recipients.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "file": options.output,
        "copy": options.output.is_none().then_some(&*text),
    }));
    let Some(file) = &options.output else {
        if !context.output.json {
            context.output.raw(&text);
        }
        return Ok(Exit::Done);
    };
    let (keys, hosts) = (copy.keys.len(), copy.hosts().len());
    context.output.text(format_args!(
        "Wrote {}: {keys} master key{}, the current one first, and {hosts} hosts.",
        file.display(),
        if keys == 1 { "" } else { "s" }
    ));
    for key in &copy.closed {
        context.output.text(format_args!("The older master key {key} does not open here; it is in it as it is sealed."));
    }
    context.output.text(format_args!(
        "Keep it where this machine is not, and test it: toehold key verify-copy {} --identity FILE",
        file.display()
    ));
    Ok(Exit::Done)
}

/// Opens a copy, compares it with the store, and logs in to a host with the key in it.
///
/// # Errors
/// Where it does not open, or falls short.
pub(super) async fn verify(context: &Context, global: &Global, copy: &Path, identity: &Path) -> Result<Exit, Failure> {
    let opened = open(global, copy, identity).await?;
    let mut findings = Vec::new();
    let current = master_key::current_master_key(context.store()).await?.map(|record| record.public_key.fingerprint());
    for held in master_key::held_master_keys(context.store()).await? {
        let fingerprint = held.public_key.fingerprint();
        if !opened.keys.iter().any(|(key, _)| key.fingerprint == fingerprint) {
            let what = if Some(fingerprint) == current { "the current master key" } else { "a key that hosts may still need" };
            let how = if opened.closed.contains(&fingerprint) {
                "is in it only as it is sealed for somebody else"
            } else {
                "is not in it"
            };
            findings.push(format!("{what}, {fingerprint}, {how}"));
        }
    }
    let mut missing: Vec<Account> = Vec::new();
    let mut managed: Vec<HostRecord> = Vec::new();
    for host in hosts(context).await?.into_iter().flatten() {
        if opened.host(&host.route.account).is_none() {
            missing.push(host.route.account.clone());
        }
        managed.push(host);
    }
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().take(5).map(ToString::to_string).collect();
        let more = if missing.len() > names.len() { ", …" } else { "" };
        findings.push(format!("{} hosts came after it was made: {}{more}", missing.len(), names.join(", ")));
    }
    let logged_in = match opened.current() {
        Some((_, key)) => first_login(context, &managed, key).await,
        None => None,
    };
    if logged_in.is_none() && !managed.is_empty() {
        findings.push("none of the hosts that were tried lets the key in it log in".to_owned());
    }
    if findings.is_empty() {
        opened.tested(context.store(), SystemClock.now()).await?;
    }
    let found = json!({
        "made_at": opened.made_at,
        "keys": opened.keys.iter().map(|(key, _)| key.fingerprint).collect::<Vec<_>>(),
        "hosts": opened.hosts().len(),
        "logged_in": logged_in,
        "findings": findings,
    });
    if !findings.is_empty() {
        return Err(Failure::new(format!("{} falls short: {}", copy.display(), findings.join("; ")))
            .hint("make a new one: toehold key export --to RECIPIENT --output FILE")
            .partly()
            .with(found));
    }
    context.output.document(&found);
    context.output.text(format_args!(
        "{} is good: made {}, {} master keys, {} hosts.",
        copy.display(),
        opened.made_at,
        opened.keys.len(),
        opened.hosts().len()
    ));
    match logged_in {
        Some(account) => context.output.text(format_args!("The key in it has logged in to {account}.")),
        None => context.output.text("There is no host yet to log in to with it."),
    }
    Ok(Exit::Done)
}

/// How many hosts are tried before the key counts as one that does not log in.
const TRIES: usize = 5;

/// The first host that lets the key in.
async fn first_login(context: &Context, hosts: &[HostRecord], key: &Identity) -> Option<Account> {
    for host in hosts.iter().take(TRIES) {
        if context.signals.came() {
            return None;
        }
        let Ok(policy) = context.host_key_policy(&host.route).await else { continue };
        let login = Login { route: &host.route, identity: key, host_key: &policy, query: None };
        match context.connector.log_in(&login).await {
            Ok(session) => {
                session.close().await;
                return Some(host.route.account.clone());
            }
            Err(error) => tracing::info!(account = %host.route.account, error = %chain(&error), "no login with the copy's key"),
        }
    }
    None
}

/// Reads and opens a copy.
///
/// # Errors
/// Where the file cannot be read, or does not open.
pub(super) async fn open(global: &Global, copy: &Path, identity: &Path) -> Result<RecoveryCopy, Failure> {
    let named = |path: &Path, error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let size = std::fs::metadata(copy).map_err(|error| named(copy, error))?.len();
    if size > MAX_COPY as u64 {
        return Err(Failure::new(format!("{}: {size} bytes are too many for a recovery copy", copy.display())));
    }
    let sealed = std::fs::read(copy).map_err(|error| named(copy, error))?;
    let (asker, path) = (Asker::new(global), identity.to_owned());
    // A prompt waits for a person, and a passphrase takes a second to be worked in.
    let opening = tokio::task::spawn_blocking(move || {
        let identity = OtherIdentity::read(&path, || asker.passphrase(&path).map_err(Into::into))?;
        RecoveryCopy::open(&sealed, &identity)
    });
    let opened = opening.await.map_err(|error| Failure::new(format!("opening was cut off: {error}")))?;
    opened.map_err(|error| Failure::new(format!("{}: {}", copy.display(), chain(&error))))
}

/// What to say where the current master key has no recovery copy, or one that nobody has tested.
///
/// # Errors
/// What the store says.
pub(super) async fn advice<S: Store>(store: &S) -> Result<Option<String>, Failure> {
    let Some(current) = Stored::<master_key::CurrentMasterKey>::read(store, &master_key::CurrentMasterKey::key()?).await? else {
        return Ok(None);
    };
    let copy: Result<_, StoreError> = CopyRecord::of(store, &current.body.fingerprint).await;
    Ok(match copy? {
        Some(CopyRecord { tested_at: Some(_), .. }) => None,
        Some(_) => Some("The recovery copy of this master key was never tested: toehold key verify-copy COPY --identity FILE".to_owned()),
        None => Some(
            "There is no recovery copy of this master key; with this machine the fleet would be lost: toehold key export --to RECIPIENT --output FILE"
                .to_owned(),
        ),
    })
}

/// A recipient as it is written, or out of a file.
fn recipient(text: &str) -> Result<Recipient, Failure> {
    match text.parse::<Recipient>() {
        Ok(recipient) => Ok(recipient),
        Err(error) => match std::fs::read_to_string(text) {
            Ok(content) => {
                let line = content.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
                line.unwrap_or_default().parse().map_err(|error| Failure::new(format!("{text}: {}", chain(&error))))
            }
            Err(_) => Err(error.into()),
        },
    }
}
