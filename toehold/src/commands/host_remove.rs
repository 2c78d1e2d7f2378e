//! `toehold host rm`: takes our keys away from a host and forgets it.

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_core::{
    Account, AuditEvent, AuditSink as _, Clock as _, ConnectError, Connector as _, HostFiles as _, HostKeyPolicy, HostRecord,
    HostSession as _, KeyRole, KnownHost, ManagedKey, PublicKey, Route, SessionId, Source, Store as _, StoreAudit, StoreError,
    Stored,
};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::authorized_keys::KeyLine;
use toehold_keygen::install::proof_file_name;
use toehold_keygen::replacement::{Inspection, KeyFile, Plan, inspect, replace};
use toehold_masterkey::guard::{Violation, later_line};
use toehold_session::Status;

use super::host_check::{log_in_with, other_keys};
use super::host_list::{host, hosts};
use super::key_status::fleet_status;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::Remove;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, printable};
use crate::master_key::held_master_keys;

/// Removes every key on record from the host, sees that the master key is gone or refused, and then forgets the host.
///
/// # Errors
/// Where the host cannot be reached or changed: then it stays on record.
pub(super) async fn remove(context: &Context, options: &Remove) -> Result<Exit, Failure> {
    let account = &options.account;
    let mut stored = host(context, account).await?;
    if options.unreachable {
        return forget_unreached(context, &stored).await;
    }
    let policy = context.host_key_policy(&stored.body.route).await?;
    if !options.same_host_key {
        check_other_names(context, &stored.body, &policy).await?;
    }
    // A host that was away during a rotation, or is in the middle of one, may have another than the current key, or two.
    let masters = context.login_keys().await?;
    let mut signals = context.signals.clone();
    let logged_in = tokio::select! {
        logged_in = log_in_with(context, &stored.body.route, &policy, &masters) => logged_in,
        () = signals.wait() => return Err(Failure::new(format!("interrupted; nothing was changed, and {account} stays on record"))),
    };
    let mut connection = match logged_in {
        Ok((connection, _)) => connection,
        Err(ConnectError::KeyRefused { .. }) => return remove_refused(context, &stored, &policy).await,
        Err(error) => {
            return Err(Failure::new(format!("{account} stays on record: {}", chain(&error)))
                .hint(format!("if it is gone for good: toehold host rm --unreachable {account}")));
        }
    };
    let held: Vec<PublicKey> = held_master_keys(context.store()).await?.into_iter().map(|record| record.public_key).collect();
    let status = fleet_status(context).await?;
    let known = status.rotation.map_or(status.generation, |rotation| rotation.number);
    let home = stored.body.home.clone().unwrap_or_else(|| ".".to_owned());
    let inspection = inspect(connection.files(), &home).await.ok();
    if let Some(later) = inspection.and_then(|inspection| later_line_of_any(&inspection, &held, known)) {
        connection.close().await;
        return Err(Failure::new(format!("{account} stays on record, and nothing was changed: {later}"))
            .hint("restore the store from a newer copy, or take the line away by hand on the host"));
    }
    if !stored.body.removing {
        // Written first: a run that is cut off after the keys are gone finds only refusals, and has to know why.
        stored.body.removing = true;
        stored.save(context.store()).await?;
    }
    // While our key still opens the host: afterwards nobody could take their lines away.
    super::grant::end_all(context, account, &masters).await?;
    let record = &stored.body;
    let temporary = temporary_keys(context, account).await?;
    let plan = Plan::new(&mut UnwrapErr(SysRng), &home, "host-rm")?.also_second_file();
    let edit = |_: KeyFile, document: &mut AuthorizedKeys| -> Result<(), Source> {
        if let Some(later) = later_line(document, &held, known) {
            return Err(later.into());
        }
        // Of the master keys also one that does not open here.
        for key in held.iter().chain(temporary.iter().map(|(_, key)| key)) {
            document.remove(key);
        }
        for key in &record.keys {
            document.remove_where(&key.public_key, |line| is_ours(key, line));
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
        Ok(_) => inspect(connection.files(), &home).await.map_err(|error| chain(&error)),
        Err(error) => Err(chain(error)),
    };
    connection.close().await;
    let inspection = seen.map_err(|why| in_doubt(account, &why))?;
    let files = [KeyFile::AuthorizedKeys, KeyFile::AuthorizedKeys2].map(|file| inspection.document(file));
    let lines = |key: &ManagedKey| -> Vec<bool> {
        let found = files.into_iter().flatten().flat_map(|document| document.find(&key.public_key));
        found.filter_map(|entry| entry.key().map(|line| is_ours(key, &line))).collect()
    };
    let master_left = held.iter().any(|key| !inspection.copies(key).is_empty());
    if master_left || record.keys.iter().any(|key| lines(key).contains(&true)) {
        return Err(
            Failure::new(format!("{account} stays on record: our keys are in its file again after their removal")).partly()
        );
    }
    let others: Vec<&ManagedKey> = record.keys.iter().filter(|key| !lines(key).is_empty()).collect();
    let gone = record.keys.len() - others.len();
    let left = other_keys(record, &inspection) + others.len();
    forget(context, &stored, "seen_gone").await?;
    let found = json!({
        "account": account,
        "removed": true,
        "forgotten": true,
        "evidence": "seen_gone",
        "other_keys": left,
        "left_as_found": others.iter().map(|key| key.public_key.fingerprint()).collect::<Vec<_>>(),
        "objections": inspection.objections.iter().map(|objection| chain(objection)).collect::<Vec<_>>(),
    });
    context.output.text(format_args!(
        "Our {} gone from {account}, and it is forgotten.",
        if gone == 1 { "key is".to_owned() } else { format!("{gone} keys are") }
    ));
    say_what_is_left(context, left, &others);
    if context.signals.came() {
        return Err(Failure::new(format!("interrupted; our keys were gone already, and {account} is forgotten")).with(found));
    }
    context.output.document(&found);
    Ok(Exit::Done)
}

/// What was written by a rotation later than the store knows of, in whichever of the host's files.
fn later_line_of_any(inspection: &Inspection, held: &[PublicKey], known: u64) -> Option<Violation> {
    let mut documents = KeyFile::ALL.into_iter().filter_map(|file| inspection.document(file));
    documents.find_map(|document| later_line(document, held, known))
}

/// Nobody can tell whether the keys are gone.
fn in_doubt(account: &Account, why: &str) -> Failure {
    Failure::new(format!("{account} stays on record: {why}"))
        .hint("run it again: it is safe to, and tells how it stands")
        .partly()
}

/// Forgets a host, with all that is still on it.
async fn forget_unreached(context: &Context, stored: &Stored<HostRecord>) -> Result<Exit, Failure> {
    let account = &stored.body.route.account;
    forget(context, stored, "operators_word").await?;
    context
        .output
        .document(&json!({ "account": account, "removed": false, "forgotten": true, "keys_left": stored.body.keys.len() }));
    context.output.text(format_args!("{account} is forgotten. Still on the host, if it ever comes back:"));
    for key in &stored.body.keys {
        context.output.text(format_args!("  {} {}", key.public_key.fingerprint(), key.comment));
    }
    Ok(Exit::Done)
}

fn say_what_is_left(context: &Context, left: usize, others: &[&ManagedKey]) {
    for key in others {
        context.output.text(format_args!(
            "Left there is a line with {} {} that is not as ours was.",
            key.public_key.fingerprint(),
            printable(&key.comment)
        ));
    }
    match left {
        0 => context.output.text("No other key is left there: nobody can log in by public key any more."),
        1 => context.output.text("1 other key is left there, untouched."),
        more => context.output.text(format_args!("{more} other keys are left there, untouched.")),
    }
}

/// Whether a line is the one that we wrote. Whatever has the master key in it is: nobody else has that. Another key is somebody's,
/// who may have a line of his own with it.
fn is_ours(key: &ManagedKey, line: &KeyLine<'_>) -> bool {
    key.role == KeyRole::Master
        || line.options().unwrap_or_default() == key.options.as_bytes() && line.comment() == key.comment.as_bytes()
}

/// One machine may be on record under two names, an alias or another address: to take the keys away under one of them would lock us
/// out of the other.
async fn check_other_names(context: &Context, record: &HostRecord, policy: &HostKeyPolicy) -> Result<(), Failure> {
    let account = &record.route.account;
    for other in hosts(context).await? {
        let Ok(other) = other else { continue };
        let name = &other.route.account;
        if name == account || name.user() != account.user() {
            continue;
        }
        if context.host_key_policy(&other.route).await.is_ok_and(|theirs| theirs == *policy) {
            return Err(Failure::new(format!(
                "{account} stays on record: {name} is managed too, has the same host key, and is locked out if that is the same machine"
            ))
            .hint(format!(
                "forget the other name, which leaves the keys where they are: toehold host rm --unreachable {name}\n\
                 or take them away all the same: toehold host rm --same-host-key {account}"
            )));
        }
    }
    Ok(())
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
    // The caller has tried every master key that the store holds.
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
    StoreAudit::new(store.clone(), vault.writer())
        .record(AuditEvent::new(SystemClock.now(), "host.removed", route.account.to_string()).with("evidence", evidence))
        .await?;
    Ok(())
}
