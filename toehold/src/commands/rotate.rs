//! `toehold key rotate`, `key status` and `key settle`: the master key of the fleet, renewed without locking anybody out.

use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::{Value, json};
use toehold_core::{Clock as _, Fingerprint, HostPhase, OnUnreachable, PublicKey, SecretBytes, StoreAudit};
use toehold_masterkey::{
    End, FleetStatus, HostStatus, KeyVault, Outcome, Pace, RotationError, RotationRequest, Rotator, SettleOutcome, TakeUp,
};

use super::recovery_copy;
use super::rotation_display::{Display, host_documents, host_table};
use crate::adapters::russh_connector::RusshConnector;
use crate::adapters::sqlite::SqliteStore;
use crate::adapters::system_clock::SystemClock;
use crate::adapters::vault_sealer::VaultSealer;
use crate::cli::args::{Rotate, Unreachable};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, table};
use crate::master_key;

/// A rotator over the real world.
pub(super) type RealRotator<'c> =
    Rotator<&'c SqliteStore, &'c RusshConnector, SystemClock, StoreAudit<SqliteStore>, VaultSealer<'c>>;

/// Makes one; unlocks the identity.
pub(super) async fn rotator(context: &Context, pace: Pace) -> Result<RealRotator<'_>, Failure> {
    let vault = context.state.vault().await?;
    Ok(Rotator {
        store: context.store(),
        connector: &context.connector,
        timer: SystemClock,
        audit: StoreAudit::new(context.store().clone(), vault.recipient().to_string()),
        vault: VaultSealer(vault),
        pace,
    })
}

/// Begins a rotation, goes on with one, or takes it back.
///
/// # Errors
/// Where it could not be begun, or did not come to where it was to go.
pub(super) async fn rotate(context: &Context, options: Rotate) -> Result<Exit, Failure> {
    if options.take_over && !options.resume && !options.rollback {
        return Err(Failure::usage("--take-over needs --resume or --rollback"));
    }
    let pace = Pace {
        concurrency: usize::from(options.concurrency),
        timeout: options.timeout,
        wait_for_grace: !options.no_wait,
        ..Pace::default()
    };
    let rotator = rotator(context, pace).await?;
    if options.dry_run {
        return dry_run(context, &rotator, &options).await;
    }
    let display = Display::new(context.output, context.signals.clone());
    let mut rng = UnwrapErr(SysRng);
    let result = if options.resume || options.rollback {
        let mut by = TakeUp::new(operator());
        by.take_over = options.take_over;
        by.on_unreachable = options.on_unreachable.map(OnUnreachable::from);
        if options.rollback {
            rotator.roll_back(by, &mut rng, &display).await
        } else {
            rotator.resume(by, &mut rng, &display).await
        }
    } else {
        rotator.rotate(request(&options), &mut rng, &display).await
    };
    display.finish();
    let synced = sync_agent(context).await;
    let outcome = result.map_err(failure)?;
    let exit = report(context, &outcome, options.rollback).await;
    synced?;
    exit
}

fn request(options: &Rotate) -> RotationRequest {
    let mut request = RotationRequest::new(operator());
    request.algorithm = options.algorithm.unwrap_or_default();
    if let Some(on_unreachable) = options.on_unreachable {
        request.policy.on_unreachable = on_unreachable.into();
    }
    if let Some(grace) = options.grace {
        request.policy.grace = grace.as_secs();
    }
    if let Some(provisional) = options.provisional_for {
        request.policy.provisional_for = provisional.as_secs();
    }
    request.policy.canary.clone_from(&options.canary);
    request.policy.wave = options.wave;
    request.policy.max_failures = options.max_failures;
    request
}

async fn dry_run(context: &Context, rotator: &RealRotator<'_>, options: &Rotate) -> Result<Exit, Failure> {
    let plan = rotator.dry_run(&request(options)).await.map_err(failure)?;
    context.output.document(&json!({ "event": "plan", "rotation": plan.rotation, "waves": plan.waves }));
    let hosts: usize = plan.waves.iter().map(Vec::len).sum();
    context.output.text(format_args!("Rotation {} would renew the master key on {hosts} hosts:", plan.rotation));
    for (number, wave) in (1..).zip(&plan.waves) {
        context.output.text(format_args!("wave {number}, {} hosts", wave.len()));
        for account in wave {
            context.output.text(format_args!("  {account}"));
        }
    }
    context.output.text("Nothing was changed.");
    Ok(Exit::Done)
}

