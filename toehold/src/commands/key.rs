//! `toehold key show`, `key load` and `key unload`.

use std::time::Duration;

use serde_json::json;
use toehold_core::Identity;

use crate::adapters::ssh_agent::SshAgent;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure};
use crate::master_key;
use crate::recovery::CopyRecord;

/// Shows the master key's public half.
///
/// # Errors
/// Where there is none.
pub(super) async fn show(context: &Context) -> Result<Exit, Failure> {
    let Some(record) = master_key::current_master_key(context.store()).await? else {
        return Err(Failure::new("there is no master key").hint("make one: toehold init"));
    };
    let fingerprint = record.public_key.fingerprint();
    let copy = CopyRecord::of(context.store(), &fingerprint).await?;
    context.output.document(&json!({
        "public_key": record.public_key,
        "fingerprint": fingerprint,
        "algorithm": record.public_key.algorithm(),
        "comment": record.comment,
        "created_at": record.created_at,
        "recovery_copy": copy,
    }));
    context.output.text(format_args!("{} {}", record.public_key, record.comment));
    context.output.text(format_args!("{fingerprint}, made {}", record.created_at));
    match copy {
        Some(CopyRecord { tested_at: Some(at), .. }) => context.output.text(format_args!("Recovery copy: tested {at}")),
        Some(copy) => context.output.text(format_args!("Recovery copy: made {}, not tested", copy.made_at)),
        None => context.output.text("Recovery copy: none"),
    }
    Ok(Exit::Done)
}

/// Hands the current master key to the ssh-agent.
///
/// # Errors
/// Where there is no agent, or it does not take the key.
pub(super) async fn load(context: &Context, lifetime: Option<Duration>, confirm: bool) -> Result<Exit, Failure> {
    let agent = SshAgent::from_environment()?;
    let key = context.state.master_key().await?;
    let fingerprint = key.public_key().fingerprint();
    let Identity::PrivateKey { openssh, .. } = &key else {
        return Err(Failure::new("the master key's private half is not in memory"));
    };
    agent.add(openssh, lifetime, confirm).await?;
    context
        .output
        .document(&json!({ "loaded": fingerprint, "agent": agent.socket(), "lifetime": lifetime.map(|l| l.as_secs()) }));
    context.output.text(format_args!("The ssh-agent holds {fingerprint}; commands with --use-agent log in through it."));
    Ok(Exit::Done)
}

/// Lets the ssh-agent forget every master key that the store knows.
///
/// # Errors
/// Where there is no agent, or it keeps one.
pub(super) async fn unload(context: &Context) -> Result<Exit, Failure> {
    let agent = SshAgent::from_environment()?;
    let mut unloaded = Vec::new();
    for record in master_key::held_master_keys(context.store()).await? {
        if agent.holds(&record.public_key).await? {
            agent.remove(&record.public_key).await?;
            unloaded.push(record.public_key.fingerprint());
        }
    }
    context.output.document(&json!({ "unloaded": unloaded, "agent": agent.socket() }));
    if unloaded.is_empty() {
        context.output.text("The ssh-agent held none of our master keys.");
    }
    for fingerprint in unloaded {
        context.output.text(format_args!("The ssh-agent has forgotten {fingerprint}."));
    }
    Ok(Exit::Done)
}
