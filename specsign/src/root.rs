//! A machine's root directory, as the reconciler needs it; and whether what lies there is what was placed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::archive::{ArchiveError, UnpackSink};
use crate::digest::Sha256Digest;
use crate::keys::VerifyingKey;
use crate::listing::{Listing, PathDigest};
use crate::machine::MachineName;
use crate::path::TreePath;
use crate::state::StateCopy;
use crate::sums::{FILE_NAME, MAX_SUMS};

/// Where a machine's directory can be. Only [`Place::Live`] is seen by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "a root must have each")]
pub enum Place {
    /// Below the root, by its name.
    Live,
    /// On its way in.
    Staged,
    /// The version before.
    Previous,
}

/// What of ours is in a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a root is in one of these")]
pub enum Traces {
    /// Nothing: it may never have been used.
    None,
    /// Something at [`Place::Live`] has a `SHA256SUMS`, as every machine has, and there is nothing else: either another program
    /// placed it, or what was remembered is gone.
    Machines,
    /// A state, a journal, a document or a private directory that was used.
    Own,
}

/// Something in a machine's directory.
pub enum TreeEntry<'a> {
    /// A directory.
    Directory,
    /// A regular file with one name, and its content.
    File(&'a mut dyn Read),
    /// A link, a device, a file with several names: nothing that was placed.
    Other,
}

impl std::fmt::Debug for TreeEntry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Directory => "Directory",
            Self::File(_) => "File",
            Self::Other => "Other",
        })
    }
}

/// What is known of an entry besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `st_mode & 0o7777`.
    pub mode: u32,
    /// Whether it belongs to another user than the one who places machines here.
    pub foreign: bool,
}

impl Attributes {
    /// Of something that belongs to who places machines here.
    pub fn ours(mode: u32) -> Self {
        Self { mode, foreign: false }
    }
}

/// Takes what lies in a machine's directory.
pub trait TreeVisitor {
    /// One entry, with its path below the machine's directory as the system has it.
    ///
    /// # Errors
    /// What reading the content came to; looking ends with it.
    fn entry(&mut self, path: &[u8], entry: TreeEntry<'_>, attributes: Attributes) -> io::Result<()>;
}

/// Which files of a machine are executable.
#[derive(Clone, Debug, Default)]
pub struct Executables {
    /// Each in order, and full but for the last, which is in no order: they take what they hold, however many there are.
    runs: Vec<Vec<PathDigest>>,
}

/// Paths that lie together.
const RUN: usize = 1024;

impl Executables {
    /// One more.
    pub fn insert(&mut self, path: &TreePath) {
        match self.runs.last_mut().filter(|run| run.len() < RUN) {
            Some(run) => run.push(PathDigest::of(path.as_str())),
            None => {
                let mut run = Vec::with_capacity(RUN);
                run.push(PathDigest::of(path.as_str()));
                self.runs.push(run);
            }
        }
        if let Some(run) = self.runs.last_mut().filter(|run| run.len() == RUN) {
            run.sort_unstable();
        }
    }

    /// SHA-256 over the first half of each path's SHA-256, in the order of these.
    pub fn digest(&self) -> Sha256Digest {
        let (full, last) = self.runs.split_at(self.runs.iter().take_while(|run| run.len() == RUN).count());
        let mut last = last.concat();
        last.sort_unstable();
        let mut rests: Vec<_> = full.iter().chain([&last]).map(|run| run.iter().copied()).collect();
        // Of each run the first that it still has.
        let mut firsts: BinaryHeap<_> = rests.iter_mut().enumerate().filter_map(first).collect();
        let (mut hash, mut before) = (Sha256::new(), None);
        while let Some(Reverse((path, number))) = firsts.pop() {
            if before.replace(path) != Some(path) {
                hash.update(path.0);
            }
            firsts.extend(rests.get_mut(number).and_then(|rest| first((number, rest))));
        }
        Sha256Digest(hash.finalize().into())
    }
}

/// The next path of a run, the least one coming first of several runs.
fn first<R: Iterator<Item = PathDigest>>((number, run): (usize, &mut R)) -> Option<Reverse<(PathDigest, usize)>> {
    run.next().map(|path| Reverse((path, number)))
}

/// A root directory with machines, and a private directory of ours in it or beside it.
///
/// The hands of the reconciler: files are reached by directory handles, and nothing outside is ever touched (S5: `openat2`
/// with `BENEATH` and `NO_SYMLINKS`, or component by component). What has returned is durable. An implementation that cannot
/// exchange two directories in one step returns an error; it never does so in two.
pub trait MachineRoot: Send {
    /// What a machine is unpacked into.
    type Stage: UnpackSink + Send;

