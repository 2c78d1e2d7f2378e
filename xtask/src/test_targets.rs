//! The tests themselves, less those that need a part that is left out.
//!
//! A test program says in its first lines which parts all of its tests need: `//! Needs: openssh, root.` A single test says so by
//! having the part's name in its own.

use crate::prerequisites::Part;
use crate::report::Report;
use crate::workspace::Metadata;
use crate::{Result, process, test_programs};

/// Runs all tests, documentation included; what is left out is put into the report.
pub(crate) fn run(metadata: &Metadata, without: &[Part], report: &mut Report) -> Result<()> {
    let mut left_out = Vec::new();
    for (name, needs) in programs(metadata)? {
        if needs.iter().any(|part| without.contains(part)) {
            report.leave_out(format!("test program {name}, which needs {}", names(&needs)));
            left_out.push(name);
        }
    }
    let mut arguments = Vec::new();
    for part in without {
        arguments.extend(["--skip".to_owned(), part.name().to_owned()]);
    }
    if !without.is_empty() {
        report.leave_out(format!("single tests with {} in their name", names(without)));
    }
    let mut built = test_programs::build(&mut cargo_test())?;
    built.retain(|program| program.kind != "test" || !left_out.contains(&program.name.as_str()));
    let tests = test_programs::run(built, &arguments, metadata);
    let documentation = process::run(cargo_test().arg("--doc"));
    tests.and(documentation)
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
