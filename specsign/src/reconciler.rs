//! The pass over a root: take the document, look, plan, do. Every step is journaled before it, and each is one that a crash
//! leaves done or not done.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::io;
use std::time::Duration;

use toehold_core::Clock;

use crate::admission::{Admission, AdmissionError, Admitted, Freshness};
use crate::archive::{ArchiveError, Limits, Unpacker};
use crate::digest::Sha256Digest;
use crate::document::Document;
use crate::events::Outcome;
use crate::governor::Governors;
use crate::machine::{ListError, MachineList, MachineName, ManagedMachine};
use crate::matcher::Facts;
use crate::memory::Memory;
use crate::plan::{Action, Belongs, Plan, Presence, Settings, Situation, Verdict, Wanted, plan, recent};
use crate::root::{ListDigest, MachineRoot, Place, TreeCheck};
use crate::selector::Selector;
use crate::source::SourcePolicy;
use crate::state::{Failed, Phase, Placed, Placing, RootState, StateError};

/// How often the highest time is written down when nothing else is.
const TIME_STEP: Duration = Duration::from_secs(3600);

/// Fetches archives.
///
/// Only the whole content of the source is a success: not another status of HTTP, not a body that is shorter or longer than
/// announced. Credentials go where [`ManagedMachine::credentials_for`] says, also after a redirect.
pub trait Fetcher: Send + Sync {
    /// What is fetched.
    type Body: Body;

    /// Begins.
    fn fetch(&self, machine: &ManagedMachine) -> impl Future<Output = Result<Self::Body, FetchError>> + Send;
}

/// An archive on its way.
pub trait Body: Send {
    /// The next piece, `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, FetchError>> + Send;
}

/// Why something could not be fetched; without credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// Tells whether a machine works in its place.
pub trait Health: Send + Sync {
    /// Asks; the error is for people.
    fn check(&self, name: &MachineName) -> impl Future<Output = Result<(), String>> + Send;
}

/// Every machine that is in place works.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHealth;

impl Health for NoHealth {
    async fn check(&self, _: &MachineName) -> Result<(), String> {
        Ok(())
    }
}

