//! Several things asked of a host's files at once.

use crate::connect::{FileError, FileStat, HostFiles};

/// Something that is asked of a host's files and changes nothing that can be seen there. Each is a method of [`HostFiles`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever answers has to answer them all")]
pub enum Look {
    /// [`HostFiles::real_path`] of this path. Answer: [`Seen::RealPath`].
    RealPath(String),
    /// [`HostFiles::stat`] of this path. Answer: [`Seen::Stat`].
    Stat(String),
    /// [`HostFiles::read`]. Answer: [`Seen::Read`].
    Read {
        /// The file.
        path: String,
        /// The most bytes that it may have.
        limit: u64,
    },
    /// [`HostFiles::list`] of this directory. Answer: [`Seen::List`].
    List(String),
    /// [`HostFiles::sync`] of this file, which only makes durable what is there. Answer: [`Seen::Sync`].
    Sync(String),
}

/// What came of a [`Look`].
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "each is the answer to a look")]
pub enum Seen {
    /// Of [`Look::RealPath`].
    RealPath(Result<String, FileError>),
    /// Of [`Look::Stat`].
    Stat(Result<Option<FileStat>, FileError>),
    /// Of [`Look::Read`].
    Read(Result<Vec<u8>, FileError>),
    /// Of [`Look::List`].
    List(Result<Vec<String>, FileError>),
    /// Of [`Look::Sync`].
    Sync(Result<(), FileError>),
}

/// A change to a host's files behind which one can look at once, see [`HostFiles::change_and_look`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever performs has to perform them all")]
pub enum Change<'a> {
    /// [`HostFiles::stage`].
    Stage {
        /// The file; nothing may be there.
        path: &'a str,
        /// What is to be in it.
        content: &'a [u8],
        /// Its permission bits.
        mode: u32,
    },
    /// [`HostFiles::rename`].
    Rename {
        /// The file.
        from: &'a str,
        /// Its new name.
        to: &'a str,
    },
}

/// Looks at one thing after the other.
pub(crate) async fn one_by_one<F: HostFiles + ?Sized>(files: &mut F, looks: &[Look]) -> Vec<Seen> {
    let mut seen = Vec::with_capacity(looks.len());
    for look in looks {
        seen.push(match look {
            Look::RealPath(path) => Seen::RealPath(files.real_path(path).await),
            Look::Stat(path) => Seen::Stat(files.stat(path).await),
            Look::Read { path, limit } => Seen::Read(files.read(path, *limit).await),
            Look::List(path) => Seen::List(files.list(path).await),
            Look::Sync(path) => Seen::Sync(files.sync(path).await),
        });
    }
    seen
}

/// Makes the change, and then looks at one thing after the other; after a failed change at nothing.
pub(crate) async fn change_first<F: HostFiles + ?Sized>(
    files: &mut F,
    change: Change<'_>,
    looks: &[Look],
) -> (Result<(), FileError>, Vec<Seen>) {
    let changed = match change {
        Change::Stage { path, content, mode } => files.stage(path, content, mode).await,
        Change::Rename { from, to } => files.rename(from, to).await,
    };
    let seen = if changed.is_ok() { files.look(looks).await } else { Vec::new() };
    (changed, seen)
}
