//! The last thing that looks at a write before it happens, and knows nothing of why it is made.

use toehold_core::PublicKey;
use toehold_keygen::authorized_keys::{Digest, Entry};
use toehold_keygen::is_grant;

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
    /// Somebody else's bytes would change.
    #[error("lines that are not ours would change")]
    ForeignBytes,
}

impl Write<'_> {
    /// Holds the write to R1, R2 and R5, and to leaving alone what is not ours.
    ///
    /// # Errors
    /// [`Violation`]: the write must not be made.
    pub fn check(&self) -> Result<(), Violation> {
        if !self.foreign(self.before).eq(self.foreign(self.after)) {
            return Err(Violation::ForeignBytes);
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

    fn foreign<'a>(&'a self, files: &'a Files) -> impl Iterator<Item = (bool, &'a [u8])> + 'a {
        let ours =
            |entry: &Entry<'_>| entry.key().is_some_and(|line| !is_grant(&line) && self.keys.iter().any(|key| line.is(key)));
        let first = files.first.entries().map(|entry| (false, entry));
        let second = files.second.iter().flat_map(|second| second.entries().map(|entry| (true, entry)));
        first.chain(second).filter(move |(_, entry)| !ours(entry)).map(|(place, entry)| (place, entry.text()))
    }
}

fn lines<'a>(files: &'a Files, key: &'a PublicKey) -> impl Iterator<Item = &'a [u8]> + 'a {
    files.copies(key).map(|entry| entry.text())
}

fn permanent<'a>(files: &'a Files, key: &'a PublicKey) -> impl Iterator<Item = Digest> + 'a {
    let never = |entry: &Entry<'_>| entry.key().is_some_and(|line| line_end(&line) == LineEnd::Never);
    files.copies(key).filter(never).map(|entry| line_id(&entry))
}
