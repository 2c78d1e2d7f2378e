//! Files below a directory, reached by handles: never over a link, never above where one begins.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

/// A directory that is open. Names given to it are single components, or are taken one by one.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

/// Bytes of a directory's listing that are read at a time.
const LISTING: usize = 8 * 1024;

/// Without `..`, links, or the links of `/proc`.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A device or a pipe is not waited for, and no terminal becomes ours.
const OPEN_FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Directory {
    /// A directory that the operator named; links on the way to it are the operator's.
    pub(super) fn open_named(path: &std::path::Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// A directory in this one.
    pub(super) fn open(&self, name: &str) -> io::Result<Self> {
        self.open_raw(name.as_bytes())
    }

    /// As [`Directory::open`], by a name as the system has it.
    pub(super) fn open_raw(&self, name: &[u8]) -> io::Result<Self> {
        single(name)?;
        Ok(Self(rustix::fs::openat(&self.0, name, OPEN_DIRECTORY, Mode::empty())?))
    }

    /// A directory some way below this one.
    pub(super) fn open_below(&self, path: &str) -> io::Result<Self> {
        self.open_below_by(path, |from| rustix::fs::openat2(from, path, OPEN_DIRECTORY, Mode::empty(), RESOLVE))
    }

    fn open_below_by(&self, path: &str, open: impl FnOnce(&OwnedFd) -> rustix::io::Result<OwnedFd>) -> io::Result<Self> {
        match open(&self.0) {
            Ok(directory) => Ok(Self(directory)),
            // An old kernel, or a filter of system calls that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_component(path),
            Err(error) => Err(error.into()),
        }
    }

    /// The same on a system without `openat2`.
    pub(super) fn open_by_component(&self, path: &str) -> io::Result<Self> {
        let mut components = path.split('/');
        let mut directory = self.open(components.next().unwrap_or_default())?;
        for component in components {
            directory = directory.open(component)?;
        }
        Ok(directory)
    }

    /// A regular file in this directory, and what it is; `None` for anything else.
    pub(super) fn open_file(&self, name: &[u8]) -> io::Result<Option<(File, Stat)>> {
        single(name)?;
        let file = rustix::fs::openat(&self.0, name, OPEN_FILE, Mode::empty())?;
        // What was opened counts, not what was there a moment ago.
        let stat = rustix::fs::fstat(&file)?;
        Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| (File::from(file), stat)))
    }

    /// A new file in this directory, with just this mode whatever the umask.
    pub(super) fn create(&self, name: &str, mode: u32) -> io::Result<File> {
        single(name.as_bytes())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(mode))?;
        if mode & UMASK != 0 {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        }
        Ok(File::from(file))
    }

    /// A file to append to, made where there is none.
    pub(super) fn append(&self, name: &str) -> io::Result<File> {
        single(name.as_bytes())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Makes a directory with just this mode whatever the umask.
    pub(super) fn make(&self, name: &str, mode: u32) -> io::Result<Self> {
        single(name.as_bytes())?;
        rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?;
        let directory = self.open(name)?;
        if mode & UMASK != 0 {
            rustix::fs::fchmod(&directory.0, Mode::from_raw_mode(mode))?;
        }
        Ok(directory)
    }

    /// What is here under a name, links not followed; `None` where nothing is.
    pub(super) fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        single(name)?;
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What this directory itself is.
    pub(super) fn own_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// Gives each name in it to `each`, with its kind where the file system says so, until one is an error.
    pub(super) fn names(&self, mut each: impl FnMut(&[u8], FileType) -> io::Result<()>) -> io::Result<()> {
        // The handle remembers how far it was read.
        rustix::fs::seek(&self.0, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); LISTING];
        let mut listing = RawDir::new(&self.0, &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                each(name, entry.file_type())?;
            }
        }
        Ok(())
    }

    /// Removes a name: of a directory, which is empty, or of anything else.
    pub(super) fn unlink(&self, name: &[u8], directory: bool) -> io::Result<()> {
        single(name)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        Ok(rustix::fs::unlinkat(&self.0, name, flags)?)
    }

    /// Lets its owner, who we are, remove what is in it.
    pub(super) fn let_owner_in(&self) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, Mode::RWXU)?)
    }

    /// What was done to the names in it is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Everything in its file system is on the disk: one call, however many files there are.
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

