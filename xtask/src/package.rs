//! Every published crate can be packaged, builds from its package, and brings its licences.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::workspace::{Metadata, Package, root};
use crate::{Result, process};

/// What every package holds beside its manifest and source.
const DOCUMENTS: [&str; 4] = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Packages all published crates and compiles them from what their packages hold.
///
/// `cargo package` would verify them by a full build of each one's dependencies as well, whose features no other step has in common:
/// seven minutes. The compiler's checks say the same of our code, and find most of the dependencies checked by the step `features`, which has each crate alone.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["package", "--locked", "--allow-dirty", "--no-verify"]);
    for package in metadata.published() {
        cargo.args(["--package", &package.name]);
    }
    process::run(&mut cargo)?;

    let mut faults = Vec::new();
    for package in metadata.published() {
        faults.extend(contents(metadata, package)?);
    }
    if !faults.is_empty() {
        return Err(faults.join("\n").into());
    }
    let unpacked = unpack(metadata)?;
    let mut cargo = process::cargo();
    cargo.current_dir(&unpacked).env("CARGO_TARGET_DIR", &metadata.target_directory);
    // The versions are those of the lock file beside it, which names more than these packages and is therefore shortened.
    process::run(cargo.args(["check", "--offline", "--quiet", "--workspace"]))
}

/// Unpacks the packages into a workspace of their own, in which they are each other's dependencies, and returns its directory.
fn unpack(metadata: &Metadata) -> Result<PathBuf> {
    let packages = metadata.target_directory.join("package");
    let workspace = packages.join("unpacked");
    if workspace.exists() {
        fs::remove_dir_all(&workspace)?;
    }
    fs::create_dir_all(&workspace)?;
    let stems: Vec<(&str, String)> = metadata.published().map(|package| (package.name.as_str(), stem(package))).collect();
    for (_, stem) in &stems {
        let archive = packages.join(format!("{stem}.crate"));
        // Cargo gives all files one old date, by which it would take what it compiled of an earlier package for this one.
        process::output(
            Command::new("tar").arg("--extract").arg("--touch").arg("--file").arg(archive).arg("--directory").arg(&workspace),
        )?;
    }
    fs::write(workspace.join("Cargo.toml"), manifest(&stems, &fs::read_to_string(root().join("Cargo.toml"))?))?;
    fs::copy(root().join("Cargo.lock"), workspace.join("Cargo.lock"))?;
    Ok(workspace)
}

/// The manifest of a workspace of the packages, with the profiles of ours: with others every dependency would be compiled anew.
fn manifest(stems: &[(&str, String)], ours: &str) -> String {
    let members: Vec<&str> = stems.iter().map(|(_, stem)| stem.as_str()).collect();
    let mut text = format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n\n[patch.crates-io]\n");
    for (name, stem) in stems {
        // A String takes everything that is written to it.
        let _ = writeln!(text, "{name} = {{ path = \"{stem}\" }}");
    }
    let mut in_profile = false;
    for line in ours.lines() {
        if line.starts_with('[') {
            in_profile = line.starts_with("[profile.dev");
        }
        if in_profile {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn stem(package: &Package) -> String {
    format!("{}-{}", package.name, package.version)
}

/// Faults in what a package holds.
fn contents(metadata: &Metadata, package: &Package) -> Result<Vec<String>> {
    let stem = stem(package);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_of_packages_has_our_profiles_and_nothing_else_of_ours() {
        let ours = "[workspace]\nmembers = [\"a\"]\n[profile.release]\nlto = true\n[profile.dev]\ndebug = 1\n\n[workspace.lints.rust]\nx = 1\n";
        assert_eq!(
            manifest(&[("a", "a-0.1.0".to_owned())], ours),
            "[workspace]\nresolver = \"3\"\nmembers = [\"a-0.1.0\"]\n\n[patch.crates-io]\na = { path = \"a-0.1.0\" }\n[profile.dev]\ndebug = 1\n\n",
        );
    }
}
