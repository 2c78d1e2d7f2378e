//! What a rotation shows while it runs: a bar with counts per phase and the slowest hosts, or one JSON event a line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use toehold_core::{Account, HostPhase, RotationPhase};
use toehold_masterkey::{HostOutcome, Observer, Progress};
use tokio::sync::Notify;

use crate::cli::{Output, Signals, printable, table};

/// How many hosts stand in a table before those that went well and fast are left out.
const FULL_TABLE: usize = 40;
/// How many of the slowest hosts are named.
const SLOWEST: usize = 5;

/// How many hosts are named in a sentence.
const NAMED: usize = 5;

/// Watches a run for the operator.
#[derive(Debug)]
pub(super) struct Display {
    output: Output,
    signals: Signals,
    bar: ProgressBar,
    state: Mutex<State>,
    /// Told whenever the fleet has come to another phase.
    pub(super) phases: Notify,
}

#[derive(Debug, Default)]
struct State {
    phase: Option<RotationPhase>,
    hosts: usize,
    /// How far each host has come, of those that were worked on.
    reached: BTreeMap<Account, HostPhase>,
    /// How many have come how far. Kept as they come: to count a large fleet at every event would take longer than the rotation.
    counts: BTreeMap<HostPhase, usize>,
    /// Who is done with what is under way: whoever comes by twice is counted once, so the bar never passes its length.
    done: BTreeSet<Account>,
    /// Since when each host is worked on.
    under_way: BTreeMap<Account, Instant>,
    told_to_leave: bool,
}

impl Display {
    pub(super) fn new(output: Output, signals: Signals) -> Self {
        let hides = output.json || output.is_mute() || !std::io::stderr().is_terminal();
        let bar = if hides { ProgressBar::hidden() } else { ProgressBar::new(0) };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { output, signals, bar, state: Mutex::default(), phases: Notify::new() }
    }

    /// Ends the display.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: &str, details: Value) {
        let mut line = json!({ "event": event });
        if let (Some(line), Value::Object(details)) = (line.as_object_mut(), details) {
            line.extend(details);
        }
        self.output.document(&line);
    }

    /// One that stays above the bar.
    pub(super) fn note(&self, text: &str) {
        let text = printable(text);
        self.bar.suspend(|| drop(writeln!(anstream::stderr(), "{text}")));
    }

    fn draw(&self, state: &State) {
        self.bar.set_length(state.hosts.max(state.done.len()) as u64);
        self.bar.set_position(state.done.len() as u64);
        self.bar.set_message(state.message(Instant::now()));
    }
}

impl State {
    /// One host is done, for better or worse.
    fn reached(&mut self, account: Account, phase: HostPhase) {
        self.under_way.remove(&account);
        self.done.insert(account.clone());
        *self.counts.entry(phase).or_default() += 1;
        if let Some(before) = self.reached.insert(account, phase)
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count = count.saturating_sub(1);
        }
    }

    /// The phase, how many hosts have come how far, and which host has been worked on for longest.
    fn message(&self, now: Instant) -> String {
        let mut text = self.phase.map_or_else(|| "looking".to_owned(), |phase| phase.to_string());
        for (phase, count) in self.counts.iter().filter(|(_, count)| **count > 0) {
            text.push_str(&format!(" · {} {count}", phase.name()));
        }
        let slowest = self.under_way.iter().min_by_key(|(_, since)| **since);
        if let Some((account, since)) = slowest
            && now.saturating_duration_since(*since) >= Duration::from_secs(2)
        {
            text.push_str(&format!(" · slowest {account} {} s", now.saturating_duration_since(*since).as_secs()));
        }
        text
    }
}

