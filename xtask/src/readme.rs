//! The README's two commands mean what they say in a clean clone.

use crate::Result;
use crate::workspace::{Metadata, root};

/// What a new user runs, in this order.
const COMMANDS: [&str; 2] = ["cargo run --release -- demo", "cargo xtask test"];

/// Checks that the README has them, that `cargo run` means the program and nothing else, and that the alias leads here.
/// What `demo` and `test` then do has tests and steps of its own.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let shown: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with("cargo ")).collect();
    if shown != COMMANDS {
        return Err(format!("README.md shows {shown:?} to be run, not {COMMANDS:?}").into());
    }
    let programs: Vec<&str> = metadata.default_members().flat_map(|package| package.targets_of("bin")).collect();
    if programs != ["toehold"] {
        return Err(format!("cargo run does not know which program is meant: {programs:?}").into());
    }
    let config = std::fs::read_to_string(root().join(".cargo/config.toml"))?;
    if !config.lines().any(|line| line.starts_with("xtask = \"run ") && line.contains("--package xtask --")) {
        return Err(".cargo/config.toml has no alias xtask that runs the package".into());
    }
    println!("the README's commands: {}", COMMANDS.join(", "));
    Ok(())
}
