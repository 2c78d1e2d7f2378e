//! What a pass came to, for people, for programs and for who is notified.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use toehold_core::Clock as _;
use toehold_specsign::plan::REMOVING_IS_OFF;
use toehold_specsign::{Format, Freshness, MachineName, Notification, Notifier, Outcome, Report, Verdict};

use crate::adapters::archive_fetcher::Progress;
use crate::adapters::notifications::Notifications;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::ApplySpec;
use crate::cli::{Exit, Failure, Output, printable, table};

/// How often a pass is notified of that is no news.
const STILL_THE_SAME: Duration = Duration::from_secs(3600);

/// Whom a run tells what.
#[derive(Debug)]
pub(super) struct Told {
    output: Output,
    notifications: Option<Notifications>,
    notified: Mutex<Option<(Outcome, Instant)>>,
    machine_id: String,
    /// What the root takes lists of, as far as it is known.
    format: Mutex<Format>,
    bar: Option<Arc<Bar>>,
}

impl Told {
    pub(super) fn new(output: Output, notifications: Option<Notifications>) -> Self {
        let bar = (!output.json && std::io::stderr().is_terminal()).then(Arc::default);
        Self { output, notifications, notified: Mutex::default(), machine_id: uuid(), format: Mutex::new(Format::Machines), bar }
    }

    pub(super) fn progress(&self) -> Option<Arc<dyn Progress>> {
        self.bar.clone().map(|bar| bar as Arc<dyn Progress>)
    }

    /// What the root takes lists of.
    pub(super) fn takes(&self, format: Format) {
        *self.format.lock().unwrap_or_else(PoisonError::into_inner) = format;
    }

    /// Whether lines for people would stand between the notifications.
    fn is_quiet(&self) -> bool {
        self.notifications == Some(Notifications::Output)
    }

    /// Notifies at once of what is news, and now and then of the rest. A notification that cannot be sent ends nothing.
    pub(super) fn notify(&self, identity: String, names: &[MachineName], outcome: Outcome, run_time: Duration) {
        let Some(notifications) = &self.notifications else { return };
        let mut last = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|(before, at)| outcome.is_news() || before != outcome || at.elapsed() >= STILL_THE_SAME);
        if !due {
            return;
        }
        let notifier = Notifier {
            identity,
            machine_id: self.machine_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: "toehold".to_owned(),
            watcher: "spec".to_owned(),
        };
        let notification = Notification {
            notifier: &notifier,
            format: *self.format.lock().unwrap_or_else(PoisonError::into_inner),
            id: &uuid(),
            time: SystemClock.now(),
            names,
            outcome,
            run_time: u64::try_from(run_time.as_nanos()).unwrap_or(u64::MAX),
        };
        let sent = notification.to_json().map_err(std::io::Error::other).and_then(|event| notifications.send(&event));
        match sent {
            Ok(()) => *last = Some((outcome, Instant::now())),
            Err(error) => tracing::warn!("a notification could not be sent: {error}"),
        }
    }

    /// A pass that could not be made, where others follow.
    pub(super) fn failed(&self, failure: &Failure) {
        if failure.exit == Exit::Failed {
            self.output.document(&json!({ "event": "pass", "outcome": Outcome::Error, "error": failure.message }));
        }
        tracing::warn!("{}", printable(&failure.message));
    }

    /// Prints a report, and says how the command ends with it.
    pub(super) fn report(&self, report: &Report, refused: Option<&str>, options: &ApplySpec) -> Result<Exit, Failure> {
        let document = if self.output.json { document(report, refused) } else { Value::Null };
        if !self.is_quiet() {
            self.text(report);
        }
        match trouble(report, refused, options) {
            None => {
                self.output.document(&document);
                Ok(Exit::Done)
            }
            // Once, the document goes out with the failure.
            Some(trouble) if options.interval.is_none() => Err(Failure::new(trouble).with(document).partly()),
            Some(trouble) => {
                self.output.document(&document);
                Err(Failure::new(trouble).partly())
            }
        }
    }

    fn text(&self, report: &Report) {
        let output = self.output;
        let mut rows = vec![["MACHINE", "STATE", "WHY"].map(str::to_owned).to_vec()];
        for (name, verdict) in &report.machines {
            if !matches!(verdict, Verdict::Unchanged | Verdict::Skipped) {
                rows.push(vec![name.to_string(), state(verdict).to_owned(), why(verdict)]);
            }
        }
        if rows.len() > 1 {
            output.text(table(&rows).trim_end());
        }
        let counts = counts(report).into_iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ");
        let serial = report.serial.map_or_else(|| "no envelope".to_owned(), |serial| format!("serial {serial}"));
        let counts = if counts.is_empty() { "no machines".to_owned() } else { counts };
        output.text(format_args!("{counts} ({serial})."));
        if !report.unknown_members.is_empty() {
            tracing::warn!("members of the list that are not known: {}", printable(&report.unknown_members.join(", ")));
        }
        if report.mended_state {
            tracing::warn!("a copy of the root's state was damaged or gone, and was written anew");
        }
    }
}

