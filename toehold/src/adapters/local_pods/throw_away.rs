//! The state directory of a gateway with local pods: one of its own, of which everything may be lost and read by whoever logs in (P5).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use etcetera::base_strategy::{BaseStrategy as _, Xdg};

use crate::adapters::{identity, sqlite};
use crate::private::{self, PrivateError};
use crate::state::State;

/// Says that a directory is one.
const MARK: &str = "throw-away";
const MARK_TEXT: &[u8] = b"Made by toehold pods serve --backend local. Whoever logs in there can read and change what is here.\n";

/// Why a directory is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThrowAwayError {
    /// There is no home directory to keep it in.
    #[error("there is no home directory to keep state in; name a directory with --state-dir")]
    NoHome,
    /// There is something in it that is not such a gateway's.
    #[error("{} holds something else already; local pods take a directory of their own, which everybody who logs in can read", path.display())]
    NotOurs {
        /// Which.
        path: PathBuf,
    },
    /// It cannot be made or looked at.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// A store is there that whoever logs in could read.
    #[error("the store in {} can be read by this user, and so by whoever logs in", path.display())]
    StoreInReach {
        /// Where.
        path: PathBuf,
    },
}

/// Where it is unless another is named: `toehold/local-pods` in the user's state directory by the XDG specification.
///
/// # Errors
/// [`ThrowAwayError::NoHome`].
pub fn default_directory() -> Result<PathBuf, ThrowAwayError> {
    let base = Xdg::new().map_err(|_| ThrowAwayError::NoHome)?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    Ok(state.join("toehold/local-pods"))
}

/// Opens such a directory; makes it where there is none.
///
/// # Errors
/// [`ThrowAwayError`].
pub fn open(directory: &Path) -> Result<(), ThrowAwayError> {
    private::create_directory(directory)?;
    if is_marked(directory) {
        return Ok(());
    }
    let mut entries = fs::read_dir(directory).map_err(private::io_error("listing", directory))?;
    if entries.next().is_some() {
        return Err(ThrowAwayError::NotOurs { path: directory.to_owned() });
    }
    private::write_new(&directory.join(MARK), MARK_TEXT)?;
    Ok(())
}

/// Whether a directory is one.
pub fn is_marked(directory: &Path) -> bool {
    directory.join(MARK).is_file()
}

/// Refuses to go on where this user could read a store that is worth something: the one that every other command would use, and the
/// one that they would use without this process's environment.
///
/// # Errors
/// [`ThrowAwayError::StoreInReach`].
pub fn refuse_stores_in_reach(named: Option<&Path>) -> Result<(), ThrowAwayError> {
    let of_account = account_home().map(|home| home.join(".local/share/toehold"));
    let usual = State::default_directory().ok();
    for directory in named.map(Path::to_owned).into_iter().chain(usual).chain(of_account) {
        let can_read = |name: &str| match fs::File::open(directory.join(name)) {
            Ok(_) => true,
            // What cannot be told is taken for a store that can be read; what is not there, or refused, is not.
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied)
            }
        };
        if !is_marked(&directory) && (can_read(sqlite::FILE_NAME) || can_read(identity::FILE_NAME)) {
            return Err(ThrowAwayError::StoreInReach { path: directory });
        }
    }
    Ok(())
}

/// The home of the account that this process runs as, by `/etc/passwd`.
fn account_home() -> Option<PathBuf> {
    let us = rustix::process::geteuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2) == Some(&us.as_str())).then(|| fields.get(5).map(PathBuf::from)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_a_directory_with_anything_else_in_it_is_not_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("new");
        open(&directory).unwrap();
        open(&directory).unwrap();
        assert!(is_marked(&directory));
        let other = scratch.path().join("other");
        private::create_directory(&other).unwrap();
        fs::write(other.join(sqlite::FILE_NAME), "a store").unwrap();
        assert!(matches!(open(&other), Err(ThrowAwayError::NotOurs { .. })));
        assert!(matches!(refuse_stores_in_reach(Some(&other)), Err(ThrowAwayError::StoreInReach { .. })));
    }
}
