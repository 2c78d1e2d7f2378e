//! `toehold session ls|show|cancel|recover`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::{Value, json};
use toehold_core::{Clock as _, SessionId, Stored, Timestamp};
use toehold_session::{End, Recovered, SessionError, SessionRecord, Status, is_settled};

use super::host_add::removal_line;
use super::operator::{Console, Delivery, Subject};
use crate::adapters::file_lock::FileLock;
use crate::adapters::system_clock::SystemClock;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, printable, table};

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
    let mut rows = Rows::new(["SESSION", "STATUS", "KEY ENDS", "ACCOUNT"]);
    let (mut documents, mut unreadable, mut by_hand) = (Vec::new(), Vec::new(), false);
    for record in listed {
        let record = match record {
            Ok(record) if all || record.status.is_open() => record,
            Ok(_) => continue,
            Err(error) => {
                unreadable.push(chain(&error));
                continue;
            }
        };
        let cells = vec![record.id.to_string(), record.status.to_string(), ends(&record, now), record.route.account.to_string()];
        rows.push(cells, record.reason.as_deref().unwrap_or_default());
        documents.push(document(&record)?);
        by_hand |= record.status == Status::Orphaned;
    }
    let found = json!({ "sessions": documents, "unreadable": unreadable });
    if rows.is_empty() {
        context.output.text(if all { "There was no session yet." } else { "No session is open." });
    } else {
        rows.print(context);
    }
    if by_hand {
        context.output.text("");
        context.output.paragraph(0, "To take a key away by hand: toehold session show SESSION prints the line for that.");
    }
    if !unreadable.is_empty() {
        return Err(Failure::new(unreadable.join("; ")).partly().with(found));
    }
    context.output.document(&found);
    Ok(Exit::Done)
}

/// `toehold session show`.
///
/// # Errors
/// Where there is no such session, or it cannot be read.
pub(super) async fn show(context: &Context, id: SessionId) -> Result<Exit, Failure> {
    let record = read(context, id).await?;
    context.output.document(&document(&record)?);
    let say = |name: &str, value: &str| context.output.text(format_args!("{name:<14} {}", printable(value)));
    say("session", &record.id.to_string());
    say("account", &record.route.to_string());
    if let Some(label) = &record.label {
        say("label", label);
    }
    say("status", &record.status.to_string());
    if let Some(reason) = &record.reason {
        say("why", reason);
    }
    say("begun", &record.created_at.to_string());
    if record.status.is_open() {
        let end = if record.without_expiry { "only when it is taken away".to_owned() } else { record.expires_at.to_string() };
        say("key ends", &end);
    }
    if let Some(trusted) = &record.host_key {
        say("host key", &format!("{} ({})", trusted.public_key.fingerprint(), trusted.public_key.algorithm()));
    }
    if let Some(closed) = &record.closed {
        let evidence = serde_json::to_value(closed.evidence)?;
        say("closed", &format!("{}: {}", closed.at, evidence.as_str().unwrap_or_default().replace('_', " ")));
    }
    if let Some(line) = open_removal_line(&record) {
        context.output.text(format_args!("\nTo take its key away by hand, run this on {}:\n{line}", record.route.account));
    }
    Ok(Exit::Done)
}

/// A session as `--json` shows it: all that is on record but what is sealed, and the line that takes its key away.
fn document(record: &SessionRecord) -> Result<Value, Failure> {
    let mut document = serde_json::to_value(record)?;
    if let Some(object) = document.as_object_mut() {
        object.remove("sealed_temporary_key");
        object.remove("sealed_proof_secret");
        object.insert("removal_command".to_owned(), json!(open_removal_line(record)));
    }
    Ok(document)
}

fn open_removal_line(record: &SessionRecord) -> Option<String> {
    if record.status.is_open() { removal_line(record) } else { None }
}

/// When a session's key ends, in few words.
fn ends(record: &SessionRecord, now: Timestamp) -> String {
    if !record.status.is_open() {
        return "gone".to_owned();
    }
    if record.without_expiry {
        return "by hand".to_owned();
    }
    match record.expires_at.saturating_since(now).as_secs() {
        0 => "ended".to_owned(),
        left @ 1..120 => format!("in {left}s"),
        left @ 120..7200 => format!("in {}m", left / 60),
        left => format!("in {}h", left / 3600),
    }
}

/// A table whose rows have words below them, which are often longer than a line of a terminal.
struct Rows {
    cells: Vec<Vec<String>>,
    words: Vec<String>,
}

