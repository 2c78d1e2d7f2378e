//! `toehold spec plan`: what a document would change, on this node or on many that somebody described.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use toehold_core::{Clock as _, Timestamp};
use toehold_specsign::plan::{Action, Plan, Presence, Situation, Wanted, plan as decide};
use toehold_specsign::{
    Belongs, Freshness, Limits, MAX_DOCUMENT, MachineList, NoGovernors, NoHealth, PassError, Placed, Reconciler, RootState,
    Selector, Settings, Verdict,
};

use super::matching::AnyFacts;
use super::{ANY_SOURCE, read_document};
use crate::adapters::archive_fetcher::{ArchiveFetcher, FetchLimits};
use crate::adapters::machine_root::{DirectoryRoot, RootError};
use crate::adapters::node_facts::NodeFacts;
use crate::adapters::node_memory::NodeMemory;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, PlanSpec};
use crate::cli::context::state_directory;
use crate::cli::{Exit, Failure, Output, Signals, chain, printable};

/// Says what would change.
///
/// # Errors
/// Where the documents or the facts cannot be read.
pub(super) fn plan(global: &Global, options: &PlanSpec, output: Output, signals: Signals) -> Result<Exit, Failure> {
    if let Some(root) = &options.root {
        let plan = for_root(global, options, root, signals)?;
        let mut totals = Totals { nodes: 1, ..Totals::default() };
        totals.count(&plan);
        tell(&root.to_string_lossy(), &plan, output);
        if let Some(since) = plan.stale_since {
            totals.end = Some(End::Expired(since));
            output.aside(&format!("the document expired at {since}: what is in place is held, nothing new comes of it"));
        }
        output.document(&totals.document());
        return Ok(if totals.doubt() { Exit::Partly } else { Exit::Done });
    }
    let after = Version::read(&options.file)?;
    let before = options.before.as_deref().map(Version::read).transpose()?;
    let nodes = match &options.facts {
        None => vec![("here".to_owned(), Ok(AnyFacts::here(options.identity.as_deref())))],
        Some(path) => described(path)?,
    };
    let end = after.end();
    let mut totals = Totals { nodes: nodes.len(), end, ..Totals::default() };
    for (name, facts) in nodes {
        match facts {
            Ok(facts) => {
                let plan = for_node(&after, before.as_ref(), &facts);
                totals.count(&plan);
                tell(&name, &plan, output);
            }
            Err(failure) => {
                totals.failed += 1;
                output.document(&json!({ "node": name, "error": failure.message }));
                output.text(format_args!("{name}: {}", printable(&failure.message)));
            }
        }
    }
    match end {
        None => {}
        Some(End::Expired(since)) => output.aside(&format!(
            "the document expired at {since}: no node takes it any more, and one that has it holds what is in place; nothing of this comes to be"
        )),
        Some(End::NotBefore(from)) => output.aside(&format!("the document holds from {from} on: no node takes it before")),
    }
    output.document(&totals.document());
    output.text(totals.text());
    Ok(if totals.doubt() { Exit::Partly } else { Exit::Done })
}

/// How often a root's memory is read again that does not fit together.
const TRIES: u32 = 5;
/// What lies between.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// What the next pass over a root would do.
fn for_root(global: &Global, options: &PlanSpec, root: &Path, signals: Signals) -> Result<Plan, Failure> {
    let document = super::read(&options.file, MAX_DOCUMENT)?;
    let memory = NodeMemory::look(&state_directory(global)?);
    let unusable = |error: &RootError| Failure::new(format!("{}: {}", root.display(), chain(error)));
    let hands = DirectoryRoot::look(root, Some(signals)).map_err(|error| unusable(&error))?;
    let floor = memory.floor_of(root).map_err(|error| Failure::new(chain(&error)))?;
    let mut admission = super::apply::admission(&options.takes, options.name.as_ref())?;
    admission.enveloped_keys = memory.enveloped_keys().map_err(|error| Failure::new(chain(&error)))?;
    let sources = super::apply::sources(&options.takes);
    let mut reconciler = Reconciler {
        root: hands.with_floor(Some(floor)),
        fetcher: ArchiveFetcher::new(sources, FetchLimits::default(), None),
        health: NoHealth,
        governors: NoGovernors,
        clock: SystemClock,
        admission,
        settings: Settings { purge: options.purge_unknown, guard_percent: options.guard, ..Settings::default() },
        sources,
        limits: Limits::default(),
    };
    let facts = NodeFacts::new(options.identity.clone());
    settled(|| reconciler.look(&document, &facts)).map_err(|error| Failure::new(chain(&error)))
}

