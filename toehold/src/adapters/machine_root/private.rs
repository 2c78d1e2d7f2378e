//! The private directory in a root: what is on its way in or out, the state, the lock.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use rustix::fs::{FlockOperation, RenameFlags, flock};
use toehold_specsign::MachineName;

use super::RootError;
use super::handles::{Directory, rename};
use super::tree::mode;
use super::unique;

/// Its name. No machine's begins with a dot.
pub(super) const NAME: &str = ".toehold";

const LOCK: &str = "lock";

/// What the names begin with of the two directories that are exchanged to see whether that works. No machine's has a blank.
const PROBE: &str = "exchange probe";

/// The private directory. Nobody but its owner reaches into it.
#[derive(Debug)]
pub(super) struct Private {
    pub(super) top: Directory,
    /// What is being unpacked. All of it is worth nothing once the process that did is gone.
    pub(super) unpacking: Directory,
    pub(super) staged: Directory,
    pub(super) previous: Directory,
    pub(super) trash: Directory,
    /// Held while this process works on the root; the kernel lets go of it when it dies.
    _lock: Option<File>,
}

impl Private {
    /// Opens it, makes it where it is not there, and keeps others out.
    pub(super) fn open(live: &Directory) -> Result<Self, RootError> {
        if live.stat(NAME.as_bytes()).map_err(RootError::at(NAME))?.is_none() {
            match live.make(NAME, 0o700) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(RootError::at(NAME)(error)),
                _ => live.sync().map_err(RootError::at(NAME))?,
            }
        }
        Self::open_there(live, true)
    }

    /// Opens it where it is there, makes nothing, and does not mind others.
    pub(super) fn look(live: &Directory) -> Result<Option<Self>, RootError> {
        match live.stat(NAME.as_bytes()).map_err(RootError::at(NAME))? {
            Some(_) => Self::open_there(live, false).map(Some),
            None => Ok(None),
        }
    }

    fn open_there(live: &Directory, alone: bool) -> Result<Self, RootError> {
        let top = live.open(NAME).map_err(RootError::at(NAME))?;
        let (stat, around) = (top.own_stat().map_err(RootError::at(NAME))?, live.own_stat().map_err(RootError::at(NAME))?);
        if stat.st_uid != rustix::process::geteuid().as_raw() || mode(&stat) & 0o077 != 0 {
            return Err(RootError::NotPrivate);
        }
        if stat.st_dev != around.st_dev {
            return Err(RootError::NoExchange("it is another file system than that of the root".to_owned()));
        }
        let lock = if alone { Some(Self::lock(&top)?) } else { None };
        let below = |name| -> io::Result<Directory> {
            if alone && top.stat(str::as_bytes(name))?.is_none() {
                top.make(name, 0o700)?;
                top.sync()?;
            }
            top.open(name)
        };
        let open = |name| below(name).map_err(RootError::at(name));
        let (unpacking, staged) = (open("unpacking")?, open("staged")?);
        let (previous, trash) = (open("previous")?, open("trash")?);
        Ok(Self { top, unpacking, staged, previous, trash, _lock: lock })
    }

    fn lock(top: &Directory) -> Result<File, RootError> {
        let lock = top.append(LOCK).map_err(RootError::at("the lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RootError::Locked),
            Err(error) => Err(RootError::at("the lock")(error.into())),
        }
    }

    /// Whether it was never used: no state, and nothing anywhere but what a process left that died while it tried out the file system.
    pub(super) fn is_unused(&self) -> io::Result<bool> {
        let mut used = false;
        for directory in [&self.unpacking, &self.staged, &self.previous, &self.trash] {
            directory.names(|name, _| {
                used |= !name.starts_with(PROBE.as_bytes());
                Ok(())
            })?;
        }
        self.top.names(|name, _| {
            // What was never renamed into its place was never accepted.
            used |= !matches!(name, b"lock" | b"unpacking" | b"staged" | b"previous" | b"trash") && !name.ends_with(b".new");
            Ok(())
        })?;
        Ok(!used)
    }

    /// Tries whether the file system can exchange two directories in one step, before anything depends on it.
    pub(super) fn try_exchange(&self) -> Result<(), RootError> {
        let (one, other) = (unique(PROBE), unique(PROBE));
        let result = self
            .trash
            .make(&one, 0o700)
            .and_then(|_| self.trash.make(&other, 0o700))
            .and_then(|_| rename((&self.trash, one.as_bytes()), (&self.trash, other.as_bytes()), RenameFlags::EXCHANGE));
        for name in [one, other] {
            let _ = self.trash.unlink(name.as_bytes(), true);
        }
        result.map_err(|error| RootError::NoExchange(error.to_string()))
    }

    /// Throws away what an earlier process had not finished unpacking.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let mut names = Vec::new();
        self.unpacking.names(|name, _| {
            names.push(name.to_vec());
            Ok(())
        })?;
        names.iter().try_for_each(|name| self.throw_away(&self.unpacking, name, "unpacking"))
    }

    /// Moves a machine's directory into the trash; nothing there is no error.
    pub(super) fn discard(&self, from: &Directory, name: &MachineName) -> io::Result<()> {
        self.throw_away(from, name.as_str().as_bytes(), name.as_str())
    }

    fn throw_away(&self, from: &Directory, name: &[u8], called: &str) -> io::Result<()> {
        match rename((from, name), (&self.trash, unique(called).as_bytes()), RenameFlags::NOREPLACE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// What was unpacked is complete.
    pub(super) fn moved_in(&self, name: &MachineName) -> io::Result<()> {
        let name = name.as_str().as_bytes();
        rename((&self.unpacking, name), (&self.staged, name), RenameFlags::NOREPLACE)
    }

    /// Reads a file of ours; `None` where there is none.
    pub(super) fn read(&self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match self.top.open_file(name.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let Some((file, stat)) = file else { return Err(io::Error::other(format!("{NAME}/{name} is no regular file"))) };
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX).min(limit);
        let mut bytes = Vec::with_capacity(size.saturating_add(1));
        // One byte more than is allowed tells that there is more.
        file.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Replaces a file of ours in one step.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        match self.top.unlink(temporary.as_bytes(), false) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.top.create(&temporary, 0o600)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rename((&self.top, temporary.as_bytes()), (&self.top, name.as_bytes()), RenameFlags::empty())
    }

    /// Appends to a file of ours, which comes to be where there is none.
    pub(super) fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.top.stat(name.as_bytes())?.is_none();
        let mut file = self.top.append(name)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        if new { self.top.sync() } else { Ok(()) }
    }

    /// Removes a file of ours; none is no error.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match self.top.unlink(name.as_bytes(), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.top.sync(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use toehold_specsign::{MachineRoot as _, StateCopy, Traces};

    use super::super::DirectoryRoot;
    use super::*;

    /// A process died while it tried out whether directories can be exchanged here.
    #[test]
    fn a_root_that_was_only_tried_out_is_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        drop(DirectoryRoot::open(directory.path(), None).unwrap());
        let trash = directory.path().join(".toehold/trash");
        for _ in 0..2 {
            fs::create_dir(trash.join(unique(PROBE))).unwrap();
        }
        let mut root = DirectoryRoot::open(directory.path(), None).unwrap();
        assert_eq!(root.traces().unwrap(), Traces::None);
        root.empty_trash().unwrap();
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
        // What else lies there was placed once.
        let app = trash.join(unique("app"));
        fs::create_dir(&app).unwrap();
        assert_eq!(root.traces().unwrap(), Traces::Own);
        fs::remove_dir(&app).unwrap();
        root.write_state(StateCopy::First, b"").unwrap();
        assert_eq!(root.traces().unwrap(), Traces::Own);
    }
}
