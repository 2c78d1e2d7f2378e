//! `cargo xtask chaos`: the tests that kill, cut or hold something up, for as long as one likes.

use std::time::{Duration, Instant};

use crate::kubernetes::{Building, Cluster};
use crate::prerequisites::{self, Part};
use crate::workspace::{Metadata, root};
use crate::{Result, process, report, test_targets};

/// What is killed, cut off or held up, by a name, and tests that do it, all of one test program.
#[derive(Clone, Copy, Debug)]
struct Victim {
    /// What `--of` takes; several programs may go by one.
    name: &'static str,
    /// The test program.
    program: &'static str,
    /// Parts of the names of its tests; with none of them all are run.
    tests: &'static [&'static str],
}

const fn victim(name: &'static str, program: &'static str, tests: &'static [&'static str]) -> Victim {
    Victim { name, program, tests }
}

/// All of them. Where a test takes a number of kills, connections or machines from the environment, it is given one; what others do, they
/// do once a round. What the libraries' own tests crash in simulations is not among them: they go through every moment there is, and
/// would do the same again.
const VICTIMS: [Victim; 19] = [
    victim("gateway", "gateway", &["crash::", "race::", "interrupted", "is_cut", "moved_away"]),
    victim("host-add", "kill", &[]),
    victim("host-add", "hosts", &["cli_drops::", "interrupted", "died", "crash"]),
    victim("host-add", "install_as_root", &["interrupted"]),
    victim("join", "agent_join", &["kill::", "is_cut", "interrupted"]),
    victim("key-rotate", "kill_rotation", &[]),
    victim("key-rotate", "rotation", &["killed", "dies", "interrupted", "cut_off"]),
    victim(
        "operators",
        "operators",
        &["interrupted::", "race::", "backup", "cut_off", "killed", "the_one_that_lives", "is_away"],
    ),
    victim("pods", "pods", &["kill", "dies", "freezes", "many_at_once", "moved_away"]),
    victim("pods-kubernetes", ON_A_CLUSTER, &["kill", "dies", "interrupted", "is_cut", "many_at_once"]),
    victim("serve", "serve", &["leaders::", "moved_away"]),
    victim("spec-apply", "kill_spec", &[]),
    victim("spec-apply", "specs", &["strace_kills"]),
    victim("ssh", "openssh", &["openssh_hangs::"]),
    victim("ssh", "openssh_as_root", &["killed"]),
    victim("store-embedded", "store_sqlite", &["sigkill", "no_lost_update", "moved::", "root_mounts::"]),
    victim("store-embedded", "commands", &["killed", "cut_off"]),
    victim("store-shared", "store_nats", &["cluster::", "outages::"]),
    victim("three-nodes", "three_nodes", &[]),
];

/// The test program that needs a cluster: run where it is named alone.
const ON_A_CLUSTER: &str = "pods_kubernetes";

/// Of three servers of a shared store: hosts, and how many machines compete for how many tokens.
const OF_THREE_NODES: [(&str, &str); 3] = [("TOEHOLD_HOSTS", "100"), ("TOEHOLD_JOINS", "1000"), ("TOEHOLD_TOKENS", "10")];

/// Connections to a gateway of pods, of which some fail.
const CONNECTIONS: &str = "1000";
/// Of those, how many at once on a cluster, whose only node takes 200 pods.
const AT_ONCE_ON_A_CLUSTER: &str = "150";

