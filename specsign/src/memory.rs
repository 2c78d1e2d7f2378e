//! A root's memory while a pass runs: the state, and how it gets into the root's copies and journal.

use std::io;

use toehold_core::Timestamp;

use crate::journal;
use crate::machine::MachineName;
use crate::reconciler::{PassError, root};
use crate::root::MachineRoot;
use crate::state::{RootState, StateCopy};

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
}

impl Memory {
    /// Reads it, and changes nothing.
    pub(crate) fn load<R: MachineRoot>(hands: &mut R) -> Result<Self, PassError> {
        let fresh = hands.is_fresh().map_err(root("looking for an earlier state"))?;
        let mut read = |copy| hands.read_state(copy).map_err(root("reading the state"));
        let (first, second) = (read(StateCopy::First)?, read(StateCopy::Second)?);
        let copy = first.as_ref().or(second.as_ref()).map_or(0, Vec::len);
        let Some(loaded) = RootState::load(first.as_deref(), second.as_deref(), fresh)? else {
            return Ok(Self { state: RootState::default(), repair: None, lines: 0, journal: 0, copy });
        };
        let mut state = loaded.state;
        let repair = if loaded.repair.is_empty() { None } else { Some((loaded.repair, encode(&state)?)) };
        let journal = hands.read_journal().map_err(root("reading the journal"))?.unwrap_or_default();
        let lines = state.replay(&journal)?;
        Ok(Self { state, repair, lines, journal: journal.len(), copy })
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
        let next = self.state.next_version();
        let bytes = encode(&next)?;
        write(hands, &StateCopy::BOTH, &bytes)?;
        (self.state, self.copy) = (next, bytes.len());
        if self.journal > 0 { self.clear(hands) } else { Ok(()) }
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
