//! What a root remembers: what it last accepted, whom it trusts, what it placed; kept in two copies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toehold_core::Timestamp;

use crate::digest::Sha256Digest;
use crate::document::Format;
use crate::envelope::SpecName;
use crate::keys::TrustedKeys;
use crate::machine::MachineName;

/// The most bytes of a copy.
pub const MAX_STATE: usize = 64 * 1024 * 1024;

const MAGIC: &str = "toehold-root-state 1";

/// One of the two copies. They are written in this order, each before the other is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two")]
pub enum StateCopy {
    /// Written first.
    First,
    /// Written when the first is durable.
    Second,
}

impl StateCopy {
    /// Both, in the order in which they are written.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];
}

/// Why the copies cannot be believed. Nothing is taken, changed or removed until somebody has looked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is no good copy, though there was one.
    #[error(
        "both copies of the root's state are damaged or gone, and with them the highest serial that was accepted; bring one back from \
         a backup that is not older, or take away what is left of the directory .toehold and begin anew, with the lowest serial that \
         counts (--begin-anew --min-serial N --public-key KEY)"
    )]
    Lost,
    /// There is nothing that was remembered, and something that every machine has: it may never have been a root.
    #[error(
        "something in this directory has a SHA256SUMS, as every machine in its place has, and nothing here says that this is a root: either \
         another program has put it there, and then name another, empty directory as the root, or take over what is whole of it \
         (--begin-anew); or the directory .toehold was taken away, and with it the highest serial that was accepted: then bring it back, or \
         begin anew with the lowest serial that counts (--begin-anew --min-serial N --public-key KEY)"
    )]
    Unremembered,
    /// The floor that is kept outside of the root is of another specification.
    #[error(
        "the root is bound to {inside}, and the floor that is kept of it in the state directory is of {outside}: another root lies at \
         this path now; if that is meant, remove that floor (in spec/roots there)"
    )]
    Replaced {
        /// What the root is bound to.
        inside: SpecName,
        /// What the floor outside is of.
        outside: SpecName,
    },
    /// The floor that is kept outside of the root cannot be read, and nothing in the root says what it was.
    #[error(
        "the floor that is kept of this root in the state directory is damaged, and the root has no state of its own; bring one of them \
         back, or remove that floor (in spec/roots there) and begin anew with --min-serial and --public-key"
    )]
    FloorLost,
    /// Two good copies that no sequence of writes leaves behind: one was put back.
    #[error(
        "the two copies of the root's state are versions {first} and {second}, which no crash leaves behind: one of them was put back; \
         remove the one that was"
    )]
    Diverged {
        /// Of the first copy.
        first: u64,
        /// Of the second copy.
        second: u64,
    },
    /// The journal behind the copies cannot be believed.
    #[error(
        "the journal of the root's state {0}; look what happened to the state directory, then remove the journal there: what was placed \
         since the copies were written is taken over again where it is whole"
    )]
    Journal(&'static str),
    /// A newer release wrote it.
    #[error("the root's state was written by a newer release (format {0}); upgrade this one")]
    Newer(u32),
}

/// A version of a machine that is, or is to be, in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Of the archive.
    pub archive: Sha256Digest,
    /// Of its `SHA256SUMS`.
    pub sums: Sha256Digest,
}

/// A version that is on its way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placing {
    /// Which.
    #[serde(flatten)]
    pub version: Placed,
    /// How far it has come.
    #[serde(default, skip_serializing_if = "Phase::is_arriving")]
    pub phase: Phase,
    /// Whose slot it needs, also where a later run goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Which of its files are executable, as [`crate::Executables::digest`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executables: Option<Sha256Digest>,
    /// Whether it was to be asked whether it works: then it is not settled without an answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
}

/// How far a version on its way in has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// It is unpacked and proven, and goes into place.
    #[default]
    Arriving,
    /// It is in place, its health command failed, and the version before goes back.
    Failed,
    /// The version before is back.
    Restored,
}

impl Phase {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_arriving(&self) -> bool {
        *self == Self::Arriving
    }
}

/// How often in a row a machine's matcher said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noes {
    /// How often; evaluations that were too close count once.
    pub count: u32,
    /// When it last counted.
    pub last: Timestamp,
}

/// A version that did not pass its health command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Of its archive.
    pub archive: Sha256Digest,
    /// When.
    pub at: Timestamp,
}

/// What a root remembers. Changes are additive, as with the store's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootState {
    v: u32,
    readable_from: u32,
    /// Grows with every write.
    sequence: u64,
    /// The specification that the root is bound to, from its first envelope on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<SpecName>,
    /// What it takes lists of, from its first document on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Whether it has seen an envelope; from then on nothing without one is taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enveloped: bool,
    /// The highest serial that was accepted; 0 for none.
    #[serde(default)]
    pub serial: u64,
    /// The statement that had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<Sha256Digest>,
    /// Which document the root keeps as the last good one: the digest of its statement, or of all of it where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Sha256Digest>,
    /// Who may sign the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted: Option<TrustedKeys>,
    /// The highest time that was seen.
    #[serde(default = "epoch")]
    pub highest_time: Timestamp,
    /// The machines that we placed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placed: BTreeMap<MachineName, Placed>,
    /// Which of their files are executable, which no list of sums says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub executables: BTreeMap<MachineName, Sha256Digest>,
    /// Those that are on their way in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placing: BTreeMap<MachineName, Placing>,
    /// Those whose matcher says no.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub noes: BTreeMap<MachineName, Noes>,
    /// Versions that are not tried again for a while.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<MachineName, Failed>,
    /// When machines were removed, within the guard's window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Timestamp>,
}

