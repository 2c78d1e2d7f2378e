//! What a node remembers of its roots outside of them: the floor of each, and the keys that are known to sign envelopes.
//!
//! It lies in `spec` in the state directory: `roots/<SHA-256 of the root's path>` is a floor, and each name in `keys` is a key.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use toehold_specsign::{Sha256Digest, VerifyingKey};

use crate::private::{self, PrivateError, io_error};

/// The most bytes of a floor, which holds keys and no machines.
const MAX_FLOOR: usize = 1024 * 1024;

/// A node's memory.
#[derive(Clone, Debug)]
pub struct NodeMemory {
    keys: PathBuf,
    roots: PathBuf,
}

impl NodeMemory {
    /// Opens it in a state directory, and makes both where they are not there.
    ///
    /// # Errors
    /// [`PrivateError`], also where one of them is somebody else's or open to others.
    pub fn open(state_directory: &Path) -> Result<Self, PrivateError> {
        let memory = Self::look(state_directory);
        for directory in [state_directory, &state_directory.join("spec"), &memory.keys, &memory.roots] {
            private::create_directory(directory)?;
        }
        Ok(memory)
    }

    /// The same without making anything; nothing there is nothing remembered.
    pub fn look(state_directory: &Path) -> Self {
        let spec = state_directory.join("spec");
        Self { keys: spec.join("keys"), roots: spec.join("roots") }
    }

    /// Where the floor of a root is kept; the root is there.
    ///
    /// # Errors
    /// Where its path cannot be told.
    pub fn floor_of(&self, root: &Path) -> Result<FloorFile, PrivateError> {
        let path = fs::canonicalize(root).map_err(io_error("looking for", root))?;
        Ok(FloorFile(self.roots.join(Sha256Digest::of(path.as_os_str().as_bytes()).to_string())))
    }

    /// The keys that have signed an envelope for a root of this node.
    ///
    /// # Errors
    /// Where they cannot be read; one that is not read would not be held to its envelopes.
    pub fn enveloped_keys(&self) -> Result<BTreeSet<VerifyingKey>, PrivateError> {
        let mut keys = BTreeSet::new();
        let listing = match fs::read_dir(&self.keys) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(keys),
            listing => listing.map_err(io_error("listing", &self.keys))?,
        };
        for entry in listing {
            let entry = entry.map_err(io_error("listing", &self.keys))?;
            // What a writer that died has left is no key's name.
            keys.extend(entry.file_name().to_str().and_then(|name| name.parse::<VerifyingKey>().ok()));
        }
        Ok(keys)
    }

    /// Remembers keys that have signed an envelope.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn note_enveloped(&self, keys: &BTreeSet<VerifyingKey>) -> Result<(), PrivateError> {
        let known = self.enveloped_keys()?;
        keys.difference(&known).try_for_each(|key| private::write_new(&self.keys.join(key.to_string()), b"").map(drop))
    }
}

/// Where the floor of one root is kept.
#[derive(Clone, Debug)]
pub struct FloorFile(PathBuf);

impl FloorFile {
    /// Reads it; `None` where there is none.
    ///
    /// # Errors
    /// [`PrivateError`].
    pub fn read(&self) -> Result<Option<Vec<u8>>, PrivateError> {
        Ok(private::read(&self.0, MAX_FLOOR)?.map(|bytes| bytes.to_vec()))
    }

    /// Replaces it in one step.
    ///
    /// # Errors
    /// [`PrivateError`]; the one before is there then, or this one.
    pub fn write(&self, bytes: &[u8]) -> Result<(), PrivateError> {
        private::sweep_beside(&self.0)?;
        private::replace(&self.0, bytes)
    }
}
