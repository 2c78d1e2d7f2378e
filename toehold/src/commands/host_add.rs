//! `toehold host add`: a host, or a list of hosts, from first contact to managed.

use std::collections::HashMap;
use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use toehold_core::{Account, Clock as _, HostRecord, Identity, KeyRole, ManagedKey, PublicKey, Route, Stored};
use toehold_keygen::Options;
use toehold_keygen::install::RemovalCommand;
use toehold_session::{
    End, Evidence, HostKeyCheck, Operator as _, Outcome, Progress, Request, SessionError, SessionRecord, Status,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::operator::{Console, Delivery};
use super::recovery_copy;
use super::via::Via;
use crate::adapters::file_lock::FileLock;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Add, Onboarding};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, table};

/// The comment of the master key's line on a host.
pub(super) const MASTER_COMMENT: &str = "toehold-master";

/// Brings in one host, or those of a list.
///
/// # Errors
/// Where it could not begin.
pub(super) async fn add(context: &Context, options: Add) -> Result<Exit, Failure> {
    let via = options.via.as_deref().map(Via::parse).transpose()?;
    let keys = read_selected_keys(&options.how)?;
    if let (Some(file), Some(via)) = (&options.file, &via) {
        return add_list(context, &options, file, via, keys).await;
    }
    let Some(account) = options.account else {
        return Err(Failure::usage("name an account: user@host[:port]"));
    };
    if let Some(via) = &via {
        via.check(&account)?;
    }
    let delivery = via.map_or(Delivery::Paste, Delivery::Via);
    add_one(context, account, &options.how, keys, delivery).await
}

