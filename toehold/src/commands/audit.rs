//! `toehold audit ls`, `audit verify` and `audit export`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use toehold_core::{AuditEntry, AuditExport, AuditFault, AuditFlaw, AuditHead, AuditLog, AuditReport, Clock as _, Timestamp};

use crate::adapters::system_clock::SystemClock;
use crate::audit_seen::{self, AuditSeen, AuditSeenError};
use crate::cli::args::{Audit, AuditList, AuditVerify, Global};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, Output, Signals, chain, table};
use crate::private;

/// The most bytes that a file to verify may have.
const MAX_FILE: u64 = 4 * 1024 * 1024 * 1024;

/// Does what was asked for.
///
/// # Errors
/// Where the log or the file cannot be read; exit code 3 where something is wrong with it.
pub(super) async fn run(global: &Global, command: Audit, output: Output, signals: Signals) -> Result<Exit, Failure> {
    match command {
        Audit::Verify(AuditVerify { file: Some(file), .. }) => verify_file(&file, output),
        Audit::Verify(options) => verify(&Context::open(global, output, signals).await?, options.accept).await,
        Audit::Ls(options) => list(&Context::open(global, output, signals).await?, &options).await,
        Audit::Export { output: file } => export(&Context::open(global, output, signals).await?, file.as_deref()).await,
    }
}

/// The most bytes of an entry's details in the table, which is as wide as the longest.
const MAX_SHOWN: usize = 400;

/// An entry's details in the table. What was cut before it went on record says so in any case (`…_cut`).
fn shown(details: &BTreeMap<String, String>) -> String {
    let text: Vec<String> = details.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let text = text.join(" ");
    if text.len() <= MAX_SHOWN {
        return text;
    }
    let start = text.get(..text.floor_char_boundary(MAX_SHOWN)).unwrap_or_default();
    let kept: String =
        details.iter().filter_map(|(name, value)| Some(format!("; of {}: {value}", name.strip_suffix("_cut")?))).collect();
    let all = if kept.is_empty() { "--json has all" } else { "--json has all that is on record" };
    format!("{start}… ({} bytes; {all}{kept})", text.len())
}

