//! A root's memory while a pass runs: the state, and how it gets into the root's copies and journal.

use std::io;

use toehold_core::Timestamp;

use crate::journal;
use crate::machine::MachineName;
use crate::reconciler::{PassError, root};
use crate::root::{MachineRoot, Traces};
use crate::state::{RootState, StateCopy, StateError};

/// A journal of this many bytes is worth no write of the copies, however small those are.
const SMALL_JOURNAL: usize = 1024 * 1024;

/// The state as it is remembered, and what is known of how.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) state: RootState,
    /// Copies to be written anew, and with what.
    repair: Option<(Vec<StateCopy>, Vec<u8>)>,
    /// Lines behind the copies.
    lines: u64,
    /// Bytes of the journal, whatever is in it.
    journal: usize,
    /// Bytes of a copy.
    copy: usize,
    /// What is kept outside of the root; `None` for nothing that can be read.
    floor: Option<RootState>,
    /// There is no copy at all so far.
    is_new: bool,
    /// The time was set back, which a floor that is as high otherwise does not say.
    set_back: bool,
}

impl Memory {
    /// Reads it, and changes nothing. `anew`: machines that lie in a root without a memory are no reason to stop.
    pub(crate) fn load<R: MachineRoot>(hands: &mut R, anew: bool) -> Result<Self, PassError> {
        let floor = hands.read_floor().map_err(root("reading the floor outside"))?;
        let known = floor.as_deref().map_or(Ok(None), RootState::decode)?;
        let fresh = match hands.traces().map_err(root("looking for an earlier state"))? {
            Traces::None => true,
            // Whoever took the memory away may have meant the floor; that one is known all the same, or somebody has named it.
            Traces::Machines if anew || known.is_some() => true,
            Traces::Machines if floor.is_some() => return Err(StateError::FloorLost.into()),
            Traces::Machines => return Err(StateError::Unremembered.into()),
            Traces::Own => false,
        };
        let mut read = |copy| hands.read_state(copy).map_err(root("reading the state"));
        let (first, second) = (read(StateCopy::First)?, read(StateCopy::Second)?);
        let copy = first.as_ref().or(second.as_ref()).map_or(0, Vec::len);
        let Some(loaded) = RootState::load(first.as_deref(), second.as_deref(), fresh)? else {
            let mut state = RootState::default();
            match &known {
                Some(floor) => state.raise_to(floor)?,
                None if floor.is_some() => return Err(StateError::FloorLost.into()),
                None => {}
            }
            return Ok(Self { state, repair: None, lines: 0, journal: 0, copy, floor: known, is_new: true, set_back: false });
        };
        let mut state = loaded.state;
        let repair = if loaded.repair.is_empty() { None } else { Some((loaded.repair, encode(&state)?)) };
        let journal = hands.read_journal().map_err(root("reading the journal"))?.unwrap_or_default();
        let lines = state.replay(&journal)?;
        if let Some(floor) = &known {
            state.raise_to(floor)?;
        }
        Ok(Self { state, repair, lines, journal: journal.len(), copy, floor: known, is_new: false, set_back: false })
    }

    /// Takes back what was remembered of a time after `now`.
    pub(crate) fn set_back(&mut self, now: Timestamp) {
        let before = self.state.clone();
        self.state.set_back(now);
        let outside = self.floor.as_ref().is_some_and(|floor| floor.highest_time > now);
        self.set_back |= outside || self.state != before;
    }

    /// Whether there is something to be saved that the state itself does not show.
    pub(crate) fn is_set_back(&self) -> bool {
        self.set_back
    }

    /// Brings the copies to what was read, so that it counts as accepted from here on. Says whether one had to be mended.
    pub(crate) fn mend<R: MachineRoot>(&mut self, hands: &mut R) -> Result<bool, PassError> {
        // The good copy is not touched before there are two: they are mended as they were, without the journal's lines.
        let mended = match self.repair.take() {
            Some((copies, bytes)) => {
                write(hands, &copies, &bytes)?;
                true
            }
            None => false,
        };
        self.settle(hands)?;
        Ok(mended)
    }

    /// Writes the first copies, of a root that has accepted nothing. Before anything else is written: a root in which there is something and
    /// no copy has lost its memory.
    pub(crate) fn begin<R: MachineRoot>(&mut self, hands: &mut R) -> Result<(), PassError> {
        if self.is_new {
            write(hands, &StateCopy::BOTH, &encode(&self.state)?)?;
            self.is_new = false;
        }
        Ok(())
    }

    /// Takes what is in the journal into the copies.
    pub(crate) fn settle<R: MachineRoot>(&mut self, hands: &mut R) -> Result<(), PassError> {
        if self.lines > 0 {
            self.save(hands)
        } else if self.journal > 0 {
            self.clear(hands)
        } else {
            Ok(())
        }
    }

    /// Writes all of it.
    pub(crate) fn save<R: MachineRoot>(&mut self, hands: &mut R) -> Result<(), PassError> {
        self.keep_floor(hands)?;
        let next = self.state.next_version();
        let bytes = encode(&next)?;
        write(hands, &StateCopy::BOTH, &bytes)?;
        (self.state, self.copy) = (next, bytes.len());
        if self.journal > 0 { self.clear(hands) } else { Ok(()) }
    }

    /// Brings the floor outside of the root to what counts here, before anything rests on it.
    pub(crate) fn keep_floor<R: MachineRoot>(&mut self, hands: &mut R) -> Result<(), PassError> {
        // The time as well: with it alone, one that has ended a document would come back with the clock. It changes with what the
        // state says of it, which is not each minute.
        let floor = self.state.floor();
        if !self.set_back && self.floor.as_ref() == Some(&floor) {
            return Ok(());
        }
        hands.write_floor(&encode(&floor)?).map_err(root("writing the floor outside"))?;
        (self.floor, self.set_back) = (Some(floor), false);
        Ok(())
    }

    /// Writes what changed of one machine. `removed`: when it was, which the state has already.
    pub(crate) fn note<R: MachineRoot>(
        &mut self,
        hands: &mut R,
        name: &MachineName,
        removed: Option<Timestamp>,
    ) -> Result<(), PassError> {
        let line = journal::line(&self.state, self.lines + 1, name, removed).map_err(unwritten)?;
        // A journal that has grown with the copies: all writing together stays within a multiple of what changed.
        if self.journal + line.len() > SMALL_JOURNAL.max(2 * self.copy) {
            return self.save(hands);
        }
        // Counted before: a failed write may have left anything, which the next pass clears.
        self.journal += line.len();
        hands.append_journal(&line).map_err(root("writing the journal"))?;
        self.lines += 1;
        Ok(())
    }

    fn clear<R: MachineRoot>(&mut self, hands: &mut R) -> Result<(), PassError> {
        hands.clear_journal().map_err(root("clearing the journal"))?;
        (self.lines, self.journal) = (0, 0);
        Ok(())
    }
}

fn encode(state: &RootState) -> Result<Vec<u8>, PassError> {
    state.encode().map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> PassError {
    root("writing the state")(io::Error::other(error))
}

fn write<R: MachineRoot>(hands: &mut R, copies: &[StateCopy], bytes: &[u8]) -> Result<(), PassError> {
    for copy in copies {
        hands.write_state(*copy, bytes).map_err(root("writing the state"))?;
    }
    Ok(())
}
