//! Archives: gzip around a subset of tar that has one meaning, hashed, unpacked and checked in one pass.
//!
//! Taken are regular files and directories below one top directory with the machine's name, in POSIX (`ustar`, `pax`) or GNU
//! headers; long names of both; a global comment, as git writes one. Refused is what two programs could read in two ways:
//! links, devices, sparse files, sizes that are said twice and differ, entries that come twice or differ in case only, paths
//! that climb, anything after the end, a second gzip member.

mod gzip;
mod tar;

use std::io;

use sha2::{Digest as _, Sha256};

use crate::digest::Sha256Digest;
use crate::listing::{Listing, There};
use crate::machine::MachineName;
use crate::path::TreePath;
use crate::sums::{FILE_NAME, MAX_SUMS, SumsError};

/// Where an archive goes: a fresh directory that nobody sees yet. Paths are below the machine's directory, parents come
/// first, and no path comes twice.
pub trait UnpackSink {
    /// Makes a directory, mode 0755.
    ///
    /// # Errors
    /// Whatever is in the way; unpacking ends with it.
    fn directory(&mut self, path: &TreePath) -> io::Result<()>;

    /// Makes a file, mode 0755 where `executable`, else 0644. Until [`UnpackSink::end_file`] all content is its.
    ///
    /// # Errors
    /// As [`UnpackSink::directory`].
    fn begin_file(&mut self, path: &TreePath, executable: bool) -> io::Result<()>;

    /// Appends to the file.
    ///
    /// # Errors
    /// As [`UnpackSink::directory`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// The file is complete.
    ///
    /// # Errors
    /// As [`UnpackSink::directory`].
    fn end_file(&mut self) -> io::Result<()>;
}

/// How much an archive may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes as fetched (default 512 MiB).
    pub archive_bytes: u64,
    /// Files and directories (default 20,000).
    pub entries: usize,
    /// Bytes of all paths together, which are kept in memory until the end (default 2 MiB).
    pub path_bytes: usize,
    /// Bytes unpacked, tar's own included (default 2 GiB).
    pub unpacked_bytes: u64,
    /// Unpacked bytes for each fetched one, from 16 MiB on (default 100: text seldom reaches 20).
    pub expansion: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { archive_bytes: 512 << 20, entries: 20_000, path_bytes: 2 << 20, unpacked_bytes: 2 << 30, expansion: 100 }
    }
}

/// Unpacked bytes that are not held against an archive's expansion.
const FREE_EXPANSION: u64 = 16 << 20;