/// The command line of the task.
#[derive(Debug)]
pub(crate) struct Options {
    minutes: u64,
    kills: u32,
    victims: Vec<Victim>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let (mut minutes, mut kills, mut victims) = (10, 50, Vec::new());
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--minutes" => minutes = value.parse().map_err(|_| "--minutes takes a whole number")?,
                "--kills" => kills = value.parse().map_err(|_| "--kills takes a whole number")?,
                "--of" => {
                    let before = victims.len();
                    victims.extend(VICTIMS.into_iter().filter(|victim| victim.name == value));
                    if victims.len() == before {
                        return Err(format!("chaos does not kill {value}").into());
                    }
                }
                other => return Err(format!("chaos does not know {other}").into()),
            }
        }
        if victims.is_empty() {
            victims.extend(VICTIMS.into_iter().filter(|victim| victim.program != ON_A_CLUSTER));
        }
        Ok(Self { minutes, kills, victims })
    }

    /// What these need beyond what every build does.
    fn needs(&self) -> Result<Vec<Part>> {
        let metadata = Metadata::of_manifest(&root().join("Cargo.toml"))?;
        let mut needs = Vec::new();
        for victim in &self.victims {
            needs.extend(test_targets::needs_of(&metadata, victim.program)?);
            needs.extend(victim.tests.iter().flat_map(|part| Part::named_in(part)));
        }
        Ok(needs)
    }
}