    /// What of ours is there.
    ///
    /// # Errors
    /// Whatever keeps it from being told; then nothing is done.
    fn traces(&mut self) -> io::Result<Traces>;

    /// Reads a copy of the state; `None` where there is no such file.
    ///
    /// # Errors
    /// As [`MachineRoot::traces`].
    fn read_state(&mut self, copy: StateCopy) -> io::Result<Option<Vec<u8>>>;

    /// Writes a copy of the state.
    ///
    /// # Errors
    /// Whatever is in the way; the copy may then be anything.
    fn write_state(&mut self, copy: StateCopy, bytes: &[u8]) -> io::Result<()>;

    /// Reads the journal behind the copies; `None` or nothing where there is none.
    ///
    /// # Errors
    /// As [`MachineRoot::traces`].
    fn read_journal(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Appends to the journal, which comes to be where there is none.
    ///
    /// # Errors
    /// Whatever is in the way; any part of `line` may then be there.
    fn append_journal(&mut self, line: &[u8]) -> io::Result<()>;

    /// Removes the journal. None there is no error.
    ///
    /// # Errors
    /// Whatever is in the way; it may then be there or not.
    fn clear_journal(&mut self) -> io::Result<()>;

    /// Reads the floor that is kept of this root elsewhere, where taking the root's own state away does not reach it; `None` where
    /// there is none, or no such place.
    ///
    /// # Errors
    /// As [`MachineRoot::traces`].
    fn read_floor(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Replaces that floor, in one step; nothing is done where there is no place for it.
    ///
    /// # Errors
    /// Whatever is in the way; the one before is there then, or the new one.
    fn write_floor(&mut self, bytes: &[u8]) -> io::Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// Remembers outside of the root that these keys sign envelopes ([`crate::Admission::enveloped_keys`]); nothing is done where there
    /// is no place for it. Most of them are known already.
    ///
    /// # Errors
    /// Whatever is in the way; nothing else is done then.
    fn note_signers(&mut self, keys: &BTreeSet<VerifyingKey>) -> io::Result<()> {
        let _ = keys;
        Ok(())
    }

    /// Reads the last good document; `None` where there is none.
    ///
    /// # Errors
    /// As [`MachineRoot::traces`].
    fn read_document(&mut self) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the last good document, in one step. It can hold passwords: nobody else may read it.
    ///
    /// # Errors
    /// Whatever is in the way; the one before is there then, or the new one.
    fn write_document(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Whether there is anything at a place, directory or not.
    ///
    /// # Errors
    /// Where that cannot be told: never "no" for want of a permission.
    fn exists(&mut self, place: Place, name: &MachineName) -> io::Result<bool>;

    /// Shows everything in a machine's directory, parents first; `false` where there is nothing at that place. What is no
    /// directory shows as one [`TreeEntry::Other`] with an empty path.
    ///
    /// # Errors
    /// Whatever keeps any of it from being read.
    fn inspect(&mut self, place: Place, name: &MachineName, visitor: &mut dyn TreeVisitor) -> io::Result<bool>;

    /// Makes an empty directory at [`Place::Staged`], where there is none.
    ///
    /// # Errors
    /// Whatever is in the way.
    fn stage(&mut self, name: &MachineName) -> io::Result<Self::Stage>;

    /// What was staged is complete: make it durable.
    ///
    /// # Errors
    /// Whatever is in the way.
    fn seal(&mut self, name: &MachineName, stage: Self::Stage) -> io::Result<()>;

    /// Exchanges what is at two places, in one step.
    ///
    /// # Errors
    /// Whatever is in the way; nothing has changed then.
    fn exchange(&mut self, name: &MachineName, one: Place, other: Place) -> io::Result<()>;

    /// Moves from one place to another, where nothing is, in one step.
    ///
    /// # Errors
    /// Whatever is in the way; nothing has changed then.
    fn rename(&mut self, name: &MachineName, from: Place, to: Place) -> io::Result<()>;

    /// Moves what is at a place into the trash, in one step. Nothing there is no error.
    ///
    /// # Errors
    /// Whatever is in the way; nothing has changed then.
    fn discard(&mut self, name: &MachineName, place: Place) -> io::Result<()>;

    /// Removes what is in the trash, as far as possible.
    ///
    /// # Errors
    /// Whatever is in the way; the rest stays for the next time.
    fn empty_trash(&mut self) -> io::Result<()>;
}

/// Compares a machine's directory with the list in it, which is the one with a given sum.
#[derive(Debug)]
pub struct TreeCheck {
    sums: Sha256Digest,
    /// Whether we placed it, so that modes and owners are known as well.
    placed: bool,
    expected: Option<Sha256Digest>,
    executables: Executables,
    listing: Listing,
    drift: Option<String>,
}

impl TreeCheck {
    /// Expects the machine whose `SHA256SUMS` has this sum, whoever put it there.
    pub fn new(sums: Sha256Digest) -> Self {
        Self {
            sums,
            placed: false,
            expected: None,
            executables: Executables::default(),
            listing: Listing::default(),
            drift: None,
        }
    }

    /// Expects it as it was placed: the modes that were given, the owner, and these files executable, as far as that is known
    /// ([`Executables::digest`]).
    pub fn placed(sums: Sha256Digest, executables: Option<Sha256Digest>) -> Self {
        Self { placed: true, expected: executables, ..Self::new(sums) }
    }

    /// In what way the directory is not that machine; `None` if it is.
    pub fn finish(self) -> Option<String> {
        if self.drift.is_some() {
            return self.drift;
        }
        match self.listing.finish(self.sums) {
            Err(ArchiveError::NoSums) => return Some("there is no SHA256SUMS".to_owned()),
            Err(error) => return Some(error.to_string()),
            Ok(()) => {}
        }
        let others = self.expected.is_some_and(|expected| expected != self.executables.digest());
        others.then(|| "other files are executable than those that were placed so".to_owned())
    }

    fn look(&mut self, path: &[u8], entry: TreeEntry<'_>, attributes: Attributes) -> io::Result<Result<(), String>> {
        // What is no directory is shown without a path where a machine's own directory would be.
        if path.is_empty() {
            return Ok(Err("there is no directory in its place, but a file, a link or a device".to_owned()));
        }
        let shown = || String::from_utf8_lossy(path).escape_debug().to_string();
        // First: the mode of a link says nothing.
        if matches!(entry, TreeEntry::Other) {
            return Ok(Err(format!(
                "{} is a link, a device, a file of several names, or too deep: nothing that was placed",
                shown()
            )));
        }
        let Attributes { mode, foreign } = attributes;
        let given = match entry {
            TreeEntry::Directory | TreeEntry::Other => mode == 0o755,
            TreeEntry::File(_) => matches!(mode, 0o644 | 0o755),
        };
        if mode & 0o7022 != 0 || self.placed && !given {
            return Ok(Err(format!("{} has the mode {mode:04o}, which was not placed", shown())));
        }
        if foreign && self.placed {
            return Ok(Err(format!("{} belongs to another user", shown())));
        }
        let Ok(path) = String::from_utf8_lossy(path).parse::<TreePath>() else {
            return Ok(Err(format!("{} has a name that was never placed", shown())));
        };
        let TreeEntry::File(content) = entry else { return Ok(Ok(())) };
        if mode & 0o111 != 0 {
            self.executables.insert(&path);
        }
        if path.as_str() == FILE_NAME {
            self.listing.begin_list();
            pieces(&mut content.take(MAX_SUMS as u64 + 1), &mut |piece| self.listing.list(piece))?;
        } else {
            let mut hash = Sha256::new();
            pieces(content, &mut |piece| hash.update(piece))?;
            self.listing.found(path.as_str(), Sha256Digest(hash.finalize().into()));
        }
        Ok(Ok(()))
    }
}

/// Reads to the end, piece by piece.
fn pieces(content: &mut dyn Read, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => each(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl TreeVisitor for TreeCheck {
    fn entry(&mut self, path: &[u8], entry: TreeEntry<'_>, attributes: Attributes) -> io::Result<()> {
        // One difference is enough; the rest need not be read.
        if self.drift.is_none() {
            self.drift = self.look(path, entry, attributes)?.err();
        }
        Ok(())
    }
}

/// The sum of a machine's list, which says what version it is without reading all of it.
#[derive(Debug, Default)]
pub(crate) struct ListDigest(pub(crate) Option<Sha256Digest>);

impl TreeVisitor for ListDigest {
    fn entry(&mut self, path: &[u8], entry: TreeEntry<'_>, _: Attributes) -> io::Result<()> {
        if let TreeEntry::File(content) = entry
            && path == FILE_NAME.as_bytes()
        {
            let mut hash = Sha256::new();
            pieces(&mut content.take(MAX_SUMS as u64 + 1), &mut |piece| hash.update(piece))?;
            self.0 = Some(Sha256Digest(hash.finalize().into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In what way a single entry is drift.
    fn drift(path: &[u8], entry: TreeEntry<'_>, mode: u32) -> String {
        let mut check = TreeCheck::placed(Sha256Digest::of(b""), None);
        check.entry(path, entry, Attributes::ours(mode)).unwrap();
        check.drift.unwrap()
    }

    #[test]
    fn drift_is_told_in_words_that_fit() {
        // Each link has the mode 0777 to Linux, which is not what is wrong with it.
        let link = drift(b"bin/run", TreeEntry::Other, 0o777);
        assert!(link.starts_with("bin/run is a link") && !link.contains("mode"), "{link}");
        let place = drift(b"", TreeEntry::Other, 0o777);
        assert!(place.starts_with("there is no directory in its place"), "{place}");
        let content: &mut &[u8] = &mut &b""[..];
        assert_eq!(drift(b"a", TreeEntry::File(content), 0o666), "a has the mode 0666, which was not placed");
        assert_eq!(drift(b"a\nb", TreeEntry::Directory, 0o755), "a\\nb has a name that was never placed");
    }

    #[test]
    fn the_digest_of_what_is_executable_depends_on_neither_order_nor_number() {
        for count in [0, 1, RUN - 1, RUN, RUN + 1, 5 * RUN + 7] {
            let paths: Vec<TreePath> = (0..count).map(|number| format!("bin/{number}").parse().unwrap()).collect();
            let sorted: BTreeSet<PathDigest> = paths.iter().map(|path| PathDigest::of(path.as_str())).collect();
            let mut hash = Sha256::new();
            for path in &sorted {
                hash.update(path.0);
            }
            let expected = Sha256Digest(hash.finalize().into());
            let of = |paths: &mut dyn Iterator<Item = &TreePath>| {
                let mut executables = Executables::default();
                paths.for_each(|path| executables.insert(path));
                executables.digest()
            };
            assert_eq!(of(&mut paths.iter()), expected, "{count}");
            assert_eq!(of(&mut paths.iter().rev()), expected, "{count} backwards");
            assert_eq!(of(&mut paths.iter().chain(&paths)), expected, "{count} twice");
        }
    }
}
