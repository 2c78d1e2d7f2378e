//! The one program that Kubernetes is: built once, kept in the user's cache directory under the hash of its sources.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::directory;
use crate::Result;
use crate::report::seconds;
use crate::workspace::root;

/// The oldest Go that builds it.
pub(crate) const GO: (u32, u32) = (1, 26);

const PROGRAM: &str = "kube-testserver";
/// Programs of other sources, such as those of another branch, go when they are older.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// Whether the program of these sources is there.
pub(crate) fn is_built() -> bool {
    built_kubectl().is_some()
}

/// Its other name, if it is there.
pub(crate) fn built_kubectl() -> Option<PathBuf> {
    place().ok().map(|place| place.join("kubectl")).filter(|program| program.exists())
}

/// The path of the program, built if need be.
pub(crate) fn ensure() -> Result<PathBuf> {
    let place = place()?;
    let program = place.join(PROGRAM);
    if program.exists() {
        return Ok(program);
    }
    let directory = directory()?;
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let lock = fs::File::create(directory.join("build.lock"))?;
    // Whoever comes second finds it built.
    lock.lock()?;
    if !program.exists() {
        build(&directory, &place)?;
        forget_others(&directory, &place);
    }
    Ok(program)
}

fn build(directory: &Path, place: &Path) -> Result<()> {
    println!("building Kubernetes for the tests, about nine minutes the first time");
    let start = Instant::now();
    let unfinished = directory.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir(&unfinished)?;
    // Everything else comes first: what waits for it is the last of the tests.
    let mut command = Command::new("nice");
    command.args(["-n", "10"]).arg(sources().join("build.sh")).arg(unfinished.join(PROGRAM));
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        return Err(format!("Kubernetes was not built, {}:\n{}", output.status, printed.trim_end()).into());
    }
    std::os::unix::fs::symlink(PROGRAM, unfinished.join("kubectl"))?;
    fs::rename(&unfinished, place)?;
    println!("built Kubernetes for the tests in {}", seconds(start.elapsed()));
    Ok(())
}

/// Removes the programs of other sources that are old.
fn forget_others(directory: &Path, place: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != place && path.join(PROGRAM).exists()) {
        let built = path.join(PROGRAM).metadata().and_then(|metadata| metadata.modified());
        let age = built.ok().and_then(|built| SystemTime::now().duration_since(built).ok());
        if age.is_some_and(|age| age > KEPT) {
            // What cannot be removed takes room and does no harm.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Where the program of these sources is kept.
fn place() -> Result<PathBuf> {
    Ok(directory()?.join(hash(&sources())?))
}

fn sources() -> PathBuf {
    root().join("xtask/kubernetes")
}

/// What changes with whatever the program is built from, and not with `up.sh`, which is not part of it.
fn hash(sources: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sources)? {
        names.push(entry?.file_name().into_string().map_err(|name| format!("a source file is called {}", name.display()))?);
    }
    names.retain(|name| {
        Path::new(name).extension().is_some_and(|end| end == "go") || ["build.sh", "go.mod", "go.sum"].contains(&name.as_str())
    });
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let text = fs::read(sources.join(&name))?;
        hash.update(format!("{name} {}\n", text.len()));
        hash.update(text);
    }
    let mut hexadecimal = String::new();
    for byte in hash.finalize().iter().take(8) {
        write!(hexadecimal, "{byte:02x}")?;
    }
    Ok(hexadecimal)
}

/// A build that goes on while other things are done.
#[derive(Debug)]
pub(crate) struct Building(JoinHandle<Result<PathBuf>>);

impl Building {
    pub(crate) fn begin() -> Self {
        Self(std::thread::spawn(ensure))
    }

    /// Waits for it.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        self.0.join().unwrap_or_else(|_| Err("the build of Kubernetes panicked".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_what_is_compiled() {
        let sources = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(sources.path().join(name), text).unwrap();
        write("main.go", "package main\n");
        write("up.sh", "one");
        let before = hash(sources.path()).unwrap();
        assert_eq!(before.len(), 16);
        write("up.sh", "two");
        write("README.md", "two");
        assert_eq!(hash(sources.path()).unwrap(), before);
        write("go.sum", "");
        let with_sum = hash(sources.path()).unwrap();
        assert_ne!(with_sum, before);
        write("main.go", "package other\n");
        assert_ne!(hash(sources.path()).unwrap(), with_sum);
    }
}
