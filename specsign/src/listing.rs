//! A machine's files against its `SHA256SUMS`: both as they come, in any order, and in little memory. Paths are known by a digest.

mod known;

use sha2::{Digest as _, Sha256};

use crate::archive::ArchiveError;
use crate::digest::Sha256Digest;
use crate::sums::{FILE_NAME, Line, Lines, SumsError};
use known::{Known, Paths};

const NOT_LISTED: &str = "is not listed in SHA256SUMS";
const NO_FILE: &str = "is listed in SHA256SUMS and is no file here";

/// A path by the first half of its SHA-256: nobody finds two with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PathDigest(pub(crate) [u8; 16]);

impl PathDigest {
    pub(crate) fn of(path: &str) -> Self {
        let mut half = [0; 16];
        for (byte, whole) in half.iter_mut().zip(Sha256::digest(path)) {
            *byte = whole;
        }
        Self(half)
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// Nothing, as far as has come.
    Nothing,
    /// A directory, since something is below it.
    Implied,
    /// A directory that an entry named.
    Directory,
    /// A regular file.
    File,
}

/// What is known of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    Unknown,
    /// The list has it, and the file has not come.
    Listed(Sha256Digest),
    /// The file has come, and the list does not have it so far.
    Found(Sha256Digest),
    /// Both, and they agree.
    Agreed,
}

/// Files and their list, as they come.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    paths: Paths,
    lines: Option<Lines>,
    /// What is wrong with the list itself.
    fault: Option<SumsError>,
    /// The first file that differs from the list.
    difference: Option<(String, &'static str)>,
}

impl Listing {
    /// What is at a path.
    pub(crate) fn there(&self, path: &str) -> There {
        self.paths.get(path).map_or(There::Nothing, |known| known.there)
    }

    /// Something is at a path from now on.
    pub(crate) fn place(&mut self, path: &str, there: There) {
        self.paths.change(path, |known| known.there = there);
    }

    /// The same for a path where nothing has been placed, unless there is something at one that differs from it in case only.
    #[must_use]
    pub(crate) fn place_new(&mut self, path: &str, there: There) -> bool {
        let alone = self.paths.fold(path);
        if alone {
            self.place(path, there);
        }
        alone
    }

    /// How many paths have come or were listed so far.
    pub(crate) fn paths(&self) -> usize {
        self.paths.len()
    }

    /// A file has come with its content. Not for the list itself.
    pub(crate) fn found(&mut self, path: &str, digest: Sha256Digest) {
        let fits = self.paths.change(path, |known| {
            known.there = There::File;
            known.sum = match known.sum {
                Sum::Listed(listed) if listed != digest => return false,
                Sum::Listed(_) => Sum::Agreed,
                _ => Sum::Found(digest),
            };
            true
        });
        if !fits {
            self.differs(path, "is not what SHA256SUMS says");
        }
    }

    /// The list begins; there is one.
    pub(crate) fn begin_list(&mut self) {
        self.lines = Some(Lines::new());
    }

    /// The next piece of the list.
    pub(crate) fn list(&mut self, piece: &[u8]) {
        let Some(mut lines) = self.lines.take() else { return };
        lines.push(piece, &mut |line| self.line(line));
        self.lines = Some(lines);
    }

    fn line(&mut self, line: Line) {
        if self.fault.is_some() {
            return;
        }
        let (number, path, digest) = match line {
            Ok(line) => line,
            Err(error) => {
                self.fault = Some(error);
                return;
            }
        };
        let path = path.as_str();
        if path == FILE_NAME {
            self.fault = Some(SumsError::Twice { line: number });
            return;
        }
        let fault = self.paths.change(path, |known| {
            let (sum, fault) = match known.sum {
                Sum::Unknown => (Sum::Listed(digest), None),
                Sum::Found(found) if found == digest => (Sum::Agreed, None),
                sum @ Sum::Found(_) => (sum, Some("is not what SHA256SUMS says")),
                sum @ (Sum::Listed(_) | Sum::Agreed) => (sum, Some("is listed twice")),
            };
            known.sum = sum;
            fault
        });
        if let Some(reason) = fault {
            self.differs(path, reason);
        }
    }