/// The bits that a umask is likely to take away.
const UMASK: u32 = 0o077;

impl AsFd for Directory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Renames in one step, and makes that durable.
pub(super) fn rename(from: (&Directory, &[u8]), to: (&Directory, &[u8]), flags: RenameFlags) -> io::Result<()> {
    single(from.1)?;
    single(to.1)?;
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)?;
    to.0.sync()?;
    from.0.sync()
}

/// A name that could lead elsewhere is none.
fn single(name: &[u8]) -> io::Result<()> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of one entry of a directory"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn both_ways_down_lead_to_the_same_places_and_over_no_link() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(inside.path().join("a/b/c")).unwrap();
        std::fs::write(inside.path().join("a/file"), "").unwrap();
        symlink(outside.path(), inside.path().join("a/away")).unwrap();
        symlink("b", inside.path().join("a/near")).unwrap();
        symlink("/proc/self/cwd", inside.path().join("a/magic")).unwrap();
        let top = Directory::open_named(inside.path()).unwrap();
        // The third: a system without `openat2`, or with a filter that does not let it through.
        let ways: [fn(&Directory, &str) -> io::Result<Directory>; 4] = [
            Directory::open_below,
            Directory::open_by_component,
            |top, path| top.open_below_by(path, |_| Err(Errno::NOSYS)),
            |top, path| top.open_below_by(path, |_| Err(Errno::PERM)),
        ];
        for way in ways {
            let inode = |directory: Directory| directory.own_stat().unwrap().st_ino;
            assert_eq!(inode(way(&top, "a/b/c").unwrap()), inode(top.open("a").unwrap().open("b").unwrap().open("c").unwrap()));
            for bad in
                ["a/away", "a/near", "a/near/c", "a/magic", "a/file", "a/none", "a/../..", "..", "/", "/tmp", "", "a//../.."]
            {
                assert!(way(&top, bad).is_err(), "{bad}");
            }
        }
    }

    /// A refusal is no reason to try another way.
    #[test]
    fn what_the_system_refuses_is_refused() {
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("a")).unwrap();
        let top = Directory::open_named(inside.path()).unwrap();
        for refusal in [Errno::LOOP, Errno::XDEV, Errno::ACCESS, Errno::AGAIN] {
            let error = top.open_below_by("a", |_| Err(refusal)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(refusal.raw_os_error()));
        }
    }

    #[test]
    fn a_listing_is_of_what_is_there_now() {
        let inside = tempfile::tempdir().unwrap();
        let top = Directory::open_named(inside.path()).unwrap();
        let listed = || {
            let mut names = Vec::new();
            top.names(|name, _| {
                names.push(String::from_utf8_lossy(name).into_owned());
                Ok(())
            })
            .unwrap();
            names.sort();
            names
        };
        assert!(listed().is_empty());
        // More than one read of the listing, and again through the same handle.
        let names: Vec<String> = (0..500).map(|number| format!("{number:03}")).collect();
        for name in &names {
            top.create(name, 0o644).unwrap();
        }
        assert_eq!((listed(), listed()), (names.clone(), names));
    }

    #[test]
    fn a_name_is_one_entry() {
        let inside = tempfile::tempdir().unwrap();
        let top = Directory::open_named(inside.path()).unwrap();
        for bad in ["", ".", "..", "a/b", "/", "a\0b"] {
            assert!(top.create(bad, 0o644).is_err() && top.make(bad, 0o755).is_err() && top.open(bad).is_err(), "{bad:?}");
            assert!(top.stat(bad.as_bytes()).is_err() && top.unlink(bad.as_bytes(), true).is_err(), "{bad:?}");
            assert!(rename((&top, bad.as_bytes()), (&top, b"x"), RenameFlags::empty()).is_err(), "{bad:?}");
        }
        assert!(top.create("a", 0o644).is_ok() && top.create("a", 0o644).is_err(), "nothing is written over");
    }
}
