//! `toehold host check`: whether hosts are as their records say.

use std::sync::Arc;

use serde_json::{Value, json};
use toehold_core::{
    Account, Clock as _, ConnectError, Connector as _, CurrentMasterKey, HostKeyPolicy, HostRecord, HostSession as _, Identity,
    Login, PublicKey, RetiredKey, RotationRecord, Route, Stored, Timestamp,
};
use toehold_keygen::authorized_keys::Entry;
use toehold_keygen::replacement::{InspectedFile, Inspection, KeyFile, inspect};
use toehold_keygen::{GRANT_COMMENT_PREFIX, Options, TEMPORARY_COMMENT_PREFIX, is_grant};
use toehold_masterkey::grant::GrantRecord;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::host_list::{host, hosts};
use crate::adapters::russh_connector::RusshSession;
use crate::adapters::system_clock::SystemClock;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, table};

/// What was found on one host.
struct Report {
    account: Account,
    /// `as recorded`, `drifted`, `unreachable`, …
    state: &'static str,
    findings: Vec<String>,
    other_keys: usize,
}

impl Report {
    fn document(&self) -> Value {
        json!({
            "account": self.account,
            "state": self.state,
            "findings": self.findings,
            "other_keys": self.other_keys,
        })
    }
}

/// Checks the named hosts, or all.
///
/// # Errors
/// Where a named host is not managed, or the store or the identity cannot be used.
pub(super) async fn check(context: &Context, accounts: Vec<Account>, concurrency: u16) -> Result<Exit, Failure> {
    let mut records = Vec::new();
    let mut unreadable = Vec::new();
    if accounts.is_empty() {
        for record in hosts(context).await? {
            match record {
                Ok(record) => records.push(record),
                Err(failure) => unreadable.push(failure.message),
            }
        }
    }
    for account in accounts {
        records.push(host(context, &account).await?.body);
    }
    if records.is_empty() && unreadable.is_empty() {
        context.output.document(&json!({ "hosts": [], "unreadable": [] }));
        context.output.text("No host is managed yet.");
        return Ok(Exit::Done);
    }
    let known = Arc::new(Known::read(context).await?);
    let places = Arc::new(Semaphore::new(usize::from(concurrency)));
    let mut tasks = JoinSet::new();
    for record in records {
        let (context, places, known) = (context.clone(), Arc::clone(&places), Arc::clone(&known));
        tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            check_host(&context, &record, &known).await
        });
    }
    let mut signals = context.signals.clone();
    let mut reports: Vec<Report> = Vec::new();
    loop {
        tokio::select! {
            report = tasks.join_next() => match report {
                Some(report) => reports.push(report.map_err(|error| Failure::new(format!("a check was lost: {error}")))??),
                None => break,
            },
            () = signals.wait() => return Err(Failure::new("interrupted; nothing was changed anywhere")),
        }
    }
    reports.sort_by(|a, b| a.account.cmp(&b.account));
    let documents: Vec<Value> = reports.iter().map(Report::document).collect();
    let found = json!({ "hosts": documents, "unreadable": unreadable });
    let mut rows = vec![["ACCOUNT", "STATE", "FINDINGS"].map(str::to_owned).to_vec()];
    for report in &reports {
        let mut first = true;
        for finding in report.findings.iter().map(String::as_str).chain(report.findings.is_empty().then_some("")) {
            let account = if first { report.account.to_string() } else { String::new() };
            rows.push(vec![account, if first { report.state.to_owned() } else { String::new() }, finding.to_owned()]);
            first = false;
        }
    }
    context.output.text(table(&rows).trim_end());
    let drifted = reports.iter().filter(|report| report.state != AS_RECORDED).count();
    if drifted == 0 && unreadable.is_empty() {
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    let mut message = format!("{drifted} of {} hosts are not as they should be", reports.len());
    for text in unreadable {
        message.push_str(&format!("; {text}"));
    }
    Err(Failure::new(message).partly().with(found))
}

const AS_RECORDED: &str = "as recorded";

/// The master keys, past and present.
struct Known {
    /// The current one first, then those that hosts may still need.
    keys: Vec<Identity>,
    /// Those that must be found nowhere.
    retired: Vec<PublicKey>,
    /// Whether a rotation is open.
    rotation: Option<RotationRecord>,
    /// Everything that is granted.
    grants: Vec<GrantRecord>,
}

impl Known {
    async fn read(context: &Context) -> Result<Self, Failure> {
        let keys = context.login_keys().await?;
        let mut retired = retired_keys(context).await?;
        retired.retain(|key| keys.first().is_none_or(|current| current.public_key() != key));
        let mut grants = Vec::new();
        for listed in super::grant::listed(context).await? {
            grants.push(listed?);
        }
        Ok(Self { keys, retired, rotation: open_rotation(context).await?, grants })
    }