    /// Nothing more comes: every file is listed, and is what the list says; the list is the one with the sum `expected`. The list itself
    /// is told first: what it says counts only where it is that one.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(crate) fn finish(mut self, expected: Sha256Digest) -> Result<(), ArchiveError> {
        let lines = self.lines.take().ok_or(ArchiveError::NoSums)?;
        let got = lines.finish(&mut |line| self.line(line));
        if got != expected {
            return Err(ArchiveError::SumsChecksum { expected, got });
        }
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        if let Some((path, reason)) = self.difference {
            return Err(ArchiveError::Content { path, reason });
        }
        let alone = |is: fn(&Sum) -> bool| self.paths.iter().find(|known| is(&known.sum));
        let listed = alone(|sum| matches!(sum, Sum::Listed(_))).map(|known| (known, NO_FILE));
        let found = || alone(|sum| matches!(sum, Sum::Found(_))).map(|known| (known, NOT_LISTED));
        match listed.or_else(found) {
            None => Ok(()),
            Some((known, reason)) => Err(ArchiveError::Content { path: self.name(known), reason }),
        }
    }

    fn name(&self, known: &Known) -> String {
        self.paths.name(known).map_or_else(|| "a file among very many".to_owned(), str::to_owned)
    }

    fn differs(&mut self, path: &str, reason: &'static str) {
        self.difference.get_or_insert_with(|| (path.to_owned(), reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(content: &str) -> Sha256Digest {
        Sha256Digest::of(content.as_bytes())
    }

    /// Files and a list of them, in pieces, before, between or behind the files; what comes of it.
    fn check(files: &[(&str, &str)], list: &str, at: usize, piece: usize) -> Result<(), String> {
        let mut listing = Listing::default();
        for turn in 0..=files.len() {
            if turn == at {
                listing.begin_list();
                list.as_bytes().chunks(piece).for_each(|piece| listing.list(piece));
            }
            if let Some((path, content)) = files.get(turn) {
                listing.found(path, digest(content));
            }
        }
        listing.finish(digest(list)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_order_of_files_and_list_changes_nothing() {
        let line = |path: &str, content: &str| format!("{}  {path}\n", digest(content));
        let files = [("a", "1"), ("b/c", "2"), ("b/d", "2")];
        let all: String = files.iter().map(|(path, content)| line(path, content)).collect();
        let without_last: String = files[..2].iter().map(|(path, content)| line(path, content)).collect();
        for at in 0..=files.len() {
            for piece in [1, 7, 66, 10_000] {
                let end = |list: &str| check(&files, list, at, piece);
                assert_eq!(end(&all), Ok(()));
                assert_eq!(end(all.trim_end()), Ok(()), "the last line needs no end");
                assert_eq!(end(&without_last), Err("b/d is not listed in SHA256SUMS".to_owned()));
                let more = format!("{all}{}", line("e", "3"));
                assert_eq!(end(&more), Err("e is listed in SHA256SUMS and is no file here".to_owned()));
                let other = all.replace(&digest("1").to_string(), &digest("4").to_string());
                assert_eq!(end(&other), Err("a is not what SHA256SUMS says".to_owned()));
                let twice = format!("{all}{}", line("a", "1"));
                assert_eq!(end(&twice), Err("a is listed twice".to_owned()));
                assert!(end("").unwrap_err().contains("is empty"));
                assert!(end("\n").unwrap_err().contains("line 1"));
                assert!(end(&format!("{all}\n")).unwrap_err().contains("line 4"));
                let itself = format!("{all}{}", line(FILE_NAME, "1"));
                assert_eq!(end(&itself), Err(SumsError::Twice { line: 4 }.to_string()));
            }
        }
    }

    #[test]
    fn another_list_than_expected_is_told_before_what_it_says() {
        let mut listing = Listing::default();
        listing.begin_list();
        listing.list(b"nonsense");
        let error = listing.finish(digest("the list")).unwrap_err();
        assert!(matches!(error, ArchiveError::SumsChecksum { .. }), "{error}");
        assert!(matches!(Listing::default().finish(digest("")), Err(ArchiveError::NoSums)));
    }

    #[test]
    fn a_directory_is_no_file_of_the_list() {
        let mut listing = Listing::default();
        listing.place("a", There::Directory);
        listing.begin_list();
        let list = format!("{}  a\n", digest("1"));
        listing.list(list.as_bytes());
        let error = listing.finish(digest(&list)).unwrap_err().to_string();
        assert_eq!(error, "a is listed in SHA256SUMS and is no file here");
    }

    #[test]
    fn of_very_many_files_the_first_are_told_by_name() {
        let mut listing = Listing::default();
        let path = |number: usize| format!("{}/{number}", "directory".repeat(10));
        for number in 0..10_000 {
            listing.found(&path(number), digest(""));
        }
        assert!(listing.paths.names_length() <= known::MAX_NAMES);
        listing.begin_list();
        let list: String =
            (0..10_000).filter(|number| *number != 5).map(|number| format!("{}  {}\n", digest(""), path(number))).collect();
        listing.list(list.as_bytes());
        let error = listing.finish(digest(&list)).unwrap_err().to_string();
        assert_eq!(error, format!("{} is not listed in SHA256SUMS", path(5)));
        // The others are refused as well, if not by name.
        let mut listing = Listing::default();
        for number in 0..10_000 {
            listing.found(&path(number), digest(""));
        }
        listing.begin_list();
        let list: String = (0..9_999).map(|number| format!("{}  {}\n", digest(""), path(number))).collect();
        listing.list(list.as_bytes());
        let error = listing.finish(digest(&list)).unwrap_err().to_string();
        assert_eq!(error, "a file among very many is not listed in SHA256SUMS");
    }
}
