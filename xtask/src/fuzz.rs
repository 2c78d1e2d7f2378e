//! Each fuzz target for a few seconds.

use std::path::Path;
use std::process::Command;

use crate::workspace::{Metadata, root};
use crate::{Result, process};

/// The toolchain that sanitizers need; nothing else uses it.
pub(crate) const TOOLCHAIN: &str = "nightly";

/// Builds all targets, then runs each for `seconds`; a finding is a failure and its input stays in `fuzz/artifacts`.
pub(crate) fn run(seconds: u32) -> Result<()> {
    let directory = root().join("fuzz");
    let metadata = Metadata::of_manifest(&directory.join("Cargo.toml"))?;
    let targets: Vec<&str> = metadata.packages.iter().flat_map(|package| package.targets_of("bin")).collect();
    if targets.is_empty() {
        return Err("fuzz/Cargo.toml names no target".into());
    }
    process::run(&mut cargo_fuzz(&["build"]))?;
    for target in &targets {
        // What the fuzzer finds goes to the corpus, which is not kept; the seeds are, and are run first.
        let corpus = format!("corpus/{target}");
        std::fs::create_dir_all(directory.join(&corpus))?;
        let mut fuzz = cargo_fuzz(&["run", target, &format!("fuzz/{corpus}")]);
        let seeds = Path::new("fuzz/seeds").join(target);
        if root().join(&seeds).is_dir() {
            fuzz.arg(&seeds);
        }
        let limit = format!("-max_total_time={seconds}");
        process::run(fuzz.args(["--", &limit, "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]))?;
    }
    println!("{} targets, {seconds} s each", targets.len());
    Ok(())
}

fn cargo_fuzz(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    // The cargo that runs this task is another toolchain's.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command.current_dir(root()).args(["run", TOOLCHAIN, "cargo", "fuzz"]).args(arguments);
    command
}
