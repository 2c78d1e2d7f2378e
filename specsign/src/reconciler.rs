//! The pass over a root: take the document, look, plan, do. Every step is journaled before it, and each is one that a crash
//! leaves done or not done.

mod placing;
mod trouble;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::io;
use std::time::Duration;

use toehold_core::{Clock, Timestamp};

use crate::admission::{Admission, AdmissionError, Admitted, Freshness};
use crate::archive::{ArchiveError, Limits, UnpackSink, Unpacker};
use crate::digest::Sha256Digest;
use crate::document::{Document, Format};
use crate::events::Outcome;
use crate::governor::Governors;
use crate::keys::VerifyingKey;
use crate::machine::{MachineList, MachineName, ManagedMachine};
use crate::matcher::Facts;
use crate::memory::Memory;
use crate::path::TreePath;
use crate::plan::{
    Action, Belongs, NOT_ALL_IN_PLACE, NOT_PLACED_HERE, Plan, Presence, PurgeReason, Settings, Situation, Verdict, Wanted, plan,
    recent,
};
use crate::root::{Executables, MachineRoot, Place, TreeCheck};
use crate::selector::Selector;
use crate::source::SourcePolicy;
use crate::state::{Phase, Placed, Placing, RootState};

pub use trouble::PassError;
pub(crate) use trouble::root;
use trouble::{Trouble, machine};

/// How often the highest time is written down when nothing else is. A time that ends a document is written down at once.
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

    /// Whether there is anybody to ask. Where there was when a version was put into place, and its run was ended before the answer, the
    /// version stays unproven until there is again.
    fn asks(&self) -> bool {
        true
    }
}

/// Every machine that is in place works.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHealth;

impl Health for NoHealth {
    async fn check(&self, _: &MachineName) -> Result<(), String> {
        Ok(())
    }