/// Brings in one host.
///
/// # Errors
/// Where it could not begin.
pub(super) async fn add_one(
    context: &Context,
    account: Account,
    how: &Onboarding,
    keys: Vec<ManagedKey>,
    delivery: Delivery,
) -> Result<Exit, Failure> {
    if how.ask && !std::io::stdin().is_terminal() {
        return Err(Failure::new("there is no terminal to ask on").hint("name the host key: --host-key SHA256:…"));
    }
    if let Delivery::CloudInit(Some(file)) = &delivery
        && file.exists()
    {
        return Err(Failure::new(format!("{} exists already", file.display())).hint("name a new file: --output FILE"));
    }
    check_jumps(context, &account, &how.jumps).await?;
    let master = context.master_key().await?;
    let home = home(context, &account, how).await?;
    let mut request = request(account, how, home, &master, keys)?;
    request.pasted = matches!(delivery, Delivery::Paste);
    let mut console =
        Console::new(context.output, context.signals.clone(), context.state.directory().to_owned(), delivery.clone());
    let result = onboard(context, request, &master, &mut console).await;
    console.finish();
    let outcome = result?;
    let by_hand = outcome.end == End::Orphaned && !cleaned_up_through(context, &outcome.record, &delivery).await;
    let found = outcome_document(&outcome);
    if outcome.end == End::Completed {
        context.output.text(managed_text(&outcome.record));
        advise(context).await;
        if context.signals.came() {
            let failure = Failure::new("interrupted; the master key had already logged in, so the host is managed");
            return Err(failure.with(found));
        }
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    Err(failure(&outcome, by_hand).with(found))
}

/// A jump host is a managed one; found out later it would leave a session behind.
async fn check_jumps(context: &Context, account: &Account, jumps: &[Account]) -> Result<(), Failure> {
    for jump in jumps {
        if jump == account {
            return Err(Failure::usage(format!("{account} cannot be its own jump host")));
        }
        let Some(managed) = Stored::<HostRecord>::read(context.store(), &HostRecord::key(jump)?).await? else {
            return Err(Failure::new(format!("the jump host {jump} is not managed"))
                .hint(format!("bring it in first: toehold host add {jump}")));
        };
        if managed.body.keys.iter().any(|key| key.role == KeyRole::Master && !may_forward(&key.options)) {
            return Err(Failure::new(format!(
                "the jump host {jump} lets the master key forward nothing: it was brought in with --harden"
            ))
            .hint(format!("remove it and bring it in anew without: toehold host rm {jump}")));
        }
    }
    Ok(())
}

/// Whether sshd lets a key with these options reach other hosts. What cannot be read is sshd's to judge.
fn may_forward(options: &str) -> bool {
    let effect = Options::parse(options.as_bytes()).ok().and_then(|options| options.effect(0).ok());
    effect.is_none_or(|effect| effect.port_forwarding)
}

/// Says where the master key that is now on one more host has no recovery copy.
async fn advise(context: &Context) {
    // What cannot be read now is for the next command to report: the host is managed.
    if let Ok(Some(advice)) = recovery_copy::advice(context.store()).await {
        context.output.text(advice);
    }
}

async fn onboard(context: &Context, request: Request, master: &Identity, console: &mut Console) -> Result<Outcome, Failure> {
    let onboarder = context.onboarder().await?;
    let account = request.route.account.clone();
    // A run that was killed left its session under way; safe to run again means to take that up first.
    let under_way = |status| matches!(status, Status::Active | Status::Committing);
    settle_others(context, &account, under_way, master, console).await?;
    let outcome = onboarder.onboard(request, master, &mut UnwrapErr(SysRng), console).await.map_err(begin_failure)?;
    if outcome.end == End::Completed {
        // The next contact with a host settles what earlier sessions left on it.
        if let Err(failure) = settle_others(context, &account, |status| status == Status::Orphaned, master, console).await {
            // The host is managed all the same.
            console.progress(Progress::Warning(format!("earlier sessions could not be settled: {failure}")));
        }
        if let Err(error) = toehold_session::prune_closed(context.store(), SystemClock.now()).await {
            console.progress(Progress::Warning(format!("records of old sessions could not be removed: {}", chain(&error))));
        }
    }
    Ok(outcome)
}

/// Takes up those open sessions of an account that no process works on. What becomes of them is theirs to tell.
async fn settle_others(
    context: &Context,
    account: &Account,
    which: impl Fn(Status) -> bool,
    master: &Identity,
    console: &mut Console,
) -> Result<(), Failure> {
    let onboarder = context.onboarder().await?;
    for record in toehold_session::list(context.store()).await.map_err(begin_failure)? {
        // One that cannot be read is for `session ls` to report.
        let Ok(record) = record else { continue };
        if record.route.account != *account || !which(record.status) || context.signals.came() {
            continue;
        }
        if context.may_be_elsewhere(&record) {
            continue;
        }
        if let Some(lock) = FileLock::of_session(context.state.directory(), record.id)? {
            console.resume(lock, account);
            drop(onboarder.recover(record.id, master, &mut UnwrapErr(SysRng), console).await);
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn begin_failure(error: SessionError) -> Failure {
    let failure = Failure::new(chain(&error));
    match error {
        SessionError::AlreadyOpen { id, .. } => failure.hint(format!("if nobody is working on it: toehold session recover {id}")),
        SessionError::KnownOtherwise { .. } => failure.hint("nothing was changed; find out which of the two keys is the host's"),
        _ => failure,
    }
}

/// The home that was named, now or when the host was brought in before.
async fn home(context: &Context, account: &Account, how: &Onboarding) -> Result<Option<String>, Failure> {
    if how.home.is_some() {
        return Ok(how.home.clone());
    }
    Ok(Stored::<HostRecord>::read(context.store(), &HostRecord::key(account)?).await?.and_then(|known| known.body.home))
}

/// What a request asks for, checked before anything happens.
fn request(
    account: Account,
    how: &Onboarding,
    home: Option<String>,
    master: &Identity,
    selected: Vec<ManagedKey>,
) -> Result<Request, Failure> {
    let options = if how.harden { Options::new().restrict().command("internal-sftp")?.to_bytes() } else { Vec::new() };
    let line = ManagedKey {
        role: KeyRole::Master,
        public_key: master.public_key().clone(),
        options: String::from_utf8_lossy(&options).into_owned(),
        comment: MASTER_COMMENT.to_owned(),
    };
    let mut request = Request::new(Route { account, jumps: how.jumps.clone() }, line);
    request.keys.extend(selected.into_iter().filter(|key| key.public_key != *master.public_key()));
    request.host_key_check = match (how.host_key, how.accept_new, how.ask) {
        (Some(fingerprint), ..) => HostKeyCheck::Fingerprint(fingerprint),
        (None, true, _) => HostKeyCheck::AcceptNew,
        (None, false, true) => HostKeyCheck::Ask,
        (None, false, false) => HostKeyCheck::Proof,
    };
    request.from.clone_from(&how.from);
    request.lifetime = how.ttl;
    request.home = home;
    request.label.clone_from(&how.label);
    request.tags = how.tags.iter().cloned().collect();
    request.without_expiry = how.no_expiry;
    request.host_key_files.clone_from(&how.host_key_files);
    request.seal_temporary_key = how.seal_temporary_key;
    Ok(request)
}

/// Reads the `.pub` files of `--key`.
///
/// # Errors
/// For a file that cannot be read or holds anything but one public key.
pub(super) fn read_selected_keys(how: &Onboarding) -> Result<Vec<ManagedKey>, Failure> {
    let mut keys: Vec<ManagedKey> = Vec::new();
    for path in &how.keys {
        let key = read_public_key(path)?;
        if !keys.iter().any(|have| have.public_key == key.public_key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Reads a `.pub` file.
///
/// # Errors
/// For a file that cannot be read or holds anything but one public key.
pub(super) fn read_public_key(path: &Path) -> Result<ManagedKey, Failure> {
    let named = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let size = fs::metadata(path).map_err(|error| named(error.to_string()))?.len();
    if size > 64 * 1024 {
        return Err(named(format!("{size} bytes are too many for a public key")));
    }
    let text = fs::read(path).map_err(|error| named(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| named("not a public key file: it is not text".to_owned()))?;
    if text.contains("PRIVATE KEY") {
        return Err(named("this is a private key; name the .pub file beside it".to_owned()));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(named("a public key file holds one line".to_owned()));
    };
    let public_key: PublicKey = line.parse().map_err(|error| named(chain(&error)))?;
    let comment: Vec<&str> = line.split_ascii_whitespace().skip(2).collect();
    let comment = comment.join(" ");
    if comment.chars().any(char::is_control) {
        return Err(named("the comment has control characters".to_owned()));
    }
    Ok(ManagedKey { role: KeyRole::Selected, public_key, options: String::new(), comment })
}

fn managed_text(record: &SessionRecord) -> String {
    let host_key = record
        .host_key
        .as_ref()
        .map_or_else(String::new, |trusted| format!("; its host key is {}", trusted.public_key.fingerprint()));
    format!("{} is managed{host_key}.", record.route.account)
}

/// The line that takes a session's key away by hand.
pub(super) fn removal_line(record: &SessionRecord) -> Option<String> {
    let mut command = RemovalCommand::new(&record.route.account, record.id, &record.temporary_key);
    if let Some(home) = &record.home {
        command = command.home(home);
    }
    Some(command.command_line().ok()?.trim_end().to_owned())
}

fn outcome_document(outcome: &Outcome) -> Value {
    json!({
        "event": match outcome.end {
            End::Completed => "completed",
            End::Failed => "failed",
            End::Orphaned => "orphaned",
            End::LetGo => "let_go",
        },
        "account": outcome.record.route.account,
        "session": outcome.record.id,
        "status": outcome.record.status,
        "host_key": outcome.record.host_key.as_ref().map(|trusted| trusted.public_key.fingerprint()),
        "reason": outcome.reason,
    })
}

fn failure(outcome: &Outcome, by_hand: bool) -> Failure {
    let account = &outcome.record.route.account;
    let reason = outcome.reason.as_deref().unwrap_or("it was interrupted");
    match outcome.end {
        End::Completed | End::Failed => {
            let seen = match outcome.record.closed.map(|closed| closed.evidence) {
                Some(Evidence::SeenGone) => "The temporary key was seen gone; the host is as it was",
                Some(Evidence::Refused | Evidence::RefusedAfterExpiry) => {
                    "The host refuses the temporary key; what its line was in could not be looked at"
                }
                _ => "Nothing was changed",
            };
            Failure::new(format!("{account} is not managed: {reason}. {seen}."))
        }
        End::LetGo => Failure::new(format!("{account}: {reason}")).hint("see how it stands: toehold session ls").partly(),
        End::Orphaned => {
            let id = outcome.record.id;
            let holder = if outcome.record.sealed_temporary_key.is_some() {
                "its private half is sealed in the store"
            } else {
                "nobody holds its private half any more"
            };
            let end = if outcome.record.without_expiry {
                format!("{holder}, but its line has no end of its own")
            } else {
                format!("{holder}, and sshd ends it at {}", outcome.record.expires_at)
            };
            let mut hint = format!("settle it: toehold session recover {id}");
            if by_hand {
                hint.push_str(&format!("\nor take it away by hand; the line for that: toehold session show {id}"));
            }
            Failure::new(format!("{account} is not managed: {reason}. The temporary key may still be on the host; {end}."))
                .hint(hint)
                .partly()
        }
    }
}

/// Where a command leads to the host, the removal goes the same way. The session stays on the list all the same, until the
/// key was seen gone. Says whether the removal ran.
async fn cleaned_up_through(context: &Context, record: &SessionRecord, delivery: &Delivery) -> bool {
    let (Some(line), Delivery::Via(via)) = (removal_line(record), delivery) else { return false };
    let input = format!("{line}\n");
    // Somebody who wants out waits no longer than a command takes that does its work.
    let patience = Duration::from_secs(if context.signals.came() { 5 } else { 30 });
    let stop = async {
        tokio::time::sleep(patience).await;
        "it took too long".to_owned()
    };
    via.run(&record.route.account, input.as_bytes(), stop).await.is_ok()
}

/// How one host of a list went.
struct Row {
    account: Account,
    took: Duration,
    exit: Exit,
    words: String,
    document: Value,
}

impl Row {
    fn lost(account: Account, took: Duration) -> Self {
        let words = "its work was lost; how it stands: toehold session ls".to_owned();
        let document = json!({ "event": "failed", "account": account, "reason": words });
        Self { account, took, exit: Exit::Partly, words, document }
    }
}

async fn add_list(context: &Context, options: &Add, file: &Path, via: &Via, keys: Vec<ManagedKey>) -> Result<Exit, Failure> {
    let accounts = read_accounts(file)?;
    if accounts.len() > 1 && !via.names_the_account() {
        return Err(Failure::usage("--via leads every account of the list to the same place")
            .hint("let it name the account, such as --via 'ssh {account} sh'"));
    }
    for account in &accounts {
        via.check(account)?;
        check_jumps(context, account, &options.how.jumps).await?;
    }
    // Asked for once, before the first host.
    drop(context.master_key().await?);
    let begun = Instant::now();
    let bars = MultiProgress::new();
    if context.output.json || !std::io::stderr().is_terminal() {
        bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let total = bars.add(ProgressBar::new(accounts.len() as u64));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} hosts ({elapsed}) {msg}") {
        total.set_style(style);
    }
    let places = Arc::new(Semaphore::new(usize::from(options.concurrency)));
    let mut tasks = JoinSet::new();
    let mut under_way = HashMap::new();
    for account in accounts {
        let of_task = account.clone();
        let (context, places, via, keys, how) =
            (context.clone(), Arc::clone(&places), via.clone(), keys.clone(), options.how.clone());
        let task = tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            let begun = Instant::now();
            let (exit, words, document) = add_of_list(&context, account.clone(), &how, keys, via).await;
            Row { account, took: begun.elapsed(), exit, words, document }
        });
        under_way.insert(task.id(), of_task);
    }
    let mut rows = Vec::new();
    while let Some(ended) = tasks.join_next_with_id().await {
        let row = match ended {
            Ok((_, row)) => row,
            // A fault of ours in one host's work must not cut that of the others.
            Err(error) => match under_way.remove(&error.id()) {
                Some(account) => Row::lost(account, begun.elapsed()),
                None => continue,
            },
        };
        context.output.document(&row.document);
        total.inc(1);
        rows.push(row);
    }
    total.finish_and_clear();
    rows.sort_by(|a, b| a.account.cmp(&b.account));
    let mut lines = vec![["ACCOUNT", "TOOK", "RESULT"].map(str::to_owned).to_vec()];
    lines.extend(
        rows.iter().map(|row| vec![row.account.to_string(), format!("{:.1} s", row.took.as_secs_f64()), row.words.clone()]),
    );
    context.output.text(table(&lines).trim_end());
    let done = rows.iter().filter(|row| row.exit == Exit::Done).count();
    context.output.text(format_args!("{done} of {} hosts are managed, in {:.1} s", rows.len(), begun.elapsed().as_secs_f64()));
    if done > 0 {
        advise(context).await;
    }
    let found = json!({ "event": "done", "managed": done, "hosts": rows.len() });
    if done == rows.len() {
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    let failure = Failure::new(format!("{} of {} hosts are not managed", rows.len() - done, rows.len())).with(found);
    Err(if done == 0 && rows.iter().all(|row| row.exit == Exit::Failed) { failure } else { failure.partly() })
}

async fn add_of_list(
    context: &Context,
    account: Account,
    how: &Onboarding,
    keys: Vec<ManagedKey>,
    via: Via,
) -> (Exit, String, Value) {
    if context.signals.came() {
        return (Exit::Failed, "not begun: interrupted".to_owned(), json!({ "event": "not_begun", "account": account }));
    }
    let delivery = Delivery::Via(via);
    let mut console = Console::quiet(
        context.output,
        context.signals.clone(),
        context.state.directory().to_owned(),
        delivery.clone(),
        ProgressBar::hidden(),
    );
    let result = async {
        let master = context.master_key().await?;
        let home = home(context, &account, how).await?;
        let mut request = request(account.clone(), how, home, &master, keys)?;
        request.pasted = false;
        onboard(context, request, &master, &mut console).await
    }
    .await;
    console.finish();
    match result {
        Ok(outcome) if outcome.end == End::Completed => (Exit::Done, "managed".to_owned(), outcome_document(&outcome)),
        Ok(outcome) => {
            let by_hand = outcome.end == End::Orphaned && !cleaned_up_through(context, &outcome.record, &delivery).await;
            let failure = failure(&outcome, by_hand);
            (failure.exit, failure.message, outcome_document(&outcome))
        }
        Err(failure) => {
            let document = json!({ "event": "failed", "account": account, "reason": failure.message });
            (failure.exit, failure.message, document)
        }
    }
}

fn read_accounts(file: &Path) -> Result<Vec<Account>, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let mut accounts: Vec<Account> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let account =
            line.parse().map_err(|error| Failure::new(format!("{}, line {number}: {}", file.display(), chain(&error))))?;
        if !accounts.contains(&account) {
            accounts.push(account);
        }
    }
    if accounts.is_empty() {
        return Err(Failure::new(format!("{} names no account", file.display())));
    }
    Ok(accounts)
}
