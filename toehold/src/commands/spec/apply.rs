//! `toehold spec apply`: brings a directory of machines to what a document says.

mod document;
mod governors;
mod report;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant};

use toehold_specsign::{Outcome, PassError, Reconciler, Report};
use tokio::time::{sleep, timeout};

use crate::adapters::archive_fetcher::ArchiveFetcher;
use crate::adapters::health_command::HealthCommand;
use crate::adapters::machine_root::{DirectoryRoot, RootError};
use crate::adapters::node_facts::NodeFacts;
use crate::adapters::node_memory::NodeMemory;
use crate::adapters::notifications::Notifications;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{ApplySpec, Global};
use crate::cli::{Exit, Failure, Output, Signals, chain};
use crate::private::PrivateError;
use document::DocumentSource;
use governors::NodeGovernors;
use report::Told;

pub(super) use settings::{admission, sources};

type RealReconciler = Reconciler<DirectoryRoot, ArchiveFetcher, HealthCommand, NodeGovernors, SystemClock>;

/// How a pass ended, where one was made at all.
struct Passed {
    report: Report,
    /// Why it was made with the last good document, and not with the one that is there.
    refused: Option<String>,
}

/// Applies a document, once or again and again.
///
/// # Errors
/// Why nothing could be done, or what is not as it should be.
pub(super) async fn apply(global: &Global, options: &ApplySpec, output: Output, signals: Signals) -> Result<Exit, Failure> {
    if output.json && options.notify.as_ref().is_some_and(|target| target.as_os_str() == "-") {
        return Err(Failure::usage("--json and --notify - both write to standard output").hint("let --notify name a file"));
    }
    let mut admission = settings::admission(&options.takes, options.name.as_ref())?;
    admission.trust_clock = options.trust_clock;
    let health = settings::health(options)?;
    let facts = NodeFacts::new(options.identity.clone());
    let state = settings::state(global, options)?;
    let governors = settings::governors(global, options, state.as_ref(), &facts)?;
    let source = DocumentSource::new(global, options, state.as_ref())?;
    let root = DirectoryRoot::open(&options.root, Some(signals.clone())).map_err(|error| unusable(options, &error))?;
    let memory = settings::memory(global)?;
    let floor = memory.as_ref().map(|memory| memory.floor_of(&options.root)).transpose();
    let root = root.with_floor(floor.map_err(|error| Failure::new(chain(&error)))?).with_memory(memory.clone());
    let told = Arc::new(Told::new(output, options.notify.clone().map(Notifications::named)));
    let (sources, limits) = (settings::sources(&options.takes), settings::fetch_limits(global, options));
    let reconciler = Reconciler {
        root,
        fetcher: ArchiveFetcher::new(sources, limits, told.progress()),
        health,
        governors,
        clock: SystemClock,
        admission,
        settings: settings::settings(options),
        sources,
        limits: toehold_specsign::Limits::default(),
    };
    Apply { reconciler, source, facts, told, memory, signals }.run(options).await
}

fn unusable(options: &ApplySpec, error: &RootError) -> Failure {
    let failure = Failure::new(format!("{}: {}", options.root.display(), chain(error)));
    match error {
        RootError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => failure.hint("make the directory first"),
        _ => failure,
    }
}

/// How long somebody who wants out waits for a slot to be given back.
const GIVING_BACK: Duration = Duration::from_secs(5);

struct Apply {
    reconciler: RealReconciler,
    source: DocumentSource,
    facts: NodeFacts,
    told: Arc<Told>,
    memory: Option<NodeMemory>,
    signals: Signals,
}

impl Apply {
    async fn run(mut self, options: &ApplySpec) -> Result<Exit, Failure> {
        loop {
            let begun = Instant::now();
            let mut signals = self.signals.clone();
            let passed = tokio::select! {
                biased;
                () = signals.wait() => None,
                passed = self.pass() => Some(passed),
            };
            let Some(passed) = passed.filter(|_| !self.signals.came()) else {
                // What was being unpacked has gone to the trash with its pass.
                let _ = self.reconciler.root.tidy();
                // A store or a gateway that does not answer holds nobody up: the slot ends by itself.
                if !matches!(timeout(GIVING_BACK, self.reconciler.governors.let_go()).await, Ok(Ok(()))) {
                    tracing::warn!("the slot of this update could not be given back; it ends by itself");
                }
                return Err(Failure::new("stopped by a signal in the middle of a pass; every machine is whole")
                    .hint("the next toehold spec apply goes on where this one ended")
                    .partly());
            };
            let ended = self.tell(passed, begun, options);
            let Some(interval) = options.interval else { return ended };
            if let Err(failure) = &ended {
                self.told.failed(failure);
            }
            tokio::select! {
                () = sleep(interval.saturating_sub(begun.elapsed())) => {}
                () = signals.wait() => return ended,
            }
        }
    }

    /// A pass with the document that is there, or with the last good one where that cannot be taken: what is in place is held
    /// and mended meanwhile.
    async fn pass(&mut self) -> Result<Passed, Failure> {
        let forgetful = |error: PrivateError| Failure::new(chain(&error));
        if let Some(memory) = &self.memory {
            self.reconciler.admission.enveloped_keys = memory.enveloped_keys().map_err(forgetful)?;
        }
        let refused = match self.source.read().await {
            Ok((document, begin)) => {
                if let Some(begin) = begin {
                    // What was named here goes before what came with the join.
                    let admission = &mut self.reconciler.admission;
                    admission.trusted.get_or_insert(begin.keys);
                    admission.min_serial = admission.min_serial.max(begin.serial);
                }
                match self.reconciler.pass(&document, &self.facts).await {
                    Ok(report) => return Ok(Passed { report, refused: None }),
                    Err(error) => failure(&error)?,
                }
            }
            Err(failure) => failure,
        };
        let last = self.reconciler.last_good().map_err(|error| Failure::new(chain(&error)))?;
        let Some(last) = last else { return Err(refused) };
        match self.reconciler.pass(&last, &self.facts).await {
            Ok(report) => Ok(Passed { report, refused: Some(refused.message) }),
            // The other one is what somebody has to look at.
            Err(_) => Err(refused),
        }
    }

    fn tell(&self, passed: Result<Passed, Failure>, begun: Instant, options: &ApplySpec) -> Result<Exit, Failure> {
        if let Ok(Passed { report, .. }) = &passed {
            self.told.takes(report.format);
        }
        let (names, outcome) = match &passed {
            Ok(Passed { report, refused: None }) => (report.names.as_slice(), report.outcome),
            Ok(Passed { report, refused: Some(_) }) => (report.names.as_slice(), Outcome::Error),
            Err(_) => (&[][..], Outcome::Error),
        };
        self.told.notify(self.facts_name(), names, outcome, begun.elapsed());
        let Passed { report, refused } = passed?;
        self.told.report(&report, refused.as_deref(), options)
    }

    fn facts_name(&self) -> String {
        use toehold_specsign::Facts as _;
        self.facts.identity().unwrap_or("unknown").to_owned()
    }
}

/// What to make of a pass that could not be made: an error that is about the document leaves the last good one to go on with.
fn failure(error: &PassError) -> Result<Failure, Failure> {
    let failure = Failure::new(chain(error));
    match error {
        PassError::Admission(_) | PassError::List(_) => Ok(failure),
        PassError::Root { .. } => Err(failure.hint("run it again: it goes on where this one ended").partly()),
        _ => Err(failure),
    }
}
