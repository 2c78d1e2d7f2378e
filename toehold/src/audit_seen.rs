//! What this machine has seen of the audit log, kept beside the store and not in it: a store that was put back to an earlier state,
//! or whose log somebody has cut off, does not take this memory with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toehold_core::AuditHead;

use crate::private::{self, PrivateError};

/// The file in the state directory.
pub const FILE_NAME: &str = "audit-seen.json";

/// The format that this release writes and reads.
const FORMAT: u32 = 1;

/// The most bytes that it may have.
const MAX: usize = 16 * 1024 * 1024;

/// Why the memory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditSeenError {
    /// It is not what was written.
    #[error("{} cannot be read: it is not what was written", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a newer release.
    #[error("{} was written by a newer release of Toehold (format {found}, this release reads format {FORMAT})", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file is not private, or the system refused.
    #[error(transparent)]
    Private(#[from] PrivateError),
}

#[derive(Serialize, Deserialize)]
struct Document {
    v: u32,
    heads: BTreeMap<String, AuditHead>,
}

/// The last entries that were seen and found good, by writer; none where nobody has looked yet.
///
/// # Errors
/// [`AuditSeenError`].
pub fn read(directory: &Path) -> Result<BTreeMap<String, AuditHead>, AuditSeenError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let path = directory.join(FILE_NAME);
    let Some(bytes) = private::read(&path, MAX)? else { return Ok(BTreeMap::new()) };
    match serde_json::from_slice::<Version>(&bytes) {
        Ok(Version { v: FORMAT }) => {}
        Ok(Version { v }) => return Err(AuditSeenError::Newer { path, found: v }),
        Err(_) => return Err(AuditSeenError::Damaged { path }),
    }
    serde_json::from_slice::<Document>(&bytes).map(|document| document.heads).map_err(|_| AuditSeenError::Damaged { path })
}

/// Remembers these.
///
/// # Errors
/// [`AuditSeenError::Private`].
pub fn write(directory: &Path, heads: &BTreeMap<String, AuditHead>) -> Result<(), AuditSeenError> {
    let path = directory.join(FILE_NAME);
    let document = Document { v: FORMAT, heads: heads.clone() };
    let bytes = serde_json::to_vec(&document).map_err(|_| AuditSeenError::Damaged { path: path.clone() })?;
    Ok(private::replace(&path, &bytes)?)
}