/// Why an archive is refused. Whatever went into the sink is to be thrown away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Not the archive that the list names.
    #[error("the archive's checksum is {got}, not {expected}")]
    Checksum {
        /// As listed.
        expected: Sha256Digest,
        /// As fetched.
        got: Sha256Digest,
    },
    /// Not gzip, damaged, cut short, or with something behind it.
    #[error("the archive is no single gzip stream: {0}")]
    Gzip(&'static str),
    /// Not tar, or not in the subset with one meaning.
    #[error("entry {entry} of the archive{}: {reason}", named(path.as_deref()))]
    Tar {
        /// Which entry, from 1.
        entry: usize,
        /// Its path as it stands in the archive, where that is known: without control characters, and no longer than 200 characters.
        path: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// Larger than [`Limits`] allow.
    #[error("the archive is over the limit of {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// There is no `SHA256SUMS`.
    #[error("the archive has no SHA256SUMS")]
    NoSums,
    /// `SHA256SUMS` is not the one that the list names.
    #[error("the checksum of SHA256SUMS is {got}, not {expected}")]
    SumsChecksum {
        /// As listed.
        expected: Sha256Digest,
        /// As found.
        got: Sha256Digest,
    },
    /// `SHA256SUMS` cannot be read.
    #[error(transparent)]
    Sums(#[from] SumsError),
    /// A file is not what `SHA256SUMS` says, is missing, or is not listed.
    #[error("{path} {reason}")]
    Content {
        /// Which file.
        path: String,
        /// In what way.
        reason: &'static str,
    },
    /// The sink failed.
    #[error("unpacking failed")]
    Sink(#[from] io::Error),
}

fn named(path: Option<&str>) -> String {
    path.map(|path| format!(" ({path})")).unwrap_or_default()
}

/// What came out of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Regular files, `SHA256SUMS` among them.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Takes an archive piece by piece, as it comes over the network; nothing is proven before [`Unpacker::finish`].
#[derive(Debug)]
pub struct Unpacker {
    expected_archive: Sha256Digest,
    hash: Sha256,
    fetched: u64,
    unpacked: u64,
    limits: Limits,
    gzip: gzip::Gunzip,
    tar: tar::Reader,
    contents: Contents,
}

impl Unpacker {
    /// Expects the archive of a machine.
    pub fn new(name: &MachineName, archive: Sha256Digest, sums: Sha256Digest, limits: Limits) -> Self {
        Self {
            expected_archive: archive,
            hash: Sha256::new(),
            fetched: 0,
            unpacked: 0,
            limits,
            gzip: gzip::Gunzip::new(),
            tar: tar::Reader::new(name.as_str()),
            contents: Contents {
                expected_sums: sums,
                limits,
                listing: Listing::default(),
                entries: 0,
                path_bytes: 0,
                parent: String::new(),
                open: None,
                unpacked: Unpacked { files: 0, bytes: 0 },
            },
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`ArchiveError`]; the archive is refused, and no further piece may come.
    pub fn push<S: UnpackSink + ?Sized>(&mut self, piece: &[u8], sink: &mut S) -> Result<(), ArchiveError> {
        self.fetched += piece.len() as u64;
        if self.fetched > self.limits.archive_bytes {
            return Err(ArchiveError::TooMuch { what: "bytes", limit: self.limits.archive_bytes });
        }
        self.hash.update(piece);
        let Self { gzip, tar, contents, unpacked, fetched, limits, .. } = self;
        gzip.push(piece, &mut |bytes| {
            *unpacked += bytes.len() as u64;
            if *unpacked > limits.unpacked_bytes {
                return Err(ArchiveError::TooMuch { what: "unpacked bytes", limit: limits.unpacked_bytes });
            }
            if unpacked.saturating_sub(FREE_EXPANSION) > fetched.saturating_mul(limits.expansion) {
                return Err(ArchiveError::TooMuch { what: "unpacked bytes for each fetched one", limit: limits.expansion });
            }
            tar.push(bytes, contents, sink)
        })
    }

    /// Nothing more comes: the archive is whole, the one that was listed, and its files are those of its list.
    ///
    /// # Errors
    /// [`ArchiveError`]. A wrong checksum is told before anything that follows from it.
    pub fn finish(self) -> Result<Unpacked, ArchiveError> {
        let got = Sha256Digest(self.hash.finalize().into());
        if got != self.expected_archive {
            return Err(ArchiveError::Checksum { expected: self.expected_archive, got });
        }
        self.gzip.finish()?;
        self.tar.finish()?;
        self.contents.finish()
    }
}

/// What has come out so far, and what is known of it.
#[derive(Debug)]
struct Contents {
    expected_sums: Sha256Digest,
    limits: Limits,
    listing: Listing,
    /// Files and directories.
    entries: usize,
    path_bytes: usize,
    /// A directory that is known to be there: files come together with their neighbours.
    parent: String,
    open: Option<(TreePath, Content)>,
    unpacked: Unpacked,
}

/// Of the file that is open.
#[derive(Debug)]
enum Content {
    /// The list itself.
    Sums,
    File(Sha256),
}

impl Contents {
    fn insert(&mut self, path: &TreePath, there: There) -> Result<(), Refusal> {
        if self.entries >= self.limits.entries {
            return Err(Refusal::TooMuch { what: "entries", limit: self.limits.entries as u64 });
        }
        self.entries += 1;
        self.path_bytes += path.as_str().len();
        if self.path_bytes > self.limits.path_bytes {
            return Err(Refusal::TooMuch { what: "bytes of paths", limit: self.limits.path_bytes as u64 });
        }
        if !self.listing.place_new(path.as_str(), there) {
            return Err(Refusal::Entry("comes twice, perhaps in other case".to_owned()));
        }
        self.few_paths("entries")
    }

    /// No archive that is taken lists anything besides its entries, and it has no more of them than that.
    fn few_paths(&self, what: &'static str) -> Result<(), Refusal> {
        if self.listing.paths() > self.limits.entries {
            return Err(Refusal::TooMuch { what, limit: self.limits.entries as u64 });
        }
        Ok(())
    }

    /// Makes the directories that a path needs and no entry has named.
    fn parents<S: UnpackSink + ?Sized>(&mut self, path: &TreePath, sink: &mut S) -> Result<(), Refusal> {
        let Some(around) = path.parent().filter(|around| *around != self.parent) else { return Ok(()) };
        let ends = around.match_indices('/').map(|(end, _)| end).chain([around.len()]);
        for end in ends {
            let parent = around.get(..end).unwrap_or_default();
            match self.listing.there(parent) {
                There::File => return Err(Refusal::Entry("lies below a file".to_owned())),
                There::Implied | There::Directory => {}
                There::Nothing => {
                    let parent: TreePath = parent.parse().map_err(|error| Refusal::Entry(format!("{error}")))?;
                    sink.directory(&parent).map_err(Refusal::Sink)?;
                    self.insert(&parent, There::Implied)?;
                }
            }
        }
        around.clone_into(&mut self.parent);
        Ok(())
    }

    fn directory<S: UnpackSink + ?Sized>(&mut self, path: &TreePath, sink: &mut S) -> Result<(), Refusal> {
        match self.listing.there(path.as_str()) {
            There::Directory | There::File => return Err(Refusal::Entry("comes twice".to_owned())),
            There::Implied => {
                self.listing.place(path.as_str(), There::Directory);
                return Ok(());
            }
            There::Nothing => {}
        }
        self.parents(path, sink)?;
        sink.directory(path).map_err(Refusal::Sink)?;
        self.insert(path, There::Directory)
    }

    fn begin_file<S: UnpackSink + ?Sized>(
        &mut self,
        path: TreePath,
        executable: bool,
        size: u64,
        sink: &mut S,
    ) -> Result<(), Refusal> {
        if self.listing.there(path.as_str()) != There::Nothing {
            return Err(Refusal::Entry("comes twice".to_owned()));
        }
        self.parents(&path, sink)?;
        let is_list = path.as_str() == FILE_NAME;
        if is_list {
            if size > MAX_SUMS as u64 {
                return Err(Refusal::TooMuch { what: "bytes of SHA256SUMS", limit: MAX_SUMS as u64 });
            }
            self.listing.begin_list();
        }
        sink.begin_file(&path, executable).map_err(Refusal::Sink)?;
        // In its place at once, so that nothing can come below it.
        self.insert(&path, There::File)?;
        self.open = Some((path, if is_list { Content::Sums } else { Content::File(Sha256::new()) }));
        Ok(())
    }

    fn write<S: UnpackSink + ?Sized>(&mut self, bytes: &[u8], sink: &mut S) -> Result<(), Refusal> {
        if let Some((_, content)) = &mut self.open {
            match content {
                Content::File(hash) => hash.update(bytes),
                Content::Sums => {
                    self.listing.list(bytes);
                    self.few_paths("listed files")?;
                }
            }
            self.unpacked.bytes += bytes.len() as u64;
        }
        sink.write(bytes).map_err(Refusal::Sink)
    }

    fn end_file<S: UnpackSink + ?Sized>(&mut self, sink: &mut S) -> Result<(), Refusal> {
        if let Some((path, content)) = self.open.take() {
            if let Content::File(hash) = content {
                self.listing.found(path.as_str(), Sha256Digest(hash.finalize().into()));
            }
            self.unpacked.files += 1;
        }
        sink.end_file().map_err(Refusal::Sink)
    }

    fn finish(self) -> Result<Unpacked, ArchiveError> {
        self.listing.finish(self.expected_sums)?;
        Ok(self.unpacked)
    }
}

/// Why the contents refuse an entry; the reader knows which one it is.
#[derive(Debug)]
enum Refusal {
    Entry(String),
    TooMuch { what: &'static str, limit: u64 },
    Sink(io::Error),
}
