//! `docs/cli.md` names every command and option that the program has.

use std::path::Path;
use std::process::Command;

use crate::workspace::{Metadata, root};
use crate::{Result, process};

const DOCUMENT: &str = "docs/cli.md";

/// Compares the document with the `--help` of every command of the program that `cargo test` has built.
pub(crate) fn check(metadata: &Metadata) -> Result<()> {
    let program = metadata.target_directory.join("debug/toehold");
    let document = std::fs::read_to_string(root().join(DOCUMENT))?;
    let mut faults = Vec::new();
    let mut open = vec![Vec::new()];
    let (mut commands, mut options) = (0_usize, 0_usize);
    while let Some(command) = open.pop() {
        let help = help(&program, &command)?;
        commands += 1;
        let name = command.join(" ");
        if !document.contains(&format!("`toehold {name}")) && !command.is_empty() && subcommands(&help).next().is_none() {
            faults.push(format!("{DOCUMENT} does not name `toehold {name}`"));
        }
        for option in long_options(&help) {
            options += 1;
            if !document.contains(&format!("`{option}")) {
                faults.push(format!("{DOCUMENT} does not name {option} of `toehold {name}`"));
            }
        }
        open.extend(subcommands(&help).map(|subcommand| [command.clone(), vec![subcommand.to_owned()]].concat()));
    }
    println!("{commands} commands, {options} options");
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

fn help(program: &Path, command: &[String]) -> Result<String> {
    process::text(Command::new(program).args(command).arg("--help"))
}

/// The names in the section `Commands:`.
fn subcommands(help: &str) -> impl Iterator<Item = &str> {
    let section = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    section.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next())
}

/// The long names in the section `Options:`, which stand before their explanations.
fn long_options(help: &str) -> impl Iterator<Item = &str> {
    let starts = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    // `--agent[=<KEY>]`, `--verbose...`, and a default that names an option at the beginning of a line: the name alone counts.
    let name = |word: &'_ str| word.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(word.len());
    let words = starts.filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
    words.map(move |word| word.get(..name(word)).unwrap_or(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Hosts

Usage: toehold host [OPTIONS] <COMMAND>

Commands:
  add     Bring a host under management; a long
          explanation goes on here
  ls      List the hosts

Options:
      --state-dir <DIR>  Where state is kept
  -v, --verbose...       Say more
      --json             See --verbose
";

    #[test]
    fn commands_and_options_are_read_off_the_help() {
        assert_eq!(subcommands(HELP).collect::<Vec<_>>(), ["add", "ls"]);
        assert_eq!(long_options(HELP).collect::<Vec<_>>(), ["--state-dir", "--verbose", "--json"]);
    }
}
