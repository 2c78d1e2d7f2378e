//! `toehold key status` and `key settle`: where the fleet stands, and what earlier rotations owe.

use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::{Value, json};
use toehold_core::{Clock as _, Fingerprint, HostPhase, PublicKey, SecretBytes, StoreAudit};
use toehold_masterkey::{FleetStatus, HostStatus, KeyVault, Pace, Rotator, SettleOutcome};

use super::rotate::{GO_ON, failure, rotator, well};
use super::rotation_display::{Display, host_documents, named, tell_hosts};
use super::{recovery_copy, ssh_agent_follower};
use crate::adapters::system_clock::SystemClock;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, table};
use crate::shared::SharedStore;

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
    let SettleOutcome { managed, hosts, dropped, .. } = result.map_err(failure)?;
    let agent = ssh_agent_follower::settle(context).await.err().map(|failure| ssh_agent_follower::behind(&failure));
    if let Some(behind) = &agent {
        display.note(behind);
    }
    let left: Vec<_> = hosts.iter().filter(|host| host.phase != HostPhase::Settled).map(|host| &host.account).collect();
    let owed = left.len();
    let found = json!({
        "event": "settled",
        "managed": managed,
        "owed": owed,
        "hosts": host_documents(&hosts),
        "dropped": dropped.iter().map(PublicKey::fingerprint).collect::<Vec<_>>(),
        "agent": agent,
    });
    tell_hosts(context.output, &hosts, HostPhase::Settled);
    for key in &dropped {
        context.output.text(format_args!("No host needs {} any more; its private half is gone.", key.fingerprint()));
    }
    if owed == 0 {
        context.output.text(match managed {
            0 => "No host is managed, so none is owed.",
            _ => "Every host has the current master key alone.",
        });
        return well(context, found, agent);
    }
    Err(Failure::new(format!("still to be settled: {}", named(left.into_iter())))
        .hint("run it again when they can be reached; a host that is gone for good: toehold host rm --unreachable ACCOUNT")
        .partly()
        .with(found))
}

/// Settles where hosts are owed or keys are held that perhaps no host needs any more, and no rotation is open, whose leader sees to its
/// hosts; else no identity is needed.
///
/// # Errors
/// As [`settle`].
pub(super) async fn settle_owed(context: &Context, concurrency: u16, timeout: Duration) -> Result<Exit, Failure> {
    let status = fleet_status(context).await?;
    let is_owed = !status.held.is_empty() || status.hosts.iter().any(|host| host.is_owed);
    if status.rotation.is_none() && is_owed { settle(context, concurrency, timeout).await } else { Ok(Exit::Done) }
}

/// Shows where the fleet stands, by the store alone.
///
/// # Errors
/// Where hosts are owed, or a rotation is open.
pub(super) async fn status(context: &Context) -> Result<Exit, Failure> {
    let status = fleet_status(context).await?;
    let age = SystemClock.now().saturating_since(status.created_at);
    let owed = status.hosts.iter().filter(|host| host.is_owed).count();
    let advice = recovery_copy::advice(context.store()).await?;
    // By the clocks of those who removed the one and made the other.
    let due = context.store().shared().map(SharedStore::chain);
    let due = due.as_ref().and_then(|chain| chain.last_operator_removed()).filter(|(_, at)| status.created_at < *at);
    let found = json!({
        "rotation_due": due.map(|(member, at)| json!({ "removed": member.name, "id": member.id, "at": at })),
        "current": status.current.fingerprint(),
        "public_key": status.current,
        "created_at": status.created_at,
        "age_seconds": age.as_secs(),
        "generation": status.generation,
        "rotation": status.rotation,
        "held": status.held.iter().map(PublicKey::fingerprint).collect::<Vec<_>>(),
        "owed": owed,
        "hosts": status.hosts.iter().map(host_document).collect::<Vec<_>>(),
        "advice": advice,
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
    if status.hosts.is_empty() {
        context.output.text("No host is managed.");
    }
    let mut rows = vec![["ACCOUNT", "LABEL", "KEY", "STATE", "WHY"].map(str::to_owned).to_vec()];
    for host in &status.hosts {
        let key = match &host.key {
            Some(key) if *key == status.current => "current".to_owned(),
            Some(key) => key.fingerprint().to_string(),
            None => "none on record".to_owned(),
        };
        let state = match host.phase {
            None | Some(HostPhase::Untouched) if host.is_owed => "owed",
            Some(phase) if host.is_owed || status.rotation.is_some() => phase.name(),
            _ => "settled",
        };
        let label = host.label.clone().unwrap_or_default();
        rows.push(vec![host.account.to_string(), label, key, state.to_owned(), host.reason.clone().unwrap_or_default()]);
    }
    if rows.len() > 1 {
        context.output.text(table(&rows).trim_end());
    }
    if let Some(advice) = &advice {
        context.output.text(advice);
    }
    if let Some(rotation) = &status.rotation {
        return Err(Failure::new(format!("rotation {} is open ({})", rotation.number, rotation.phase))
            .hint(GO_ON)
            .partly()
            .with(found));
    }
    if owed > 0 {
        let left = status.hosts.iter().filter(|host| host.is_owed).map(|host| &host.account);
        return Err(Failure::new(format!("still to be settled: {}", named(left)))
            .hint("when they are back: toehold key settle")
            .partly()
            .with(found));
    }
    if let Some((member, at)) = due {
        let name = crate::cli::printable(&member.name);
        return Err(Failure::new(format!(
            "a rotation is due: {name} was an operator until {at}, and the master key is from before"
        ))
        .hint("renew it: toehold key rotate --grace 0s")
        .partly()
        .with(found));
    }
    context.output.document(&found);
    Ok(Exit::Done)
}

/// Where the fleet stands. The identity stays locked: nothing is opened for it.
pub(super) async fn fleet_status(context: &Context) -> Result<FleetStatus, Failure> {
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
        "owed": host.is_owed,
        "state": host.phase,
        "reason": host.reason,
    })
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