fn epoch() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

impl Default for RootState {
    fn default() -> Self {
        Self {
            v: 1,
            readable_from: 1,
            sequence: 0,
            name: None,
            format: None,
            enveloped: false,
            serial: 0,
            statement: None,
            document: None,
            trusted: None,
            highest_time: epoch(),
            placed: BTreeMap::new(),
            executables: BTreeMap::new(),
            placing: BTreeMap::new(),
            noes: BTreeMap::new(),
            failed: BTreeMap::new(),
            removals: Vec::new(),
        }
    }
}

/// A state as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The newest version.
    pub state: RootState,
    /// The copies that are not of that version, damaged or gone. They are written anew before anything else is.
    pub repair: Vec<StateCopy>,
}

impl RootState {
    /// Which version of the copies it is, or goes on from.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The same as the next version to be written.
    #[must_use]
    pub fn next_version(&self) -> Self {
        Self { sequence: self.sequence + 1, ..self.clone() }
    }

    /// The same without the number of its writes, for comparing what two roots remember.
    #[must_use]
    pub fn without_sequence(&self) -> Self {
        Self { sequence: 0, ..self.clone() }
    }

    /// What is kept outside of the root as well, so that whoever takes the root's own state away does not lower the floor: all that a
    /// document is judged by, and nothing of the machines.
    #[must_use]
    pub fn floor(&self) -> Self {
        Self {
            name: self.name.clone(),
            format: self.format,
            enveloped: self.enveloped,
            serial: self.serial,
            statement: self.statement,
            trusted: self.trusted.clone(),
            highest_time: self.highest_time,
            ..Self::default()
        }
    }

    /// Raises what a document is judged by to a floor that is kept elsewhere.
    pub(crate) fn raise_to(&mut self, floor: &Self) -> Result<(), StateError> {
        if let (Some(inside), Some(outside)) = (&self.name, &floor.name)
            && inside != outside
        {
            return Err(StateError::Replaced { inside: inside.clone(), outside: outside.clone() });
        }
        self.enveloped |= floor.enveloped;
        self.highest_time = self.highest_time.max(floor.highest_time);
        self.format = self.format.or(floor.format);
        self.name = self.name.take().or_else(|| floor.name.clone());
        if floor.serial > self.serial {
            self.serial = floor.serial;
            self.statement = floor.statement;
            self.trusted.clone_from(&floor.trusted);
        }
        Ok(())
    }

    /// Takes back all that was remembered of a time after `now`: the clock was wrong then.
    pub fn set_back(&mut self, now: Timestamp) {
        self.highest_time = self.highest_time.min(now);
        self.noes.retain(|_, noes| noes.last <= now);
        self.failed.retain(|_, failed| failed.at <= now);
        for at in &mut self.removals {
            *at = now.min(*at);
        }
    }

    /// The bytes of a copy: a line with their checksum and length, and JSON.
    ///
    /// # Errors
    /// Never for a state; the encoding is checked all the same.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let body = serde_json::to_vec(self)?;
        let mut bytes = format!("{MAGIC} {} {}\n", Sha256Digest::of(&body), body.len()).into_bytes();
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Reads a copy; `None` for a damaged one.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, StateError> {
        #[derive(Deserialize)]
        struct Header {
            v: u32,
            readable_from: u32,
        }
        let good = || {
            let end = bytes.iter().position(|byte| *byte == b'\n')?;
            let (line, body) = bytes.split_at_checked(end)?;
            let body = body.get(1..)?;
            (*line == *format!("{MAGIC} {} {}", Sha256Digest::of(body), body.len()).as_bytes()).then_some(body)
        };
        let Some(body) = Some(bytes).filter(|bytes| bytes.len() <= MAX_STATE).and_then(|_| good()) else { return Ok(None) };
        let Ok(header) = serde_json::from_slice::<Header>(body) else { return Ok(None) };
        if header.readable_from > 1 {
            return Err(StateError::Newer(header.v));
        }
        Ok(serde_json::from_slice(body).ok())
    }

    /// Judges what was found of the two copies; `None` where there are none and never were.
    ///
    /// `fresh`: nothing of ours is in the root at all, so that no copy can have been lost.
    ///
    /// # Errors
    /// [`StateError`]: fail closed.
    pub fn load(first: Option<&[u8]>, second: Option<&[u8]>, fresh: bool) -> Result<Option<Loaded>, StateError> {
        let decode = |bytes: Option<&[u8]>| bytes.map_or(Ok(None), Self::decode);
        // They nearly always are the same, and large where there are many machines.
        if let (Some(bytes), true) = (first, first == second) {
            let state = Self::decode(bytes)?.ok_or(StateError::Lost)?;
            return Ok(Some(Loaded { state, repair: Vec::new() }));
        }
        match (decode(first)?, decode(second)?) {
            (None, None) if fresh && first.is_none() && second.is_none() => Ok(None),
            (None, None) => Err(StateError::Lost),
            (Some(state), None) => Ok(Some(Loaded { state, repair: vec![StateCopy::Second] })),
            (None, Some(state)) => Ok(Some(Loaded { state, repair: vec![StateCopy::First] })),
            (Some(a), Some(b)) if a == b => Ok(Some(Loaded { state: a, repair: Vec::new() })),
            // The first was written and the second not yet.
            (Some(a), Some(b)) if a.sequence == b.sequence + 1 && a.serial >= b.serial => {
                Ok(Some(Loaded { state: a, repair: vec![StateCopy::Second] }))
            }
            (Some(a), Some(b)) => Err(StateError::Diverged { first: a.sequence, second: b.sequence }),
        }
    }
}