/// What is not as it should be, if anything is.
fn trouble(report: &Report, refused: Option<&str>, options: &ApplySpec) -> Option<String> {
    let mut troubles = Vec::new();
    if let Some(refused) = refused {
        troubles.push(format!("{refused}; what is in place is held by the last good document"));
    }
    if let (Freshness::Stale { since }, Some(seen)) = (report.freshness, report.clock_behind) {
        troubles.push(format!(
            "the document expired at {since} by the highest time that was seen here, {seen}, which this node's clock is behind: what is \
             in place is held; if the clock was wrong then and is right now, say so once (--trust-clock)"
        ));
    } else if let Freshness::Stale { since } = report.freshness {
        troubles.push(format!("the document expired at {since}: what is in place is held, nothing new comes of it"));
    }
    let open: Vec<&str> =
        report.machines.iter().filter(|(_, verdict)| is_open(verdict, options)).map(|(name, _)| name.as_str()).collect();
    if let Some(first) = open.first() {
        let others = open.len() - 1;
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        troubles.push(format!("not as it should be: {first}{others}"));
    }
    (!troubles.is_empty()).then(|| troubles.join("; "))
}

/// Whether a machine is not what the document wants, by what this run was told to do.
fn is_open(verdict: &Verdict, options: &ApplySpec) -> bool {
    match verdict {
        Verdict::Error(_) | Verdict::Unknown(_) => true,
        Verdict::Held(reason) => options.purge_unknown || !reason.ends_with(REMOVING_IS_OFF),
        _ => false,
    }
}

/// In the seed's words, and one of ours.
fn state(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Unchanged => "unchanged",
        Verdict::Deploy(_) | Verdict::Adopt | Verdict::Purge(_) => "updated",
        Verdict::Skipped => "skipped",
        Verdict::Unknown(_) => "unknown",
        Verdict::Held(_) => "held",
        _ => "error",
    }
}

fn why(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Deploy(reason) => format!("put into place: {reason}"),
        Verdict::Adopt => "was there already, and is taken over".to_owned(),
        Verdict::Purge(reason) => format!("removed: {reason}"),
        Verdict::Unknown(reason) | Verdict::Held(reason) | Verdict::Error(reason) => reason.clone(),
        _ => String::new(),
    }
}

fn counts(report: &Report) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for verdict in report.machines.values() {
        *counts.entry(state(verdict)).or_default() += 1;
    }
    counts
}

fn document(report: &Report, refused: Option<&str>) -> Value {
    let machines: serde_json::Map<String, Value> = report
        .machines
        .iter()
        .map(|(name, verdict)| {
            let mut machine = json!({ "state": state(verdict) });
            let why = why(verdict);
            if let (Some(object), false) = (machine.as_object_mut(), why.is_empty()) {
                object.insert("why".to_owned(), Value::from(why));
            }
            (name.to_string(), machine)
        })
        .collect();
    let stale_since = match report.freshness {
        Freshness::Fresh => None,
        Freshness::Stale { since } => Some(since),
    };
    json!({
        "event": "pass",
        "outcome": report.outcome,
        "serial": report.serial,
        "stale_since": stale_since,
        "clock_behind": report.clock_behind,
        "refused": refused,
        "counts": counts(report),
        "machines": machines,
        "unknown_members": report.unknown_members,
        "mended_state": report.mended_state,
    })
}

/// A random UUID (RFC 9562 §5.4).
fn uuid() -> String {
    let mut bytes = [0; 16];
    // An id that is not random names an event all the same.
    let _ = getrandom::fill(&mut bytes);
    let number = u128::from_be_bytes(bytes) & !(0xf000 << 64 | 0xc000 << 48) | 0x4000 << 64 | 0x8000 << 48;
    let hex = format!("{number:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// A bar for the archive that is on its way.
#[derive(Debug, Default)]
struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn begins(&self, name: &str, bytes: Option<u64>) {
        self.with(|bar| {
            let new = bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            if let Ok(style) = ProgressStyle::with_template("{msg} {bar:24} {bytes}/{total_bytes} ({bytes_per_sec})") {
                new.set_style(style);
            }
            new.set_message(printable(name));
            *bar = Some(new);
        });
    }

    fn has(&self, bytes: u64) {
        self.with(|bar| {
            if let Some(bar) = bar {
                bar.set_position(bytes);
            }
        });
    }

    fn ends(&self) {
        self.with(|bar| {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids() {
        let (one, other) = (uuid(), uuid());
        assert_ne!(one, other);
        assert_eq!((one.len(), one.get(14..15)), (36, Some("4")));
        assert!(matches!(one.get(19..20), Some("8" | "9" | "a" | "b")), "{one}");
    }
}
