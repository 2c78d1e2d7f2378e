//! The tests leave the tester's own `~/.ssh` alone. Those of the installation command and of SFTP work, by mistake, where the
//! user database says that the account lives, whatever `HOME` is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, process};

/// Does `work`, and sees that what was in `~/.ssh` before is what is there afterwards.
pub(crate) fn untouched(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let directory = home()?.join(".ssh");
    let before = contents(&directory);
    let done = work();
    let changed = changes(&before, &contents(&directory));
    match (done, changed.as_slice()) {
        (done, []) => done,
        (Ok(()), changed) => Err(format!("a test has changed {}: {}", directory.display(), changed.join(", ")).into()),
        (Err(error), changed) => {
            Err(format!("{error}\na test has changed {}: {}", directory.display(), changed.join(", ")).into())
        }
    }
}

/// The home directory of the user database.
fn home() -> Result<PathBuf> {
    let user = process::text(Command::new("id").arg("-u"))?;
    let line = process::text(Command::new("getent").args(["passwd", user.trim()]))?;
    let home = line.trim_end().split(':').nth(5).ok_or_else(|| format!("getent says of user {}: {line}", user.trim()))?;
    Ok(PathBuf::from(home))
}

/// What is in the directory, but for what logging in somewhere else meanwhile changes.
fn contents(directory: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let Ok(entries) = std::fs::read_dir(directory) else { return BTreeMap::new() };
    entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).ok()))
        .filter(|(name, _)| !name.starts_with("known_hosts"))
        .collect()
}

fn changes(before: &BTreeMap<String, Option<Vec<u8>>>, after: &BTreeMap<String, Option<Vec<u8>>>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_or_was_changed_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join(".ssh");
        assert_eq!(contents(&directory), BTreeMap::new());
        std::fs::create_dir(&directory).unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("authorized_keys", "one\n");
        write("config", "one\n");
        write("id_ed25519", "one\n");
        let before = contents(&directory);
        assert!(changes(&before, &contents(&directory)).is_empty());
        write("authorized_keys", "one\ntwo\n");
        write("toehold-lock", "");
        write("known_hosts", "elsewhere\n");
        std::fs::remove_file(directory.join("config")).unwrap();
        assert_eq!(changes(&before, &contents(&directory)), ["authorized_keys", "config", "toehold-lock"]);
    }

    #[test]
    fn the_home_is_that_of_the_user_database() {
        assert!(home().unwrap().is_absolute());
    }
}
