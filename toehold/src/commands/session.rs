//! `toehold session ls|cancel|recover`.

use std::sync::Mutex;
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_core::{Clock as _, SessionId};
use toehold_session::{End, Outcome, SessionError, SessionRecord, Status, is_settled};

use super::host_add::removal_line;
use super::operator::{Console, Delivery};
use crate::adapters::session_lock::SessionLock;
use crate::adapters::system_clock::SystemClock;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, table};

fn console(context: &Context) -> Console {
    Console::new(context.output, context.signals.clone(), context.state.directory().to_owned(), Delivery::Nothing)
}

/// `toehold session ls`.
///
/// # Errors
/// What the store says.
pub(super) async fn list(context: &Context, all: bool) -> Result<Exit, Failure> {
    let listed = toehold_session::list(context.store()).await?;
    let now = SystemClock.now();
    let mut rows = vec![["SESSION", "ACCOUNT", "STATUS", "BEGUN", "KEY ENDS", "WHY"].map(str::to_owned).to_vec()];
    let (mut documents, mut unreadable, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    for record in listed {
        let record = match record {
            Ok(record) if all || record.status.is_open() => record,
            Ok(_) => continue,
            Err(error) => {
                unreadable.push(chain(&error));
                continue;
            }
        };
        let ends = match (record.status.is_open(), record.without_expiry, record.is_expired(now)) {
            (false, ..) => "gone".to_owned(),
            (true, true, _) => "by hand".to_owned(),
            (true, false, true) => "ended".to_owned(),
            (true, false, false) => record.expires_at.to_string(),
        };
        rows.push(vec![
            record.id.to_string(),
            record.route.account.to_string(),
            record.status.to_string(),
            record.created_at.to_string(),
            ends,
            record.reason.clone().unwrap_or_default(),
        ]);
        let removal = if record.status.is_open() { removal_line(&record) } else { None };
        let mut document = serde_json::to_value(&record)?;
        if let Some(object) = document.as_object_mut() {
            object.remove("sealed_temporary_key");
            object.insert("removal_command".to_owned(), json!(removal));
        }
        documents.push(document);
        if let (Status::Orphaned, Some(removal)) = (record.status, removal) {
            by_hand.push((record, removal));
        }
    }
    context.output.document(&json!({ "sessions": documents, "unreadable": unreadable }));
    if rows.len() == 1 {
        context.output.text(if all { "There was no session yet." } else { "No session is open." });
    } else {
        context.output.text(table(&rows).trim_end());
    }
    for (record, removal) in by_hand {
        context.output.text(format_args!(
            "\nTo take the key of {} away by hand, run this on {}:\n{removal}",
            record.id, record.route.account
        ));
    }
    if unreadable.is_empty() { Ok(Exit::Done) } else { Err(Failure::new(unreadable.join("; ")).partly().documented()) }
}

/// `toehold session cancel`.
///
/// # Errors
/// Where a session is not there, or closed.
pub(super) async fn cancel(context: &Context, id: Option<SessionId>, forget: bool) -> Result<Exit, Failure> {
    let onboarder = context.onboarder().await?;
    let Some(id) = id else {
        return cancel_all(context).await;
    };
    if forget {
        let Some(_lock) = SessionLock::take(context.state.directory(), id)? else {
            return Err(Failure::new(format!("another process is working on session {id}")));
        };
        let record = onboarder.forget(id).await.map_err(explained)?;
        context.output.document(&json!({ "session": id, "status": record.status, "evidence": "operators_word" }));
        context.output.text(format_args!("{id} is closed on your word; nothing was seen of {}.", record.route.account));
        return Ok(Exit::Done);
    }
    onboarder.mark_cancelled(id).await.map_err(explained)?;
    let Some(lock) = SessionLock::take(context.state.directory(), id)? else {
        return wait_for_other(context, id).await;
    };
    let master = context.master_key().await?;
    let mut console = console(context);
    console.resume(lock, id.to_string());
    let result = onboarder.recover(id, &master, &mut UnwrapErr(SysRng), &mut console).await;
    console.finish();
    report(context, vec![(id, result)], &[])
}

async fn cancel_all(context: &Context) -> Result<Exit, Failure> {
    let onboarder = context.onboarder().await?;
    let master = context.master_key().await?;
    let mut console = console(context);
    let locks = Locks::default();
    let results =
        onboarder.cancel_all(&master, &mut UnwrapErr(SysRng), &mut console, |record| locks.take(context, record)).await?;
    console.finish();
    let left = locks.busy();
    let exit = report(context, results, &left)?;
    if left.is_empty() {
        Ok(exit)
    } else {
        Err(Failure::new(format!("other processes are working on {}", left.join(", ")))
            .hint("end those, or cancel them one by one: toehold session cancel ID")
            .partly()
            .documented())
    }
}

/// The process that works on the session sees the cancellation and undoes it.
async fn wait_for_other(context: &Context, id: SessionId) -> Result<Exit, Failure> {
    let onboarder = context.onboarder().await?;
    let mut signals = context.signals.clone();
    // Long enough for its next look at the record and for a host that hangs.
    for _ in 0..600 {
        if let Some(record) = onboarder.open_sessions().await?.into_iter().find(|record| record.id == id) {
            if let Some(lock) = SessionLock::take(context.state.directory(), id)? {
                // It has let go; what it left is on the record.
                drop(lock);
                context.output.document(&json!({ "session": id, "status": record.status, "reason": record.reason }));
                return Err(Failure::new(format!(
                    "{id} is {}: {}",
                    record.status,
                    record.reason.as_deref().unwrap_or("its process ended")
                ))
                .hint(format!("lead it to its end: toehold session recover {id}"))
                .partly()
                .documented());
            }
        } else {
            context.output.document(&json!({ "session": id, "status": "failed", "reason": "cancelled" }));
            context.output.text(format_args!("{id} is cancelled; the process that worked on it has undone it."));
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            () = signals.wait() => break,
        }
    }
    Err(Failure::new(format!("{id} is marked as cancelled, but the process that works on it has not let go yet"))
        .hint("see how it stands: toehold session ls")
        .partly())
}

/// `toehold session recover`.
///
/// # Errors
/// Where the session is not there, or closed.
pub(super) async fn recover(context: &Context, id: Option<SessionId>) -> Result<Exit, Failure> {
    let onboarder = context.onboarder().await?;
    let master = context.master_key().await?;
    let mut console = console(context);
    let locks = Locks::default();
    let results = match id {
        Some(id) => {
            let Some(lock) = SessionLock::take(context.state.directory(), id)? else {
                return Err(Failure::new(format!("another process is working on session {id}")));
            };
            console.resume(lock, id.to_string());
            let result = onboarder.recover(id, &master, &mut UnwrapErr(SysRng), &mut console).await;
            if let Err(error @ (SessionError::NotFound(_) | SessionError::Closed { .. })) = result {
                console.finish();
                return Err(explained(error));
            }
            vec![(id, result)]
        }
        None => {
            onboarder.recover_all(&master, &mut UnwrapErr(SysRng), &mut console, |record| locks.take(context, record)).await?
        }
    };
    console.finish();
    report(context, results, &locks.busy())
}

/// The sessions that this process has taken, and those that others have.
#[derive(Default)]
struct Locks {
    held: Mutex<Vec<SessionLock>>,
    busy: Mutex<Vec<String>>,
}

impl Locks {
    fn take(&self, context: &Context, record: &SessionRecord) -> bool {
        match SessionLock::take(context.state.directory(), record.id) {
            Ok(Some(lock)) => {
                self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(lock);
                true
            }
            _ => {
                self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(record.id.to_string());
                false
            }
        }
    }

    fn busy(&self) -> Vec<String> {
        std::mem::take(&mut *self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn explained(error: SessionError) -> Failure {
    let failure = Failure::new(chain(&error));
    match error {
        SessionError::NotFound(_) => failure.hint("see which there are: toehold session ls --all"),
        _ => failure,
    }
}

/// Tells what became of each session; `busy` are those that other processes are working on.
fn report(context: &Context, results: Vec<(SessionId, Result<Outcome, SessionError>)>, busy: &[String]) -> Result<Exit, Failure> {
    let mut owed = 0;
    let mut rows = vec![["SESSION", "ACCOUNT", "STATUS", "WHY"].map(str::to_owned).to_vec()];
    let mut documents = Vec::new();
    for (id, result) in results {
        if !is_settled(&result) {
            owed += 1;
        }
        let (account, status, why) = match result {
            Ok(outcome) => {
                let status = match outcome.end {
                    End::LetGo => "let go".to_owned(),
                    _ => outcome.record.status.to_string(),
                };
                (outcome.record.route.account.to_string(), status, outcome.reason.unwrap_or_default())
            }
            Err(error) => (String::new(), "error".to_owned(), chain(&error)),
        };
        documents.push(json!({ "session": id, "account": account, "status": status, "reason": why }));
        rows.push(vec![id.to_string(), account, status, why]);
    }
    context.output.document(&json!({ "sessions": documents, "owed": owed, "busy": busy }));
    if rows.len() > 1 {
        context.output.text(table(&rows).trim_end());
    } else if busy.is_empty() {
        context.output.text("No session is open.");
    }
    for id in busy {
        context.output.text(format_args!("Another process is working on {id}."));
    }
    if owed == 0 {
        return Ok(Exit::Done);
    }
    let noun = if owed == 1 { "session is" } else { "sessions are" };
    Err(Failure::new(format!("{owed} {noun} still owed"))
        .hint("a key whose host was never proven is settled by the next host add of its account, or by session recover five minutes after its end")
        .partly()
        .documented())
}