impl Observer for Display {
    fn progress(&self, progress: Progress) {
        let mut state = self.state();
        match progress {
            Progress::Phase { phase, hosts } => {
                self.event("phase", json!({ "phase": phase, "hosts": hosts }));
                tracing::info!(%phase, hosts, "the rotation goes on");
                state.phase = Some(phase);
                state.hosts = hosts;
                state.done.clear();
                self.phases.notify_one();
            }
            Progress::HostBegun(account) => {
                self.event("host_begun", json!({ "account": account }));
                state.under_way.insert(account, Instant::now());
            }
            Progress::HostStep { account, step } => {
                tracing::info!(%account, step);
                self.event("host_step", json!({ "account": account, "step": step }));
            }
            Progress::HostRetrying { account, reason } => {
                tracing::info!(%account, %reason, "trying again");
                self.event("host_retrying", json!({ "account": account, "reason": reason }));
            }
            Progress::HostDone { account, phase, took } => {
                self.event("host_done", json!({ "account": account, "phase": phase, "milliseconds": milliseconds(took) }));
                state.reached(account, phase);
            }
            Progress::HostFailed { account, reason, took } => {
                let details = json!({ "account": account, "reason": reason, "milliseconds": milliseconds(took) });
                self.event("host_failed", details);
                self.note(&format!("{account}: {reason}"));
                state.reached(account, HostPhase::Quarantined);
            }
            Progress::Grace(until) => {
                self.event("grace", json!({ "until": until }));
                // Once it is over, every host is visited again, in the same phase of the fleet.
                state.done.clear();
                self.note(&format!("The old key logs in until {until}, then sshd ends it; interrupting now is safe."));
            }
            Progress::Warning(text) => {
                self.event("warning", json!({ "text": text }));
                self.note(&text);
            }
            _ => {}
        }
        self.draw(&state);
    }

    fn is_leaving(&self) -> bool {
        let leaving = self.signals.came();
        if leaving && !std::mem::replace(&mut self.state().told_to_leave, true) {
            self.note("Interrupted: finishing the hosts that are under way.");
        }
        leaving
    }

    async fn wants_out(&self) {
        self.signals.clone().wait().await;
    }
}

/// Prints the hosts as a table, if there are any: all of a small fleet; of a large one those that are not where they should be,
/// and the slowest.
pub(super) fn tell_hosts(output: Output, hosts: &[HostOutcome], wanted: HostPhase) {
    if !hosts.is_empty() {
        output.text(host_table(hosts, wanted).trim_end());
    }
}

/// Accounts in a sentence: the first few by name.
pub(super) fn named<'a>(accounts: impl Iterator<Item = &'a Account>) -> String {
    let names: Vec<String> = accounts.map(Account::to_string).collect();
    let (first, rest) = names.split_at(names.len().min(NAMED));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", first.join(", "))
}

fn host_table(hosts: &[HostOutcome], wanted: HostPhase) -> String {
    let all = hosts.len() <= FULL_TABLE;
    let mut rows = vec![["ACCOUNT", "LABEL", "STATE", "TOOK", "WHY"].map(str::to_owned).to_vec()];
    let mut untouched = 0;
    for host in hosts {
        if !all && is_where_it_was(host.phase, host.reason.as_deref()) {
            untouched += 1;
        }
        if !all && !is_named(host.phase, host.reason.as_deref(), wanted) {
            continue;
        }
        rows.push(vec![
            host.account.to_string(),
            host.label.clone().unwrap_or_default(),
            host.phase.name().to_owned(),
            format!("{:.1} s", host.took.as_secs_f64()),
            host.reason.clone().unwrap_or_default(),
        ]);
    }
    let mut text = if rows.len() > 1 { table(&rows) } else { String::new() };
    if untouched > 0 {
        text.push_str(&format!("not touched: {untouched} hosts\n"));
    }
    if !all {
        let mut slowest: Vec<&HostOutcome> = hosts.iter().collect();
        slowest.sort_by_key(|host| std::cmp::Reverse(host.took));
        let named: Vec<String> =
            slowest.iter().take(SLOWEST).map(|host| format!("{} {:.1} s", host.account, host.took.as_secs_f64())).collect();
        text.push_str(&format!("slowest: {}\n", named.join(", ")));
    }
    text
}