/// Tells how it ended, and what to do next.
async fn report(context: &Context, outcome: &Outcome, wanted_back: bool) -> Result<Exit, Failure> {
    let rotation = &outcome.rotation;
    let owed = outcome.owed().count();
    let found = json!({
        "event": outcome.end,
        "rotation": rotation,
        "reason": outcome.reason,
        "owed": owed,
        "hosts": host_documents(&outcome.hosts),
    });
    context.output.text(host_table(&outcome.hosts, HostPhase::Settled).trim_end());
    let total = outcome.hosts.len();
    let settled = total - owed;
    let why = outcome.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match outcome.end {
        End::Done => {
            context.output.text(format_args!(
                "{settled} of {total} hosts have the new master key {} alone; the old one was seen refused.",
                rotation.new.fingerprint()
            ));
            if let Some(advice) = recovery_copy::advice(context.store()).await? {
                context.output.text(advice);
            }
            if owed == 0 {
                context.output.document(&found);
                return Ok(Exit::Done);
            }
            Err(Failure::new(format!("{owed} hosts still have the old key, which stays sealed in the store"))
                .hint("when they are back: toehold key settle; which ones: toehold key status")
                .partly()
                .with(found))
        }
        End::RolledBack => {
            let message = format!(
                "rolled back{why}; {settled} of {total} hosts have the old master key {} alone",
                rotation.old.fingerprint()
            );
            if owed > 0 {
                return Err(Failure::new(format!("{message}, {owed} are owed"))
                    .hint("when they are back: toehold key settle; which ones: toehold key status")
                    .partly()
                    .with(found));
            }
            if wanted_back {
                context.output.document(&found);
                context.output.text(format_args!("The rotation is {message}."));
                return Ok(Exit::Done);
            }
            Err(Failure::new(message)
                .hint("leave hosts that cannot be reached for later: toehold key rotate --on-unreachable defer")
                .with(found))
        }
        End::Grace => {
            let until = rotation.retire_at.map(|at| format!(" until {at}")).unwrap_or_default();
            Err(Failure::new(format!("the new master key is current; the old one still logs in{until}{why}"))
                .hint("then remove it: toehold key rotate --resume; or go back: toehold key rotate --rollback")
                .partly()
                .with(found))
        }
        End::LetGo => Err(Failure::new(format!("somebody else leads the rotation now{why}"))
            .hint("see how it stands: toehold key status")
            .partly()
            .with(found)),
        _ => Err(Failure::new(format!("the rotation stands still in the phase {}{why}", rotation.phase))
            .hint("go on: toehold key rotate --resume; or go back: toehold key rotate --rollback")
            .partly()
            .with(found)),
    }
}

/// Heals hosts that were away.
///
/// # Errors
/// Where some are still owed.
pub(super) async fn settle(context: &Context, concurrency: u16, timeout: Duration) -> Result<Exit, Failure> {
    let pace = Pace { concurrency: usize::from(concurrency), timeout, ..Pace::default() };
    let rotator = rotator(context, pace).await?;
    let display = Display::new(context.output, context.signals.clone());
    let result = rotator.settle(&mut UnwrapErr(SysRng), &display).await;
    display.finish();
    let SettleOutcome { hosts, dropped, .. } = result.map_err(failure)?;
    let owed = hosts.iter().filter(|host| host.phase != HostPhase::Settled).count();
    let found = json!({
        "event": "settled",
        "owed": owed,
        "hosts": host_documents(&hosts),
        "dropped": dropped.iter().map(PublicKey::fingerprint).collect::<Vec<_>>(),
    });
    context.output.text(host_table(&hosts, HostPhase::Settled).trim_end());
    for key in &dropped {
        context.output.text(format_args!("No host needs {} any more; its private half is gone.", key.fingerprint()));
    }
    sync_agent(context).await?;
    if owed == 0 {
        context.output.document(&found);
        context.output.text("Every host has the current master key alone.");
        return Ok(Exit::Done);
    }
    Err(Failure::new(format!("{owed} of {} hosts are still owed", hosts.len()))
        .hint("run it again when they can be reached; a host that is gone for good: toehold host rm --unreachable ACCOUNT")
        .partly()
        .with(found))
}

