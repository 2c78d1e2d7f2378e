//! `toehold store gc`.

use std::time::Duration;

use serde_json::{Value, json};
use toehold_core::{Clock as _, Key, StoreAudit, StoreError, Timestamp};
use toehold_joinproto::admission::Desk;
use toehold_session::LongClosed;

use crate::adapters::nats::MARKERS_KEPT;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::Gc;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain};
use crate::gateway::NoVault;
use crate::shared::Role;
use crate::store_gc::{self, AuditPlan};

/// Removes what is long over, or says what would go.
///
/// # Errors
/// Where the store fails; exit code 3 where it broke off, where records cannot be read, which stay with what they may concern, or where
/// something is wrong with the audit log, of which nothing goes then.
pub(super) async fn collect(context: &Context, options: &Gc) -> Result<Exit, Failure> {
    let (store, now) = (context.store(), SystemClock.now());
    if options.audit_older_than.is_some() && !options.dry_run {
        // Before anything goes: whoever removes entries says so in a chain of his own.
        context.state.vault().await?;
    }
    let LongClosed { over: sessions, unreadable, .. } =
        store_gc::closed_sessions(store, options.sessions_older_than, now).await?;
    let desk = Desk::new(store.clone(), SystemClock, NoVault);
    let sweep = desk.plan_sweep().await?;
    let unreadable: Vec<String> = unreadable.iter().chain(sweep.unreadable()).map(|error| chain(error)).collect();
    let mut found = json!({
        "dry_run": options.dry_run,
        "sessions": names(sessions.iter().map(|(key, _)| key)),
        "tokens": names(sweep.tokens()),
        "token_uses": sweep.uses().count(),
        "agents": names(sweep.agents()),
        "deletion_markers": 0,
        "unreadable": unreadable,
    });
    if !options.dry_run {
        for (key, revision) in &sessions {
            if context.signals.came() {
                return Err(interrupted(found));
            }
            store_gc::delete(store, key, *revision).await.map_err(|error| broke_off(&error, found.clone()))?;
        }
        desk.sweep().await.map_err(|error| broke_off(&error, found.clone()))?;
    }
    context.output.text(format_args!(
        "{} records of closed sessions, {} tokens with {} uses, and {} records of agents {}.",
        sessions.len(),
        sweep.tokens().count(),
        sweep.uses().count(),
        sweep.agents().count(),
        if options.dry_run { "would go" } else { "went" }
    ));
    if let Some(kept) = options.audit_older_than {
        let done = audit(context, kept, now, options.dry_run, &mut found).await;
        done.map_err(|failure| if options.dry_run { failure } else { failure.partly() })?;
    }
    // Last: all else is done where the servers do not let an operator do this.
    markers(context, options.dry_run, &mut found).await?;
    if !unreadable.is_empty() {
        return Err(left(&unreadable).with(found));
    }
    context.output.document(&found);
    Ok(Exit::Done)
}

/// What cannot be read, and keeps what it may concern.
fn left(unreadable: &[String]) -> Failure {
    let named = unreadable.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = match unreadable.len().saturating_sub(5) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Failure::new(format!("not all can be read, and what it may concern stays: {named}{more}"))
        .hint("see all of it: toehold store check")
        .partly()
}

fn broke_off(error: &(dyn std::error::Error + 'static), found: Value) -> Failure {
    Failure::new(chain(error)).hint(AGAIN).partly().with(found)
}

async fn audit(context: &Context, kept: Duration, now: Timestamp, dry_run: bool, found: &mut Value) -> Result<(), Failure> {
    let (log, report) = super::audit::look(context).await?;
    if let Some(fault) = report.faults.first() {
        return Err(Failure::new(format!("something is wrong with the audit log, so nothing of it goes: {fault}"))
            .hint("see all of it: toehold audit verify")
            .partly()
            .with(found.clone()));
    }
    let plan = AuditPlan::of(&log, &report, now.saturating_sub(kept));
    set(found, "audit", json!(plan.entries));
    let total: usize = plan.entries.values().sum();
    if dry_run || plan.is_empty() {
        context.output.text(format_args!("{total} entries of the audit log {}.", if dry_run { "would go" } else { "went" }));
        return Ok(());
    }
    let vault = context.state.vault().await?;
    let store = context.store();
    let own = StoreAudit::new(store, vault.writer());
    let removed = plan.carry_out(store, &own, now, || !context.signals.came()).await;
    match removed {
        Ok(_) if context.signals.came() => Err(interrupted(found.take())),
        Ok(removed) => {
            context.output.text(format_args!("{removed} entries of the audit log went; the ones after them say so."));
            Ok(())
        }
        Err(error) => Err(broke_off(&error, found.take())),
    }
}

/// Removes what deletions have left in a shared store, which is the operators' to do.
async fn markers(context: &Context, dry_run: bool, found: &mut Value) -> Result<(), Failure> {
    let Some(shared) = context.store().shared() else { return Ok(()) };
    if super::members::own_role(context.store()) != Some(Role::Operator) {
        return Ok(());
    }
    let failed = |error: StoreError, found: &Value| {
        let hint =
            "the servers may not let this user purge: `toehold operator roles` prints what they have to\nrun it again then";
        Failure::new(chain(&error)).hint(hint).partly().with(found.clone())
    };
    let markers = shared.below().old_markers(MARKERS_KEPT).await?;
    let total = u64::try_from(markers.len()).unwrap_or(u64::MAX);
    let mut count = total;
    if !markers.is_empty()
        && let Some(reason) = shared.below().why_markers_stay().await?
    {
        context.output.aside(&reason);
        return Ok(());
    }
    if !dry_run && !markers.is_empty() {
        // As with every write.
        if let Some(reason) = context.store().read_only_now().await? {
            return Err(Failure::new(reason).partly().with(found.clone()));
        }
        let removed = shared.below().remove_markers(markers, || !context.signals.came()).await;
        count = removed.map_err(|error| failed(error, found))?;
    }
    set(found, "deletion_markers", json!(count));
    if count < total && context.signals.came() {
        return Err(interrupted(found.take()));
    }
    let what = if dry_run { "would go" } else { "went" };
    context.output.text(format_args!("{count} marks of what was deleted over a day ago {what}."));
    Ok(())
}

const AGAIN: &str = "run it again: it goes on where it was";

fn interrupted(found: Value) -> Failure {
    Failure::new("interrupted: some of it went").hint(AGAIN).partly().with(found)
}

fn set(found: &mut Value, name: &str, value: Value) {
    if let Some(object) = found.as_object_mut() {
        object.insert(name.to_owned(), value);
    }
}

fn names<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<&'a str> {
    keys.map(Key::name).collect()
}
