//! Where cargo builds, and with it where the tests' servers have their homes.
//!
//! sshd refuses a home below a directory that others can write (`StrictModes`), and the installed command refuses it too. A checkout
//! below `/tmp` has such a directory above it; then everything is built in the user's cache directory.

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
pub(crate) fn ensure_private() -> Result<()> {
    let own = Metadata::of_manifest(&root().join("Cargo.toml"))?.target_directory;
    let user = process::user_id()?;
    let Some(fault) = open_to_others(&own, user) else { return Ok(()) };
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let name = root().display().to_string().replace('/', "-");
    let other = cache.ok_or("HOME is not set")?.join("toehold-target").join(name.trim_start_matches('-'));
    if let Some(other_fault) = open_to_others(&other, user) {
        return Err(format!(
            "sshd refuses homes below directories that others can write, and {} and {} are such: set CARGO_TARGET_DIR to another place, or --without openssh",
            fault.display(),
            other_fault.display()
        )
        .into());
    }
    println!("others can write {}, so that sshd would refuse homes below it; building in {}", fault.display(), other.display());
    // Only the first call decides; there is one a run.
    let _ = ELSEWHERE.set(other);
    Ok(())
}

/// The first directory on the way to `path` that somebody else than root and `user` can change; what does not exist yet is ours to make.
fn open_to_others(path: &Path, user: u32) -> Option<PathBuf> {
    let open = |directory: &&Path| {
        directory.metadata().is_ok_and(|found| found.mode() & 0o022 != 0 || (found.uid() != 0 && found.uid() != user))
    };
    let mut directories: Vec<&Path> = path.ancestors().collect();
    directories.reverse();
    directories.iter().find(|directory| open(directory)).map(|directory| directory.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_common_temporary_directory_others_can_write() {
        assert_eq!(open_to_others(Path::new("/tmp/a/b"), 0), Some(PathBuf::from("/tmp")));
        assert_eq!(open_to_others(Path::new("/usr/bin"), 0), None);
    }
}
