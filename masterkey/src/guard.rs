//! The last thing that looks at a write before it happens, and knows nothing of why it is made.

use toehold_core::PublicKey;
use toehold_keygen::authorized_keys::{Digest, Entry};
use toehold_keygen::{AuthorizedKeys, generation, is_grant};

use crate::observe::{Files, LineEnd, line_end, line_id};

/// A write that is about to be made to a host's files.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Every master key that the store holds a private half of; lines with other keys are somebody else's.
    pub keys: &'a [PublicKey],
    /// The key that this connection was authenticated with.
    pub over: &'a PublicKey,
    /// The lines, by the digests of their bytes, that were in the files when a login with their key succeeded.
    pub proven: &'a [Digest],
    /// The number of the last rotation that the store knows of, an open one included; `None` where none are counted.
    pub generation: Option<u64>,
    /// The files as just read.
    pub before: &'a Files,
    /// The files as they are to be.
    pub after: &'a Files,
}

/// Why a write is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// R1: nothing that is known to log in for good would be left.
    #[error("no master line without an end that has logged in would be left")]
    NotAnchored,
    /// R2: lines of more than one master key would change.
    #[error("the lines of more than one master key would change at once")]
    SeveralKeys,
    /// R5: a line would lose its permanence over a connection that does not prove another one.
    #[error("a master line would be weakened over a connection that no other proven permanent line authenticated")]
    WeakensItsOwn,
    /// N3: the host has seen rotations that the store knows nothing of.
    #[error(
        "rotation {line} has written a master line there, and this store knows of {known} rotations only: it may be a restored backup that is behind its hosts"
    )]
    NewerGeneration {
        /// The rotation that its comment names.
        line: u64,
        /// The last one that the store knows of.
        known: u64,
    },
    /// Somebody else's bytes would change.
    #[error("lines that are not ours would change")]
    ForeignBytes,
}

impl Write<'_> {
    /// Holds the write to R1, R2, R5 and N3, and to leaving alone what is not ours.
    ///
    /// # Errors
    /// [`Violation`]: the write must not be made.
    pub fn check(&self) -> Result<(), Violation> {
        if !self.foreign(self.before).eq(self.foreign(self.after)) {
            return Err(Violation::ForeignBytes);
        }
        if let Some(violation) = self.generation.and_then(|known| self.newer_that_goes(known)) {
            return Err(violation);
        }
        let mut changed = self.keys.iter().filter(|key| !lines(self.before, key).eq(lines(self.after, key)));
        let first = changed.next();
        if changed.next().is_some() {
            return Err(Violation::SeveralKeys);
        }
        if !self.keys.iter().any(|key| self.anchors(self.after, key).next().is_some()) {
            return Err(Violation::NotAnchored);
        }
        let Some(key) = first else { return Ok(()) };
        let after: Vec<Digest> = permanent(self.after, key).collect();
        let weakened = permanent(self.before, key).any(|line| !after.contains(&line));
        let stays = |line: &Digest| permanent(self.after, self.over).any(|kept| kept == *line);
        let by_another = key != self.over && self.anchors(self.before, self.over).any(|line| stays(&line));
        if weakened && !by_another { Err(Violation::WeakensItsOwn) } else { Ok(()) }
    }

    /// The proven lines without an end.
    fn anchors<'a>(&'a self, files: &'a Files, key: &'a PublicKey) -> impl Iterator<Item = Digest> + 'a {
        permanent(files, key).filter(|line| self.proven.contains(line))
    }

    /// A line of a later rotation than the store knows of, if one would go or be given an end.
    fn newer_that_goes(&self, known: u64) -> Option<Violation> {
        self.keys.iter().find_map(|key| {
            let before: Vec<_> = newer(self.before, key, known).collect();
            let after: Vec<_> = newer(self.after, key, known).collect();
            let goes = |(_, text, end): &&(u64, &[u8], LineEnd)| {
                before.len() > after.len() || *end == LineEnd::Never && !after.iter().any(|(_, kept, _)| kept == text)
            };
            let (line, ..) = before.iter().find(goes)?;
            Some(Violation::NewerGeneration { line: *line, known })
        })
    }

    fn foreign<'a>(&'a self, files: &'a Files) -> impl Iterator<Item = (bool, &'a [u8])> + 'a {
        let ours =
            |entry: &Entry<'_>| entry.key().is_some_and(|line| !is_grant(&line) && self.keys.iter().any(|key| line.is(key)));
        let first = files.first.entries().map(|entry| (false, entry));
        let second = files.second.iter().flat_map(|second| second.entries().map(|entry| (true, entry)));
        first.chain(second).filter(move |(_, entry)| !ours(entry)).map(|(place, entry)| (place, entry.text()))
    }
}

/// What stands against taking the lines of `keys` out of this file (N3), by a store that knows of so many rotations.
pub fn later_line(document: &AuthorizedKeys, keys: &[PublicKey], known: u64) -> Option<Violation> {
    later_than(&Files { first: document.clone(), second: None }, keys, known)
}

/// The same of both files.
pub(crate) fn later_than(files: &Files, keys: &[PublicKey], known: u64) -> Option<Violation> {
    let line = keys.iter().flat_map(|key| newer(files, key, known)).map(|(line, ..)| line).max()?;
    Some(Violation::NewerGeneration { line, known })
}

/// The lines with the key that a later rotation than `known` wrote, by their comments.
fn newer<'a>(files: &'a Files, key: &'a PublicKey, known: u64) -> impl Iterator<Item = (u64, &'a [u8], LineEnd)> + 'a {
    files.copies(key).filter_map(move |entry| {
        let line = entry.key()?;
        let number = generation(&line).filter(|number| *number > known)?;
        Some((number, entry.text(), line_end(&line)))
    })
}

fn lines<'a>(files: &'a Files, key: &'a PublicKey) -> impl Iterator<Item = &'a [u8]> + 'a {
    files.copies(key).map(|entry| entry.text())
}

fn permanent<'a>(files: &'a Files, key: &'a PublicKey) -> impl Iterator<Item = Digest> + 'a {
    let never = |entry: &Entry<'_>| entry.key().is_some_and(|line| line_end(&line) == LineEnd::Never);
    files.copies(key).filter(never).map(|entry| line_id(&entry))
}
