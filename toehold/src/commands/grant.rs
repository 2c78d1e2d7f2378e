//! `toehold grant`: somebody's key on a host for a limited time, ended by the host's own sshd.

use std::future::Future;
use std::io::Write as _;
use std::pin::pin;
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::{Value, json};
use toehold_core::{Account, Clock as _, Identity, StoreAudit, StoreError, Stored, Timestamp};
use toehold_keygen::Options;
use toehold_masterkey::grant::{Ended, GrantError, GrantId, GrantRecord, GrantRequest, Granted, Grants, Swept};

use super::host_add::read_public_key;
use crate::adapters::russh_connector::RusshConnector;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Grant, GrantCommand, Granting};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, table};
use crate::shared::AnyStore;

/// Grants over the real world.
pub(super) type RealGrants<'c> = Grants<&'c AnyStore, &'c RusshConnector, SystemClock, StoreAudit<AnyStore>>;

/// Makes them; unlocks the identity.
pub(super) async fn grants(context: &Context) -> Result<RealGrants<'_>, Failure> {
    let vault = context.state.vault().await?;
    Ok(Grants {
        store: context.store(),
        connector: &context.connector,
        timer: SystemClock,
        audit: StoreAudit::new(context.store().clone(), vault.writer()),
    })
}

/// `toehold grant …`.
///
/// # Errors
/// As the command that it is.
pub(super) async fn run(context: &Context, options: Grant) -> Result<Exit, Failure> {
    match (options.command, options.granting) {
        (Some(GrantCommand::Ls), _) => list(context).await,
        (Some(GrantCommand::Revoke { id, forget: false }), _) => revoke(context, id).await,
        (Some(GrantCommand::Revoke { id, forget: true }), _) => forget(context, id).await,
        (Some(GrantCommand::Sweep), _) => sweep(context).await,
        (None, Some(granting)) => give(context, granting).await,
        (None, None) => Err(Failure::usage("name an account, or one of ls, revoke and sweep")),
    }
}

async fn give(context: &Context, options: Granting) -> Result<Exit, Failure> {
    let key = read_public_key(&options.key)?;
    let mut request = GrantRequest::new(options.account.clone(), key.public_key, options.lifetime);
    request.comment = key.comment;
    request.even_without_expiry = options.no_expiry;
    request.options = line_options(&options)?;
    let grants = grants(context).await?;
    let masters = context.login_keys().await?;
    let masters: Vec<&Identity> = masters.iter().collect();
    let granted = unless_interrupted(context, grants.grant(&request, &masters, &mut UnwrapErr(SysRng))).await?;
    let granted = granted.map_err(failure)?;
    let owed = tidy(&grants, &options.account, &masters).await?;
    tell_granted(context, &granted);
    if owed.is_empty() { Ok(Exit::Done) } else { Err(owed_failure(&owed)) }
}

fn line_options(options: &Granting) -> Result<Options, Failure> {
    let mut text = options.options.join(",");
    if let Some(from) = &options.from {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&format!("from=\"{from}\""));
    }
    text.parse().map_err(|error| Failure::usage(format!("--option: {}", chain(&error))))
}

fn tell_granted(context: &Context, granted: &Granted) {
    let record = &granted.record;
    let mut document = document(record, SystemClock.now());
    if let Some(object) = document.as_object_mut() {
        object.insert("other_lines".to_owned(), Value::from(granted.other_lines));
        object.insert("accepted".to_owned(), Value::from(granted.accepted));
    }
    context.output.document(&document);
    let (fingerprint, account) = (record.public_key.fingerprint(), record.account());
    context.output.text(format_args!("{fingerprint} may log in to {account} until {}.", record.expires_at));
    context.output.text(format_args!("End it earlier: toehold grant revoke {}", record.id));
    if record.without_expiry {
        context.output.text("The host ends it not by itself: only toehold grant sweep, run after that time, does.");
    }
    match record.clock_error {
        None | Some(-5..=5) => {}
        Some(ahead @ 0..) => {
            context.output.text(format_args!("The host's clock is {ahead} s ahead: there it ends that much earlier."));
        }
        Some(behind) => {
            let behind = behind.unsigned_abs();
            context.output.text(format_args!("The host's clock is {behind} s behind: there it ends that much later."));
        }
    }
    if granted.other_lines > 0 {
        context.output.text(format_args!(
            "The key is on {} other line{} there, which come first and stay when this ends.",
            granted.other_lines,
            if granted.other_lines == 1 { "" } else { "s" }
        ));
    }
    if granted.accepted == Some(false) {
        context.output.text(
            "Asked from here, the host does not take the key now: its from=, its type (PubkeyAcceptedAlgorithms), or the host's clock.",
        );
    }
    if !granted.audited {
        context.output.text("It is not on the audit record: the store failed there.");
    }
}