/// Shows where the fleet stands, by the store alone.
///
/// # Errors
/// Where hosts are owed, or a rotation is open.
pub(super) async fn status(context: &Context) -> Result<Exit, Failure> {
    let status = fleet_status(context).await?;
    let age = SystemClock.now().saturating_since(status.created_at);
    let owed = status.hosts.iter().filter(|host| !host.is_settled).count();
    let found = json!({
        "current": status.current.fingerprint(),
        "public_key": status.current,
        "created_at": status.created_at,
        "age_seconds": age.as_secs(),
        "generation": status.generation,
        "rotation": status.rotation,
        "held": status.held.iter().map(PublicKey::fingerprint).collect::<Vec<_>>(),
        "owed": owed,
        "hosts": status.hosts.iter().map(host_document).collect::<Vec<_>>(),
    });
    let current = status.current.fingerprint();
    context.output.text(format_args!(
        "Master key {current}, generation {}, made {} ({})",
        status.generation,
        status.created_at,
        in_words(age)
    ));
    for held in &status.held {
        context.output.text(format_args!("Also held, for hosts that may need it: {}", held.fingerprint()));
    }
    if let Some(rotation) = &status.rotation {
        context.output.text(format_args!(
            "Rotation {} to {} is open: {}, led by {} since {}, last seen {}",
            rotation.number,
            rotation.new.fingerprint(),
            rotation.phase,
            rotation.operator,
            rotation.started_at,
            rotation.seen_at
        ));
        if let Some(at) = rotation.retire_at {
            context.output.text(format_args!("The old key {} logs in until {at}", rotation.old.fingerprint()));
        }
    }
    let mut rows = vec![["ACCOUNT", "LABEL", "KEY", "STATE", "WHY"].map(str::to_owned).to_vec()];
    for host in &status.hosts {
        let key = match &host.key {
            Some(key) if *key == status.current => "current".to_owned(),
            Some(key) => key.fingerprint().to_string(),
            None => "none on record".to_owned(),
        };
        let state = if host.is_settled { "settled" } else { host.phase.map_or("owed", HostPhase::name) };
        let label = host.label.clone().unwrap_or_default();
        rows.push(vec![host.account.to_string(), label, key, state.to_owned(), host.reason.clone().unwrap_or_default()]);
    }
    context.output.text(table(&rows).trim_end());
    if let Some(rotation) = &status.rotation {
        return Err(Failure::new(format!("rotation {} is open ({})", rotation.number, rotation.phase))
            .hint("go on: toehold key rotate --resume; or go back: toehold key rotate --rollback")
            .partly()
            .with(found));
    }
    if owed > 0 {
        return Err(Failure::new(format!("{owed} of {} hosts are owed", status.hosts.len()))
            .hint("when they are back: toehold key settle")
            .partly()
            .with(found));
    }
    context.output.document(&found);
    Ok(Exit::Done)
}

/// Where the fleet stands. The identity stays locked: nothing is opened for it.
async fn fleet_status(context: &Context) -> Result<FleetStatus, Failure> {
    let rotator = Rotator {
        store: context.store(),
        connector: &context.connector,
        timer: SystemClock,
        audit: StoreAudit::new(context.store().clone(), "status"),
        vault: Locked,
        pace: Pace::default(),
    };
    rotator.status().await.map_err(failure)
}

/// A vault of which nothing is asked.
struct Locked;

impl KeyVault for Locked {
    fn seal(&self, _: Fingerprint, _: &SecretBytes) -> Result<String, String> {
        Err("the identity is locked".to_owned())
    }

    fn open(&self, _: Fingerprint, _: &str) -> Result<SecretBytes, String> {
        Err("the identity is locked".to_owned())
    }
}

fn host_document(host: &HostStatus) -> Value {
    json!({
        "account": host.account,
        "label": host.label,
        "key": host.key.as_ref().map(PublicKey::fingerprint),
        "settled": host.is_settled,
        "state": host.phase,
        "reason": host.reason,
    })
}

/// Lets the agent that the operator uses hold the current master key, and none that is not current any more.
pub(super) async fn sync_agent(context: &Context) -> Result<(), Failure> {
    let Some(agent) = &context.agent else { return Ok(()) };
    let Some(current) = master_key::current_master_key(context.store()).await? else { return Ok(()) };
    let vault = context.state.vault().await?;
    if !agent.holds(&current.public_key).await?
        && let toehold_core::Identity::PrivateKey { openssh, .. } = master_key::open_master_key(vault, &current)?
    {
        agent.add(&openssh, None, false).await?;
    }
    for key in other_keys(context, &current.public_key).await? {
        if agent.holds(&key).await? {
            agent.remove(&key).await?;
        }
    }
    Ok(())
}

/// Every master key that is not the current one: retired, or held for hosts that may need it.
async fn other_keys(context: &Context, current: &PublicKey) -> Result<Vec<PublicKey>, Failure> {
    let status = fleet_status(context).await?;
    let mut keys = super::host_check::retired_keys(context).await?;
    keys.extend(status.held);
    if let Some(rotation) = status.rotation {
        keys.extend([rotation.old, rotation.new]);
    }
    keys.retain(|key| key != current);
    keys.sort();
    keys.dedup();
    Ok(keys)
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn failure(error: RotationError) -> Failure {
    let failure = Failure::new(chain(&error));
    match error {
        RotationError::AlreadyOpen { .. } => {
            failure.hint("go on with it: toehold key rotate --resume; or take it back: toehold key rotate --rollback")
        }
        RotationError::BeingLed { .. } => failure.hint("if nobody is at it any more, add --take-over"),
        RotationError::NoneOpen => failure.hint("begin one: toehold key rotate"),
        RotationError::NoDurableCopy { .. } => failure.hint("restore the store from a recovery copy: toehold init --restore"),
        _ => failure,
    }
}

/// Who does this, for other operators to read.
pub(super) fn operator() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let user = user.unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    crate::cli::printable(&format!("{user}@{}", host.trim()))
}

/// An age that people read: in its largest whole unit.
fn in_words(age: Duration) -> String {
    let seconds = age.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

impl From<Unreachable> for OnUnreachable {
    fn from(what: Unreachable) -> Self {
        match what {
            Unreachable::Abort => Self::Abort,
            Unreachable::Defer => Self::Defer,
        }
    }
}
