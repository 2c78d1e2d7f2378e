//! Which files and directories may be touched: those that sshd would read with `StrictModes`, and no links.

use toehold_core::{FileKind, FileStat};

use super::error::ReplaceError;

/// The bits that let others than the owner write.
const LOOSE: u32 = 0o022;

/// What something should be.
pub(super) fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "regular file",
        FileKind::Directory => "directory",
        FileKind::Link => "symbolic link",
        FileKind::Other => "special file",
    }
}

/// Refuses what is not of the kind, or may be written by others.
pub(super) fn check(path: &str, stat: &FileStat, kind: FileKind) -> Result<(), ReplaceError> {
    if stat.kind != kind {
        let (expected, found) = (kind_name(kind), kind_name(stat.kind));
        return Err(ReplaceError::WrongKind { path: path.to_owned(), expected, found });
    }
    if stat.mode & LOOSE != 0 {
        return Err(ReplaceError::LooseMode { path: path.to_owned(), mode: stat.mode });
    }
    Ok(())
}

/// Refuses what belongs to another user than `owner`, where both are known.
pub(super) fn check_owner(path: &str, stat: &FileStat, owner: Option<u32>) -> Result<(), ReplaceError> {
    match (stat.uid, owner) {
        (Some(owner), Some(expected)) if owner != expected => {
            Err(ReplaceError::WrongOwner { path: path.to_owned(), owner, expected })
        }
        _ => Ok(()),
    }
}

/// What belongs to the home's owner; anybody's will do where the home is root's, as under a chroot: then the account's own
/// number is known only once a file of ours is there.
pub(super) fn check_owner_by_home(path: &str, stat: &FileStat, home_owner: Option<u32>) -> Result<(), ReplaceError> {
    check_owner(path, stat, home_owner.filter(|owner| *owner != 0))
}
