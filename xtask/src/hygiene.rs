//! What the repository's files must not hold, and how long they may be.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::report::Report;
use crate::workspace::{files, root};

/// Past this many lines a source file is due to be split; said, not enforced.
const LONG: usize = 600;

/// Directories that say where a tool keeps its files on somebody's machine.
const TOOL_DIRECTORIES: [&str; 3] = [".cargo/registry/", ".rustup/toolchains/", "/rustlib/src/"];

/// Looks at every file of the project.
pub(crate) fn check(report: &mut Report) -> Result<()> {
    let own = own_paths();
    let mut faults = Vec::new();
    let mut count = 0_usize;
    for file in files()? {
        let path = root().join(&file);
        if path.symlink_metadata()?.file_type().is_symlink() {
            if std::fs::read_link(&path)?.is_absolute() {
                faults.push(format!("{} is a link to an absolute path", file.display()));
            }
            continue;
        }
        count += 1;
        // Vectors may be binary.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        // This file names what it looks for.
        if file != Path::new("xtask/src/hygiene.rs") {
            faults.extend(machine_paths(&file, &text, &own));
        }
        if file.extension().is_some_and(|extension| extension == "rs") {
            let lines = text.lines().count();
            if lines > LONG {
                report.warn(format!("{} has {lines} lines; past {LONG} look for a seam", file.display()));
            }
        }
    }
    println!("{count} files");
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// Paths of this very machine: the checkout, the directory around it, and the home directories of its user and tools.
fn own_paths() -> Vec<String> {
    let around = root().parent().map(Path::to_path_buf);
    let tools = ["HOME", "CARGO_HOME", "RUSTUP_HOME"].map(|name| std::env::var_os(name).map(PathBuf::from));
    let paths = [Some(root().to_path_buf()), around].into_iter().chain(tools).flatten();
    // `/`, `/root` and their like stand in texts about any machine.
    let common = ["/", "/root", "/home", "/tmp", "/opt", "/srv", "/src", "/usr/src", "/build"];
    paths
        .filter_map(|path| path.to_str().map(str::to_owned))
        .filter(|path| !common.contains(&path.as_str()))
        .map(|path| path + "/")
        .collect()
}

fn machine_paths(file: &Path, text: &str, own: &[String]) -> Vec<String> {
    let named =
        |line: &str| own.iter().map(String::as_str).chain(TOOL_DIRECTORIES).find(|path| line.contains(path)).map(str::to_owned);
    let faults = text.lines().enumerate().filter_map(|(index, line)| named(line).map(|path| (index + 1, path)));
    faults.map(|(line, path)| format!("{}:{line} names the machine's path {path}", file.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_this_machine_is_found_with_its_line() {
        let own = ["/somewhere/checkout/".to_owned()];
        let text = "fine\nsee /somewhere/checkout/core/src\n/somewhere/else is fine\n";
        assert_eq!(machine_paths(Path::new("a.md"), text, &own), ["a.md:2 names the machine's path /somewhere/checkout/"]);
    }

    #[test]
    fn the_checkout_is_looked_for_and_no_common_directory_is() {
        let own = own_paths();
        assert!(own.contains(&format!("{}/", root().display())));
        assert!(!own.iter().any(|path| path == "/" || path == "/root/"));
    }
}