/// What a pass is writing at this moment is read in parts, some of them old. It fits together the next time, or never.
fn settled<T>(mut look: impl FnMut() -> Result<T, PassError>) -> Result<T, PassError> {
    for _ in 0..TRIES {
        match look() {
            Err(PassError::State(_)) => std::thread::sleep(BETWEEN_TRIES),
            looked => return looked,
        }
    }
    look()
}

/// A list and what its document says of removals, and of itself.
struct Version {
    list: MachineList,
    removals_meant: bool,
    /// From when until when it holds, where it says so.
    holds: Option<(Timestamp, Timestamp)>,
}

/// Why a document does not hold now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Expired(Timestamp),
    NotBefore(Timestamp),
}

impl Version {
    fn read(path: &Path) -> Result<Self, Failure> {
        let (_, document) = read_document(path)?;
        let statement = document.envelope().map(|envelope| envelope.current.statement());
        let removals_meant = statement.is_some_and(|statement| statement.removals_meant);
        let holds = statement.map(|statement| (statement.not_before, statement.expires));
        let unsigned = document.dangerous_without_verification();
        let list = MachineList::parse(unsigned.payload(), ANY_SOURCE)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Self { list, removals_meant, holds })
    }

    /// Why it does not hold now, where it does not.
    fn end(&self) -> Option<End> {
        let now = SystemClock.now();
        match self.holds {
            Some((_, expires)) if now >= expires => Some(End::Expired(expires)),
            Some((from, _)) if now < from => Some(End::NotBefore(from)),
            _ => None,
        }
    }
}

/// The name of a node, and what is known of it.
type Described = (String, Result<AnyFacts, Failure>);

/// The nodes of a directory of facts, or of one file, in the order of their names.
fn described(path: &Path) -> Result<Vec<Described>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("reading {} failed: {error}", path.display()));
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == "json") {
                files.push(file);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(Failure::new(format!("{} has no facts in it: no file *.json", path.display())));
        }
    } else {
        files.push(path.to_owned());
    }
    let name = |file: &PathBuf| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(files.iter().map(|file| (name(file), AnyFacts::of(file))).collect())
}

fn for_node(after: &Version, before: Option<&Version>, facts: &AnyFacts) -> Plan {
    let mut selector = Selector::new(facts);
    let mut state = RootState::default();
    for machine in before.iter().flat_map(|version| version.list.machines()) {
        if selector.belongs(machine) == Belongs::Yes {
            state.placed.insert(machine.name.clone(), Placed { archive: machine.archive, sums: machine.sums });
        }
    }
    let wanted: Vec<Wanted> = after
        .list
        .machines()
        .iter()
        .map(|machine| Wanted {
            name: machine.name.clone(),
            version: Placed { archive: machine.archive, sums: machine.sums },
            belongs: selector.belongs(machine),
            presence: if state.placed.contains_key(&machine.name) { Presence::Intact } else { Presence::Absent },
        })
        .collect();
    let situation = Situation {
        state: &state,
        wanted: &wanted,
        gone: &BTreeSet::new(),
        now: SystemClock.now(),
        freshness: Freshness::Fresh,
        removals_meant: after.removals_meant,
    };
    // What a no comes to in the end, and not on how many evaluations.
    decide(&situation, &Settings { purge: true, noes: 1, ..Settings::default() })
}

/// A verdict in one word, and why.
fn words(verdict: &Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Unchanged => ("unchanged", String::new()),
        Verdict::Deploy(reason) => ("deploy", reason.to_string()),
        Verdict::Adopt => ("adopt", String::new()),
        Verdict::Purge(reason) => ("remove", reason.to_string()),
        Verdict::Skipped => ("skipped", String::new()),
        Verdict::Unknown(reason) => ("unknown", reason.clone()),
        Verdict::Held(reason) => ("held", reason.clone()),
        Verdict::Error(reason) => ("error", reason.clone()),
        _ => ("other", String::new()),
    }
}

