//! Walks through directories that others may have written to: looking, and removing.

use std::io::{self, Read};

use rustix::fs::{FileType, RenameFlags, Stat};
use toehold_specsign::{Attributes, MAX_PATH_DEPTH, TreeEntry, TreeVisitor};

use super::handles::{Directory, rename};
use super::unique;
use crate::cli::Signals;

/// A read that ends with an error when the operator wants out.
struct Stoppable<'a, R> {
    inner: R,
    signals: Option<&'a Signals>,
}

/// Why something was not done to its end.
pub(super) fn stop_if(signals: Option<&Signals>) -> io::Result<()> {
    match signals {
        Some(signals) if signals.came() => Err(io::Error::other("stopped by a signal")),
        _ => Ok(()),
    }
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        stop_if(self.signals)?;
        self.inner.read(buffer)
    }
}

/// Shows what is in a directory, parents first.
pub(super) fn inspect(directory: &Directory, visitor: &mut dyn TreeVisitor, signals: Option<&Signals>) -> io::Result<()> {
    Walk { visitor, signals }.walk(directory, &mut Vec::new(), 1)
}

struct Walk<'a> {
    visitor: &'a mut dyn TreeVisitor,
    signals: Option<&'a Signals>,
}

impl Walk<'_> {
    fn walk(&mut self, directory: &Directory, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        directory.names(|name, kind| {
            stop_if(self.signals)?;
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let shown = match kind {
                FileType::RegularFile => self.file(directory, name, path),
                FileType::Directory => self.directory(directory, name, path, depth),
                // Asked for where the file system does not say.
                _ => match directory.stat(name)? {
                    None => Ok(()),
                    Some(stat) => match FileType::from_raw_mode(stat.st_mode) {
                        FileType::RegularFile => self.file(directory, name, path),
                        FileType::Directory => self.directory(directory, name, path, depth),
                        _ => self.visitor.entry(path, TreeEntry::Other, attributes(&stat)),
                    },
                },
            };
            path.truncate(length);
            shown
        })
    }

    fn file(&mut self, directory: &Directory, name: &[u8], path: &[u8]) -> io::Result<()> {
        match directory.open_file(name)? {
            Some((file, stat)) if stat.st_nlink == 1 => {
                let mut content = Stoppable { inner: file, signals: self.signals };
                self.visitor.entry(path, TreeEntry::File(&mut content), attributes(&stat))
            }
            Some((_, stat)) => self.visitor.entry(path, TreeEntry::Other, attributes(&stat)),
            None => self.visitor.entry(path, TreeEntry::Other, Attributes::ours(0)),
        }
    }

    fn directory(&mut self, parent: &Directory, name: &[u8], path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        // Nothing that was placed is as deep; a handle is held for each level.
        if depth > MAX_PATH_DEPTH {
            return self.visitor.entry(path, TreeEntry::Other, Attributes::ours(0));
        }
        let directory = parent.open_raw(name)?;
        self.visitor.entry(path, TreeEntry::Directory, attributes(&directory.own_stat()?))?;
        self.walk(&directory, path, depth + 1)
    }
}

/// What is compared with what was placed. The private directory belongs to the user that we are, and so does all that comes out of
/// it.
pub(super) fn attributes(stat: &Stat) -> Attributes {
    Attributes { mode: mode(stat), foreign: stat.st_uid != rustix::process::geteuid().as_raw() }
}

/// `st_mode & 0o7777`.
pub(super) fn mode(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// Removes all that is in the trash, as far as possible: the first trouble is told, and what can be removed beside it is.
pub(super) fn empty(trash: &Directory, signals: Option<&Signals>) -> io::Result<()> {
    let mut trouble = None;
    loop {
        // What is too deep comes up to the top, and is there the next time.
        let mut again = false;
        let names = names(trash)?;
        for name in names {
            stop_if(signals)?;
            if let Err(error) = remove(trash, trash, &name, 0, &mut again, signals) {
                trouble = Some(error);
            }
        }
        if !again || trouble.is_some() {
            return trouble.map_or(Ok(()), Err);
        }
    }
}

fn names(directory: &Directory) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    directory.names(|name, _| {
        names.push(name.to_vec());
        Ok(())
    })?;
    Ok(names)
}

fn remove(
    trash: &Directory,
    parent: &Directory,
    name: &[u8],
    depth: usize,
    again: &mut bool,
    signals: Option<&Signals>,
) -> io::Result<()> {
    // Nearly everything is a file; a directory, and nothing else, is refused with this error.
    match parent.unlink(name, false) {
        Ok(()) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::ISDIR.raw_os_error()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    if depth >= MAX_PATH_DEPTH {
        *again = true;
        return rename((parent, name), (trash, unique("deep").as_bytes()), RenameFlags::NOREPLACE);
    }
    let directory = match parent.open_raw(name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Ours, but closed to its owner; only by its name can it be opened up, and a link is not followed.
            return parent.unlink(name, true);
        }
        other => other?,
    };
    directory.let_owner_in()?;
    for name in names(&directory)? {
        stop_if(signals)?;
        remove(trash, &directory, &name, depth + 1, again, signals)?;
    }
    parent.unlink(name, true)
}
