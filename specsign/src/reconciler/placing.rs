//! From a version that was exchanged with the one before until it is settled or gone again, and from wherever an earlier pass ended.

use std::collections::BTreeMap;

use toehold_core::Clock;

use super::{Fetcher, Health, PassError, Reconciler, Trouble, machine};
use crate::digest::Sha256Digest;
use crate::governor::Governors;
use crate::machine::MachineName;
use crate::memory::Memory;
use crate::plan::{Presence, Verdict};
use crate::root::{ListDigest, MachineRoot, Place, TreeCheck};
use crate::state::{Failed, Phase, Placing};

/// What is said of a version that nobody has proven.
const UNPROVEN: &str = "it was put into place by a run that was ended before its health command had answered, and nobody has said that it works: \
     have that asked (--health-command), or say that it does (--health-command true)";

impl<R, F, H, G, C> Reconciler<R, F, H, G, C>
where
    R: MachineRoot,
    F: Fetcher,
    H: Health,
    G: Governors,
    C: Clock,
{
    /// The new version is in place: keep the one before, ask whether the new one works, and remember it or go back.
    pub(super) async fn settle(&mut self, memory: &mut Memory, name: &MachineName) -> Result<(), Trouble> {
        let Some(placing) = memory.state.placing.get(name).cloned() else { return Ok(()) };
        let keeping = || machine("keeping the version before");
        // What drifted is no version before: the one that is kept stays, and what drifted waits for the answer.
        let kept = kept(memory, name, &placing);
        if kept == Place::Previous && self.root.exists(Place::Staged, name).map_err(keeping())? {
            self.root.discard(name, Place::Previous).map_err(keeping())?;
            self.root.rename(name, Place::Staged, Place::Previous).map_err(keeping())?;
        }
        let trouble = match placing.phase {
            Phase::Arriving => self.health.check(name).await.err(),
            _ => Some("an earlier run asked".to_owned()),
        };
        let Some(trouble) = trouble else {
            if kept == Place::Staged {
                self.root.discard(name, kept).map_err(machine("clearing up"))?;
            }
            let state = &mut memory.state;
            state.placing.remove(name);
            state.failed.remove(name);
            match placing.executables {
                Some(executables) => _ = state.executables.insert(name.clone(), executables),
                None => _ = state.executables.remove(name),
            }
            state.placed.insert(name.clone(), placing.version);
            return Ok(memory.note(&mut self.root, name, None)?);
        };
        self.go_back(memory, name, &placing, kept)?;
        memory.state.placing.remove(name);
        memory.state.failed.insert(name.clone(), Failed { archive: placing.version.archive, at: self.clock.now() });
        memory.note(&mut self.root, name, None)?;
        Err(Trouble::error(format!("its health command failed: {trouble}")))
    }

    /// Brings back what was there before, which is kept at a place.
    fn go_back(&mut self, memory: &mut Memory, name: &MachineName, placing: &Placing, kept: Place) -> Result<(), Trouble> {
        let going_back = || machine("bringing the version before back");
        if placing.phase == Phase::Arriving {
            self.set_phase(memory, name, Phase::Failed)?;
        }
        if placing.phase != Phase::Restored {
            if !self.root.exists(kept, name).map_err(going_back())? {
                // There was none before.
                return self.root.discard(name, Place::Live).map_err(going_back());
            }
            // An exchange leaves no other trace than what is where; a crash may have come right behind it.
            if !self.is_back(memory, name, placing, kept)? {
                self.root.exchange(name, Place::Live, kept).map_err(going_back())?;
            }
            self.set_phase(memory, name, Phase::Restored)?;
        }
        self.root.discard(name, kept).map_err(going_back())
    }

    /// Whether the version on its way in has made room again for the one that was kept.
    fn is_back(&mut self, memory: &Memory, name: &MachineName, placing: &Placing, kept: Place) -> Result<bool, Trouble> {
        let version = || TreeCheck::placed(placing.version.sums, placing.executables);
        if kept == Place::Staged {
            return Ok(self.is_whole(kept, name, version())? && !self.is_whole(Place::Live, name, version())?);
        }
        // Its list tells it from another version also where it has drifted.
        let sums = Some(placing.version.sums);
        let (aside, live) = (self.list(kept, name)? == sums, self.list(Place::Live, name)? == sums);
        Ok(aside && (!live || !self.is_live(memory, name, placing, kept)?))
    }

    /// Which of two versions with the same list is in place, the one on its way in or the one before, which is at the other place
    /// then: they differ in which files are executable, or in nothing that was placed.
    fn is_live(&mut self, memory: &Memory, name: &MachineName, placing: &Placing, other: Place) -> Result<bool, Trouble> {
        let version = || TreeCheck::placed(placing.version.sums, placing.executables);
        let (live, aside) = (self.is_whole(Place::Live, name, version())?, self.is_whole(other, name, version())?);
        if live || aside {
            return Ok(live);
        }
        // It has drifted since; the one before may not have.
        let Some(before) = memory.state.placed.get(name) else { return Ok(true) };
        let before = TreeCheck::placed(before.sums, memory.state.executables.get(name).copied());
        Ok(!self.is_whole(Place::Live, name, before)?)
    }

    fn is_whole(&mut self, place: Place, name: &MachineName, check: TreeCheck) -> Result<bool, Trouble> {
        match self.compare(place, name, check) {
            Presence::Intact => Ok(true),
            Presence::Absent | Presence::Drifted(_) => Ok(false),
            Presence::Unreadable(error) => Err(Trouble::error(format!("it cannot be read: {error}"))),
        }
    }

    fn set_phase(&mut self, memory: &mut Memory, name: &MachineName, phase: Phase) -> Result<(), PassError> {
        if let Some(placing) = memory.state.placing.get_mut(name) {
            placing.phase = phase;
        }
        memory.note(&mut self.root, name, None)
    }

    /// Which version lies at a place.
    fn list(&mut self, place: Place, name: &MachineName) -> Result<Option<Sha256Digest>, Trouble> {
        let mut list = ListDigest::default();
        self.root.inspect(place, name, &mut list).map_err(machine("looking at it"))?;
        Ok(list.0)
    }

    /// Goes on where an earlier pass ended. What could not be settled, and why: nothing else is done with it in this pass.
    pub(super) async fn recover(&mut self, memory: &mut Memory) -> Result<BTreeMap<MachineName, Verdict>, PassError> {
        let names: Vec<(MachineName, Placing)> =
            memory.state.placing.iter().map(|(name, placing)| (name.clone(), placing.clone())).collect();
        let mut unsettled = BTreeMap::new();
        for (name, placing) in names {
            // The trouble of a version that was settled is remembered with it.
            if let Err(verdict) = Trouble::apart(self.recover_one(memory, &name, &placing).await)?
                && memory.state.placing.contains_key(&name)
            {
                unsettled.insert(name, verdict);
            }
        }
        Ok(unsettled)
    }

    /// What is said of a machine whose version in place nobody has proven, by one who has nobody to ask.
    pub(super) fn unproven(&mut self, memory: &Memory, name: &MachineName) -> Result<Option<Verdict>, PassError> {
        let Some(placing) = memory.state.placing.get(name).filter(|placing| placing.phase == Phase::Arriving && placing.asked)
        else {
            return Ok(None);
        };
        if self.health.asks() {
            return Ok(None);
        }
        let sums = Some(placing.version.sums);
        match Trouble::apart(self.list(Place::Live, name))? {
            Ok(there) => Ok((there == sums).then(unproven)),
            Err(verdict) => Ok(Some(verdict)),
        }
    }

    async fn recover_one(&mut self, memory: &mut Memory, name: &MachineName, placing: &Placing) -> Result<(), Trouble> {
        if placing.phase != Phase::Arriving {
            return self.settle(memory, name).await;
        }
        let sums = Some(placing.version.sums);
        let (live, staged) = (self.list(Place::Live, name)? == sums, self.list(Place::Staged, name)? == sums);
        let arrived = if live && staged {
            // Where both are the same version, the plan will mend the one in place if it is not whole.
            kept(memory, name, placing) == Place::Previous && self.is_live(memory, name, placing, Place::Staged)?
        } else {
            live
        };
        if arrived && placing.asked && !self.health.asks() {
            return Err(Trouble::Machine(unproven()));
        }
        if arrived {
            let slot = self.slot(placing.governor.as_deref()).await.map_err(Trouble::Machine)?;
            let settled = self.settle(memory, name).await;
            self.give_back(slot).await;
            return settled;
        }
        self.give_up(memory, name)
    }
}

fn unproven() -> Verdict {
    Verdict::Held(UNPROVEN.to_owned())
}

/// Where what was there before is kept while a version on its way in is asked whether it works.
fn kept(memory: &Memory, name: &MachineName, placing: &Placing) -> Place {
    if memory.state.placed.get(name) == Some(&placing.version) { Place::Staged } else { Place::Previous }
}