fn tell(node: &str, plan: &Plan, output: Output) {
    let told = plan.verdicts.iter().filter(|(_, verdict)| !matches!(verdict, Verdict::Unchanged | Verdict::Skipped));
    let machines: Vec<Value> = told
        .clone()
        .map(|(name, verdict)| {
            let (word, reason) = words(verdict);
            json!({ "machine": name, "verdict": word, "reason": Some(reason).filter(|reason| !reason.is_empty()) })
        })
        .collect();
    let count = |verdict: &Verdict| plan.verdicts.values().filter(|other| *other == verdict).count();
    let (unchanged, skipped) = (count(&Verdict::Unchanged), count(&Verdict::Skipped));
    output.document(&json!({ "node": node, "machines": machines, "unchanged": unchanged, "skipped": skipped }));
    output.text(format_args!("{node}: {unchanged} unchanged, {skipped} do not belong there"));
    for (name, verdict) in told {
        let (word, reason) = words(verdict);
        let lines: Vec<String> = reason.lines().map(printable).collect();
        output.text(format_args!("  {word} {name}{}{}", if lines.is_empty() { "" } else { ": " }, lines.join("\n    ")));
    }
}

#[derive(Default)]
struct Totals {
    nodes: usize,
    deploy: usize,
    remove: usize,
    held: usize,
    unknown: usize,
    error: usize,
    failed: usize,
    /// Why nothing of it comes to be at all.
    end: Option<End>,
}

impl Totals {
    fn count(&mut self, plan: &Plan) {
        for action in &plan.actions {
            match action {
                Action::Deploy(..) => self.deploy += 1,
                Action::Purge(..) => self.remove += 1,
                _ => {}
            }
        }
        for verdict in plan.verdicts.values() {
            match verdict {
                Verdict::Held(_) => self.held += 1,
                Verdict::Unknown(_) => self.unknown += 1,
                Verdict::Error(_) => self.error += 1,
                _ => {}
            }
        }
    }

    /// Whether something would not come to be as the list says.
    fn doubt(&self) -> bool {
        self.held + self.unknown + self.error + self.failed > 0 || self.end.is_some()
    }

    fn document(&self) -> Value {
        let Self { nodes, deploy, remove, held, unknown, error, failed, end } = self;
        let (expired, not_before) = match end {
            None => (None, None),
            Some(End::Expired(at)) => (Some(at), None),
            Some(End::NotBefore(at)) => (None, Some(at)),
        };
        json!({
            "nodes": nodes, "deploy": deploy, "remove": remove, "held": held, "unknown": unknown, "error": error, "unreadable": failed,
            "expired": expired, "not_before": not_before,
        })
    }

    fn text(&self) -> String {
        let Self { nodes, deploy, remove, held, unknown, error, failed, .. } = self;
        format!(
            "{nodes} nodes: {deploy} to be put into place, {remove} to be removed, {held} held, {unknown} cannot be told, {error} in error{}",
            if *failed > 0 { format!(", {failed} nodes whose facts cannot be read") } else { String::new() }
        )
    }
}

#[cfg(test)]
mod tests {
    use toehold_specsign::{AdmissionError, StateError};

    use super::*;

    #[test]
    fn what_does_not_fit_together_is_read_again_and_nothing_else_is() {
        let asked = |answers: &mut dyn FnMut(u32) -> Result<(), PassError>| {
            let mut count = 0;
            let end = settled(|| {
                count += 1;
                answers(count)
            });
            (end.is_ok(), count)
        };
        let parts = || Err(StateError::Diverged { first: 3, second: 5 }.into());
        assert_eq!(asked(&mut |count| if count < 3 { parts() } else { Ok(()) }), (true, 3));
        assert_eq!(asked(&mut |_| parts()), (false, TRIES + 1));
        assert_eq!(asked(&mut |_| Err(AdmissionError::NoKeys.into())), (false, 1));
    }
}