impl Rows {
    fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { cells: vec![heading.map(str::to_owned).to_vec()], words: Vec::new() }
    }

    fn push(&mut self, cells: Vec<String>, words: &str) {
        self.cells.push(cells);
        self.words.push(words.to_owned());
    }

    fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn print(&self, context: &Context) {
        // The heading has no words.
        let words = std::iter::once("").chain(self.words.iter().map(String::as_str));
        for (line, words) in table(&self.cells).lines().zip(words) {
            context.output.text(line);
            if !words.is_empty() {
                context.output.paragraph(4, words);
            }
        }
    }
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
        let Some(_lock) = FileLock::of_session(context.state.directory(), id)? else {
            return Err(Failure::new(format!("another process is working on session {id}")));
        };
        let record = onboarder.forget(id).await.map_err(explained)?;
        context.output.document(&json!({ "session": id, "status": record.status, "evidence": "operators_word" }));
        context.output.text(format_args!("{id} is closed on your word; nothing was seen of {}.", record.route.account));
        return Ok(Exit::Done);
    }
    let record = onboarder.mark_cancelled(id).await.map_err(explained)?;
    let Some(lock) = FileLock::of_session(context.state.directory(), id)? else {
        return wait_for_other(context, id).await;
    };
    let master = context.master_key().await?;
    let mut console = console(context);
    console.resume(lock, &record.route.account);
    let result = onboarder.recover(id, &master, &mut UnwrapErr(SysRng), &mut console).await;
    console.finish();
    report(context, vec![Told::of((id, result))], &[], true)
}

async fn cancel_all(context: &Context) -> Result<Exit, Failure> {
    let onboarder = context.onboarder().await?;
    let master = context.master_key().await?;
    let mut console = console(context);
    let locks = Locks::of(&console);
    let results =
        onboarder.cancel_all(&master, &mut UnwrapErr(SysRng), &mut console, |record| locks.take(context, record)).await?;
    console.finish();
    let (results, busy) = locks.and(results);
    report(context, results, &busy, true)
}

