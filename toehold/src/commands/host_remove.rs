//! `toehold host rm`: takes our keys away from a host and forgets it.

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_core::{
    Account, AuditEvent, AuditSink as _, Clock as _, ConnectError, Connector as _, HostFiles as _, HostKeyPolicy, HostRecord,
    HostSession as _, KnownHost, Login, PublicKey, Route, SessionId, Source, Store as _, StoreAudit, StoreError, Stored,
};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::install::proof_file_name;
use toehold_keygen::replacement::{KeyFile, Plan, inspect, replace};

use toehold_session::Status;

use super::host_check::other_keys;
use super::host_list::{host, hosts};
use crate::adapters::system_clock::SystemClock;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain};

/// Removes every key on record from the host, sees that the master key is gone or refused, and then forgets the host.
///
/// # Errors
/// Where the host cannot be reached or changed: then it stays on record.
pub(super) async fn remove(context: &Context, account: &Account, unreachable: bool) -> Result<Exit, Failure> {
    let mut stored = host(context, account).await?;
    if unreachable {
        forget(context, &stored, "operators_word").await?;
        context
            .output
            .document(&json!({ "account": account, "removed": false, "forgotten": true, "keys_left": stored.body.keys.len() }));
        context.output.text(format_args!("{account} is forgotten. Still on the host, if it ever comes back:"));
        for key in &stored.body.keys {
            context.output.text(format_args!("  {} {}", key.public_key.fingerprint(), key.comment));
        }
        return Ok(Exit::Done);
    }
    let policy = context.host_key_policy(&stored.body.route).await?;
    let master = context.master_key().await?;
    let login = Login { route: &stored.body.route, identity: &master, host_key: &policy, query: None };
    let mut connection = match context.connector.log_in(&login).await {
        Ok(connection) => connection,
        Err(ConnectError::KeyRefused { .. }) => return remove_refused(context, &stored, &policy).await,
        Err(error) => {
            return Err(Failure::new(format!("{account} stays on record: {}", chain(&error)))
                .hint(format!("if it is gone for good: toehold host rm --unreachable {account}")));
        }
    };
    if !stored.body.removing {
        // Written first: a run that is cut off after the keys are gone finds only refusals, and has to know why.
        stored.body.removing = true;
        stored.save(context.store()).await?;
    }
    let record = &stored.body;
    let temporary = temporary_keys(context, account).await?;
    let home = record.home.as_deref().unwrap_or(".");
    let plan = Plan::new(&mut UnwrapErr(SysRng), home, "host-rm")?.also_second_file();
    let edit = |_: KeyFile, document: &mut AuthorizedKeys| -> Result<(), Source> {
        for key in record.keys.iter().map(|key| &key.public_key).chain(temporary.iter().map(|(_, key)| key)) {
            document.remove(key);
        }
        Ok(())
    };
    let result = replace(connection.files(), &plan, edit).await;
    // What a line that was pasted once more has left beside the file.
    for (session, _) in &temporary {
        let path = format!("{home}/.ssh/{}", proof_file_name(*session));
        drop(connection.files().remove(&path).await);
    }
    let seen = match &result {
        Ok(_) => inspect(connection.files(), home).await.map_err(|error| chain(&error)),
        Err(error) => Err(chain(error)),
    };
    connection.close().await;
    let inspection = seen.map_err(|why| {
        Failure::new(format!("{account} stays on record: {why}"))
            .hint("run it again: it is safe to, and tells how it stands")
            .partly()
    })?;
    if record.keys.iter().any(|key| !inspection.copies(&key.public_key).is_empty()) {
        return Err(
            Failure::new(format!("{account} stays on record: our keys are in its file again after their removal")).partly()
        );
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
    context.output.text(format_args!(
        "Our {} gone from {account}, and it is forgotten.",
        if record.keys.len() == 1 { "key is".to_owned() } else { format!("{} keys are", record.keys.len()) }
    ));
    match left {
        0 => context.output.text("No other key is left there: nobody can log in by public key any more."),
        1 => context.output.text("1 other key is left there, untouched."),
        more => context.output.text(format_args!("{more} other keys are left there, untouched.")),
    }
    Ok(Exit::Done)
}

/// The temporary keys of all sessions for this account that nobody works on.
async fn temporary_keys(context: &Context, account: &Account) -> Result<Vec<(SessionId, PublicKey)>, Failure> {
    let sessions = toehold_session::list(context.store()).await?;
    let of_account = sessions
        .into_iter()
        .filter_map(Result::ok)
        .filter(|session| session.route.account == *account && !matches!(session.status, Status::Active | Status::Committing));
    Ok(of_account.map(|session| (session.id, session.temporary_key)).collect())
}

/// The right host, by its key, does not take the master key: as after an earlier run that was cut off at its end. It is
/// forgotten only where it takes none of the other keys either.
async fn remove_refused(context: &Context, stored: &Stored<HostRecord>, policy: &HostKeyPolicy) -> Result<Exit, Failure> {
    let account = &stored.body.route.account;
    let mut left = Vec::new();
    for key in &stored.body.keys {
        if context.connector.would_accept(&stored.body.route, &key.public_key, policy).await?.accepted {
            left.push(format!("{} {}", key.public_key.fingerprint(), key.comment));
        }
    }
    if left.is_empty() && !stored.body.removing {
        return Err(Failure::new(format!(
            "{account} stays on record: it refuses our keys, but why is not known, and they may still be in its file"
        ))
        .hint(format!(
            "where they are gone, or the host is to be forgotten all the same: toehold host rm --unreachable {account}"
        ))
        .partly());
    }
    if !left.is_empty() {
        return Err(Failure::new(format!(
            "{account} stays on record: it refuses the master key, and still accepts {}",
            left.join(", ")
        ))
        .hint("remove those by hand there, then run this again; or only forget the host: toehold host rm --unreachable")
        .partly());
    }
    forget(context, stored, "refused").await?;
    context.output.document(&json!({ "account": account, "removed": true, "forgotten": true, "evidence": "refused" }));
    context.output.text(format_args!("{account} refuses every key of ours already; it is forgotten."));
    Ok(Exit::Done)
}

/// Whether another host on record is reached at the same place: then its key is that host's too.
async fn is_shared(context: &Context, route: &Route) -> Result<bool, Failure> {
    let path = route.host_key_path();
    for other in hosts(context).await? {
        // A record that cannot be read may be one that needs it.
        let Ok(other) = other else { return Ok(true) };
        let chain = (0..=other.route.jumps.len()).map(|passed| match other.route.jumps.get(passed) {
            Some(jump) => {
                Route { account: jump.clone(), jumps: other.route.jumps.iter().take(passed).cloned().collect() }.host_key_path()
            }
            None => other.route.host_key_path(),
        });
        if chain.into_iter().any(|passed| passed == path) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes the host's records: first the host itself, so that a host on record always has its key. The host key stays where
/// another account or a jump needs it, or where a session is still owed.
async fn forget(context: &Context, stored: &Stored<HostRecord>, evidence: &str) -> Result<(), Failure> {
    let store = context.store();
    let route = &stored.body.route;
    store.delete(&stored.key, stored.revision).await.map_err(|error| match error {
        StoreError::Conflict { .. } => {
            Failure::new(format!("the record of {} was changed meanwhile", route.account)).hint("run it again").partly()
        }
        error => Failure::from(error),
    })?;
    let owed = toehold_session::list(store).await?.into_iter().any(|session| match session {
        Ok(session) => session.status.is_open() && session.route.host_key_path() == route.host_key_path(),
        Err(_) => true,
    });
    if owed || is_shared(context, route).await? {
        tracing::info!(%route, "the host key stays on record: others need it");
    } else if let Some(known) = Stored::<KnownHost>::read(store, &KnownHost::key(route)?).await? {
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
