//! Every published crate can be packaged, builds from its package, and brings its licences.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::{Metadata, Package};
use crate::{Result, process};

/// The profile of the root's `Cargo.toml`, which a package does not contain: with it the builds that verify the packages find most of
/// their dependencies built.
const PROFILE: [&str; 3] = [
    r#"profile.dev.debug="line-tables-only""#,
    r#"profile.dev.build-override.debug="line-tables-only""#,
    r#"profile.dev.package."*".opt-level=1"#,
];

/// What every package holds beside its manifest and source.
const DOCUMENTS: [&str; 4] = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Packages and verifies all published crates together, since they depend on each other.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    forget_earlier_packages(metadata);
    let mut cargo = process::cargo();
    cargo.args(["package", "--locked", "--allow-dirty"]);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    for package in metadata.published() {
        cargo.args(["--package", &package.name]);
    }
    process::run(&mut cargo)?;

    let mut faults = Vec::new();
    for package in metadata.published() {
        faults.extend(contents(metadata, package)?);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// Cargo takes a package of a version for unchangeable: what it unpacked and built of ours in an earlier run would pass for
/// what is packaged now.
fn forget_earlier_packages(metadata: &Metadata) {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registries = home.map(|home| home.join("registry/src"));
    let mut places: Vec<PathBuf> = registries.iter().flat_map(|path| directories_in(path)).collect();
    places.push(metadata.target_directory.join("debug/.fingerprint"));
    for place in places {
        for directory in directories_in(&place) {
            let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if metadata.published().any(|package| name.starts_with(&format!("{}-", package.name))) {
                // What cannot be removed shows itself as a failed build at worst.
                drop(std::fs::remove_dir_all(&directory));
            }
        }
    }
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// Faults in what a package holds.
fn contents(metadata: &Metadata, package: &Package) -> Result<Vec<String>> {
    let stem = format!("{}-{}", package.name, package.version);
    let archive = metadata.target_directory.join("package").join(format!("{stem}.crate"));
    let listing = process::text(Command::new("tar").arg("--list").arg("--verbose").arg("--file").arg(&archive))?;
    let mut faults: Vec<String> = DOCUMENTS
        .iter()
        .filter(|document| !listing.lines().any(|line| line.starts_with('-') && line.ends_with(&format!(" {stem}/{document}"))))
        .map(|document| format!("{stem}.crate does not hold {document} as a file"))
        .collect();
    // Links and devices would unpack to something that depends on the reader's machine.
    faults.extend(listing.lines().filter(|line| !line.starts_with('-')).map(|line| format!("{stem}.crate holds {line}")));
    println!("{stem}.crate: {} files, {} bytes", listing.lines().count(), archive.metadata()?.len());
    Ok(faults)
}