/// What is granted, by the store alone: nothing sealed is opened for it.
pub(super) async fn listed(context: &Context) -> Result<Vec<Result<GrantRecord, StoreError>>, Failure> {
    let listed = Stored::<GrantRecord>::list(context.store(), &GrantRecord::prefix()?).await?;
    Ok(listed.into_iter().map(|stored| stored.map(|stored| stored.body)).collect())
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let now = SystemClock.now();
    let (mut documents, mut unreadable, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for listed in listed(context).await? {
        match listed {
            Ok(record) => records.push(record),
            Err(error) => unreadable.push(chain(&error)),
        }
    }
    records.sort_by_key(|record| (record.expires_at, record.id));
    let mut rows = vec![["ID", "ACCOUNT", "KEY", "UNTIL", "STATE"].map(str::to_owned).to_vec()];
    for record in &records {
        documents.push(document(record, now));
        let key = if record.comment.is_empty() { record.public_key.fingerprint().to_string() } else { record.comment.clone() };
        let state = match &record.reason {
            Some(reason) => format!("{}: {reason}", state(record, now)),
            None => state(record, now).to_owned(),
        };
        rows.push(vec![record.id.to_string(), record.account().to_string(), key, record.expires_at.to_string(), state]);
    }
    let owed = records.iter().filter(|record| record.is_owed(now)).count();
    let found = json!({ "grants": documents, "unreadable": unreadable, "owed": owed });
    if rows.len() == 1 {
        context.output.text("Nothing is granted. Let somebody in for a while: toehold grant user@host --key FILE --for 1h");
    } else {
        context.output.text(table(&rows).trim_end());
    }
    let gone = (owed > 0).then(|| format!("{owed} of the grants should be gone and was not seen gone"));
    let wrong: Vec<String> = gone.into_iter().chain(unreadable).collect();
    if wrong.is_empty() {
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    let failure = Failure::new(wrong.join("; ")).partly().with(found);
    Err(if owed > 0 { failure.hint("take their lines away: toehold grant sweep") } else { failure })
}

async fn revoke(context: &Context, id: GrantId) -> Result<Exit, Failure> {
    let grants = grants(context).await?;
    let masters = context.login_keys().await?;
    let masters: Vec<&Identity> = masters.iter().collect();
    let ended = unless_interrupted(context, grants.revoke(id, &masters, &mut UnwrapErr(SysRng))).await?.map_err(|error| {
        let is_noted = matches!(error, GrantError::Connect { .. } | GrantError::Replace { .. });
        let failure = failure(error);
        if !is_noted {
            return failure;
        }
        failure.partly().hint(
            "the revocation is noted; take its line away when the host is back: toehold grant sweep; if it is gone for good: toehold grant revoke --forget ID",
        )
    })?;
    let owed = tidy(&grants, ended.record.account(), &masters).await?;
    tell_ended(context, &ended, "seen_gone");
    if owed.is_empty() { Ok(Exit::Done) } else { Err(owed_failure(&owed)) }
}

async fn forget(context: &Context, id: GrantId) -> Result<Exit, Failure> {
    let ended = grants(context).await?.forget(id).await.map_err(failure)?;
    tell_ended(context, &ended, "operators_word");
    Ok(Exit::Done)
}

fn tell_ended(context: &Context, ended: &Ended, evidence: &str) {
    let record = &ended.record;
    context.output.document(&json!({ "id": record.id, "account": record.account(), "ended": true, "evidence": evidence }));
    let seen = if evidence == "seen_gone" { "was seen gone from" } else { "is forgotten; its line may still be on" };
    context.output.text(format_args!("Grant {} {seen} {}.", record.id, record.account()));
    if evidence == "seen_gone" {
        context.output.text("A login that is open stays open: sshd ends none.");
    }
}

/// Sweeps where there is something to sweep; else no identity is needed.
///
/// # Errors
/// As `grant sweep`.
pub(super) async fn sweep_owed(context: &Context) -> Result<Exit, Failure> {
    let now = SystemClock.now();
    let is_owed = listed(context).await?.iter().flatten().any(|record| record.is_owed(now));
    if is_owed { sweep(context).await } else { Ok(Exit::Done) }
}

async fn sweep(context: &Context) -> Result<Exit, Failure> {
    let grants = grants(context).await?;
    let masters = context.login_keys().await?;
    let masters: Vec<&Identity> = masters.iter().collect();
    let mut rng = UnwrapErr(SysRng);
    let swept = unless_interrupted(context, grants.sweep(&masters, &mut rng, |_| true)).await??;
    let documents: Vec<Value> = swept.iter().map(swept_document).collect();
    let gone = swept.iter().filter(|one| one.result.is_ok()).count();
    context.output.text(match gone {
        0 if swept.is_empty() => "Nothing is owed.".to_owned(),
        1 => "1 grant was seen gone.".to_owned(),
        gone => format!("{gone} grants were seen gone."),
    });
    let found = json!({ "swept": documents });
    let owed: Vec<Swept> = swept.into_iter().filter(|one| one.result.is_err()).collect();
    if owed.is_empty() {
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    Err(owed_failure(&owed).with(found))
}

/// Sweeps what is owed on an account that was just reached; what still is.
async fn tidy(grants: &RealGrants<'_>, account: &Account, masters: &[&Identity]) -> Result<Vec<Swept>, Failure> {
    let swept = grants.sweep(masters, &mut UnwrapErr(SysRng), |record| record.account() == account).await?;
    Ok(swept.into_iter().filter(|one| one.result.is_err()).collect())
}

/// Ends every grant of a host that is being given up.
///
/// # Errors
/// Where one of them could not be seen gone.
pub(super) async fn end_all(context: &Context, account: &Account, masters: &[Identity]) -> Result<(), Failure> {
    let masters: Vec<&Identity> = masters.iter().collect();
    let ended = grants(context).await?.end_all(&masters, &mut UnwrapErr(SysRng), |record| record.account() == account).await?;
    let owed: Vec<Swept> = ended.into_iter().filter(|one| one.result.is_err()).collect();
    if owed.is_empty() { Ok(()) } else { Err(owed_failure(&owed)) }
}

fn owed_failure(owed: &[Swept]) -> Failure {
    let reasons = owed.iter().filter_map(|one| match &one.result {
        Err(error) => Some(format!("{} on {}: {}", one.id, one.account, chain(error))),
        Ok(_) => None,
    });
    Failure::new(format!("{} of the grants could not be seen gone: {}", owed.len(), reasons.collect::<Vec<_>>().join("; ")))
        .hint("when the host is back: toehold grant sweep; if it is gone for good: toehold grant revoke --forget ID")
        .partly()
}

fn swept_document(swept: &Swept) -> Value {
    let reason = swept.result.as_ref().err().map(|error| chain(error));
    json!({ "id": swept.id, "account": swept.account, "ended": swept.result.is_ok(), "reason": reason })
}

fn document(record: &GrantRecord, now: Timestamp) -> Value {
    let mut document = serde_json::to_value(record).unwrap_or_default();
    if let Some(object) = document.as_object_mut() {
        object.retain(|name, _| name != "run" && name != "attempt");
        object.insert("fingerprint".to_owned(), Value::from(record.public_key.fingerprint().to_string()));
        object.insert("owed".to_owned(), Value::from(record.is_owed(now)));
    }
    document
}

/// Where a grant stands, for people.
fn state(record: &GrantRecord, now: Timestamp) -> &'static str {
    match (record.is_owed(now), record.without_expiry, record.has_ended(now)) {
        (true, true, _) => "still logs in: to be swept",
        (true, false, true) => "ended; its line is to be swept",
        (true, false, false) => "revoked; its line is to be taken away",
        (false, ..) => record.status.as_str(),
    }
}

/// How long a change to a host that is under way when a signal comes may still take.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// Does the work, unless a signal comes and it does not come to an end soon after. Dropped in the middle of a change it would
/// leave its lock on the host, in everybody's way.
async fn unless_interrupted<T>(context: &Context, work: impl Future<Output = T>) -> Result<T, Failure> {
    let mut signals = context.signals.clone();
    let mut work = pin!(work);
    tokio::select! {
        output = &mut work => return Ok(output),
        () = signals.wait() => {}
    }
    drop(writeln!(anstream::stderr(), "Interrupted: finishing what is under way."));
    tokio::time::timeout(LAST_STEPS, work).await.map_err(|_| {
        Failure::new("interrupted; what was begun is on the list").hint("see how it stands: toehold grant ls").partly()
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn failure(error: GrantError) -> Failure {
    let failure = Failure::new(chain(&error));
    match &error {
        GrantError::NoExpiry { .. } => {
            failure.hint("grant it all the same, until somebody runs toehold grant sweep after its end: add --no-expiry")
        }
        GrantError::InDoubt { id, .. } => failure.hint(format!("take it away: toehold grant revoke {id}")).partly(),
        GrantError::NotManaged { account } => failure.hint(format!("bring it in: toehold host add {account}")),
        GrantError::Lifetime { .. } | GrantError::Options { .. } | GrantError::OptionNotAllowed { .. } => {
            Failure::usage(failure.message)
        }
        GrantError::TooEarly { id, .. } => failure.hint(format!("end it on the host: toehold grant revoke {id}")),
        GrantError::NotFound(_) => failure.hint("see which there are: toehold grant ls"),
        _ => failure,
    }
}
