//! The agent that the operator uses, kept in step with the master key.
//!
//! It gets the key that becomes current while the rotation still runs, so that a run that is killed leaves no agent that can
//! log in nowhere; what is not current any more it forgets once the rotation is over. That an agent does not answer is never
//! a reason to keep quiet about the fleet.

use toehold_core::{Identity, PublicKey};
use tokio::sync::Notify;

use super::key_status::fleet_status;
use crate::cli::Failure;
use crate::cli::context::Context;
use crate::master_key;

/// Runs `work`, and lets the agent have the current key whenever `phases` tells that the fleet has come to another phase.
pub(super) async fn follow<T>(context: &Context, phases: &Notify, work: impl Future<Output = T>) -> T {
    let following = async {
        loop {
            phases.notified().await;
            if let Err(failure) = give_current(context).await {
                // It is tried again at the end, and told then.
                tracing::info!("the ssh-agent has not got the current key: {}", failure.message);
            }
        }
    };
    tokio::select! {
        output = work => output,
        () = following => unreachable!("it follows for ever"),
    }
}

/// Lets the agent hold the current master key and, unless a rotation is open that may need them, no other one.
///
/// # Errors
/// What the agent says, or the store.
pub(super) async fn settle(context: &Context) -> Result<(), Failure> {
    let Some(agent) = &context.agent else { return Ok(()) };
    give_current(context).await?;
    let status = fleet_status(context).await?;
    if status.rotation.is_some() {
        return Ok(());
    }
    let mut others: Vec<PublicKey> = super::host_check::retired_keys(context).await?;
    others.extend(status.held);
    others.retain(|key| *key != status.current);
    others.sort();
    others.dedup();
    for key in others {
        if agent.holds(&key).await? {
            agent.remove(&key).await?;
        }
    }
    Ok(())
}

/// What is told of an agent that could not be kept in step.
pub(super) fn behind(failure: &Failure) -> String {
    format!("the ssh-agent could not be kept in step with the master key: {}", failure.message)
}

async fn give_current(context: &Context) -> Result<(), Failure> {
    let Some(agent) = &context.agent else { return Ok(()) };
    let Some(current) = master_key::current_master_key(context.store()).await? else { return Ok(()) };
    if agent.holds(&current.public_key).await? {
        return Ok(());
    }
    let vault = context.state.vault().await?;
    if let Identity::PrivateKey { openssh, .. } = master_key::open_master_key(vault, &current)? {
        agent.add(&openssh, None, false).await?;
    }
    Ok(())
}