async fn list(context: &Context, options: &AuditList) -> Result<Exit, Failure> {
    let log = AuditLog::read(context.store()).await?;
    let now = SystemClock.now();
    let since = options.since.map_or(Timestamp::from_unix_seconds(i64::MIN), |since| since.from(now));
    let until = options.until.map_or(Timestamp::from_unix_seconds(i64::MAX), |until| until.from(now));
    let is_of = |writer: &str| options.writer.as_deref().is_none_or(|wanted| wanted == writer);
    let is_wanted = |writer: &str, entry: &AuditEntry| {
        let event = &entry.event;
        (since..=until).contains(&event.at)
            && is_of(writer)
            && options.what.as_deref().is_none_or(|what| event.what.starts_with(what))
            && options.subject.as_deref().is_none_or(|subject| event.subject == subject)
    };
    let mut rows = vec![["TIME", "WHAT", "SUBJECT", "DETAILS", "WRITER", "ENTRY"].map(str::to_owned).to_vec()];
    let mut documents = Vec::new();
    for (writer, entry) in log.by_time().into_iter().filter(|(writer, entry)| is_wanted(writer, entry)) {
        let AuditEntry { number, event, .. } = entry;
        if context.output.json {
            documents.push(json!({
                "at": event.at, "what": event.what, "subject": event.subject, "details": event.details,
                "writer": writer, "number": number, "hash": entry.hash(),
            }));
            continue;
        }
        rows.push(vec![
            event.at.to_string(),
            event.what.clone(),
            event.subject.clone(),
            shown(&event.details),
            short(writer),
            number.to_string(),
        ]);
    }
    let unreadable: Vec<AuditFault> = log
        .places()
        .filter(|(writer, ..)| is_of(writer))
        .filter_map(|(writer, number, found)| {
            let flaw = found.as_ref().err()?.clone();
            Some(AuditFault { writer: writer.to_owned(), number, flaw })
        })
        .collect();
    let found = json!({ "entries": documents, "unreadable": unreadable.iter().map(fault_document).collect::<Vec<_>>() });
    if rows.len() > 1 {
        context.output.text(table(&rows).trim_end());
    } else {
        context.output.text("The audit log has no such entries.");
    }
    if unreadable.is_empty() {
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    let words: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
    Err(Failure::new(words.join("; ")).hint("see what else is wrong: toehold audit verify").partly().with(found))
}

/// An age recipient is recognised by its beginning.
fn short(writer: &str) -> String {
    match writer.get(..12) {
        Some(beginning) if writer.starts_with("age1") && writer.len() > 12 => format!("{beginning}…"),
        _ => writer.to_owned(),
    }
}

async fn verify(context: &Context, accept: bool) -> Result<Exit, Failure> {
    let directory = context.state.directory();
    let seen = match audit_seen::read(directory) {
        Ok(seen) => seen,
        Err(AuditSeenError::Damaged { .. }) if accept => AuditSeen::default(),
        Err(error) => {
            return Err(Failure::new(chain(&error)).hint("take the log as it is from now on: toehold audit verify --accept"));
        }
    };
    // Read after what was seen: of two that verify at once, the later look is at a log that has grown.
    let log = AuditLog::read(context.store()).await?;
    let report = log.verify(if accept { const { &BTreeMap::new() } } else { &seen.heads });
    if accept {
        audit_seen::accept(directory, heads(&report))?;
    } else {
        remember(directory, &seen, &log, &report)?;
    }
    told(&report, context.output, if accept { 0 } else { seen.heads.len() }, "the audit log")
}

/// Keeps the ends of the chains in which nothing is wrong, by what is remembered now; of the others, those that were seen before.
fn remember(directory: &Path, seen: &AuditSeen, log: &AuditLog, report: &AuditReport) -> Result<(), AuditSeenError> {
    audit_seen::remember(directory, seen, |there| {
        if *there == seen.heads { report.sound_heads() } else { log.verify(there).sound_heads() }
    })
}

/// Verifies what the store holds, against what was seen here, for whoever is about to remove some of it; and keeps what is seen now, which
/// tells afterwards that what is left descends from it.
///
/// # Errors
/// What the store says, and where the memory cannot be read.
pub(super) async fn look(context: &Context) -> Result<(AuditLog, AuditReport), Failure> {
    let directory = context.state.directory();
    let seen = audit_seen::read(directory)?;
    let log = AuditLog::read(context.store()).await?;
    let report = log.verify(&seen.heads);
    remember(directory, &seen, &log, &report)?;
    Ok((log, report))
}

/// Verifies what the store holds against what was seen here, as a task that is done again and again.
///
/// # Errors
/// Where something is wrong with it, or it cannot be read.
pub(super) async fn verify_again(context: &Context) -> Result<Exit, Failure> {
    let (_, report) = look(context).await?;
    told(&report, context.output.mute(), 0, "the audit log").map_err(|failure| Failure::new(failure.message))
}

/// The last entries as they are.
fn heads(report: &AuditReport) -> BTreeMap<String, AuditHead> {
    report.chains.iter().filter_map(|chain| Some((chain.writer.clone(), chain.head.clone()?))).collect()
}

fn verify_file(file: &Path, output: Output) -> Result<Exit, Failure> {
    let bytes = super::store::read_file(file, MAX_FILE)?;
    let (export, flaw) = match AuditExport::parse(&bytes) {
        Ok(export) => (export, None),
        Err((Some(export), error)) => (export, Some(error)),
        Err((None, error)) => return Err(Failure::new(format!("{}: {}", file.display(), chain(&error)))),
    };
    let report = export.log.verify(&BTreeMap::new());
    let name = file.display().to_string();
    let Some(flaw) = flaw else { return told(&report, output, 0, &name) };
    tell(&report, output);
    let mut found = document(&report, 0);
    if let Some(found) = found.as_object_mut() {
        found.insert("file".to_owned(), Value::from(flaw.to_string()));
    }
    Err(Failure::new(format!("{name}: {flaw}")).partly().with(found))
}

/// Says what was found, and ends accordingly.
fn told(report: &AuditReport, output: Output, compared: usize, what: &str) -> Result<Exit, Failure> {
    tell(report, output);
    let found = document(report, compared);
    if report.faults.is_empty() {
        output.document(&found);
        return Ok(Exit::Done);
    }
    let faults: Vec<String> = report.faults.iter().take(5).map(ToString::to_string).collect();
    let more = report.faults.len().saturating_sub(faults.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Failure::new(format!("{what} is not as its writers wrote it: {}{more}", faults.join("; ")))
        .hint("compare it with an export (toehold audit verify --file FILE) or a backup")
        .partly()
        .with(found))
}

fn tell(report: &AuditReport, output: Output) {
    for chain in &report.chains {
        let by = match &chain.pruned_by {
            Some((by, at)) => format!(", from {} on (the ones before were removed by {}, {at})", chain.first, short(by)),
            None => String::new(),
        };
        let links = match chain.links {
            0 => "named by no other writer".to_owned(),
            1 => "named once by others".to_owned(),
            links => format!("named {links} times by others"),
        };
        output.text(format_args!("{}: {} entries{by}; {links}", chain.writer, chain.entries));
    }
    for fault in &report.faults {
        output.text(crate::cli::printable(&fault.to_string()));
    }
    if report.chains.is_empty() && report.faults.is_empty() {
        output.text("The audit log is empty.");
    } else if report.faults.is_empty() {
        output.text("The audit log is as its writers wrote it.");
        if report.chains.len() > 1 && !report.is_linked() {
            output.text("It has no cross links: that the end of a chain is missing can be seen only by who has seen it before.");
        }
    }
}

fn document(report: &AuditReport, compared: usize) -> Value {
    let chains = report.chains.iter().map(|chain| {
        json!({
            "writer": chain.writer,
            "first": chain.first,
            "entries": chain.entries,
            "head": chain.head,
            "links": chain.links,
            "pruned_by": chain.pruned_by.as_ref().map(|(by, _)| by),
            "pruned_at": chain.pruned_by.as_ref().map(|(_, at)| at),
        })
    });
    json!({
        "chains": chains.collect::<Vec<_>>(),
        "linked": report.is_linked(),
        "compared_with_earlier": compared,
        "faults": report.faults.iter().map(fault_document).collect::<Vec<_>>(),
    })
}

fn fault_document(fault: &AuditFault) -> Value {
    let unreadable = matches!(fault.flaw, AuditFlaw::Unreadable { .. });
    json!({ "writer": fault.writer, "number": fault.number, "what": fault.flaw.to_string(), "unreadable": unreadable })
}

async fn export(context: &Context, file: Option<&Path>) -> Result<Exit, Failure> {
    let log = AuditLog::read(context.store()).await?;
    let entries = log.places().count();
    let unreadable = log.places().filter(|(.., found)| found.is_err()).count();
    let bytes = AuditExport { made_at: SystemClock.now(), log }.to_bytes()?;
    match file {
        // It is JSON lines by itself, whatever --json says.
        None => context.output.raw(&String::from_utf8_lossy(&bytes)),
        Some(file) => {
            if !private::write_new(file, &bytes)? {
                return Err(Failure::new(format!("{} exists already", file.display())).hint("name a new file: --output FILE"));
            }
            let found = json!({ "file": file, "entries": entries, "unreadable": unreadable });
            context.output.text(format_args!("Wrote {}: {entries} entries.", file.display()));
            if unreadable > 0 {
                let words = format!("{unreadable} entries cannot be read, and stand in the file as that");
                return Err(Failure::new(words).hint("see which: toehold audit verify").partly().with(found));
            }
            context.output.document(&found);
        }
    }
    if unreadable == 0 {
        return Ok(Exit::Done);
    }
    // Standard output holds the export alone.
    context.output.aside(&format!("{unreadable} entries cannot be read, and stand in it as that: toehold audit verify"));
    Ok(Exit::Partly)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_entry_is_cut_in_the_table_and_says_so() {
        let of = |details: &[(&str, &str)]| {
            shown(&details.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[("kind", "command"), ("what", "true")]), "kind=command what=true");
        let long = "ä".repeat(1000);
        let cut = of(&[("what", &long)]);
        assert!(cut.starts_with("what=ää") && cut.ends_with("… (2005 bytes; --json has all)") && cut.len() < 500, "{cut}");
        let cut = of(&[("what", &long), ("what_cut", "2000 of 9000 bytes"), ("what_sha256", "ab")]);
        assert!(cut.ends_with("--json has all that is on record; of what: 2000 of 9000 bytes)") && cut.len() < 600, "{cut}");
    }
}
