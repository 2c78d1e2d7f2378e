//! What changed in a root's state since its copies were written: a line for each change of one machine, so that a pass over many
//! machines writes as much as it changes, and not all that is remembered for each.
//!
//! A line is the SHA-256 of a JSON object in hex, a blank, and the object. It names the version of the copies that it goes on
//! from and its place behind them: lines that the copies hold already are passed over, one that is missing is noticed, and the
//! last one can be torn without harm, for what it would allow has not begun.

use serde::{Deserialize, Serialize};
use toehold_core::Timestamp;

use crate::digest::Sha256Digest;
use crate::machine::MachineName;
use crate::state::{Failed, Noes, Placed, Placing, RootState, StateError};

/// The most bytes of a journal. The copies are written anew long before.
pub const MAX_JOURNAL: usize = 256 * 1024 * 1024;

const VERSION: u32 = 1;
/// Of a line: the sum and the blank behind it.
const SUM: usize = 65;

/// All that is remembered of one machine after a change.
#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    readable_from: u32,
    /// The version of the copies.
    after: u64,
    /// Which line behind them, from 1.
    #[serde(rename = "line")]
    number: u64,
    name: MachineName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placed: Option<Placed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    executables: Option<Sha256Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placing: Option<Placing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noes: Option<Noes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<Failed>,
    /// When it was removed, for the guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<Timestamp>,
}

/// The line that says what `state` has of a machine now.
pub(crate) fn line(
    state: &RootState,
    number: u64,
    name: &MachineName,
    removed: Option<Timestamp>,
) -> Result<Vec<u8>, serde_json::Error> {
    let line = Line {
        v: VERSION,
        readable_from: VERSION,
        after: state.sequence(),
        number,
        name: name.clone(),
        placed: state.placed.get(name).cloned(),
        executables: state.executables.get(name).copied(),
        placing: state.placing.get(name).cloned(),
        noes: state.noes.get(name).copied(),
        failed: state.failed.get(name).copied(),
        removed,
    };
    let body = serde_json::to_vec(&line)?;
    let mut bytes = format!("{} ", Sha256Digest::of(&body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    Ok(bytes)
}

/// The object of a line that is whole.
fn whole(line: &[u8]) -> Option<&[u8]> {
    let (sum, body) = line.strip_suffix(b"\n")?.split_at_checked(SUM)?;
    (*sum == *format!("{} ", Sha256Digest::of(body)).as_bytes()).then_some(body)
}

impl RootState {
    /// Brings what the copies have to what the journal behind them says; how many of its lines that took.
    ///
    /// # Errors
    /// [`StateError::Journal`] for one that is damaged elsewhere than at its end, lacks lines, or goes on from copies that are
    /// newer than these; [`StateError::Newer`]. Fail closed.
    pub fn replay(&mut self, journal: &[u8]) -> Result<u64, StateError> {
        if journal.len() > MAX_JOURNAL {
            return Err(StateError::Journal("is too long"));
        }
        let (mut replayed, mut torn) = (0, false);
        for text in journal.split_inclusive(|byte| *byte == b'\n') {
            let Some(body) = whole(text) else {
                torn = true;
                continue;
            };
            if torn {
                return Err(StateError::Journal("is damaged in its middle"));
            }
            let damaged = |_| StateError::Journal("has a line that cannot be read");
            let header: Header = serde_json::from_slice(body).map_err(damaged)?;
            if header.readable_from > VERSION {
                return Err(StateError::Newer(header.v));
            }
            let line: Line = serde_json::from_slice(body).map_err(damaged)?;
            if line.after < self.sequence() {
                continue;
            }
            if line.after > self.sequence() {
                return Err(StateError::Journal("goes on from newer copies than these, which were put back"));
            }
            if line.number != replayed + 1 {
                return Err(StateError::Journal("lacks lines"));
            }
            replayed += 1;
            set(&mut self.placed, &line.name, line.placed);
            set(&mut self.executables, &line.name, line.executables);
            set(&mut self.placing, &line.name, line.placing);
            set(&mut self.noes, &line.name, line.noes);
            set(&mut self.failed, &line.name, line.failed);
            self.removals.extend(line.removed);
        }
        Ok(replayed)
    }
}

#[derive(Deserialize)]
struct Header {
    v: u32,
    readable_from: u32,
}

fn set<T>(map: &mut std::collections::BTreeMap<MachineName, T>, name: &MachineName, value: Option<T>) {
    match value {
        Some(value) => _ = map.insert(name.clone(), value),
        None => _ = map.remove(name),
    }
}