    fn asks(&self) -> bool {
        false
    }
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
    /// What it is a list of.
    pub format: Format,
    /// Who signed the envelope, and the changes of keys that were walked to it; empty without one.
    pub signers: BTreeSet<VerifyingKey>,
    /// The serial that counts; `None` without an envelope.
    pub serial: Option<u64>,
    /// Whether the document still holds: the last good one, but stale, is a state that people should see.
    pub freshness: Freshness,
    /// The highest time that was seen, where the document has expired by that one and not by the clock.
    pub clock_behind: Option<Timestamp>,
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
        let mut memory = Memory::load(&mut self.root, self.admission.begin_anew)?;
        if self.admission.trust_clock {
            memory.set_back(self.clock.now());
        }
        let mut plan = self.judge(&memory.state, false, document, facts)?.plan;
        let purged: Vec<(MachineName, PurgeReason)> = plan
            .actions
            .iter()
            .filter_map(|action| if let Action::Purge(name, reason) = action { Some((name.clone(), *reason)) } else { None })
            .collect();
        for (name, reason) in purged {
            if let Err(verdict) = self.is_ours(&memory, &name, reason) {
                plan.actions.retain(|action| !matches!(action, Action::Purge(purged, _) if *purged == name));
                plan.verdicts.insert(name, verdict);
            }
        }
        for name in memory.state.placing.clone().into_keys() {
            if let Some(verdict) = self.unproven(&memory, &name)? {
                plan.actions.retain(|action| *action.name() != name);
                plan.verdicts.insert(name, verdict);
            }
        }
        Ok(plan)
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
        let mut memory = Memory::load(&mut self.root, self.admission.begin_anew)?;
        // What a run left that found the disk full would leave no room for what is to be remembered now.
        let _ = self.root.empty_trash();
        // What was read counts as accepted from here on; both copies say so before anything else happens.
        let mended = memory.mend(&mut self.root)?;
        if self.admission.trust_clock {
            memory.set_back(self.clock.now());
        }
        let unsettled = self.recover(&mut memory).await?;
        let looked = match self.judge(&memory.state, mended, document, facts) {
            Ok(looked) => looked,
            Err(error) => {
                self.note_time(&mut memory, &error)?;
                return Err(error);
            }
        };
        let mut next = looked.admitted.state.clone();
        next.noes.clone_from(&looked.plan.noes);
        let now = self.clock.now();
        next.removals = recent(&next.removals, now, self.settings.window).collect();
        let kept = next.statement.unwrap_or_else(|| Sha256Digest::of(document));
        memory.begin(&mut self.root)?;
        if next.document != Some(kept) {
            // Before the serial is: a floor whose document is gone would leave nothing to hold on to.
            self.root.write_document(document).map_err(root("keeping the document"))?;
            next.document = Some(kept);
        }
        // Before the root's own memory says that this was accepted: whoever reads it then is not told again who signed.
        self.root.note_signers(&looked.admitted.signers).map_err(root("remembering who signed"))?;
        // Remembered before anything is done on the document's word. The time alone is not worth a write each minute.
        let time = next.highest_time;
        next.highest_time = memory.state.highest_time;
        let unchanged = next == memory.state;
        next.highest_time = time;
        if !unchanged || memory.is_set_back() || is_worth_noting(memory.state.highest_time, time, looked.admitted.expires) {
            memory.state = next;
            memory.save(&mut self.root)?;
        } else {
            memory.keep_floor(&mut self.root)?;
        }
        self.perform(memory, looked, unsettled).await
    }

    /// The time counts also where the document does not: one that has expired is not taken when the clock is set back.
    fn note_time(&mut self, memory: &mut Memory, error: &PassError) -> Result<(), PassError> {
        let (before, now) = (memory.state.highest_time, self.clock.now());
        let expires = match error {
            PassError::Admission(AdmissionError::Expired(expires)) => Some(*expires),
            _ => None,
        };
        // A root that has taken nothing yet has nothing to hold on to.
        if memory.state.format.is_some() && is_worth_noting(before, now, expires) {
            memory.state.highest_time = now;
            memory.save(&mut self.root)?;
        }
        Ok(())
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
                    let presence = self.presence(state, &machine.name, &version);
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
            // What cannot be looked at is there.
            if self.root.exists(Place::Live, name).is_ok_and(|exists| !exists) {
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

    /// What is in a machine's place, compared with a version; with its modes and owners as well, if we placed that one.
    fn presence(&mut self, state: &RootState, name: &MachineName, version: &Placed) -> Presence {
        let check = if state.placed.get(name) == Some(version) {
            TreeCheck::placed(version.sums, state.executables.get(name).copied())
        } else {
            TreeCheck::new(version.sums)
        };
        self.compare(Place::Live, name, check)
    }

    fn compare(&mut self, place: Place, name: &MachineName, mut check: TreeCheck) -> Presence {
        match self.root.inspect(place, name, &mut check) {
            Ok(false) => Presence::Absent,
            Ok(true) => check.finish().map_or(Presence::Intact, Presence::Drifted),
            Err(error) => Presence::Unreadable(error.to_string()),
        }
    }

    async fn perform(
        &mut self,
        mut memory: Memory,
        looked: Looked,
        unsettled: BTreeMap<MachineName, Verdict>,
    ) -> Result<Report, PassError> {
        let Looked { admitted, list, mut plan, mended } = looked;
        plan.actions.retain(|action| !unsettled.contains_key(action.name()));
        let machines: BTreeMap<&MachineName, &ManagedMachine> =
            list.machines().iter().map(|machine| (&machine.name, machine)).collect();
        let mut verdicts = plan.verdicts;
        // What could not be settled is not in place either: nothing is removed that it may have come to replace.
        let mut failed = !unsettled.is_empty();
        let mut changed = false;
        verdicts.extend(unsettled);
        for action in plan.actions {
            match action {
                Action::Adopt(name) => {
                    if let Some(machine) = machines.get(&name) {
                        memory.state.placed.insert(name.clone(), Placed { archive: machine.archive, sums: machine.sums });
                        memory.state.executables.remove(&name);
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
                    let held = format!("{reason}, but {NOT_ALL_IN_PLACE}");
                    verdicts.insert(name, Verdict::Held(held));
                }
                Action::Purge(name, reason) => match Trouble::apart(self.purge(&mut memory, &name, reason))? {
                    Ok(()) => changed = true,
                    Err(verdict) => _ = verdicts.insert(name, verdict),
                },
                Action::Forget(name) => {
                    if let Err(verdict) = Trouble::apart(self.forget(&mut memory, &name))? {
                        verdicts.insert(name, verdict);
                    }
                }
            }
        }
        memory.settle(&mut self.root)?;
        // What stays in the trash is in nobody's way.
        let _ = self.root.empty_trash();
        let list_format = admitted.state.format.unwrap_or(Format::Machines);
        let error = verdicts.values().any(|verdict| matches!(verdict, Verdict::Error(_)));
        Ok(Report {
            outcome: match (error, changed) {
                (true, _) => Outcome::Error,
                (false, true) => Outcome::Updated,
                (false, false) => Outcome::Unchanged,
            },
            machines: verdicts,
            format: list_format,
            signers: admitted.signers,
            clock_behind: admitted.clock_behind,
            names: list.machines().iter().map(|machine| machine.name.clone()).collect(),
            serial: admitted.serial,
            freshness: admitted.freshness,
            unknown_members: list.unknown_members().iter().map(|member| member.name.clone()).collect(),
            mended_state: mended,
        })
    }

    /// Whether what is in a machine's place is what was placed there: nothing else is removed.
    fn is_ours(&mut self, memory: &Memory, name: &MachineName, reason: PurgeReason) -> Result<(), Verdict> {
        let Some(version) = memory.state.placed.get(name).cloned() else { return Ok(()) };
        match self.presence(&memory.state, name, &version) {
            Presence::Absent | Presence::Intact => Ok(()),
            Presence::Drifted(drift) => Err(Verdict::Held(format!(
                "{reason}, but what lies there is not what was placed ({drift}); remove it by hand, or move it away"
            ))),
            Presence::Unreadable(error) => {
                Err(Verdict::Error(format!("it is to be removed ({reason}), and cannot be read: {error}")))
            }
        }
    }

    fn purge(&mut self, memory: &mut Memory, name: &MachineName, reason: PurgeReason) -> Result<(), Trouble> {
        self.is_ours(memory, name, reason).map_err(Trouble::Machine)?;
        self.root.discard(name, Place::Live).map_err(machine("removing it"))?;
        self.forget(memory, name)
    }

    fn forget(&mut self, memory: &mut Memory, name: &MachineName) -> Result<(), Trouble> {
        self.root.discard(name, Place::Previous).map_err(machine("removing the version before"))?;
        let (state, now) = (&mut memory.state, self.clock.now());
        state.placed.remove(name);
        state.executables.remove(name);
        state.noes.remove(name);
        state.failed.remove(name);
        state.removals.push(now);
        Ok(memory.note(&mut self.root, name, Some(now))?)
    }

    async fn deploy(&mut self, memory: &mut Memory, machine: &ManagedMachine) -> Result<Result<(), Verdict>, PassError> {
        let governor = machine.governor.as_deref();
        let slot = match self.slot(governor).await {
            Ok(slot) => slot,
            Err(verdict) => return Ok(Err(verdict)),
        };
        let result = Trouble::apart(self.deploy_now(memory, machine).await);
        self.give_back(slot).await;
        result
    }

    /// Takes a slot of a machine's governor, where it has one.
    async fn slot(&self, governor: Option<&str>) -> Result<Option<G::Slot>, Verdict> {
        let Some(governor) = governor else { return Ok(None) };
        match self.governors.take(governor).await {
            Ok(Some(slot)) => Ok(Some(slot)),
            Ok(None) => Err(Verdict::Held(self.governors.why_not(governor))),
            Err(error) => Err(Verdict::Error(format!("no slot of the governor {governor}: {error}"))),
        }
    }

    async fn give_back(&self, slot: Option<G::Slot>) {
        if let Some(slot) = slot {
            // It ends by itself if it cannot be given back.
            let _ = self.governors.give_back(slot).await;
        }
    }

    async fn deploy_now(&mut self, memory: &mut Memory, wanted: &ManagedMachine) -> Result<(), Trouble> {
        let name = &wanted.name;
        let executables = match self.fetch(wanted).await {
            Ok(executables) => executables,
            Err(mut reason) => {
                if let Err(error) = self.root.discard(name, Place::Staged) {
                    reason = format!("{reason}; clearing up failed: {error}");
                }
                // It may be what has filled the disk, and there is more to be written.
                let _ = self.root.empty_trash();
                return Err(Trouble::error(reason));
            }
        };
        let placing = Placing {
            version: Placed { archive: wanted.archive, sums: wanted.sums },
            phase: Phase::Arriving,
            governor: wanted.governor.clone(),
            executables: Some(executables),
            asked: self.health.asks(),
        };
        memory.state.placing.insert(name.clone(), placing);
        memory.note(&mut self.root, name, None)?;
        // An error says little of what has happened: the next pass looks, and goes on from there.
        let ours = memory.state.placed.contains_key(name);
        let moved = if ours && self.root.exists(Place::Live, name).map_err(machine("looking for it"))? {
            self.root.exchange(name, Place::Staged, Place::Live)
        } else {
            self.root.rename(name, Place::Staged, Place::Live)
        };
        match moved {
            // Somebody has put it there while ours was fetched.
            Err(error) if !ours && error.kind() == io::ErrorKind::AlreadyExists => {
                self.give_up(memory, name)?;
                Err(Trouble::error(NOT_PLACED_HERE.to_owned()))
            }
            moved => {
                moved.map_err(machine("putting it into place"))?;
                self.settle(memory, name).await
            }
        }
    }

    /// What is on its way in does not come.
    fn give_up(&mut self, memory: &mut Memory, name: &MachineName) -> Result<(), Trouble> {
        self.root.discard(name, Place::Staged).map_err(machine("clearing up"))?;
        memory.state.placing.remove(name);
        Ok(memory.note(&mut self.root, name, None)?)
    }

    /// Fetches, unpacks and checks in one pass; nothing is visible yet. Which files are executable.
    async fn fetch(&mut self, machine: &ManagedMachine) -> Result<Sha256Digest, String> {
        let name = &machine.name;
        let in_root = |error: io::Error| format!("it could not be unpacked: {error}");
        self.root.discard(name, Place::Staged).map_err(in_root)?;
        let mut body =
            self.fetcher.fetch(machine).await.map_err(|error| format!("{} could not be fetched: {error}", machine.source))?;
        let mut stage = Noting { sink: self.root.stage(name).map_err(in_root)?, executables: Executables::default() };
        let refused = |error: ArchiveError| match error {
            ArchiveError::Sink(error) => in_root(error),
            other => format!("{}: {other}", machine.source),
        };
        let mut unpacker = Unpacker::new(name, machine.archive, machine.sums, self.limits);
        while let Some(piece) = body.next().await.map_err(|error| format!("{} could not be fetched: {error}", machine.source))? {
            unpacker.push(&piece, &mut stage).map_err(refused)?;
        }
        unpacker.finish().map_err(refused)?;
        self.root.seal(name, stage.sink).map_err(in_root)?;
        Ok(stage.executables.digest())
    }
}

/// Whether a time is to be written down: the last one that was is long ago, or a document has ended since.
fn is_worth_noting(before: Timestamp, now: Timestamp, expires: Option<Timestamp>) -> bool {
    now.saturating_since(before) >= TIME_STEP || expires.is_some_and(|expires| before < expires && expires <= now)
}

/// Notes which files are executable on their way to a sink.
struct Noting<S> {
    sink: S,
    executables: Executables,
}

impl<S: UnpackSink> UnpackSink for Noting<S> {
    fn directory(&mut self, path: &TreePath) -> io::Result<()> {
        self.sink.directory(path)
    }

    fn begin_file(&mut self, path: &TreePath, executable: bool) -> io::Result<()> {
        if executable {
            self.executables.insert(path);
        }
        self.sink.begin_file(path, executable)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write(bytes)
    }

    fn end_file(&mut self) -> io::Result<()> {
        self.sink.end_file()
    }
}
