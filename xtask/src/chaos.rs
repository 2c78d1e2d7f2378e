//! `cargo xtask chaos`: the kill tests, for as long as one likes.

use std::time::{Duration, Instant};

use crate::{Result, prerequisites, process, report};

/// What is killed, by the name of the command, and the test program that does it.
const VICTIMS: [(&str, &str); 4] =
    [("host-add", "kill"), ("key-rotate", "kill_rotation"), ("pods", "pods"), ("spec-apply", "kill_spec")];

/// Connections at once to a gateway of pods, of which some fail.
const CONNECTIONS: &str = "1000";

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
        let mut options = Self { minutes: 10, kills: 50, programs: VICTIMS.map(|(_, program)| program).to_vec() };
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
    prerequisites::ensure_openssh()?;
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
        // Of the tests of pods, those with many connections; the other programs have all of theirs to do with kills.
        cargo.args(["--", "--nocapture", "kill", "many_at_once"]);
        cargo.env("TOEHOLD_CONNECTIONS", CONNECTIONS);
        process::run(cargo.env("TOEHOLD_KILLS", options.kills.to_string()))
            .map_err(|error| format!("round {rounds} failed after {}: {error}", report::seconds(start.elapsed())))?;
    }
    println!("\n{rounds} rounds of {} kills in {}: every invariant held", options.kills, report::seconds(start.elapsed()));
    Ok(())
}
