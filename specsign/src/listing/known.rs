//! Paths with what is known of each: found by a hash and never moved, so that more of them take what they need and no more. A map
//! that doubles would have all of them twice while it grows, and room for as many again afterwards.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{PathDigest, Sum, There};
use crate::document::folded;

/// The most bytes of paths that are kept to name a file that is on one side alone: enough for some thousands. What comes later is
/// told without its name.
pub(super) const MAX_NAMES: usize = 256 * 1024;
/// Bytes of names that lie together. Every path is shorter.
const NAMES: usize = 16 * 1024;
/// Paths that lie together.
const CHUNK: usize = 256;
/// Where a name would be that is not kept.
const NOT_KEPT: u32 = u32::MAX;

/// What is known of a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    path: PathDigest,
    pub(super) there: There,
    pub(super) sum: Sum,
    /// Where its name begins in the names.
    name: u32,
}

/// All paths, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Full ones, but for the last.
    chunks: Vec<Vec<Known>>,
    /// The numbers of all, by their digests.
    by_digest: HashTable<u32>,
    /// Hashes of paths without regard to case; a collision refuses an archive, no more.
    folded: HashTable<u64>,
    hasher: RandomState,
    /// Names, a line feed behind each, in pieces of [`NAMES`].
    names: Vec<String>,
}

impl Paths {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_digest.len()
    }

    /// All of them, in the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.chunks.iter().flatten()
    }

    /// What is known of a path.
    pub(super) fn get(&self, path: &str) -> Option<&Known> {
        let path = PathDigest::of(path);
        let number = self.find(path, self.hasher.hash_one(path))?;
        at(&self.chunks, number)
    }

    /// Changes what is known of a path, of which nothing may be known so far.
    pub(super) fn change<T>(&mut self, path: &str, change: impl FnOnce(&mut Known) -> T) -> T {
        let digest = PathDigest::of(path);
        let hash = self.hasher.hash_one(digest);
        if let Some(known) = self.find(digest, hash).and_then(|number| at_mut(&mut self.chunks, number)) {
            return change(known);
        }
        let mut known = Known { path: digest, there: There::Nothing, sum: Sum::Unknown, name: self.keep(path) };
        let changed = change(&mut known);
        self.add(known, hash);
        changed
    }

    /// Notes that there is something at a path; `false` where there is already, perhaps in other case.
    pub(super) fn fold(&mut self, path: &str) -> bool {
        let hash = self.hasher.hash_one(folded(path));
        match self.folded.entry(hash, |other| *other == hash, |other| *other) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(hash);
                true
            }
        }
    }

    /// The name of a path, where it was kept.
    pub(super) fn name(&self, known: &Known) -> Option<&str> {
        let at = usize::try_from(known.name).ok()?;
        self.names.get(at / NAMES)?.get(at % NAMES..)?.lines().next()
    }

    fn find(&self, path: PathDigest, hash: u64) -> Option<u32> {
        self.by_digest.find(hash, |number| at(&self.chunks, *number).is_some_and(|known| known.path == path)).copied()
    }

    fn add(&mut self, known: Known, hash: u64) {
        // Each stands for more than a byte of an archive or of a list, and those have less than 4 GiB.
        let number = u32::try_from(self.len()).unwrap_or(u32::MAX);
        if self.chunks.last().is_none_or(|chunk| chunk.len() >= CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(known);
        }
        let Self { by_digest, chunks, hasher, .. } = self;
        by_digest.insert_unique(hash, number, |number| at(chunks, *number).map_or(0, |known| hasher.hash_one(known.path)));
    }

    /// Keeps a name, as long as there are not too many.
    fn keep(&mut self, name: &str) -> u32 {
        let needed = name.len() + 1;
        if self.names.last().is_none_or(|names| names.len() + needed > NAMES) {
            if self.names.len() * NAMES >= MAX_NAMES {
                return NOT_KEPT;
            }
            self.names.push(String::with_capacity(NAMES));
        }
        let before = (self.names.len() - 1) * NAMES;
        let Some(names) = self.names.last_mut() else { return NOT_KEPT };
        let at = u32::try_from(before + names.len()).unwrap_or(NOT_KEPT);
        names.push_str(name);
        names.push('\n');
        at
    }

    /// Bytes of all names that are kept.
    #[cfg(test)]
    pub(super) fn names_length(&self) -> usize {
        self.names.iter().map(String::len).sum()
    }
}

/// Where a number's place is: the chunk, and where in it.
fn place(number: u32) -> Option<(usize, usize)> {
    let number = usize::try_from(number).ok()?;
    Some((number / CHUNK, number % CHUNK))
}

fn at(chunks: &[Vec<Known>], number: u32) -> Option<&Known> {
    let (chunk, within) = place(number)?;
    chunks.get(chunk)?.get(within)
}

fn at_mut(chunks: &mut [Vec<Known>], number: u32) -> Option<&mut Known> {
    let (chunk, within) = place(number)?;
    chunks.get_mut(chunk)?.get_mut(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_many_paths_is_found_again_with_its_own() {
        let mut paths = Paths::default();
        let name = |number: u32| format!("directory{}/file{number}", number % 7);
        // They come twice, and are the same then.
        for turn in 0..2 {
            for number in 0..5_000_u32 {
                let sum = Sum::Listed(crate::digest::Sha256Digest::of(&number.to_be_bytes()));
                let before = paths.change(&name(number), |known| std::mem::replace(&mut known.sum, sum));
                assert_eq!(before, if turn == 0 { Sum::Unknown } else { sum });
                assert_eq!(paths.get(&name(number)).and_then(|known| paths.name(known)), Some(name(number).as_str()));
            }
            assert_eq!((paths.len(), paths.iter().count()), (5_000, 5_000));
        }
        assert!(paths.get("directory").is_none());
    }

    #[test]
    fn a_path_comes_once_whatever_its_case() {
        let mut paths = Paths::default();
        assert!(paths.fold("a/Straße"));
        assert!(!paths.fold("a/Straße"));
        assert!(!paths.fold("A/STRAßE"));
        assert!(paths.fold("a/strasse"));
    }

    /// The longest names that there are fill what is kept of them to the end, and no further.
    #[test]
    fn names_are_kept_while_there_is_room() {
        let mut paths = Paths::default();
        let name = |number: usize| format!("{number:0>width$}", width = crate::path::MAX_PATH);
        for number in 0..1_000 {
            paths.change(&name(number), |_| ());
        }
        let kept = paths.iter().filter(|known| paths.name(known).is_some()).count();
        assert_eq!(kept, MAX_NAMES / NAMES * (NAMES / (crate::path::MAX_PATH + 1)));
        for (number, known) in paths.iter().enumerate() {
            assert_eq!(paths.name(known), (number < kept).then(|| name(number)).as_deref());
        }
    }
}