/// Why a pass could not be made. What is in place stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// The document is not taken.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Its list is none.
    #[error(transparent)]
    List(#[from] ListError),
    /// The root's memory cannot be believed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The root failed.
    #[error("{doing} failed in the root")]
    Root {
        /// What was being done, such as `writing the state`.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<crate::document::DocumentError> for PassError {
    fn from(error: crate::document::DocumentError) -> Self {
        Self::Admission(error.into())
    }
}

pub(crate) fn root(doing: &'static str) -> impl FnOnce(io::Error) -> PassError {
    move |source| PassError::Root { doing, source }
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In Choria's words.
    pub outcome: Outcome,
    /// How each machine stands, of the list and of those in place; what was planned and failed is an error here.
    pub machines: BTreeMap<MachineName, Verdict>,
    /// The names of the list, in its order.
    pub names: Vec<MachineName>,
    /// The serial that counts; `None` without an envelope.
    pub serial: Option<u64>,
    /// Whether the document still holds: the last good one, but stale, is a state that people should see.
    pub freshness: Freshness,
    /// Members of the list that were passed over.
    pub unknown_members: Vec<String>,
    /// A copy of the state was damaged or gone, and was written anew.
    pub mended_state: bool,
}

/// All that a pass needs. It keeps nothing between passes: what is remembered is in the root.
#[derive(Debug)]
pub struct Reconciler<R, F, H, G, C> {
    /// The root.
    pub root: R,
    /// Where archives come from.
    pub fetcher: F,
    /// Whether machines work.
    pub health: H,
    /// Who may update now.
    pub governors: G,
    /// The time.
    pub clock: C,
    /// What the operator said about this root.
    pub admission: Admission,
    /// How careful to be.
    pub settings: Settings,
    /// Which sources are taken.
    pub sources: SourcePolicy,
    /// How large archives may be.
    pub limits: Limits,
}

/// What a document would change.
#[derive(Debug)]
struct Looked {
    admitted: Admitted,
    list: MachineList,
    plan: Plan,
    mended: bool,
}

impl<R, F, H, G, C> Reconciler<R, F, H, G, C>
where
    R: MachineRoot,
    F: Fetcher,
    H: Health,
    G: Governors,
    C: Clock,
{
    /// Says what a pass with this document would do, and does none of it; the state stays what it is.
    ///
    /// # Errors
    /// As [`Reconciler::pass`].
    pub fn look<X: Facts + Sync>(&mut self, document: &[u8], facts: &X) -> Result<Plan, PassError> {
        let memory = Memory::load(&mut self.root)?;
        self.judge(&memory.state, false, document, facts).map(|looked| looked.plan)
    }

    /// The last document that was taken, for a pass while there is no newer one, or only one that is not taken: what is in
    /// place is held and mended, and once it has expired the report says so. It is judged again like any other.
    ///
    /// # Errors
    /// [`PassError::Root`].
    pub fn last_good(&mut self) -> Result<Option<Vec<u8>>, PassError> {
        self.root.read_document().map_err(root("reading the last good document"))
    }

    /// One pass.
    ///
    /// # Errors
    /// [`PassError`], where it could not begin or the root failed under it; what one machine came to is in the report.
    pub async fn pass<X: Facts + Sync>(&mut self, document: &[u8], facts: &X) -> Result<Report, PassError> {
        let mut memory = Memory::load(&mut self.root)?;
        // What was read counts as accepted from here on; both copies say so before anything else happens.
        let mended = memory.mend(&mut self.root)?;
        self.recover(&mut memory).await?;
        let looked = self.judge(&memory.state, mended, document, facts)?;
        let mut next = looked.admitted.state.clone();
        next.noes.clone_from(&looked.plan.noes);
        let now = self.clock.now();
        next.removals = recent(&next.removals, now, self.settings.window).collect();
        let kept = next.statement.unwrap_or_else(|| Sha256Digest::of(document));
        if next.document != Some(kept) {
            // Before the serial is: a floor whose document is gone would leave nothing to hold on to.
            self.root.write_document(document).map_err(root("keeping the document"))?;
            next.document = Some(kept);
        }
        // Remembered before anything is done on the document's word. The time alone is not worth a write each minute.
        let time = next.highest_time;
        next.highest_time = memory.state.highest_time;
        let unchanged = next == memory.state;
        next.highest_time = time;
        if !unchanged || time.saturating_since(memory.state.highest_time) >= TIME_STEP {
            memory.state = next;
            memory.save(&mut self.root)?;
        }
        self.perform(memory, looked).await
    }

    fn judge<X: Facts + Sync>(
        &mut self,
        state: &RootState,
        mended: bool,
        document: &[u8],
        facts: &X,
    ) -> Result<Looked, PassError> {
        let now = self.clock.now();
        let admitted = self.admission.admit(state, Document::parse(document)?, now)?;
        let list = MachineList::parse(admitted.payload.bytes(), self.sources)?;
        let mut selector = Selector::new(facts);
        let mut wanted = Vec::with_capacity(list.machines().len());
        let mut there = HashSet::new();
        for machine in list.machines() {
            let belongs = selector.belongs(machine);
            let version = Placed { archive: machine.archive, sums: machine.sums };
            let presence = match belongs {
                Belongs::Yes if state.placed.get(&machine.name).is_some_and(|placed| *placed != version) => {
                    // Another version is wanted, whatever is there.
                    Presence::Drifted("another version".to_owned())
                }
                Belongs::Yes => {
                    let presence = self.presence(Place::Live, &machine.name, &version);
                    if matches!(presence, Presence::Intact | Presence::Drifted(_)) {
                        there.insert(machine.name.as_str());
                    }
                    presence
                }
                _ => Presence::Absent,
            };
            wanted.push(Wanted { name: machine.name.clone(), version, belongs, presence });
        }
        let mut gone = BTreeSet::new();
        for name in state.placed.keys().filter(|name| !there.contains(name.as_str())) {
            if !self.root.exists(Place::Live, name).map_err(root("looking for a machine"))? {
                gone.insert(name.clone());
            }
        }
        let plan = plan(
            &Situation {
                state: &admitted.state,
                wanted: &wanted,
                gone: &gone,
                now,
                freshness: admitted.freshness,
                removals_meant: admitted.removals_meant,
            },
            &self.settings,
        );
        Ok(Looked { admitted, list, plan, mended })
    }

    fn presence(&mut self, place: Place, name: &MachineName, version: &Placed) -> Presence {
        let mut check = TreeCheck::new(version.sums);
        match self.root.inspect(place, name, &mut check) {
            Ok(false) => Presence::Absent,
            Ok(true) => check.finish().map_or(Presence::Intact, Presence::Drifted),
            Err(error) => Presence::Unreadable(error.to_string()),
        }
    }

    async fn perform(&mut self, mut memory: Memory, looked: Looked) -> Result<Report, PassError> {
        let Looked { admitted, list, plan, mended } = looked;
        let machines: BTreeMap<&MachineName, &ManagedMachine> =
            list.machines().iter().map(|machine| (&machine.name, machine)).collect();
        let mut verdicts = plan.verdicts;
        // What could not even be planned for is not in place either: nothing is removed that it may have come to replace.
        let (mut changed, mut failed) = (false, verdicts.values().any(|verdict| matches!(verdict, Verdict::Error(_))));
        for action in plan.actions {
            match action {
                Action::Adopt(name) => {
                    if let Some(machine) = machines.get(&name) {
                        memory.state.placed.insert(name.clone(), Placed { archive: machine.archive, sums: machine.sums });
                        memory.note(&mut self.root, &name, None)?;
                        changed = true;
                    }
                }
                Action::Deploy(name, _) => {
                    let Some(machine) = machines.get(&name) else { continue };
                    match self.deploy(&mut memory, machine).await? {
                        Ok(()) => changed = true,
                        Err(verdict) => {
                            failed = true;
                            verdicts.insert(name, verdict);
                        }
                    }
                }
                Action::Purge(name, reason) if failed => {
                    let held = format!("{reason}, but not everything that belongs here is in place");
                    verdicts.insert(name, Verdict::Held(held));
                }
                Action::Purge(name, _) => {
                    self.root.discard(&name, Place::Live).map_err(root("removing a machine"))?;
                    self.forget(&mut memory, &name)?;
                    changed = true;
                }
                Action::Forget(name) => self.forget(&mut memory, &name)?,
            }
        }
        memory.settle(&mut self.root)?;
        // What stays in the trash is in nobody's way.
        let _ = self.root.empty_trash();
        let error = verdicts.values().any(|verdict| matches!(verdict, Verdict::Error(_)));
        Ok(Report {
            outcome: match (error, changed) {
                (true, _) => Outcome::Error,
                (false, true) => Outcome::Updated,
                (false, false) => Outcome::Unchanged,
            },
            machines: verdicts,
            names: list.machines().iter().map(|machine| machine.name.clone()).collect(),
            serial: admitted.serial,
            freshness: admitted.freshness,
            unknown_members: list.unknown_members().to_vec(),
            mended_state: mended,
        })
    }

    fn forget(&mut self, memory: &mut Memory, name: &MachineName) -> Result<(), PassError> {
        self.root.discard(name, Place::Previous).map_err(root("removing a machine"))?;
        let (state, now) = (&mut memory.state, self.clock.now());
        state.placed.remove(name);
        state.noes.remove(name);
        state.failed.remove(name);
        state.removals.push(now);
        memory.note(&mut self.root, name, Some(now))
    }

    async fn deploy(&mut self, memory: &mut Memory, machine: &ManagedMachine) -> Result<Result<(), Verdict>, PassError> {
        let Some(governor) = &machine.governor else { return self.deploy_now(memory, machine).await };
        let slot = match self.governors.take(governor).await {
            Ok(Some(slot)) => slot,
            Ok(None) => return Ok(Err(Verdict::Held(format!("all slots of the governor {governor} are taken")))),
            Err(error) => return Ok(Err(Verdict::Error(format!("no slot of the governor {governor}: {error}")))),
        };
        let result = self.deploy_now(memory, machine).await;
        // It ends by itself if it cannot be given back.
        let _ = self.governors.give_back(slot).await;
        result
    }

    async fn deploy_now(&mut self, memory: &mut Memory, machine: &ManagedMachine) -> Result<Result<(), Verdict>, PassError> {
        let name = &machine.name;
        if let Err(reason) = self.fetch(machine).await {
            self.root.discard(name, Place::Staged).map_err(root("clearing up"))?;
            return Ok(Err(Verdict::Error(reason)));
        }
        let version = Placed { archive: machine.archive, sums: machine.sums };
        memory.state.placing.insert(name.clone(), Placing { version, phase: Phase::Arriving });
        memory.note(&mut self.root, name, None)?;
        let moved = if self.root.exists(Place::Live, name).map_err(root("looking for a machine"))? {
            self.root.exchange(name, Place::Staged, Place::Live)
        } else {
            self.root.rename(name, Place::Staged, Place::Live)
        };
        moved.map_err(root("putting a machine into place"))?;
        self.settle(memory, name).await.map(|settled| settled.map_err(Verdict::Error))
    }

    /// Fetches, unpacks and checks in one pass; nothing is visible yet.
    async fn fetch(&mut self, machine: &ManagedMachine) -> Result<(), String> {
        let name = &machine.name;
        let in_root = |error: io::Error| format!("it could not be unpacked: {error}");
        self.root.discard(name, Place::Staged).map_err(in_root)?;
        let mut body =
            self.fetcher.fetch(machine).await.map_err(|error| format!("{} could not be fetched: {error}", machine.source))?;
        let mut stage = self.root.stage(name).map_err(in_root)?;
        let refused = |error: ArchiveError| match error {
            ArchiveError::Sink(error) => in_root(error),
            other => format!("{}: {other}", machine.source),
        };
        let mut unpacker = Unpacker::new(name, machine.archive, machine.sums, self.limits);
        while let Some(piece) = body.next().await.map_err(|error| format!("{} could not be fetched: {error}", machine.source))? {
            unpacker.push(&piece, &mut stage).map_err(refused)?;
        }
        unpacker.finish().map_err(refused)?;
        self.root.seal(name, stage).map_err(in_root)
    }

    /// The new version is in place: keep the one before, ask whether the new one works, and remember it or go back.
    async fn settle(&mut self, memory: &mut Memory, name: &MachineName) -> Result<Result<(), String>, PassError> {
        let Some(placing) = memory.state.placing.get(name).cloned() else { return Ok(Ok(())) };
        if self.root.exists(Place::Staged, name).map_err(root("looking for a machine"))? {
            self.root.discard(name, Place::Previous).map_err(root("keeping the version before"))?;
            self.root.rename(name, Place::Staged, Place::Previous).map_err(root("keeping the version before"))?;
        }
        let trouble = match placing.phase {
            Phase::Arriving => self.health.check(name).await.err(),
            _ => Some("an earlier run asked".to_owned()),
        };
        let Some(trouble) = trouble else {
            memory.state.placing.remove(name);
            memory.state.failed.remove(name);
            memory.state.placed.insert(name.clone(), placing.version);
            memory.note(&mut self.root, name, None)?;
            return Ok(Ok(()));
        };
        self.go_back(memory, name, &placing)?;
        memory.state.placing.remove(name);
        memory.state.failed.insert(name.clone(), Failed { archive: placing.version.archive, at: self.clock.now() });
        memory.note(&mut self.root, name, None)?;
        Ok(Err(format!("its health command failed: {trouble}")))
    }

    fn go_back(&mut self, memory: &mut Memory, name: &MachineName, placing: &Placing) -> Result<(), PassError> {
        let going_back = || root("bringing the version before back");
        let sums = placing.version.sums;
        if placing.phase == Phase::Arriving {
            self.set_phase(memory, name, Phase::Failed)?;
        }
        if placing.phase != Phase::Restored {
            if !self.root.exists(Place::Previous, name).map_err(going_back())? {
                // There was none before.
                return self.root.discard(name, Place::Live).map_err(going_back());
            }
            // An exchange leaves no other trace than what is where; a crash may have come right behind it.
            let back = self.list(Place::Previous, name)? == Some(sums) && self.list(Place::Live, name)? != Some(sums);
            if !back {
                self.root.exchange(name, Place::Live, Place::Previous).map_err(going_back())?;
            }
            self.set_phase(memory, name, Phase::Restored)?;
        }
        self.root.discard(name, Place::Previous).map_err(going_back())
    }

    fn set_phase(&mut self, memory: &mut Memory, name: &MachineName, phase: Phase) -> Result<(), PassError> {
        if let Some(placing) = memory.state.placing.get_mut(name) {
            placing.phase = phase;
        }
        memory.note(&mut self.root, name, None)
    }

    /// Which version lies at a place.
    fn list(&mut self, place: Place, name: &MachineName) -> Result<Option<Sha256Digest>, PassError> {
        let mut list = ListDigest::default();
        self.root.inspect(place, name, &mut list).map_err(root("looking at a machine"))?;
        Ok(list.0)
    }

    /// Goes on where an earlier pass ended.
    async fn recover(&mut self, memory: &mut Memory) -> Result<(), PassError> {
        let names: Vec<(MachineName, Placing)> =
            memory.state.placing.iter().map(|(name, placing)| (name.clone(), placing.clone())).collect();
        for (name, placing) in names {
            let sums = Some(placing.version.sums);
            // Where both have the same list, the one in place is as good as the other: the plan will mend it if it is not.
            let arrived = self.list(Place::Live, &name)? == sums && self.list(Place::Staged, &name)? != sums;
            if arrived || placing.phase != Phase::Arriving {
                // Its trouble, if it has one, is remembered.
                let _ = self.settle(memory, &name).await?;
            } else {
                self.root.discard(&name, Place::Staged).map_err(root("clearing up"))?;
                memory.state.placing.remove(&name);
                memory.note(&mut self.root, &name, None)?;
            }
        }
        Ok(())
    }
}
