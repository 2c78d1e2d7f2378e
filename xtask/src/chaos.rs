//! `cargo xtask chaos`: the kill test, for as long as one likes.

use std::time::{Duration, Instant};

use crate::{Result, prerequisites, process, report};

/// The command line of the task.
#[derive(Debug)]
pub(crate) struct Options {
    minutes: u64,
    kills: u32,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { minutes: 10, kills: 50 };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--minutes" => options.minutes = value.parse().map_err(|_| "--minutes takes a whole number")?,
                "--kills" => options.kills = value.parse().map_err(|_| "--kills takes a whole number")?,
                other => return Err(format!("chaos does not know {other}").into()),
            }
        }
        Ok(options)
    }
}

/// Runs rounds of the kill test until the time is over; the first failure ends it.
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
        cargo.args(["test", "--locked", "--workspace", "--all-features", "--test", "kill", "--", "--nocapture"]);
        process::run(cargo.env("TOEHOLD_KILLS", options.kills.to_string()))
            .map_err(|error| format!("round {rounds} failed after {}: {error}", report::seconds(start.elapsed())))?;
    }
    println!("\n{rounds} rounds of {} kills in {}: every invariant held", options.kills, report::seconds(start.elapsed()));
    Ok(())
}