    fn current(&self) -> Option<&PublicKey> {
        self.keys.first().map(Identity::public_key)
    }

    /// Whether an open rotation is what puts this key on hosts, or takes it away.
    fn is_rotated(&self, key: &PublicKey) -> bool {
        self.rotation.as_ref().is_some_and(|rotation| rotation.old == *key || rotation.new == *key)
    }
}

/// Every master key that was one once; a record that cannot be read is an error, for its key could be anywhere.
///
/// # Errors
/// What the store says.
pub(super) async fn retired_keys(context: &Context) -> Result<Vec<PublicKey>, Failure> {
    let listed = Stored::<RetiredKey>::list(context.store(), &RetiredKey::prefix()).await?;
    Ok(listed.into_iter().map(|stored| stored.map(|stored| stored.body.public_key)).collect::<Result<_, _>>()?)
}

/// The rotation that is open.
async fn open_rotation(context: &Context) -> Result<Option<RotationRecord>, Failure> {
    let Some(current) = Stored::<CurrentMasterKey>::read(context.store(), &CurrentMasterKey::key()?).await? else {
        return Ok(None);
    };
    let key = RotationRecord::key(current.body.generation.saturating_add(1))?;
    let rotation = Stored::<RotationRecord>::read(context.store(), &key).await?.map(|stored| stored.body);
    Ok(rotation.filter(|rotation| !rotation.phase.is_closed()))
}

/// Logs in with the first of these keys that the host takes. The error is that of the first.
///
/// # Errors
/// As [`toehold_core::Connector::log_in`].
pub(super) async fn log_in_with<'k>(
    context: &Context,
    route: &Route,
    policy: &HostKeyPolicy,
    keys: &'k [Identity],
) -> Result<(RusshSession, &'k Identity), ConnectError> {
    let mut refused = None;
    for identity in keys {
        match context.connector.log_in(&Login { route, identity, host_key: policy, query: None }).await {
            Ok(session) => return Ok((session, identity)),
            Err(error @ ConnectError::KeyRefused { .. }) => refused = refused.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| ConnectError::Broken {
        route: route.to_string(),
        doing: "logging in",
        source: "there is no key to log in with".into(),
    }))
}

async fn check_host(context: &Context, record: &HostRecord, known: &Known) -> Result<Report, Failure> {
    let mut report = Report { account: record.route.account.clone(), state: AS_RECORDED, findings: Vec::new(), other_keys: 0 };
    let policy = match context.host_key_policy(&record.route).await {
        Ok(policy) => policy,
        Err(failure) => {
            report.state = "no host key";
            report.findings.push(failure.message);
            return Ok(report);
        }
    };
    let (mut session, used) = match log_in_with(context, &record.route, &policy, &known.keys).await {
        Ok(logged_in) => logged_in,
        Err(error) => {
            report.state = match &error {
                ConnectError::HostKeyRefused { .. } => "host key changed",
                ConnectError::KeyRefused { .. } => "master key refused",
                _ => "unreachable",
            };
            report.findings.push(chain(&error));
            return Ok(report);
        }
    };
    let inspected = inspect(session.files(), record.home.as_deref().unwrap_or(".")).await;
    session.close().await;
    match inspected {
        Ok(inspection) => {
            report.findings = differences(record, known, &inspection, SystemClock.now());
            if known.current().is_some_and(|current| current != used.public_key()) && !known.is_rotated(used.public_key()) {
                report.findings.insert(
                    0,
                    format!(
                        "it refuses the current master key, and still takes {} (toehold key settle leads it to the current one)",
                        used.public_key().fingerprint()
                    ),
                );
            }
            report.other_keys = other_keys(record, &inspection);
            if !report.findings.is_empty() {
                report.state = "drifted";
            }
        }
        Err(error) => {
            report.state = "unreadable";
            report.findings.push(chain(&error));
        }
    }
    Ok(report)
}

/// How many keys there are that are none of ours.
pub(super) fn other_keys(record: &HostRecord, inspection: &Inspection) -> usize {
    inspection
        .files
        .iter()
        .flat_map(|file| file.document.entries())
        .filter_map(|entry| entry.key().filter(|found| !is_grant(found)).and_then(|found| found.public_key()))
        .filter(|key| !record.keys.iter().any(|ours| ours.public_key == *key))
        .count()
}