/// Runs rounds of these tests until the time is over; the first failure ends it.
pub(crate) fn run(options: &Options) -> Result<()> {
    prerequisites::ensure_only(&options.needs()?)?;
    let cluster = if options.victims.iter().any(|victim| victim.program == ON_A_CLUSTER) {
        Some(Cluster::start(&Building::begin().finish()?)?)
    } else {
        None
    };
    let start = Instant::now();
    let limit = Duration::from_secs(options.minutes * 60);
    let mut rounds = 0_u32;
    // At least one round, so that `--minutes 0` means a single one.
    while rounds == 0 || start.elapsed() < limit {
        rounds += 1;
        println!(
            "\n== round {rounds}: {} kills, {} of {} minutes gone",
            options.kills,
            start.elapsed().as_secs() / 60,
            options.minutes
        );
        for victim in &options.victims {
            let mut cargo = process::cargo();
            // The same packages and features as in `cargo xtask test`, so that nothing is built twice.
            cargo.args(["test", "--locked", "--workspace", "--all-features", "--test", victim.program, "--", "--nocapture"]);
            cargo.args(victim.tests);
            cargo.env("TOEHOLD_KILLS", options.kills.to_string()).env("TOEHOLD_CONNECTIONS", CONNECTIONS).envs(OF_THREE_NODES);
            if let Some(cluster) = cluster.as_ref().filter(|_| victim.program == ON_A_CLUSTER) {
                // One test after the other: each of them fills the node.
                cargo.arg("--test-threads=1").envs(cluster.environment());
                cargo.env("TOEHOLD_CONNECTIONS_AT_ONCE", AT_ONCE_ON_A_CLUSTER);
            }
            process::run(&mut cargo).map_err(|error| {
                format!("round {rounds} failed with {} after {}: {error}", victim.name, report::seconds(start.elapsed()))
            })?;
        }
    }
    if let Some(cluster) = cluster {
        cluster.end()?;
    }
    println!("\n{rounds} rounds of {} kills in {}: every invariant held", options.kills, report::seconds(start.elapsed()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What tests have in their names that kill something, cut it off or hold it up.
    const WORDS: [&str; 9] =
        ["kill", "dies", "interrupted", "cut_off", "is_cut", "lost_or_doubled", "held_up_comes_back", "outages::", "crash::"];

    /// The tests of a program as `cargo test` lists them, read off the source.
    fn tests_of(source: &Path) -> Vec<String> {
        let mut files = vec![(source.to_owned(), String::new())];
        if source.ends_with("main.rs") {
            let directory = source.parent().unwrap();
            files.extend(modules(directory, ""));
        }
        let mut tests = Vec::new();
        for (file, module) in files {
            let text = std::fs::read_to_string(file).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim_start) {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let function = line.trim_start_matches("async ").strip_prefix("fn ");
                if let Some(rest) = function.filter(|_| is_test) {
                    tests.push(format!("{module}{}", rest.split('(').next().unwrap()));
                    is_test = false;
                }
            }
        }
        tests
    }

    fn modules(directory: &Path, above: &str) -> Vec<(std::path::PathBuf, String)> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() {
                files.extend(modules(&path, &format!("{above}{stem}::")));
            } else if stem != "main" && path.extension().is_some_and(|kind| kind == "rs") {
                let module = if stem == "mod" { above.to_owned() } else { format!("{above}{stem}::") };
                files.push((path, module));
            }
        }
        files
    }

    impl Victim {
        fn includes(&self, program: &str, test: &str) -> bool {
            self.program == program && (self.tests.is_empty() || self.tests.iter().any(|part| test.contains(part)))
        }
    }

    fn parsed(arguments: &[&str]) -> Result<Options> {
        Options::parse(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_victim_is_a_test_program_that_is_there_with_tests_of_such_names() {
        let metadata = Metadata::of_manifest(&root().join("Cargo.toml")).unwrap();
        for victim in VICTIMS {
            // Two crates may have a program of that name; the other's tests are called otherwise.
            let targets = metadata.members().flat_map(|package| &package.targets);
            let targets = targets.filter(|target| target.name == victim.program && target.kind == ["test"]);
            let tests: Vec<String> = targets.flat_map(|target| tests_of(&target.src_path)).collect();
            assert!(!tests.is_empty(), "{victim:?}: there is no such test program");
            for part in victim.tests {
                assert!(tests.iter().any(|test| test.contains(part)), "{victim:?}: no test is called {part}: {tests:?}");
            }
        }
    }

    #[test]
    fn whatever_kills_or_cuts_something_in_the_programs_own_tests_is_run() {
        let metadata = Metadata::of_manifest(&root().join("Cargo.toml")).unwrap();
        let package = metadata.members().find(|package| package.name == "toehold").unwrap();
        let mut found = 0;
        for target in package.targets.iter().filter(|target| target.kind == ["test"]) {
            for test in tests_of(&target.src_path).iter().filter(|test| WORDS.iter().any(|word| test.contains(word))) {
                found += 1;
                assert!(VICTIMS.iter().any(|victim| victim.includes(&target.name, test)), "{}: {test}", target.name);
            }
        }
        assert!(found > 50, "{found}");
    }

    #[test]
    fn all_but_what_needs_a_cluster_are_killed_where_none_is_named() {
        let all = parsed(&["--minutes", "0"]).unwrap();
        assert_eq!((all.minutes, all.victims.len()), (0, VICTIMS.len() - 1));
        assert!(all.victims.iter().all(|victim| victim.program != ON_A_CLUSTER));
        let some = parsed(&["--of", "spec-apply", "--of", "serve", "--kills", "3"]).unwrap();
        let programs: Vec<&str> = some.victims.iter().map(|victim| victim.program).collect();
        assert_eq!((some.kills, programs.as_slice()), (3, ["kill_spec", "specs", "serve"].as_slice()));
        assert_eq!(parsed(&["--of", "pods-kubernetes"]).unwrap().victims.len(), 1);
        assert!(parsed(&["--of", "nobody"]).unwrap_err().to_string().contains("nobody"));
        assert!(parsed(&["--of"]).is_err());
    }

    #[test]
    fn what_is_needed_is_what_the_programs_say() {
        let needs = parsed(&["--of", "store-shared"]).unwrap().needs().unwrap();
        assert_eq!(needs, [Part::Nats]);
        let needs = parsed(&["--of", "spec-apply"]).unwrap().needs().unwrap();
        assert_eq!(needs, [Part::Strace]);
        assert!(parsed(&["--of", "three-nodes"]).unwrap().needs().unwrap().contains(&Part::Root));
    }

    #[test]
    fn the_help_names_every_victim() {
        let told = crate::USAGE.split_once("NAME is one of ").unwrap().1.split_once('.').unwrap().0;
        let mut names: Vec<&str> = VICTIMS.iter().map(|victim| victim.name).collect();
        names.dedup();
        assert_eq!(told.split(',').map(str::trim).collect::<Vec<_>>(), names);
    }
}
