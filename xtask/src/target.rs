//! Where cargo builds, and with it where the tests' servers have their homes.
//!
//! sshd and the installed command refuse a home below a directory that others can write (`StrictModes`), and tests that act as another
//! user need to reach it. A checkout below `/tmp` fails the first, one below `/root` the second; then everything is built elsewhere.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::workspace::{Metadata, root};
use crate::{Result, process};

/// What the environment variable `CARGO_TARGET_DIR` is set to for every cargo that a task runs.
static ELSEWHERE: OnceLock<PathBuf> = OnceLock::new();

/// The directory that was chosen instead of cargo's own, if one was.
pub(crate) fn elsewhere() -> Option<&'static Path> {
    ELSEWHERE.get().map(PathBuf::as_path)
}

/// Makes sure that cargo builds where servers can have homes.
pub(crate) fn ensure_fit() -> Result<()> {
    let own = Metadata::of_manifest(&root().join("Cargo.toml"))?.target_directory;
    let user = process::user_id()?;
    let Some(fault) = fault(&own, user) else { return Ok(()) };
    let name = root().display().to_string().replace('/', "-");
    let other = shared_cache(user)?.join("toehold-target").join(name.trim_start_matches('-'));
    if let Some(other) = self::fault(&other, user) {
        return Err(format!("{fault}, and {other}: set CARGO_TARGET_DIR to another place, or --without openssh").into());
    }
    println!("{fault}: building in {}", other.display());
    // Only the first call decides; there is one a run.
    let _ = ELSEWHERE.set(other);
    Ok(())
}

/// A cache directory that everybody may pass through if we are root, else our own.
fn shared_cache(user: u32) -> Result<PathBuf> {
    if user == 0 {
        return Ok(PathBuf::from("/var/cache"));
    }
    own_cache()
}

/// The user's own cache directory.
pub(crate) fn own_cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).ok_or("HOME is not set")?)
}

/// What is wrong with the first directory on the way to `path` that is not fit; what does not exist yet is ours to make.
fn fault(path: &Path, user: u32) -> Option<String> {
    let mut directories: Vec<&Path> = path.ancestors().collect();
    directories.reverse();
    directories.into_iter().find_map(|directory| {
        let found = directory.metadata().ok()?;
        unfit(found.mode(), found.uid(), user).map(|why| format!("{}: {why}", directory.display()))
    })
}

/// Why a directory on the way to a home will not do for tests that `user` runs.
fn unfit(mode: u32, owner: u32, user: u32) -> Option<&'static str> {
    if mode & 0o022 != 0 || (owner != 0 && owner != user) {
        return Some("others can write it, so that sshd refuses homes below it");
    }
    // Only root's tests act as other users.
    (user == 0 && mode & 0o001 == 0).then_some("other users cannot pass it, which some tests do")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_write_is_not_fit() {
        assert!(fault(Path::new("/tmp/a/b"), 0).unwrap().starts_with("/tmp: "));
        assert_eq!(fault(Path::new("/usr/bin"), 0), None);
        assert!(unfit(0o40775, 1000, 1000).is_some());
        assert!(unfit(0o40755, 1001, 1000).is_some());
        assert!(unfit(0o40755, 1000, 1000).is_none());
    }

    #[test]
    fn a_directory_that_is_closed_to_others_is_not_fit_for_root_alone() {
        assert!(unfit(0o40700, 0, 0).is_some());
        assert!(unfit(0o40700, 1000, 1000).is_none());
    }
}
