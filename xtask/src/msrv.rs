//! The oldest Rust that the project says it builds with is stated once and is true.

use crate::workspace::{Metadata, files, root};
use crate::{Result, process};

/// Major, minor and patch; a missing patch is 0.
type Version = (u64, u64, u64);

/// Compares the one `rust-version` with every manifest, every dependency and the toolchain of this check.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let stated = stated()?;
    let msrv = version(&stated).ok_or_else(|| format!("rust-version = \"{stated}\" is not a version"))?;
    let mut faults = Vec::new();
    for package in metadata.members() {
        if package.rust_version.as_deref() != Some(stated.as_str()) {
            faults.push(format!("{} does not take rust-version from the workspace", package.name));
        }
    }
    for package in &metadata.packages {
        if let Some(needs) = package.rust_version.as_deref().filter(|needs| version(needs).is_some_and(|needs| needs > msrv)) {
            faults.push(format!("{} {} needs Rust {needs}, later than {stated}", package.name, package.version));
        }
    }
    if !faults.is_empty() {
        return Err(faults.join("\n").into());
    }

    let printed = process::text(process::cargo().arg("--version"))?;
    let toolchain = printed.split_whitespace().nth(1).unwrap_or_default();
    let running = version(toolchain).ok_or_else(|| format!("`cargo --version` printed {printed}"))?;
    if (running.0, running.1) == (msrv.0, msrv.1) {
        println!("Rust {stated}: no dependency needs a later one, and this whole run used it ({toolchain})");
        return Ok(());
    }
    if running < msrv {
        return Err(format!("this run used Rust {toolchain}, older than the stated {stated}").into());
    }
    // A newer toolchain proves nothing about the oldest one: that one compiles everything once more, in a directory of its own.
    let oldest = format!("{}.{}.{}", msrv.0, msrv.1, msrv.2);
    let mut rustup = std::process::Command::new("rustup");
    rustup.current_dir(root()).env_remove("CARGO").env_remove("RUSTC").args(["run", "--install", &oldest]);
    rustup.args(["cargo", "check", "--locked", "--workspace", "--all-targets", "--all-features", "--target-dir"]);
    process::run(rustup.arg(metadata.target_directory.join("msrv")))
}

/// The one place that says it, and no place that silences clippy's check of it.
fn stated() -> Result<String> {
    let mut found = Vec::new();
    let mut silenced = Vec::new();
    for file in files()? {
        let extension = file.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("toml" | "rs")) || file.starts_with("xtask/src") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        for line in text.lines() {
            if let Some(stated) = line.trim().strip_prefix("rust-version = \"").and_then(|rest| rest.strip_suffix('"')) {
                found.push((file.display().to_string(), stated.to_owned()));
            }
            if line.contains("incompatible_msrv") || (file.ends_with("clippy.toml") && line.trim_start().starts_with("msrv")) {
                silenced.push(file.display().to_string());
            }
        }
    }
    if let Some(file) = silenced.first() {
        return Err(format!("{file} changes clippy's check of the Rust version").into());
    }
    match found.as_slice() {
        [(file, stated)] if file == "Cargo.toml" => Ok(stated.clone()),
        found => Err(format!("rust-version belongs into the root's Cargo.toml alone; found in {found:?}").into()),
    }
}

fn version(text: &str) -> Option<Version> {
    let release = text.split(['-', '+']).next()?;
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    let version = (numbers.next()??, numbers.next()??, numbers.next().unwrap_or(Some(0))?);
    numbers.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("1.95"), Some((1, 95, 0)));
        assert_eq!(version("1.97.0-nightly"), Some((1, 97, 0)));
        assert!(version("1.100") > version("1.95.1"));
        assert_eq!(version("1"), None);
        assert_eq!(version("1.2.3.4"), None);
        assert_eq!(version("one.two"), None);
    }
}
