//! A directory of this host as a root of machines.
//!
//! Machines lie in it by their names. Everything else of ours is in a private directory `.toehold` beside them, so that each
//! step is a rename within one file system. Files are reached by directory handles alone (S5).

mod handles;
mod private;
mod stage;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::RenameFlags;
use toehold_specsign::sums::FILE_NAME;
use toehold_specsign::{
    MAX_DOCUMENT, MAX_JOURNAL, MAX_STATE, MachineName, MachineRoot, Place, StateCopy, Traces, TreeEntry, TreeVisitor,
    VerifyingKey,
};

use handles::{Directory, rename};
use private::Private;
pub use stage::Stage;

use super::node_memory::{FloorFile, NodeMemory};
use crate::cli::Signals;

/// Why a directory cannot be a root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Something of it cannot be opened.
    #[error("{what} of the root cannot be used")]
    Io {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process works on it.
    #[error("another process is at work on this root; it goes on when that one has ended")]
    Locked,
    /// Its private directory is somebody else's too.
    #[error("the directory .toehold in the root has to belong to the user that runs this, and to nobody else (mode 0700)")]
    NotPrivate,
    /// Everybody may write to it.
    #[error("everybody may write to the root; take that away (chmod o-w), or anybody can put machines there")]
    WorldWritable,
    /// The file system cannot do what all of this rests on.
    #[error(
        "the root's file system cannot exchange two directories in one step ({0}); put it on a local one such as ext4, xfs or btrfs"
    )]
    NoExchange(String),
}

