//! `toehold host rm`: takes our keys away from a host and forgets it.

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_core::{
    Account, AuditEvent, AuditSink as _, Clock as _, ConnectError, Connector as _, HostRecord, HostSession as _, KnownHost, Login,
    Source, StoreAudit, Store as _, StoreError, Stored,
};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::replacement::{KeyFile, Plan, inspect, replace};

use super::host_check::other_keys;
use super::host_list::host;
use crate::adapters::system_clock::SystemClock;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain};

/// Removes every key on record from the host, sees that the master key is gone or refused, and then forgets the host.
///
/// # Errors
/// Where the host cannot be reached or changed: then it stays on record.
pub(super) async fn remove(context: &Context, account: &Account, unreachable: bool) -> Result<Exit, Failure> {
    let stored = host(context, account).await?;
    if unreachable {
        forget(context, &stored, "operators_word").await?;
        context.output.document(&json!({ "account": account, "removed": false, "forgotten": true, "keys_left": stored.body.keys.len() }));
        context.output.text(format_args!("{account} is forgotten. Still on the host, if it ever comes back:"));
        for key in &stored.body.keys {
            context.output.text(format_args!("  {} {}", key.public_key.fingerprint(), key.comment));
        }
        return Ok(Exit::Done);
    }
    let record = &stored.body;
    let policy = context.host_key_policy(&record.route).await?;
    let master = context.master_key().await?;
    let login = Login { route: &record.route, identity: &master, host_key: &policy, query: None };
    let mut session = match context.connector.log_in(&login).await {
        Ok(session) => session,
        Err(ConnectError::KeyRefused { .. }) => {
            // The right host, by its key, does not take ours: as with an earlier run that was cut off at its end.
            forget(context, &stored, "refused").await?;
            context.output.document(&json!({ "account": account, "removed": true, "forgotten": true, "evidence": "refused" }));
            context.output.text(format_args!("{account} refuses the master key already; it is forgotten."));
            return Ok(Exit::Done);
        }
        Err(error) => {
            return Err(Failure::new(format!("{account} stays on record: {}", chain(&error)))
                .hint("if it is gone for good: toehold host rm --unreachable"));
        }
    };
    let home = record.home.as_deref().unwrap_or(".");
    let plan = Plan::new(&mut UnwrapErr(SysRng), home, "host-rm")?.also_second_file();
    let edit = |_: KeyFile, document: &mut AuthorizedKeys| -> Result<(), Source> {
        for key in &record.keys {
            document.remove(&key.public_key);
        }
        Ok(())
    };
    let result = replace(session.files(), &plan, edit).await;
    let seen = match &result {
        Ok(_) => inspect(session.files(), home).await.map_err(|error| chain(&error)),
        Err(error) => Err(chain(error)),
    };
    session.close().await;
    let inspection = seen.map_err(|why| {
        Failure::new(format!("{account} stays on record: {why}"))
            .hint("run it again: it is safe to, and tells how it stands")
            .partly()
    })?;
    if record.keys.iter().any(|key| !inspection.copies(&key.public_key).is_empty()) {
        return Err(Failure::new(format!("{account} stays on record: our keys are in its file again after their removal")).partly());
    }
    let left = other_keys(record, &inspection);
    forget(context, &stored, "seen_gone").await?;
    context.output.document(&json!({
        "account": account,
        "removed": true,
        "forgotten": true,
        "evidence": "seen_gone",
        "other_keys": left,
        "objections": inspection.objections.iter().map(|objection| chain(objection)).collect::<Vec<_>>(),
    }));
    context.output.text(format_args!("Our {} keys are gone from {account}, and it is forgotten.", record.keys.len()));
    match left {
        0 => context.output.text("No other key is left there: nobody can log in by public key any more."),
        1 => context.output.text("1 other key is left there, untouched."),
        more => context.output.text(format_args!("{more} other keys are left there, untouched.")),
    }
    Ok(Exit::Done)
}

/// Deletes the host's records: first the host itself, so that a host on record always has its key.
async fn forget(context: &Context, stored: &Stored<HostRecord>, evidence: &str) -> Result<(), Failure> {
    let store = context.store();
    let route = &stored.body.route;
    store.delete(&stored.key, stored.revision).await.map_err(|error| match error {
        StoreError::Conflict { .. } => {
            Failure::new(format!("the record of {} was changed meanwhile", route.account)).hint("run it again").partly()
        }
        error => Failure::from(error),
    })?;
    if let Some(known) = Stored::<KnownHost>::read(store, &KnownHost::key(route)?).await? {
        match store.delete(&known.key, known.revision).await {
            Ok(()) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let vault = context.state.vault().await?;
    StoreAudit::new(store.clone(), vault.recipient().to_string())
        .record(AuditEvent::new(SystemClock.now(), "host.removed", route.account.to_string()).with("evidence", evidence))
        .await?;
    Ok(())
}
