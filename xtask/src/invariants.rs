//! `docs/invariants.md` and the tests agree: each invariant's short name stands in the names of the tests that carry it.

use std::fmt;

use crate::Result;
use crate::workspace::{files, root};

/// Where the invariants are written down.
const DOCUMENT: &str = "docs/invariants.md";

/// A row of the document's table.
#[derive(Debug, PartialEq, Eq)]
struct Invariant {
    name: String,
    /// The directories that must each hold a test of it.
    places: Vec<String>,
}

/// A test function.
#[derive(Debug)]
struct Test {
    name: String,
    file: String,
    line: usize,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.name)
    }
}

/// Compares the document with the tests, both ways.
pub(crate) fn check() -> Result<()> {
    let invariants = documented()?;
    let tests = tests()?;
    let faults = faults(&invariants, &tests);
    println!("{} invariants, {} tests, {} of them carry one", invariants.len(), tests.len(), carrying(&invariants, &tests));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// Prints which tests carry which invariant.
pub(crate) fn print() -> Result<()> {
    let tests = tests()?;
    for invariant in documented()? {
        println!("{}", invariant.name);
        for test in tests.iter().filter(|test| carries(&test.name, &invariant.name)) {
            println!("    {test}");
        }
    }
    Ok(())
}

fn faults(invariants: &[Invariant], tests: &[Test]) -> Vec<String> {
    let mut faults = Vec::new();
    for invariant in invariants {
        for place in &invariant.places {
            let carried =
                tests.iter().any(|test| test.file.starts_with(&format!("{place}/")) && carries(&test.name, &invariant.name));
            if !carried {
                faults.push(format!("{}: no test in {place}/ carries it", invariant.name));
            }
        }
        if invariant.places.is_empty() {
            faults.push(format!("{}: {DOCUMENT} does not say where it is tested", invariant.name));
        }
    }
    for test in tests {
        let claimed = test.name.starts_with("holds_") || is_rule(&test.name);
        if claimed && !invariants.iter().any(|invariant| carries(&test.name, &invariant.name)) {
            faults.push(format!("{test}: {DOCUMENT} knows no such invariant"));
        }
    }
    faults
}

fn carrying(invariants: &[Invariant], tests: &[Test]) -> usize {
    tests.iter().filter(|test| invariants.iter().any(|invariant| carries(&test.name, &invariant.name))).count()
}

/// Whether the short name stands in the test's name as whole words.
fn carries(test: &str, invariant: &str) -> bool {
    format!("_{test}_").contains(&format!("_{invariant}_"))
}

/// `o3_…`, `r3_…`: a letter and a number, as the rules of `docs/threat-model.md` have them.
fn is_rule(test: &str) -> bool {
    let Some((first, _)) = test.split_once('_') else { return false };
    let mut characters = first.chars();
    matches!(characters.next(), Some('o' | 'r')) && first.len() > 1 && characters.all(|c| c.is_ascii_digit())
}

fn documented() -> Result<Vec<Invariant>> {
    let text = std::fs::read_to_string(root().join(DOCUMENT)).map_err(|error| format!("{DOCUMENT}: {error}"))?;
    let invariants: Vec<Invariant> = text.lines().filter_map(row).collect();
    if invariants.is_empty() { Err(format!("{DOCUMENT} has no table of invariants").into()) } else { Ok(invariants) }
}

/// A row `` | `name` | statement | `place`, `place` | ``.
fn row(line: &str) -> Option<Invariant> {
    let cells: Vec<&str> = line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let [name, _, places] = cells.as_slice() else { return None };
    let name = name.strip_prefix('`')?.strip_suffix('`')?.to_owned();
    let places =
        places.split(',').filter_map(|place| place.trim().strip_prefix('`')?.strip_suffix('`')).map(str::to_owned).collect();
    Some(Invariant { name, places })
}

fn tests() -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for file in files()? {
        if file.extension().is_none_or(|extension| extension != "rs") || file.starts_with("xtask") {
            continue;
        }
        tests.extend(tests_in(&file.display().to_string(), &std::fs::read_to_string(root().join(&file))?));
    }
    Ok(tests)
}

/// The functions below a test attribute. Reading the text is enough: rustfmt keeps one attribute and one signature a line.
fn tests_in(file: &str, text: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut marked = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        }
        if marked && let Some(name) = function(line) {
            tests.push(Test { name: name.to_owned(), file: file.to_owned(), line: index + 1 });
            marked = false;
        }
    }
    tests
}

fn function(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace().skip_while(|word| matches!(*word, "pub" | "async" | "#[test]"));
    if words.next()? != "fn" {
        return None;
    }
    words.next()?.split(['(', '<']).next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invariant(name: &str, places: &[&str]) -> Invariant {
        Invariant { name: name.to_owned(), places: places.iter().map(|place| (*place).to_owned()).collect() }
    }

    #[test]
    fn a_row_of_the_table_is_read_and_its_head_is_not() {
        assert_eq!(row("| `anchored` | A key. | `session`, `toehold` |"), Some(invariant("anchored", &["session", "toehold"])));
        assert_eq!(row("| name | statement | tested in |"), None);
        assert_eq!(row("| --- | --- | --- |"), None);
        assert_eq!(row("text"), None);
    }

    #[test]
    fn a_name_counts_only_as_whole_words() {
        assert!(carries("anchored", "anchored"));
        assert!(carries("holds_anchored_after_every_crash", "anchored"));
        assert!(!carries("unanchored_lines", "anchored"));
        assert!(carries("o1_a_missing_proof_is_a_refusal", "o1"));
        assert!(!carries("o10_another_rule", "o1"));
    }

    #[test]
    fn all_kinds_of_tests_are_found() {
        let text = "
            #[test]
            fn plain() {}
            #[tokio::test(flavor = \"current_thread\")]
            #[cfg(unix)]
            async fn waits() {}
            fn helper() {}
            proptest! {
                #[test]
                fn property(x in 0..3_u8) {}
            }
        ";
        let names: Vec<String> = tests_in("a.rs", text).into_iter().map(|test| test.name).collect();
        assert_eq!(names, ["plain", "waits", "property"]);
    }

    #[test]
    fn a_missing_test_and_an_unknown_claim_are_faults() {
        let invariants = [invariant("anchored", &["session", "toehold"])];
        let text = "#[test]\nfn holds_anchored() {}\n#[test]\nfn holds_nothing_known() {}\n#[test]\nfn o9_unknown_rule() {}\n";
        let faults = faults(&invariants, &tests_in("session/tests/a.rs", text));
        assert_eq!(faults.len(), 3);
        assert!(faults.iter().any(|fault| fault == "anchored: no test in toehold/ carries it"));
    }
}