/// The process that works on the session sees the cancellation and undoes it.
async fn wait_for_other(context: &Context, id: SessionId) -> Result<Exit, Failure> {
    let mut signals = context.signals.clone();
    // Long enough for its next look at the record and for a host that hangs.
    for _ in 0..600 {
        let record = read(context, id).await?;
        if record.status.is_open() {
            if let Some(lock) = FileLock::of_session(context.state.directory(), id)? {
                // It has let go; what it left is on the record.
                drop(lock);
                let found = json!({ "session": id, "status": record.status, "reason": record.reason });
                return Err(Failure::new(format!(
                    "{id} is {}: {}",
                    record.status,
                    record.reason.as_deref().unwrap_or("its process ended")
                ))
                .hint(format!("lead it to its end: toehold session recover {id}"))
                .partly()
                .with(found));
            }
        } else {
            return closed_by_other(context, &record);
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

/// What the process that worked on a session has made of it.
fn closed_by_other(context: &Context, record: &SessionRecord) -> Result<Exit, Failure> {
    let (id, account) = (record.id, &record.route.account);
    let found = json!({ "session": id, "account": account, "status": record.status, "reason": record.reason });
    if record.status == Status::Completed {
        return Err(Failure::new(format!("the cancellation of {id} came too late: {account} is managed"))
            .hint(format!("let it go again: toehold host rm {account}"))
            .with(found));
    }
    context.output.document(&found);
    let reason = record.reason.as_deref().unwrap_or("cancelled");
    context.output.text(format_args!("{id} is {}; the process that worked on it has undone it: {reason}.", record.status));
    Ok(Exit::Done)
}

async fn read(context: &Context, id: SessionId) -> Result<SessionRecord, Failure> {
    let stored = Stored::<SessionRecord>::read(context.store(), &SessionRecord::key(id)?).await?;
    Ok(stored.ok_or_else(|| explained(SessionError::NotFound(id)))?.body)
}

/// `toehold session recover`.
///
/// # Errors
/// Where the session is not there, or closed.
pub(super) async fn recover(context: &Context, id: Option<SessionId>) -> Result<Exit, Failure> {
    let onboarder = context.onboarder().await?;
    let master = context.master_key().await?;
    let mut console = console(context);
    let locks = Locks::of(&console);
    let results = match id {
        Some(id) => {
            let record = read(context, id).await?;
            let Some(lock) = FileLock::of_session(context.state.directory(), id)? else {
                return Err(Failure::new(format!("another process is working on session {id}")));
            };
            console.resume(lock, &record.route.account);
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
    let (results, busy) = locks.and(results);
    report(context, results, &busy, false)
}

/// One round of the reaper: leads on what is orphaned, or whose key has ended. Where there is nothing of that kind, no identity is
/// needed. What others work on is theirs.
///
/// # Errors
/// Where sessions are still owed after it, or what the store says.
pub(super) async fn reap(context: &Context) -> Result<Exit, Failure> {
    let now = SystemClock.now();
    let is_due = |record: &SessionRecord| record.status == Status::Orphaned || record.is_expired(now);
    let listed = toehold_session::list(context.store()).await?;
    if !listed.iter().flatten().any(|record| record.status.is_open() && is_due(record)) {
        return Ok(Exit::Done);
    }
    let onboarder = context.onboarder().await?;
    let master = context.master_key().await?;
    let mut console = console(context);
    let locks = Locks::of(&console);
    let is_ours = |record: &SessionRecord| is_due(record) && locks.take(context, record);
    let results = onboarder.recover_all(&master, &mut UnwrapErr(SysRng), &mut console, is_ours).await?;
    console.finish();
    let (results, _) = locks.and(results);
    report(context, results, &[], false)
}

/// What became of a session.
struct Told {
    id: SessionId,
    account: String,
    status: String,
    why: String,
    settled: bool,
}

impl Told {
    fn of((id, result): Recovered) -> Self {
        let settled = is_settled(&result);
        match result {
            Ok(outcome) => {
                let status = if outcome.end == End::LetGo { "let go".to_owned() } else { outcome.record.status.to_string() };
                let account = outcome.record.route.account.to_string();
                Self { id, account, status, why: outcome.reason.unwrap_or_default(), settled }
            }
            Err(error) => Self { id, account: String::new(), status: "error".to_owned(), why: chain(&error), settled },
        }
    }
}

/// The sessions that this process has taken, and those that it could not take.
struct Locks {
    /// What the display is told of the session that comes next.
    subject: Subject,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    held: Vec<FileLock>,
    /// Others are working on these.
    busy: Vec<String>,
    failed: Vec<Told>,
}

impl Locks {
    fn of(console: &Console) -> Self {
        Self { subject: console.subject(), taken: Mutex::default() }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, context: &Context, record: &SessionRecord) -> bool {
        if context.may_be_elsewhere(record) {
            self.taken().busy.push(record.id.to_string());
            return false;
        }
        let lock = FileLock::of_session(context.state.directory(), record.id);
        let is_ours = matches!(lock, Ok(Some(_)));
        match lock {
            Ok(Some(lock)) => {
                self.subject.set(&record.route.account);
                self.taken().held.push(lock);
            }
            Ok(None) => self.taken().busy.push(record.id.to_string()),
            Err(error) => {
                let account = record.route.account.to_string();
                let why = format!("no lock file in {}: {error}", context.state.directory().display());
                let told = Told { id: record.id, account, status: "error".to_owned(), why, settled: false };
                self.taken().failed.push(told);
            }
        }
        is_ours
    }

    /// These results with those of the sessions that could not be taken, and the names of those that others work on.
    fn and(&self, results: Vec<Recovered>) -> (Vec<Told>, Vec<String>) {
        let mut taken = self.taken();
        let told = results.into_iter().map(Told::of).chain(std::mem::take(&mut taken.failed)).collect();
        (told, std::mem::take(&mut taken.busy))
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

/// Tells what became of each session; `busy` are those that other processes are working on, which is a failure where all were to
/// come to their end.
fn report(context: &Context, results: Vec<Told>, busy: &[String], all: bool) -> Result<Exit, Failure> {
    let mut owed = 0;
    let mut rows = Rows::new(["SESSION", "STATUS", "ACCOUNT"]);
    let mut documents = Vec::new();
    for Told { id, account, status, why, settled } in results {
        owed += usize::from(!settled);
        documents.push(json!({ "session": id, "account": account, "status": status, "reason": why }));
        rows.push(vec![id.to_string(), status, account], &why);
    }
    let found = json!({ "sessions": documents, "owed": owed, "busy": busy });
    if !rows.is_empty() {
        rows.print(context);
    } else if busy.is_empty() {
        context.output.text("No session is open.");
    }
    for id in busy {
        context.output.text(format_args!("Another process is working on {id}."));
    }
    if owed == 0 {
        if all && !busy.is_empty() {
            return Err(Failure::new(format!("other processes are working on {}", busy.join(", ")))
                .hint("end those, or cancel them one by one: toehold session cancel ID")
                .partly()
                .with(found));
        }
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    let noun = if owed == 1 { "session is" } else { "sessions are" };
    Err(Failure::new(format!("{owed} {noun} still owed"))
        .hint("a key whose host was never proven is settled by the next host add of its account, or by session recover five minutes after its end")
        .partly()
        .with(found))
}