/// Whether a host has a row in the table of a large fleet: not where it should be, and not as it was before all this either.
fn is_named(phase: HostPhase, reason: Option<&str>, wanted: HostPhase) -> bool {
    phase != wanted && !is_where_it_was(phase, reason)
}

fn is_where_it_was(phase: HostPhase, reason: Option<&str>) -> bool {
    phase == HostPhase::Untouched && reason.is_none()
}

/// The hosts as JSON.
pub(super) fn host_documents(hosts: &[HostOutcome]) -> Vec<Value> {
    let document = |host: &HostOutcome| {
        json!({
            "account": host.account,
            "label": host.label,
            "state": host.phase,
            "reason": host.reason,
            "milliseconds": milliseconds(host.took),
        })
    };
    hosts.iter().map(document).collect()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> Account {
        text.parse().unwrap()
    }

    #[test]
    fn the_message_counts_hosts_by_phase_and_names_the_slowest() {
        let begun = Instant::now();
        let mut state = State {
            phase: Some(RotationPhase::Installing),
            under_way: [(account("a@four"), begun), (account("a@five"), begun + Duration::from_secs(3))].into(),
            ..State::default()
        };
        // A host counts where it was last seen.
        for (name, phase) in [("a@one", HostPhase::Proven), ("a@two", HostPhase::Touched), ("a@two", HostPhase::Proven)] {
            state.reached(account(name), phase);
        }
        let message = state.message(begun + Duration::from_secs(7));
        assert_eq!(message, "installing · proven 2 · slowest a@four 7 s");
        assert!(!state.message(begun + Duration::from_secs(1)).contains("slowest"));
    }

    #[tokio::test]
    async fn a_host_that_fails_counts_as_that_and_the_bar_never_passes_its_length() {
        let display = Display::new(Output::new(false), Signals::listen().unwrap());
        let took = Duration::ZERO;
        let done = |name: &str, phase| display.progress(Progress::HostDone { account: account(name), phase, took });
        let stands_at = || (display.bar.position(), display.bar.length());
        display.progress(Progress::Phase { phase: RotationPhase::Installing, hosts: 3 });
        done("a@one", HostPhase::Proven);
        done("a@two", HostPhase::Proven);
        display.progress(Progress::HostFailed { account: account("a@three"), reason: "gone".to_owned(), took });
        assert_eq!(stands_at(), (3, Some(3)));
        assert_eq!(display.state().message(Instant::now()), "installing · proven 2 · quarantined 1");
        // The soft revoke and the removal are one phase of the fleet.
        display.progress(Progress::Phase { phase: RotationPhase::Retiring, hosts: 2 });
        assert_eq!(stands_at(), (0, Some(2)));
        done("a@one", HostPhase::Softened);
        done("a@two", HostPhase::Softened);
        display.progress(Progress::Grace(toehold_core::Timestamp::from_unix_seconds(1_900_000_000)));
        assert_eq!(stands_at(), (0, Some(2)));
        done("a@one", HostPhase::Settled);
        display.progress(Progress::HostFailed { account: account("a@two"), reason: "gone".to_owned(), took });
        done("a@two", HostPhase::Settled);
        assert_eq!(stands_at(), (2, Some(2)));
        assert_eq!(display.state().message(Instant::now()), "retiring · settled 2 · quarantined 1");
        display.finish();
    }

    #[test]
    fn of_a_large_fleet_that_was_taken_back_the_untouched_are_counted_and_those_that_failed_are_named() {
        let named = |phase, reason| is_named(phase, reason, HostPhase::Settled);
        assert!(!named(HostPhase::Settled, None) && !named(HostPhase::Untouched, None));
        assert!(named(HostPhase::Quarantined, Some("gone")) && named(HostPhase::Proven, None));
        assert!(named(HostPhase::Untouched, Some("not begun: interrupted")));
    }
}
