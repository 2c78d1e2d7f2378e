//! `cargo xtask chaos`: the kill tests and those that cut a network, for as long as one likes.

use std::time::{Duration, Instant};

use crate::kubernetes::{Building, Cluster};
use crate::{Result, prerequisites, process, report};

/// What is killed, by the name of the command, and the test program that does it.
const VICTIMS: [(&str, &str); 8] = [
    ("host-add", "kill"),
    ("join", "agent_join"),
    ("key-rotate", "kill_rotation"),
    ("pods", "pods"),
    ("pods-kubernetes", ON_A_CLUSTER),
    ("spec-apply", "kill_spec"),
    ("store", OF_A_STORE),
    ("three-nodes", THREE_NODES),
];

/// The test program that needs a cluster: run where it is named alone.
const ON_A_CLUSTER: &str = "pods_kubernetes";

/// The test program that kills the servers of a shared store, and cuts the network between them.
const THREE_NODES: &str = "three_nodes";

/// The test program of a store's servers alone.
const OF_A_STORE: &str = "store_nats";

/// Its hosts, and how many machines compete for how many tokens.
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
    /// The test programs to run.
    programs: Vec<&'static str>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let here = VICTIMS.map(|(_, program)| program).into_iter().filter(|program| *program != ON_A_CLUSTER);
        let mut options = Self { minutes: 10, kills: 50, programs: here.collect() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--minutes" => options.minutes = value.parse().map_err(|_| "--minutes takes a whole number")?,
                "--kills" => options.kills = value.parse().map_err(|_| "--kills takes a whole number")?,
                "--of" => {
                    let victim = VICTIMS.iter().find(|(name, _)| name == value);
                    options.programs = vec![victim.ok_or_else(|| format!("chaos does not kill {value}"))?.1];
                }
                other => return Err(format!("chaos does not know {other}").into()),
            }
        }
        Ok(options)
    }
}

/// Runs rounds of the kill tests until the time is over; the first failure ends it.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.programs.contains(&THREE_NODES) || options.programs.contains(&OF_A_STORE) {
        prerequisites::ensure_three_nodes()?;
    } else {
        prerequisites::ensure_openssh()?;
    }
    let cluster = if options.programs.contains(&ON_A_CLUSTER) {
        prerequisites::ensure_kubernetes()?;
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
        let mut cargo = process::cargo();
        // The same packages and features as in `cargo xtask test`, so that nothing is built twice.
        cargo.args(["test", "--locked", "--workspace", "--all-features"]);
        for program in &options.programs {
            cargo.args(["--test", program]);
        }
        // Of the tests of pods, those with many connections; the other programs have all of theirs to do with kills or a network that is cut.
        cargo.args(["--", "--nocapture", "kill", "many_at_once", "lost_or_doubled", "copies_that_went"]);
        cargo.env("TOEHOLD_CONNECTIONS", CONNECTIONS).envs(OF_THREE_NODES);
        if let Some(cluster) = &cluster {
            // One test after the other: each of them fills the node.
            cargo.arg("--test-threads=1").envs(cluster.environment()).env("TOEHOLD_CONNECTIONS_AT_ONCE", AT_ONCE_ON_A_CLUSTER);
        }
        process::run(cargo.env("TOEHOLD_KILLS", options.kills.to_string()))
            .map_err(|error| format!("round {rounds} failed after {}: {error}", report::seconds(start.elapsed())))?;
    }
    if let Some(cluster) = cluster {
        cluster.end()?;
    }
    println!("\n{rounds} rounds of {} kills in {}: every invariant held", options.kills, report::seconds(start.elapsed()));
    Ok(())
}
