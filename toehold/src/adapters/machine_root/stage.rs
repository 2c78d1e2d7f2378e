//! What an archive is unpacked into: a directory that nobody sees, and that goes to the trash unless it is sealed.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

use toehold_specsign::{MachineName, TreePath, UnpackSink};

use super::Private;
use super::handles::Directory;
use super::tree::stop_if;
use crate::cli::Signals;

/// A machine's directory on its way in.
#[derive(Debug)]
pub struct Stage {
    private: Arc<Private>,
    name: MachineName,
    top: Directory,
    /// The directory that was written to last: files come together with their neighbours.
    parent: Option<(String, Directory)>,
    file: Option<File>,
    signals: Option<Signals>,
    sealed: bool,
}

impl Stage {
    pub(super) fn make(private: &Arc<Private>, name: &MachineName, signals: Option<Signals>) -> io::Result<Self> {
        private.discard(&private.unpacking, name)?;
        let top = private.unpacking.make(name.as_str(), 0o755)?;
        Ok(Self { private: Arc::clone(private), name: name.clone(), top, parent: None, file: None, signals, sealed: false })
    }

    /// Everything is on the disk, and then under its name.
    pub(super) fn seal(mut self) -> io::Result<()> {
        // An error of an earlier write-back comes out here, too (since Linux 5.8).
        self.top.sync_file_system()?;
        self.private.moved_in(&self.name)?;
        self.sealed = true;
        Ok(())
    }

    /// Does something in the directory that a path is in.
    fn in_parent<T>(&mut self, path: &TreePath, act: impl FnOnce(&Directory, &str) -> io::Result<T>) -> io::Result<T> {
        let Some(parent) = path.parent() else { return act(&self.top, path.as_str()) };
        let name = path.components().next_back().unwrap_or_default();
        if let Some((known, directory)) = &self.parent
            && known == parent
        {
            return act(directory, name);
        }
        let directory = self.top.open_below(parent)?;
        let (_, directory) = self.parent.insert((parent.to_owned(), directory));
        act(directory, name)
    }
}

impl UnpackSink for Stage {
    fn directory(&mut self, path: &TreePath) -> io::Result<()> {
        self.in_parent(path, |parent, name| parent.make(name, 0o755).map(drop))
    }

    fn begin_file(&mut self, path: &TreePath, executable: bool) -> io::Result<()> {
        stop_if(self.signals.as_ref())?;
        let mode = if executable { 0o755 } else { 0o644 };
        self.file = Some(self.in_parent(path, |parent, name| parent.create(name, mode))?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or_else(|| Err(io::Error::other("no file was begun")), |file| file.write_all(bytes))
    }

    fn end_file(&mut self) -> io::Result<()> {
        self.file = None;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.sealed {
            // What cannot be moved now is found by the next run.
            let _ = self.private.discard(&self.private.unpacking, &self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use toehold_specsign::MachineRoot as _;

    use super::super::DirectoryRoot;
    use super::*;

    /// Somebody who can write to the root exchanges directories for links while an archive is unpacked.
    #[test]
    fn a_link_that_comes_in_between_leads_nowhere() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::set_permissions(inside.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut root = DirectoryRoot::open(inside.path(), None).unwrap();
        let path = |text: &str| text.parse::<TreePath>().unwrap();
        let mut stage = root.stage(&"app".parse().unwrap()).unwrap();
        stage.directory(&path("a")).unwrap();
        stage.directory(&path("a/b")).unwrap();
        stage.directory(&path("c")).unwrap();
        let app = inside.path().join(".toehold/unpacking/app");
        for (name, below) in [("a/b", "a/b/file"), ("c", "c/file")] {
            fs::remove_dir(app.join(name)).unwrap();
            symlink(outside.path(), app.join(name)).unwrap();
            assert!(stage.begin_file(&path(below), false).is_err(), "{below}");
            assert!(stage.directory(&path(below)).is_err(), "{below}");
        }
        symlink(outside.path().join("made"), app.join("link")).unwrap();
        assert!(stage.begin_file(&path("link"), false).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        drop(stage);
        assert_eq!(fs::read_dir(inside.path().join(".toehold/unpacking")).unwrap().count(), 0);
    }
}
