//! Each fuzz target for a few seconds.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::workspace::{Metadata, root};
use crate::{Result, lock, process};

/// The toolchain that fuzzing needs; nothing else uses it.
pub(crate) const TOOLCHAIN: &str = "nightly";

/// The most runs of a target, however fast they are; `--fuzz-seconds` ends it sooner. Who looks for more runs the target by itself.
const RUNS: u32 = 30_000;

/// The end of a target's output that is worth showing when it fails.
const TAIL: usize = 60;

/// Builds all targets, then runs each for `seconds`; a finding is a failure and its input stays in `fuzz/artifacts`.
pub(crate) fn run(seconds: u32) -> Result<()> {
    let metadata = locked()?;
    let targets: Vec<&str> = metadata.members().flat_map(|package| package.targets_of("bin")).collect();
    if targets.is_empty() {
        return Err("fuzz/Cargo.toml names no target".into());
    }
    // Without a sanitizer of memory, which finds what only unsafe code can do, and of that there is none of ours: half the time to build, and
    // several times the runs.
    process::run(nightly("cargo").args(["fuzz", "build", "--sanitizer", "none"]))?;
    let programs = metadata.target_directory.join(host_triple()?).join("release");
    let faults = run_all(&programs, &targets, seconds);
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// What the targets are built of, by their lock file, which must have it all: cargo-fuzz would renew it in silence.
pub(crate) fn locked() -> Result<Metadata> {
    // Asked of the cargo that builds them, which knows nothing of where the others build.
    let metadata = nightly("cargo")
        .args(["metadata", "--format-version=1", "--locked", "--manifest-path"])
        .arg(root().join("fuzz/Cargo.toml"))
        .output()?;
    if !metadata.status.success() {
        return Err(format!("fuzz/Cargo.toml: {}", String::from_utf8_lossy(&metadata.stderr)).into());
    }
    Ok(serde_json::from_slice(&metadata.stdout)?)
}

/// Runs the built targets, as many at a time as there are cores since each has one thread; gives what failed.
fn run_all(programs: &Path, targets: &[&str], seconds: u32) -> Vec<String> {
    let waiting = Mutex::new(targets.iter());
    let faults = Mutex::new(Vec::new());
    let next = || lock(&waiting).next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(target) = next() {
                    if let Err(error) = run_one(programs, target, seconds) {
                        lock(&faults).push(error.to_string());
                    }
                }
            });
        }
    });
    faults.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a built target. What it finds on the way goes to the corpus, which is not kept; the seeds are, and are run first.
fn run_one(programs: &Path, target: &str, seconds: u32) -> Result<()> {
    let corpus = format!("fuzz/corpus/{target}");
    let artifacts = format!("fuzz/artifacts/{target}/");
    for directory in [&corpus, &artifacts] {
        std::fs::create_dir_all(root().join(directory))?;
    }
    let mut fuzz = Command::new(programs.join(target));
    fuzz.current_dir(root()).stdin(Stdio::null()).arg(&corpus);
    let seeds = Path::new("fuzz/seeds").join(target);
    if root().join(&seeds).is_dir() {
        fuzz.arg(&seeds);
    }
    fuzz.args([&format!("-max_total_time={seconds}"), &format!("-runs={RUNS}"), &format!("-artifact_prefix={artifacts}")]);
    fuzz.args(["-timeout=10", "-rss_limit_mb=2048"]);
    let output = fuzz.output().map_err(|error| format!("{target} could not be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let done = text.lines().find(|line| line.starts_with("Done ")).unwrap_or("ended without a count");
        println!("{target}: {done}");
        return Ok(());
    }
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(TAIL)).copied().collect::<Vec<_>>().join("\n");
    Err(format!(
        "{tail}\n{target} ended with {}; run the input again: cargo +{TOOLCHAIN} fuzz run --sanitizer none {target} {artifacts}…",
        output.status
    )
    .into())
}

/// What cargo-fuzz builds for.
fn host_triple() -> Result<String> {
    let printed = process::text(nightly("rustc").arg("-vV"))?;
    let host = printed.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc -vV names no host")?.to_owned())
}

/// A program of the nightly toolchain; the cargo that runs this task is another toolchain's.
fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command.current_dir(root()).args(["run", TOOLCHAIN, program]);
    command
}
