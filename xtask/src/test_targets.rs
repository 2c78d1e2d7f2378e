//! The tests themselves, less those that need a part that is left out.
//!
//! A test program says in its first lines which parts all of its tests need: `//! Needs: openssh, root.` A single test says so by
//! having the part's name in its own.

use std::ffi::OsString;

use crate::prerequisites::Part;
use crate::report::Report;
use crate::test_programs::Way;
use crate::workspace::Metadata;
use crate::{Result, process, test_programs};

/// Runs all tests but those on a cluster, documentation included; what is left out is put into the report.
pub(crate) fn run(metadata: &Metadata, without: &[Part], report: &mut Report) -> Result<()> {
    let mut not_here = Vec::new();
    for (name, needs) in programs(metadata)? {
        if needs.iter().any(|part| without.contains(part)) {
            report.leave_out(format!("test program {name}, which needs {}", names(&needs)));
            not_here.push(name);
        } else if needs.contains(&Part::Kubernetes) {
            not_here.push(name);
        }
    }
    let single = named_by_single_tests(without);
    if !single.is_empty() {
        report.leave_out(format!("single tests with {} in their name", names(&single)));
    }
    let mut built = test_programs::build(&mut cargo_test())?;
    built.retain(|program| program.kind != "test" || !not_here.contains(&program.name.as_str()));
    let way = Way { arguments: &skips(without), environment: &[], at_once: None };
    let tests = test_programs::run(built, &way, metadata);
    let documentation = process::run(cargo_test().arg("--doc"));
    match (tests, documentation) {
        (Err(tests), Err(documentation)) => Err(format!("{tests}\n{documentation}").into()),
        (tests, documentation) => tests.and(documentation),
    }
}

/// The names of the test programs that run on a cluster.
pub(crate) fn on_a_cluster<'a>(metadata: &'a Metadata, without: &[Part]) -> Result<Vec<&'a str>> {
    let mut programs = programs(metadata)?;
    programs.retain(|(_, needs)| needs.contains(&Part::Kubernetes) && !needs.iter().any(|part| without.contains(part)));
    Ok(programs.into_iter().map(|(name, _)| name).collect())
}

/// Runs these test programs, one after the other: a test that stops the API server stops it for all.
pub(crate) fn run_on_a_cluster(
    names: &[&str],
    metadata: &Metadata,
    arguments: &[String],
    environment: &[(&'static str, OsString)],
) -> Result<()> {
    let mut cargo = cargo_test();
    for name in names {
        cargo.args(["--test", name]);
    }
    // cargo builds the packages' own programs with them.
    let mut built = test_programs::build(&mut cargo)?;
    built.retain(|program| program.kind == "test");
    // As many tests instead, which agree with each other on who may hurt the cluster.
    let threads = format!("--test-threads={}", test_programs::fitting());
    let arguments: Vec<String> = arguments.iter().cloned().chain([threads]).collect();
    test_programs::run(built, &Way { arguments: &arguments, environment, at_once: Some(1) }, metadata)
}

/// What leaves out the single tests that need one of these parts.
pub(crate) fn skips(without: &[Part]) -> Vec<String> {
    named_by_single_tests(without).iter().flat_map(|part| ["--skip".to_owned(), part.name().to_owned()]).collect()
}

/// Kubernetes is needed by whole programs only, and its name stands in those of tests that need none.
fn named_by_single_tests(parts: &[Part]) -> Vec<Part> {
    parts.iter().copied().filter(|part| *part != Part::Kubernetes).collect()
}

fn cargo_test() -> std::process::Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--workspace", "--all-features"]);
    cargo
}

fn names(parts: &[Part]) -> String {
    parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ")
}

/// The test programs of the workspace with the parts that each says it needs.
fn programs(metadata: &Metadata) -> Result<Vec<(&str, Vec<Part>)>> {
    let mut programs = Vec::new();
    for package in metadata.members() {
        for target in package.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "test")) {
            let text = std::fs::read_to_string(&target.src_path)?;
            let needs = needs(&text).map_err(|error| format!("{}: {error}", target.src_path.display()))?;
            programs.push((target.name.as_str(), needs));
        }
    }
    Ok(programs)
}

/// What the test program of this name says that it needs.
pub(crate) fn needs_of(metadata: &Metadata, name: &str) -> Result<Vec<Part>> {
    let mut programs = programs(metadata)?;
    programs.retain(|(program, _)| *program == name);
    Ok(programs.into_iter().flat_map(|(_, needs)| needs).collect())
}

fn needs(text: &str) -> Result<Vec<Part>, String> {
    let documentation = text.lines().take_while(|line| line.starts_with("//!"));
    let mut parts = Vec::new();
    for line in documentation.filter_map(|line| line.strip_prefix("//! Needs: ")) {
        for name in line.trim_end_matches('.').split(", ") {
            parts.push(name.parse()?);
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_says_what_it_needs_in_its_first_lines() {
        assert_eq!(needs("//! Logins.\n//!\n//! Needs: openssh, root.\nuse a;"), Ok(vec![Part::Openssh, Part::Root]));
        assert_eq!(needs("//! Logins.\nuse a;\n//! Needs: openssh."), Ok(Vec::new()));
    }

    #[test]
    fn an_unknown_part_is_a_fault() {
        assert!(needs("//! Needs: everything.").is_err());
    }
}