impl RootError {
    fn at(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// A root that this process works on. Dropping it, or dying, lets go.
#[derive(Debug)]
pub struct DirectoryRoot {
    live: Directory,
    /// None for a root that is only looked at, and has none yet.
    private: Option<Arc<Private>>,
    floor: Option<FloorFile>,
    memory: Option<NodeMemory>,
    signals: Option<Signals>,
}

impl DirectoryRoot {
    /// Takes a directory. Long work in it ends early once one of `signals` has come.
    ///
    /// # Errors
    /// [`RootError`]; nothing has changed then but that an empty private directory may be there.
    pub fn open(path: &Path, signals: Option<Signals>) -> Result<Self, RootError> {
        let live = Self::directory(path)?;
        let private = Private::open(&live)?;
        private.sweep().map_err(RootError::at(".toehold/unpacking"))?;
        if private.is_unused().map_err(RootError::at(private::NAME))? {
            private.try_exchange()?;
        }
        Ok(Self { live, private: Some(Arc::new(private)), floor: None, memory: None, signals })
    }

    /// Looks at a directory that another process may be at work on. Nothing is changed in it.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn look(path: &Path, signals: Option<Signals>) -> Result<Self, RootError> {
        let live = Self::directory(path)?;
        let private = Private::look(&live)?.map(Arc::new);
        Ok(Self { live, private, floor: None, memory: None, signals })
    }

    fn directory(path: &Path) -> Result<Directory, RootError> {
        let itself = || RootError::at("the directory");
        let live = Directory::open_named(path).map_err(itself())?;
        if tree::mode(&live.own_stat().map_err(itself())?) & 0o002 != 0 {
            return Err(RootError::WorldWritable);
        }
        Ok(live)
    }

    /// The same with a floor that is kept outside of it.
    #[must_use]
    pub fn with_floor(self, floor: Option<FloorFile>) -> Self {
        Self { floor, ..self }
    }

    /// The same with a memory outside of it of who signs envelopes.
    #[must_use]
    pub fn with_memory(self, memory: Option<NodeMemory>) -> Self {
        Self { memory, ..self }
    }

    fn private(&self) -> io::Result<&Arc<Private>> {
        self.private.as_ref().ok_or_else(|| io::Error::other("this root is only looked at, and has no directory .toehold"))
    }

    fn read_private(&self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        self.private.as_ref().map_or(Ok(None), |private| private.read(name, limit))
    }

    /// Whether something in it is as every machine is.
    fn has_machines(&self) -> io::Result<bool> {
        let mut found = false;
        self.live.names(|name, _| {
            if found || name == private::NAME.as_bytes() {
                return Ok(());
            }
            let closed = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            match self.live.stat(name)? {
                Some(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => match self.live.open_raw(name) {
                    // Machines of ours are never closed to us.
                    Err(error) if closed(&error) => {}
                    directory => found = directory?.stat(FILE_NAME.as_bytes())?.is_some(),
                },
                _ => {}
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Removes what is in the trash, as far as possible, also when a signal has come.
    ///
    /// # Errors
    /// Whatever is in the way; the rest stays for the next time.
    pub fn tidy(&self) -> io::Result<()> {
        self.private.as_ref().map_or(Ok(()), |private| tree::empty(&private.trash, None))
    }

    fn place(&self, place: Place) -> io::Result<&Directory> {
        Ok(match place {
            Place::Live => &self.live,
            Place::Staged => &self.private()?.staged,
            Place::Previous => &self.private()?.previous,
        })
    }

    /// Whether there is nothing at a place because there is no such place.
    fn lacks(&self, place: Place) -> bool {
        place != Place::Live && self.private.is_none()
    }

    fn moved(&self, name: &MachineName, from: Place, to: Place, flags: RenameFlags) -> io::Result<()> {
        let name = name.as_str().as_bytes();
        rename((self.place(from)?, name), (self.place(to)?, name), flags)
    }
}

/// A name that nothing has, for what goes into the trash.
fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanoseconds = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    format!("{name}.{nanoseconds:x}.{:x}.{number:x}", std::process::id())
}

const JOURNAL: &str = "journal";
const DOCUMENT: &str = "document";

fn copy(copy: StateCopy) -> &'static str {
    match copy {
        StateCopy::First => "state-1",
        StateCopy::Second => "state-2",
    }
}

impl MachineRoot for DirectoryRoot {
    type Stage = Stage;

    fn traces(&mut self) -> io::Result<Traces> {
        if let Some(private) = &self.private
            && !private.is_unused()?
        {
            return Ok(Traces::Own);
        }
        Ok(if self.has_machines()? { Traces::Machines } else { Traces::None })
    }

    fn read_state(&mut self, which: StateCopy) -> io::Result<Option<Vec<u8>>> {
        self.read_private(copy(which), MAX_STATE)
    }

    fn write_state(&mut self, which: StateCopy, bytes: &[u8]) -> io::Result<()> {
        self.private()?.write(copy(which), bytes)
    }

    fn read_journal(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.read_private(JOURNAL, MAX_JOURNAL)
    }

    fn append_journal(&mut self, line: &[u8]) -> io::Result<()> {
        self.private()?.append(JOURNAL, line)
    }

    fn clear_journal(&mut self) -> io::Result<()> {
        self.private()?.remove(JOURNAL)
    }

    fn read_floor(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.floor.as_ref().map_or(Ok(None), |floor| floor.read().map_err(io::Error::other))
    }

    fn write_floor(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.floor.as_ref().map_or(Ok(()), |floor| floor.write(bytes).map_err(io::Error::other))
    }

    fn note_signers(&mut self, keys: &BTreeSet<VerifyingKey>) -> io::Result<()> {
        self.memory.as_ref().map_or(Ok(()), |memory| memory.note_enveloped(keys).map_err(io::Error::other))
    }

    fn read_document(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.read_private(DOCUMENT, MAX_DOCUMENT)
    }

    fn write_document(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.private()?.write(DOCUMENT, bytes)
    }

    fn exists(&mut self, place: Place, name: &MachineName) -> io::Result<bool> {
        Ok(!self.lacks(place) && self.place(place)?.stat(name.as_str().as_bytes())?.is_some())
    }

    fn inspect(&mut self, place: Place, name: &MachineName, visitor: &mut dyn TreeVisitor) -> io::Result<bool> {
        tree::stop_if(self.signals.as_ref())?;
        if self.lacks(place) {
            return Ok(false);
        }
        let around = self.place(place)?;
        match around.open(name.as_str()) {
            Ok(directory) => {
                // It was placed as everything in it.
                let attributes = tree::attributes(&directory.own_stat()?);
                visitor.entry(name.as_str().as_bytes(), TreeEntry::Directory, attributes)?;
                tree::inspect(&directory, visitor, self.signals.as_ref()).map(|()| true)
            }
            Err(error) => match around.stat(name.as_str().as_bytes())? {
                None => Ok(false),
                Some(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => Err(error),
                Some(stat) => visitor.entry(b"", TreeEntry::Other, tree::attributes(&stat)).map(|()| true),
            },
        }
    }

    fn stage(&mut self, name: &MachineName) -> io::Result<Stage> {
        tree::stop_if(self.signals.as_ref())?;
        Stage::make(self.private()?, name, self.signals.clone())
    }

    fn seal(&mut self, _: &MachineName, stage: Stage) -> io::Result<()> {
        stage.seal()
    }

    fn exchange(&mut self, name: &MachineName, one: Place, other: Place) -> io::Result<()> {
        self.moved(name, one, other, RenameFlags::EXCHANGE)
    }

    fn rename(&mut self, name: &MachineName, from: Place, to: Place) -> io::Result<()> {
        self.moved(name, from, to, RenameFlags::NOREPLACE)
    }

    fn discard(&mut self, name: &MachineName, place: Place) -> io::Result<()> {
        self.private()?.discard(self.place(place)?, name)
    }

    fn empty_trash(&mut self) -> io::Result<()> {
        self.private.as_ref().map_or(Ok(()), |private| tree::empty(&private.trash, self.signals.as_ref()))
    }
}