/// Everything on a host that is not as its record says.
fn differences(record: &HostRecord, known: &Known, inspection: &Inspection, now: Timestamp) -> Vec<String> {
    let mut findings: Vec<String> = inspection.objections.iter().map(|objection| chain(objection)).collect();
    for key in &record.keys {
        let name = format!("{} {}", key.public_key.fingerprint(), key.comment);
        if known.is_rotated(&key.public_key) {
            // Whether it is there, and with which end, changes from one moment to the next.
            continue;
        }
        let copies = copies(inspection, &key.public_key);
        if copies.is_empty() {
            findings.push(format!("missing: {name}"));
            continue;
        }
        let wanted = Options::parse(key.options.as_bytes()).map(|options| options.to_bytes()).unwrap_or_default();
        for file in &inspection.files {
            for entry in file.document.find(&key.public_key).filter(is_no_grant) {
                let theirs = entry.key().and_then(|found| found.options().map(<[u8]>::to_vec)).unwrap_or_default();
                if theirs != wanted {
                    findings.push(format!(
                        "other options on line {} of {}: {name} has \"{}\", should have \"{}\"",
                        entry.number(),
                        file.path,
                        String::from_utf8_lossy(&theirs),
                        key.options
                    ));
                }
            }
        }
        if copies.len() > 1 {
            let places: Vec<String> = copies.iter().map(|(file, line)| format!("{file}:{line}")).collect();
            findings.push(format!("on several lines ({}): {name}", places.join(", ")));
        } else if let Some((KeyFile::AuthorizedKeys2, line)) = copies.first() {
            findings.push(format!("in authorized_keys2, line {line}: {name}"));
        }
    }
    if let Some(current) = known.current()
        && !record.keys.iter().any(|key| key.public_key == *current || known.is_rotated(&key.public_key))
    {
        findings.push(format!("the current master key {} is not among its recorded keys", current.fingerprint()));
    }
    for key in known.retired.iter().filter(|key| !known.is_rotated(key)) {
        for (file, line) in inspection.copies(key) {
            findings.push(format!(
                "a retired master key, {}, is on line {line} of {file}: it was there before, or somebody has put it back",
                key.fingerprint()
            ));
        }
    }
    for file in &inspection.files {
        for entry in file.document.entries() {
            let Some(comment) = entry.key().map(|found| String::from_utf8_lossy(found.comment()).into_owned()) else { continue };
            if let Some(session) = comment.trim().strip_prefix(TEMPORARY_COMMENT_PREFIX) {
                let session = session.trim_start_matches(':');
                findings.push(format!("a temporary key is left on line {} of {}: session {session} (its line was run once more; it ends by itself, and toehold host rm takes it away)", entry.number(), file.path));
            }
        }
    }
    findings.extend(grants_found(record, known, inspection, now));
    if let Some(lock) = &inspection.lock {
        let since = now.saturating_since(Timestamp::from_unix_seconds(lock.since)).as_secs();
        let holder = lock.holder.as_deref().unwrap_or("somebody unknown");
        findings.push(format!("{} is held by {holder}, for {since} s", lock.path));
    }
    findings.extend(inspection.staged.iter().map(|path| format!("{path} was left behind by an interrupted replacement")));
    findings
}

fn is_no_grant(entry: &Entry<'_>) -> bool {
    entry.key().is_none_or(|line| !is_grant(&line))
}

/// The lines that hold a key for good: a grant of the same key is another matter.
fn copies(inspection: &Inspection, key: &PublicKey) -> Vec<(KeyFile, usize)> {
    let in_file = |found: &InspectedFile| {
        found.document.find(key).filter(is_no_grant).map(|entry| (found.file, entry.number())).collect::<Vec<_>>()
    };
    inspection.files.iter().flat_map(in_file).collect()
}

/// The lines of grants that should not be there, and those that should and are not.
fn grants_found(record: &HostRecord, known: &Known, inspection: &Inspection, now: Timestamp) -> Vec<String> {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for file in &inspection.files {
        for entry in file.document.entries() {
            let Some(line) = entry.key().filter(is_grant) else { continue };
            let comment = String::from_utf8_lossy(line.comment()).into_owned();
            let id = comment.strip_prefix(GRANT_COMMENT_PREFIX).and_then(|rest| rest.split_whitespace().next());
            let place = format!("line {} of {}", entry.number(), file.path);
            match known.grants.iter().find(|grant| Some(grant.id.to_string().as_str()) == id) {
                None => findings.push(format!("a grant that is not on record is on {place}: {}", id.unwrap_or("without a name"))),
                Some(grant) if grant.is_owed(now) => {
                    let how = if grant.has_ended(now) {
                        format!("has ended and is still on {place}")
                    } else {
                        format!("was revoked and lets its key in until {}, by {place}", grant.expires_at)
                    };
                    findings.push(format!("grant {} {how} (toehold grant sweep takes it away)", grant.id));
                }
                Some(grant) => seen.push(grant.id),
            }
        }
    }
    let of_host = known.grants.iter().filter(|grant| grant.route.account == record.route.account && !grant.is_owed(now));
    let missing = of_host.filter(|grant| !seen.contains(&grant.id));
    findings.extend(missing.map(|grant| format!("missing: grant {} of {}", grant.id, grant.public_key.fingerprint())));
    findings
}
